import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iw_jax as iw
from experiments.common import descent, points
from iw_jax import data, nets
from iw_jax.curvature import dense

NETWORK = nets.mlp(4, widths=(3,), activation="tanh")
INPUTS = np.float32(np.random.default_rng(0).normal(size=(12, 2)))
TARGETS = np.arange(12, dtype=np.int32) % 3
SCALES = (0.5, 2.0)


def pool_of(targets=TARGETS):
    dataset = data.Dataset("ours", INPUTS, targets, INPUTS[:0], targets[:0], num_classes=4)
    return descent.pool(NETWORK, dataset)


def family_of(examples, counts, outputs=True):
    return descent.family(jax.random.key(1), NETWORK, pool_of(), examples, counts, outputs)


def descended(task, members, first, last, *, parts=1, horizon=np.inf, pull=0.0):
    settings = {"parts": parts, "rate": 0.1, "horizon": horizon, "pull": pull}
    return descent.descend(task, members, first, last, micro=3, **settings)


def columns(task, params):
    return descent.fisher_columns(
        task, params, prior_scales=SCALES, key=jax.random.key(2), num_matvecs=100
    )


def test_a_step_is_the_mean_gradient_and_the_pull():
    """With a single example every batch is known, whatever was drawn."""
    members = family_of(np.full((2, 12), 7), 1)
    members = dataclasses.replace(members, start=jax.tree.map(lambda w: w + 1, members.params))
    for parts in (1, 3):
        received = descended(pool_of(), members, 0, 1, parts=parts, pull=0.5)
        for s in range(2):
            params = jax.tree.map(lambda w, s=s: w[s], members.params)
            one = iw.Task(NETWORK.apply_fn, iw.Categorical(), INPUTS[7:8], TARGETS[7:8])
            gradient = jax.grad(lambda p, one=one: iw.nll(one, p))(params)
            expected = jax.tree.map(lambda w, g: w - 0.1 * (g - 0.5), params, gradient)
            moved = jax.tree.map(lambda w, s=s: w[s], received.params)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved, expected)


def test_a_descent_in_two_pieces_is_one_descent_and_the_rate_ends_at_zero():
    members = family_of(np.tile(np.arange(12), (2, 1)), 12)
    whole = descended(pool_of(), members, 0, 10, horizon=10.0)
    half = descended(pool_of(), members, 0, 4, horizon=10.0)
    half = descended(pool_of(), half, 4, 10, horizon=10.0)
    later = descended(pool_of(), whole, 10, 20, horizon=10.0)
    for other in (half, later):
        jax.tree.map(np.testing.assert_array_equal, whole.params, other.params)


def test_only_the_first_examples_are_drawn():
    members = family_of(np.tile(np.arange(12), (2, 1)), [5, 7])
    for member, count in enumerate((5, 7)):
        expected = np.arange(12) < count
        np.testing.assert_array_equal(members.task(member, pool_of()).weights, expected)
    spoiled = [np.where(np.arange(12) < n, TARGETS, 3).astype(np.int32) for n in (5, 7)]
    received = descended(pool_of(), members, 0, 8)
    for member, targets in enumerate(spoiled):
        other = descended(pool_of(targets), members, 0, 8).member(member)
        jax.tree.map(np.testing.assert_array_equal, received.member(member).params, other.params)


def test_each_member_has_outputs_of_its_own():
    """Softmax over fewer outputs: an absent one is never learned about, the others as without."""
    outputs = np.array([[True, True, True, False], [False, True, True, True]])
    everybody = np.tile(np.arange(12)[TARGETS > 0], (2, 1))
    members = family_of(everybody, everybody.shape[1], outputs)
    received = descended(pool_of(), members, 0, 8)
    for member, present in enumerate(outputs):
        alone = descended(pool_of(), family_of(everybody, everybody.shape[1], present), 0, 8)
        own, same = received.member(member), alone.member(member)
        jax.tree.map(np.testing.assert_array_equal, own.params, same.params)
        moved = own.params["Dense_1"]["kernel"] - own.start["Dense_1"]["kernel"]
        np.testing.assert_array_equal(np.any(moved != 0, axis=0), present)


def test_an_absent_output_is_no_output():
    """A network whose fourth output is absent has the Fisher of the network without it."""
    params = NETWORK.init(jax.random.key(3), jnp.asarray(INPUTS))
    weights = np.float32([2, 0] + [1] * 10)
    examples = np.repeat(np.arange(12), weights.astype(int))[None]
    members = family_of(examples, 12, [True] * 3 + [False])
    received = columns(members.task(0, pool_of()), params)
    last = {"kernel": params["Dense_1"]["kernel"][:, :3], "bias": params["Dense_1"]["bias"][:3]}
    small = nets.mlp(3, widths=(3,), activation="tanh")
    task = iw.Task(small.apply_fn, iw.Categorical(), INPUTS, TARGETS, weights)
    eigenvalues = dense.eigenvalues(iw.ggn(task, {**params, "Dense_1": last}))
    assert received["num_outputs"] == 3
    assert received["num_examples"] == 12
    np.testing.assert_allclose(received["trace_per_label"], eigenvalues.sum() / 12, rtol=1e-5)
    for scale in SCALES:
        expected = np.log1p(scale**2 * eigenvalues.clip(0)).sum() / 2
        np.testing.assert_allclose(received[descent.half_logdet(scale)], expected, rtol=1e-4)


def test_the_matched_trace_does_not_see_the_scale_of_the_logits():
    params = NETWORK.init(jax.random.key(4), jnp.asarray(INPUTS))
    saturated = descent.with_logits_divided(params, 1 / 20)
    before, after = (columns(pool_of(), p) for p in (params, saturated))
    assert after["trace_per_label"] != pytest.approx(before["trace_per_label"], rel=0.2)
    np.testing.assert_allclose(after["temperature"], 20 * before["temperature"], rtol=1e-4)
    np.testing.assert_allclose(
        after["matched_trace_per_label"], before["matched_trace_per_label"], rtol=1e-4
    )


def test_the_matched_temperature_halves_the_entropy():
    logits = np.random.default_rng(1).normal(size=(50, 3)) * 8
    logits[:, 2] = descent.ABSENT
    weights = np.arange(50.0)
    temperature = descent.matched_temperature(logits, weights)
    p = 1 / (1 + np.exp((logits[:, 1] - logits[:, 0]) / temperature))
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert weights @ entropy / weights.sum() == pytest.approx(np.log(2) / 2, rel=1e-9)


def test_bounds_of_the_trace_hold_and_a_wrong_number_is_found():
    params = NETWORK.init(jax.random.key(5), jnp.asarray(INPUTS))
    row = columns(pool_of(), params)
    assert all(check.passed for check in descent.check_logdets([row], SCALES))
    name = descent.half_logdet(SCALES[0])
    wrong = {n: v * 100 if n.startswith(name) else v for n, v in row.items()}
    assert not descent.check_logdets([wrong], SCALES)[0].passed


def test_points_are_two_classes_that_a_network_can_tell_apart():
    dataset = points.load()
    assert dataset.checksum == points.load().checksum
    assert dataset.train_inputs.shape == dataset.test_inputs.shape == (1000, 2)
    nearest = np.argmin(
        np.linalg.norm(dataset.test_inputs[:, None] - dataset.train_inputs, axis=-1), axis=1
    )
    assert np.mean(dataset.train_targets[nearest] == dataset.test_targets) > 0.97

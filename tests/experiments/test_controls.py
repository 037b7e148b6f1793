"""The four experiments on the Fisher of networks trained by SGD: what is compared with what."""

import itertools

import jax
import numpy as np
import pytest

from experiments import class_count, fisher_during_training, sgd_pairs
from experiments.common import controls, descent
from iw_jax import nets


@pytest.fixture(scope="module")
def points():
    """The points of `class_count`, untrained, and what they are about."""
    config = class_count.Config(num_examples=120, widths=(2,), classes=(2, 5, 10), num_seeds=3)
    dataset = class_count.load(config, None)
    made = []
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(False):
        patch.setattr(controls, "measure", lambda *given, **_: made.extend(given[2]))
        class_count.run(config, dataset, None)
        pool = descent.pool(nets.mlp(10, widths=(2,)), dataset)
        return {(p.control, p.x): [p.members.task(s, pool) for s in range(3)] for p in made}


def classes_of(task):
    return set(np.asarray(task.targets)[np.asarray(task.weights) > 0].tolist())


@pytest.mark.slow
def test_a_seed_adds_classes_in_an_order_of_its_own(points):
    few, more, all_of_them = (points["natural", c] for c in (2, 5, 10))
    for seed in range(3):
        chosen = [classes_of(task[seed]) for task in (few, more, all_of_them)]
        assert [len(c) for c in chosen] == [2, 5, 10]
        assert chosen[0] < chosen[1] < chosen[2]
        whole = np.isin(few[seed].targets, list(chosen[0]))
        np.testing.assert_array_equal(few[seed].weights, whole)
    assert len({frozenset(classes_of(task)) for task in few}) > 1


def test_the_controls_of_the_classes_hold_what_they_say(points):
    sizes = {float(t.weights.sum()) for c in (2, 5, 10) for t in points["examples", c]}
    assert len(sizes) == 1
    for control, c in itertools.product(class_count.CONTROLS, (2, 5, 10)):
        for task in points[control, c]:
            present = set(np.flatnonzero(task.inputs["absent"][0] == 0).tolist())
            assert classes_of(task) <= present
            assert len(present) == (10 if control == "outputs" else c)


def test_no_rise_is_found_in_noise_and_a_rise_of_all_is_found():
    """The ends of a rise are chosen without the seed that it is measured on."""
    rng = np.random.default_rng(0)

    def story(curves):
        rows = [
            {"start": 1.0, "seed": s, "epoch": float(t), "accuracy": t / 20, "x": np.exp(curve[t])}
            for s, curve in enumerate(curves)
            for t in range(20)
        ]
        return fisher_during_training.story(rows, "x", 1.0)

    found = [story(rng.normal(size=(5, 20)))["log_rise"][0] for _ in range(40)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(40)
    bump = np.where((np.arange(20) > 5) & (np.arange(20) < 15), 2.0, 0.0)
    assert story(np.tile(bump, (5, 1)))["log_rise"] == [2.0, 0.0]


@pytest.mark.slow
def test_runs_of_a_pair_differ_in_one_thing_only():
    config = sgd_pairs.Config(num_examples=9, widths=(2,), num_seeds=2, num_pairs=2)
    dataset = sgd_pairs.load(config, None)
    network = nets.mlp(2, widths=(2,))
    run = sgd_pairs.Run
    runs = [run(0, 0), run(0, 1), run(1, 0), run(0, 0, 1)]
    with jax.enable_x64(False):
        pool = descent.pool(network, dataset)
        members = sgd_pairs._members(config, network, pool, runs, np.array([[3, 4], [5, 6]]))
        keys = jax.random.key_data(members.keys)
        kernel = members.start["Dense_0"]["kernel"]
        differ = [
            [bool(np.any(x[i] != x[0])) for x in (kernel, keys, members.examples)]
            for i in (1, 2, 3)
        ]
        assert differ == [[False, True, False], [True, False, False], [False, False, True]]
        change = np.asarray(members.task(3, pool).weights - members.task(0, pool).weights)
    np.testing.assert_array_equal(np.flatnonzero(change), [4, 10])
    np.testing.assert_array_equal(change[[4, 10]], [-1, 1])


def test_differences_where_the_loss_is_quadratic():
    """One weight an example, Φ_i = e_i: every square can be told in advance."""
    config = sgd_pairs.Config(num_examples=3, num_seeds=2, num_pairs=2, prior_scale=0.5, beta=2.0)
    run = sgd_pairs.Run
    roots = np.eye(5)[:, None]
    slopes = np.zeros((5, 5))
    slopes[[0, 3], [0, 3]] = 1.0, 2.0
    slopes[2, 2] = slopes[4, 4] = 1.0
    metric = np.diag([1.0, 1, 1, 0, 0]) / config.beta
    still = np.zeros((2, 5))
    ends = {run(0, 0): still, run(0, 0, 0): still + 1, run(0, 0, 1): still + 1}
    ends |= {run(0, 1): still + 2, run(1, 0): still + np.eye(5)[4]}
    around = sgd_pairs.Around(metric, roots, slopes)
    first, second, order, start = sgd_pairs._differences(config, 0, ends, around, np.array([0, 2]))
    # (F + β/λ² + F_new - F_old)^-1 (g_old - g_new): example 0 frees weight 0, and 3 binds weight 3.
    moved = np.array([1 / 8, 0, 0, -2 / 9, 0])
    assert first["predicted_square"] == pytest.approx(moved @ metric @ moved)
    assert second["predicted_square"] == pytest.approx((1 / 8) ** 2 / 2)
    assert first["fisher_square"] == second["fisher_square"] == 1.5
    assert (order["fisher_square"], start["fisher_square"]) == (6.0, 0.0)
    assert first["off_minimum_square"] == pytest.approx(2 * (1 / 9) ** 2 / 2)
    alike = sgd_pairs.Around(np.eye(5), roots, slopes)
    rows = sgd_pairs._differences(config, 0, ends, alike, np.array([0, 2]))
    for row in rows:  # all directions are worth the same
        assert row["random_square"] == pytest.approx(row["distance"] ** 2)

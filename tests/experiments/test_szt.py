"""Noisy networks on 12 bits: their training, and how curves of information are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import noisy_szt
from experiments.common import checks, noisy, szt

TINY = noisy.Config(widths=(3, 2), num_epochs=6, num_times=3, num_seeds=2, batch_size=512)


def test_orthonormal_rows_stay_and_others_go_there():
    rng = np.random.default_rng(0)
    left, s, right = np.linalg.svd(rng.normal(size=(6, 4)), full_matrices=False)

    def pulled(s, times):
        layer = {"kernel": jnp.asarray(left * s @ right), "bias": jnp.zeros(4)}
        for _ in range(times):
            layer = szt._pulled(layer, 1e-3)
        return np.linalg.svd(layer["kernel"], compute_uv=False)

    np.testing.assert_allclose(pulled(np.ones(4), 3), 1, rtol=1e-6)
    np.testing.assert_allclose(pulled(s, 1), s - 1e-3 * (s**3 - s), rtol=1e-6)
    assert np.abs(pulled(s, 2000) - 1).max() < 0.1 * np.abs(s - 1).max()


class _Plain:
    """A context without a folder."""

    @staticmethod
    def iterate(step, state, number, stage):  # noqa: ARG004
        for i in range(number):
            state = step(i, state)
        return state


@pytest.fixture(scope="module")
def dataset():
    return szt.load(TINY, None)


def test_training_is_adam_on_the_noisy_loss(dataset):
    """Without noise, one step of one batch: the first step of Adam moves by the learning rate."""
    config = noisy.Config(widths=(3,), num_epochs=1, num_times=2, num_seeds=1, batch_size=3277)
    (after,) = (jax.tree.map(lambda w: w[0, 0], szt.train(config, dataset, _Plain, 0.0)),)
    before = szt.initial(config, jax.random.fold_in(jax.random.key(config.seed), 0))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after, before)
    largest = max(jax.tree.leaves(moved))
    np.testing.assert_allclose(largest, config.learning_rate, rtol=1e-3)
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    losses = [
        szt.fits(jax.tree.map(lambda w: w[None, None], p), "tanh", inputs, targets)[0][0, 0]
        for p in (before, after)
    ]
    assert losses[1] < losses[0]


@pytest.mark.slow
def test_seeds_do_not_depend_on_each_other_and_noise_matters(dataset):
    two = szt.train(TINY, dataset, _Plain, TINY.sigma)
    one = szt.train(noisy.Config(**{**vars(TINY), "num_seeds": 1}), dataset, _Plain, TINY.sigma)
    calm = szt.train(TINY, dataset, _Plain, 0.0)
    for a, b, c in zip(*map(jax.tree.leaves, (two, one, calm)), strict=True):
        np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=1e-6)
        assert np.abs(a[-1] - c[-1]).max() > 1e-8
        assert len(a) == len(szt.epochs(TINY)) == 3


def test_epochs_are_spaced_evenly_in_the_logarithm_from_the_first_to_the_last():
    assert szt.epochs(TINY) == [1, 2, 6]
    many = szt.epochs(noisy.Config())
    assert many[0] == 1
    assert many[-1] == 10_000
    assert 35 <= len(many) <= 40


def test_shuffled_labels_are_the_same_labels_elsewhere():
    plain, shuffled = (szt.load(noisy.Config(shuffled_labels=s), None) for s in (False, True))
    assert plain.train_targets.sum() == shuffled.train_targets.sum()
    assert (plain.train_targets != shuffled.train_targets).mean() > 0.4


@pytest.mark.parametrize(
    ("curve", "dips"),
    [
        ([1, 2, 3, 4], 0),
        ([4, 3, 2, 1], 0),
        ([1, 4, 2, 3.5, 1], 1),
        ([1, 4, 3.9, 4, 1], 0),
        ([1, 4, 2, 4, 2, 4], 2),
    ],
)
def test_dips_are_counted_where_the_curve_rises_again(curve, dips):
    turns = noisy_szt.shape(np.array([curve], float))
    assert turns["dips"] == [dips]
    assert turns["peak"] == max(curve)
    assert turns["fall"] == max(curve) - curve[-1]


def test_points_of_a_scatter_plot_survive_the_table():
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    np.testing.assert_allclose(
        noisy_szt._points(noisy_szt._hex(points), 3), points, atol=0.5 / 127 + 1e-9
    )


def _rows(**changes):
    """Two seeds, two epochs and two layers of a network in which all is well."""
    rows = []
    for seed in range(2):
        for epoch in (1, 10):
            for layer in (1, 2):
                row = {"seed": seed, "epoch": epoch, "layer": layer}
                row |= {"input_entropy_nats": 3.0, "label_entropy_nats": 0.69}
                for name, value in (("input", 2.5), ("label", 0.5), ("linearised", 2.45)):
                    own = value - 0.1 * layer
                    row |= {
                        f"{name}_information_nats": own,
                        f"{name}_information_stderr_nats": 0.01,
                        f"{name}_information_lower_nats": own - 0.02,
                        f"{name}_information_upper_nats": own + 0.02,
                    }
                rows.append(row)
    for name, value in changes.items():
        for part, shift in (("", 0), ("_lower", -0.02), ("_upper", 0.02)):
            rows[-1][f"{name}_information{part}_nats"] = value + shift
    return rows


def test_checks_pass_where_all_is_well_and_name_the_place_where_it_is_not():
    assert all(c.passed for c in noisy.check(_rows(), noisy.Config()))
    wrong = {
        "data processing: I(X;T)": {"input": 2.6},
        "data processing: I(Y;T)": {"label": 0.55},
        "I(X;T) <= H(X)": {"label": 0.8},
        "sample propagation": {"linearised": 1.0},
    }
    for name, changes in wrong.items():
        found = [c for c in noisy.check(_rows(**changes), noisy.Config()) if name in c.name]
        assert [type(c) for c in found] == [checks.Check]
        assert not found[0].passed, name
    failed = noisy.check(_rows(input=2.6), noisy.Config())[0]
    assert "seed 1, epoch 10, layer 1" in failed.message

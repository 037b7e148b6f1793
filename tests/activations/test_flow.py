"""Fisher flow: known informations of inputs and layers, and features that come up to them."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import iw_jax as iw
from iw_jax.activations import flow

KEY = jax.random.key(0)
phi, Phi = stats.norm.pdf, stats.norm.cdf
SIZE = 6


def gaussian(key, theta, number):
    """N(θ 1, I)."""
    return theta + jax.random.normal(key, (number, SIZE))


def spread(key, theta, number):
    """N(0, θ), a scalar."""
    return jnp.sqrt(theta) * jax.random.normal(key, (number, 1))


def linear(i, params, t):
    return t @ params[i]


def rectified(i, params, t):
    return jax.nn.relu(t @ params[i])


def leaky(t):
    """The paper's."""
    return jnp.where(t > 0, t, 0.7 * t)


LINEAR = tuple(partial(linear, i) for i in range(3))
RELU = tuple(partial(rectified, i) for i in range(3))
SHORT = {"num_samples": 8000, "num_features": (0, 8, 16)}


def weights(seed, *sizes):
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    shapes = list(itertools.pairwise(sizes))
    return [jax.random.normal(k, s) / s[0] ** 0.5 for k, s in zip(keys, shapes, strict=True)]


@pytest.fixture(scope="module")
def through_linear_layers():
    params = weights(0, SIZE, 9, 4, 2)
    return params, iw.fisher_flow(KEY, LINEAR, params, gaussian, 0.0, 0.1, **SHORT)


def test_linear_layers_keep_the_projection_of_the_signal(through_linear_layers):
    """1'W'(W W')⁺W 1: all of it in a wider layer, whose covariance is singular."""
    params, found = through_linear_layers
    expected = [float(SIZE)]
    for i in range(3):
        W = np.linalg.multi_dot([np.eye(SIZE), *params[: i + 1]]).T
        expected.append(W.sum(1) @ np.linalg.pinv(W @ W.T) @ W.sum(1))
    np.testing.assert_allclose(expected[1], SIZE)
    assert expected[3] < 0.8 * expected[2] < 0.8 * SIZE
    # What noise of 1 % hides of the layers' units, at most.
    for estimate in (found.linear, found.information):
        error = np.abs(estimate.value - np.array(expected))
        assert np.all(error < 4 * estimate.stderr + 0.01 * np.array(expected))
    # All layers see the same samples: what is lost is known better than what is there.
    assert np.all(
        np.abs(found.lost.value + np.diff(expected)) < 4 * found.lost.stderr + 0.01 * SIZE
    )
    np.testing.assert_allclose(found.lost.value, -np.diff(found.information.value), rtol=1e-9)
    # Of nothing lost, what the layers' own 16 random features add by chance is left.
    chance = np.hypot(1, 1) * np.sqrt(2 * 16) * 2 / (8000 * 0.2**2)
    assert found.lost.stderr[0] < 2 * chance < 0.3 * found.information.stderr[1]
    assert found.path.value.shape == (4, 3)
    assert found.information.converged.tolist() == [True] * 4
    assert found.information.cost == 16_000


def test_streamed_values_are_those_of_arrays():
    keys = jax.random.split(KEY)
    samples = [gaussian(k, theta, 40_000) for k, theta in zip(keys, (-0.1, 0.1), strict=True)]
    whole = iw.linear_fisher_information(*samples, 0.1, noise=0.01)
    streamed = iw.fisher_flow(
        KEY, (), None, gaussian, 0.0, 0.1, num_samples=40_000, num_features=(0,)
    )
    gap = abs(whole.value - streamed.linear.value[0])
    assert gap < 4 * np.hypot(whole.stderr, streamed.linear.stderr[0])
    np.testing.assert_allclose(whole.stderr, streamed.linear.stderr[0], rtol=0.8)
    assert not streamed.information.converged[0]  # one value does not tell


def test_random_features_find_what_a_linear_readout_does_not():
    """Leaky and plain rectification of independent units: the first keeps all information."""
    layers = (lambda _, t: jax.nn.leaky_relu(t, 0.3), lambda _, t: jax.nn.relu(t))
    found = iw.fisher_flow(
        KEY, layers, None, gaussian, 0.0, 0.05, num_samples=40_000, num_features=(0, 32, 64, 128)
    )
    kept = SIZE * (0.5 + phi(0) ** 2 / 0.5)  # 0.8183 a unit
    readout = SIZE * 0.25 / (0.5 - phi(0) ** 2)  # 0.7335
    for layer, truth in ((0, SIZE), (1, SIZE), (2, kept)):
        value, stderr = (x[layer] for x in (found.information.value, found.information.stderr))
        assert 0.94 * truth - 4 * stderr < value < truth + 4 * stderr
    assert abs(found.linear.value[2] - readout) < 4 * found.linear.stderr[2] + 0.01 * readout
    # What features add is the J of their residuals, and as uncertain as such: less than the whole.
    gain = found.path.value[1:, -1] - found.path.value[1:, 0]
    assert np.all(gain > 2 * np.sqrt(8 * gain.clip(0) / (found.path.cost / 2 * 0.1**2)))


@pytest.mark.slow
def test_without_biases_the_papers_features_miss_a_variance_for_ever():
    """They span {h, |h|}, which has 1/(pi - 2) of what h² has; with biases, nearly all of that."""
    theta, delta = 1.0, 0.1
    whole = 1 / (2 * theta**2)

    def last(biases, activation):
        found = iw.fisher_flow(
            KEY,
            (),
            None,
            spread,
            theta,
            delta,
            num_samples=100_000,
            num_features=(0, 10, 20, 40),
            biases=biases,
            activation=activation,
        )
        return found.path.value[0] / whole, found.path.stderr[0, -1] / whole

    value, stderr = last(False, leaky)
    assert abs(value[0]) < 0.02
    assert np.all(np.abs(value[1:] - 1 / (np.pi - 2)) < 4 * stderr + 0.01)
    for activation in (leaky, jax.nn.softplus):
        value, stderr = last(True, activation)
        assert 0.96 - 4 * stderr < value[-1] < 1.01 + 4 * stderr


def test_no_layer_has_more_than_the_input():
    params = weights(1, SIZE, 12, 8, 4)
    found = iw.fisher_flow(KEY, RELU, params, gaussian, 0.3, 0.1, **SHORT)
    assert np.all(found.information.value < SIZE + 3 * found.information.stderr)
    assert np.all(found.lost.value > -3 * found.lost.stderr)
    assert found.information.value[-1] < 0.8 * SIZE


def test_more_features_find_more_but_for_noise():
    params = weights(1, SIZE, 12, 8, 4)
    found = iw.fisher_flow(KEY, RELU, params, gaussian, 0.3, 0.1, **SHORT)
    assert np.all(np.diff(found.path.value, axis=1) > -found.path.stderr[:, 1:])
    np.testing.assert_array_equal(found.path.value[:, 0], found.linear.value)
    np.testing.assert_array_equal(found.path.value[:, -1], found.information.value)


def test_a_dead_layer_has_no_information():
    found = iw.fisher_flow(
        KEY, (lambda _, t: jax.nn.relu(t - 50.0),), None, gaussian, 0.0, 0.1, **SHORT
    )
    assert found.information.value[1] == 0


def test_one_program_serves_all_weights_and_parameters(through_linear_layers):
    del through_linear_layers  # it has compiled
    before = flow._moments._cache_size()
    iw.fisher_flow(KEY, LINEAR, weights(5, SIZE, 9, 4, 2), gaussian, 0.5, 0.2, **SHORT)
    assert flow._moments._cache_size() == before


def test_devices_share_the_blocks(through_linear_layers):
    params, whole = through_linear_layers
    mesh = iw.make_mesh(data=2)
    dealt = iw.fisher_flow(KEY, LINEAR, params, gaussian, 0.0, 0.1, **SHORT, mesh=mesh)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(dealt), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)


def test_float32_keeps_the_digits_of_features_far_from_0():
    """Means of a thousand standard deviations."""

    def far(key, theta, number):
        x = theta + jax.random.normal(key, (number, SIZE), jnp.float32)
        mixed = x @ jnp.asarray(np.random.default_rng(0).normal(size=(SIZE, SIZE)), jnp.float32)
        return jnp.float32(1000) + mixed

    options = {"num_samples": 8000, "num_features": (0,)}
    double = iw.fisher_flow(KEY, (), None, far, 0.0, 0.1, **options)
    with jax.enable_x64(False):
        single = iw.fisher_flow(KEY, (), None, far, 0.0, 0.1, **options)
    np.testing.assert_allclose(single.linear.value, double.linear.value, rtol=2e-4)
    np.testing.assert_allclose(single.linear.stderr, double.linear.stderr, rtol=2e-3)


@pytest.mark.slow
def test_intervals_cover_what_a_layer_loses():
    """Three of six units: half of the information, known better than that of either layer."""
    half = (lambda _, t: t[:, :3],)
    found = [
        iw.fisher_flow(k, half, None, gaussian, 0.0, 0.1, num_samples=2000, num_features=(0,))
        for k in jax.random.split(KEY, 300)
    ]
    truth = SIZE / 2 / (1 + 0.01**2)
    ends = [e.lost.interval() for e in found]
    covered = np.mean([low[0] <= truth <= high[0] for low, high in ends])
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)
    lost = np.array([e.lost.value[0] for e in found])
    assert abs(lost.mean() - truth) < 3.5 * lost.std() / np.sqrt(len(lost))
    assert lost.std() < 0.9 * np.std([e.information.value[0] for e in found])


@pytest.mark.slow
def test_intervals_cover_the_information_whatever_was_added():
    """Of the last value. The largest of the path would be too large."""
    found = [
        iw.fisher_flow(k, (), None, gaussian, 0.0, 0.1, **{**SHORT, "num_samples": 2000})
        for k in jax.random.split(KEY, 300)
    ]
    truth = SIZE / (1 + 0.01**2)
    ends = [e.information.interval() for e in found]
    covered = np.mean([low[0] <= truth <= high[0] for low, high in ends])
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)
    last = np.array([e.information.value[0] for e in found])
    largest = np.array([e.path.value[0].max() for e in found])
    error = last.std() / np.sqrt(len(last))
    assert abs(last.mean() - truth) < 3.5 * error
    assert largest.mean() - truth > 3 * error


@pytest.mark.parametrize(
    ("path", "converged"),
    [
        ([1.0, 2.0], False),
        ([10.0, 10.2, 10.1], True),
        ([8.0, 9.0, 10.0], False),
        ([0.0, 5.0, 9.0, 9.9, 10.0, 10.1], True),
        ([0.0, 10.0, 20.0, 29.0, 29.5, 30.9], True),
        ([20.0, 21.0, 22.0, 23.0, 24.0, 26.0], False),
    ],
)
def test_convergence_is_that_of_the_last_three(path, converged):
    assert flow.settled(np.array(path), 0.05, 0.1) == converged


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key must be a typed random key"),
        ({"delta": 0.0}, ValueError, "delta must be positive and finite, got 0.0"),
        ({"delta": -0.1}, ValueError, "delta must be positive and finite, got -0.1"),
        ({"theta": np.inf}, ValueError, "theta must be finite"),
        ({"theta": np.zeros(2)}, ValueError, "theta must be a scalar"),
        ({"num_features": (8, 16)}, ValueError, r"num_features must increase from 0, got \(8, 16"),
        ({"num_features": (0, 8, 8)}, ValueError, "num_features must increase from 0"),
        ({"num_features": ()}, ValueError, "num_features must increase from 0"),
        ({"num_samples": 24}, ValueError, "num_samples must be at least 25, the number of feat"),
        ({"noise": -1.0}, ValueError, "noise must be at least 0"),
        ({"num_blocks": 1}, ValueError, "num_blocks must be an integer of at least 2"),
        ({"sampler": lambda _, t, __: t * jnp.ones(3)}, ValueError, "one row a sample"),
        (
            {"sampler": lambda _, __, n: jnp.full((n, 6), jnp.nan), "num_samples": 100},
            ValueError,
            "samples must be finite",
        ),
        ({"mesh": 3}, ValueError, "mesh must come from iw.make_mesh"),
    ],
)
def test_what_cannot_be_measured_is_named(changes, error, message):
    given = {"key": KEY, "layers": (), "params": None, "sampler": gaussian, "theta": 0.0}
    given |= {"delta": 0.1, **SHORT, **changes}
    positional = [given.pop(n) for n in ("key", "layers", "params", "sampler", "theta", "delta")]
    with pytest.raises(error, match=message):
        iw.fisher_flow(*positional, **given)

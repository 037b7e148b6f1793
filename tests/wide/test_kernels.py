"""Kernels: closed points, invariances, and networks of finite width."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax import wide
from iw_jax.wide.kernels import ACTIVATIONS

KEY = jax.random.key(0)
PHI = {"relu": jax.nn.relu, "erf": jax.scipy.special.erf, "identity": lambda u: u}


def inputs(number, size=5, seed=0):
    return np.random.default_rng(seed).normal(size=(number, size))


def apply(params, stds, activation, x):
    """A network of finite width, one output; params are (W, b) of every layer."""
    for layer, (w, b) in enumerate(params):
        weight_std, bias_std = stds[layer == len(params) - 1]  # of the hidden layers, the readout
        x = PHI[activation](x) if layer else x
        x = weight_std * x @ w / np.sqrt(len(w)) + bias_std * b
    return x[:, 0]


def draw(key, sizes):
    keys = jax.random.split(key, len(sizes))
    shapes = itertools.pairwise(sizes)
    return [
        (jax.random.normal(k, s), jax.random.normal(jax.random.fold_in(k, 1), s[1:]))
        for k, s in zip(keys, shapes, strict=False)
    ]


def finite(x, widths, activation, stds, members):
    """Means of f f', J J' and (J θ) f' over random networks, and their standard errors."""

    def one(key):
        params = draw(key, (x.shape[1], *widths, 1))
        function = lambda p: apply(p, stds, activation, x)  # noqa: E731
        f = function(params)
        j = jax.tree.leaves(jax.jacobian(function)(params))
        ntk = sum(jnp.reshape(g, (len(x), -1)) @ jnp.reshape(g, (len(x), -1)).T for g in j)
        along = jax.jvp(function, (params,), (params,))[1]
        return jnp.outer(f, f), ntk, (jnp.outer(along, f) + jnp.outer(f, along)) / 2

    found = [
        np.asarray(s)
        for s in jax.jit(lambda k: jax.lax.map(one, k, batch_size=100))(KEYS[:members])
    ]
    return [(s.mean(0), s.std(0, ddof=1) / np.sqrt(members)) for s in found]


KEYS = jax.random.split(KEY, 4000)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_hidden_layer_has_the_same_kernels_in_expectation_at_every_width(activation):
    x, stds = inputs(4), ((1.3, 0.4), (0.8, 0.2))
    network = wide.Network(1, activation, 1.3, 0.4, 0.8, 0.2)
    k = wide.kernels(network, x)
    expected = k.nngp, k.ntk, wide.alignment(network, x)
    for truth, (mean, stderr) in zip(
        expected, finite(x, (50,), activation, stds, 4000), strict=True
    ):
        assert np.abs((mean - truth) / stderr).max() < 4.5
        assert (stderr / np.sqrt(np.outer(np.diag(truth), np.diag(truth)))).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_deep_networks_approach_their_kernels(activation):
    x, stds = inputs(4), ((1.3, 0.4), (0.8, 0.2))
    network = wide.Network(3, activation, 1.3, 0.4, 0.8, 0.2)
    k = wide.kernels(network, x)
    expected = k.nngp, k.ntk, wide.alignment(network, x)
    for truth, (mean, stderr) in zip(
        expected, finite(x, (500, 500, 500), activation, stds, 400), strict=True
    ):
        size = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
        assert (np.abs(mean - truth) / size).max() < 0.02 + 4.5 * (stderr / size).max()


def pair(angle, lengths=(1.0, 1.0)):
    """Two inputs in the plane, |x|²/d = length²."""
    unit = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    return unit * np.sqrt(2) * np.array(lengths)[:, None]


@pytest.mark.parametrize(
    ("angle", "mean", "slope"),
    [(0.0, 1 / 2, 1 / 2), (np.pi / 2, 1 / (2 * np.pi), 1 / 4), (np.pi, 0.0, 0.0)],
)
def test_relu_at_the_angles_that_one_knows(angle, mean, slope):
    a, b, weights, biases = 1.7, 0.6, 1.3, 0.4
    x = pair(angle, (a, b))
    c = a * b * np.cos(angle)
    found = wide.kernels(wide.Network(1, "relu", 1.0, 0.0, weights, biases), x)
    k = biases**2 + weights**2 * a * b * mean
    np.testing.assert_allclose(found.nngp[0, 1], k, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(found.ntk[0, 1], k + weights**2 * slope * c, rtol=1e-10, atol=1e-14)


def test_erf_on_the_diagonal():
    a = 1.7
    found = wide.kernels(wide.Network(1, "erf"), np.full((1, 1), np.sqrt(a)))
    k = 2 / np.pi * np.arcsin(2 * a / (1 + 2 * a))
    np.testing.assert_allclose(found.nngp[0, 0], k, rtol=1e-10)
    np.testing.assert_allclose(found.ntk[0, 0], k + 4 / np.pi / np.sqrt(1 + 4 * a) * a, rtol=1e-10)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_linear_network_and_a_critical_relu_one_know_their_depth(depth):
    x = inputs(6)
    gram = x @ x.T / x.shape[1]
    linear = wide.kernels(wide.Network(depth, "identity"), x)
    np.testing.assert_allclose(linear.ntk, (depth + 1) * gram, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(linear.nngp, gram, rtol=1e-10, atol=1e-13)
    critical = wide.kernels(wide.Network(depth, "relu", np.sqrt(2)), x)
    np.testing.assert_allclose(np.diag(critical.nngp), 2 * np.diag(gram), rtol=1e-10)
    np.testing.assert_allclose(np.diag(critical.ntk), 2 * (depth + 1) * np.diag(gram), rtol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_holds_of_every_kernel(activation):
    x, other = inputs(30), inputs(20, seed=1)
    network = wide.Network(3, activation, 1.2, 0.3)
    whole = wide.kernels(network, np.concatenate([x, other]))
    across, within = wide.kernels(network, x, other), wide.kernels(network, x)
    for name in ("nngp", "ntk"):
        k = getattr(whole, name)
        np.testing.assert_allclose(getattr(across, name), k[:30, 30:], rtol=1e-12)
        np.testing.assert_allclose(getattr(within, name), k[:30, :30], rtol=1e-12)
    np.testing.assert_allclose(
        np.diag(whole.nngp)[:30], wide.prior_variance(network, x), rtol=1e-13
    )
    for k in (whole.nngp, whole.ntk, whole.ntk - whole.nngp):
        assert np.linalg.eigvalsh(k).min() > -1e-12
    turn = np.linalg.qr(inputs(5))[0]
    np.testing.assert_allclose(wide.kernels(network, x @ turn).ntk, within.ntk, rtol=1e-10)


def test_relu_without_biases_is_homogeneous():
    x, network = inputs(6), wide.Network(2, "relu", 1.3)
    k, larger = (wide.kernels(network, c * x, x) for c in (1.0, 3.0))
    np.testing.assert_allclose(larger.nngp, 3 * k.nngp, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(larger.ntk, 3 * k.ntk, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(wide.alignment(network, x), 3 * wide.kernels(network, x).nngp)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_inputs_that_are_the_same_have_the_same_kernel_to_rounding(activation):
    """An arccos at 1 would have half the digits."""
    x = inputs(40, 784)
    k = wide.kernels(wide.Network(3, activation, 1.2, 0.3), x, x.copy()).ntk
    twice = wide.kernels(wide.Network(3, activation, 1.2, 0.3), np.concatenate([x, x])).ntk
    np.testing.assert_allclose(np.diag(twice[:40, 40:]), np.diag(k), rtol=1e-13)
    np.testing.assert_allclose(np.diag(twice)[:40], np.diag(k), rtol=1e-13)


def test_an_input_of_zeros_is_seen_by_no_relu():
    x = np.concatenate([np.zeros((1, 5)), inputs(3)])
    k = wide.kernels(wide.Network(2, "relu"), x)
    assert np.all(k.ntk[0] == 0)
    assert np.all(np.isfinite(k.ntk))


def test_several_networks_at_once_are_those_one_by_one():
    x, stds = inputs(6), np.array([0.5, 1.0, 2.0])
    together = wide.kernels(wide.Network(2, "erf", stds, 0.1), x)
    apart = [wide.kernels(wide.Network(2, "erf", s, 0.1), x) for s in stds]
    for i, one in enumerate(apart):
        np.testing.assert_allclose(together.ntk[i], one.ntk, rtol=1e-14)
    assert wide.prior_variance(wide.Network(2, "erf", stds), x).shape == (3, 6)


def test_rows_do_not_depend_on_how_many_are_computed_at_once():
    x, network = inputs(1100), wide.Network(2, "relu", [1.0, 2.0])
    whole, last = wide.kernels(network, x, x[:3]), wide.kernels(network, x[-2:], x[:3])
    assert whole.ntk.shape == (2, 1100, 3)
    np.testing.assert_allclose(whole.ntk[:, -2:], last.ntk, rtol=1e-13)


def test_it_is_the_same_under_jit_and_has_a_gradient():
    x = inputs(6)

    def total(std, x):
        k = wide.kernels(wide.Network(2, "relu", std, 0.2), x)
        return k.ntk.sum()

    np.testing.assert_allclose(jax.jit(total)(1.3, x), total(1.3, x), rtol=1e-12)
    h = 1e-5
    slope = (total(1.3 + h, x) - total(1.3 - h, x)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(1.3, x), slope, rtol=1e-8)


def test_float64_whatever_the_users_flag():
    x, network = inputs(6), wide.Network(2, "erf", 1.3, 0.1)
    with jax.enable_x64(False):
        narrow, along = wide.kernels(network, x).ntk, wide.alignment(network, x)
    np.testing.assert_array_equal(narrow, wide.kernels(network, x).ntk)
    np.testing.assert_array_equal(along, wide.alignment(network, x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": -1}, "depth must be an integer of at least 0, got -1"),
        ({"depth": 1.5}, "depth must be an integer of at least 0, got 1.5"),
        ({"activation": "gelu"}, "activation must be one of relu, erf, identity, got 'gelu'"),
        ({"weight_std": 0.0}, "weight_std must be positive and finite, got 0.0"),
        ({"readout_weight_std": -1.0}, "readout_weight_std must be positive and finite, got -1.0"),
        ({"bias_std": -0.1}, "bias_std must be finite and at least 0, got -0.1"),
        ({"weight_std": np.ones(2), "bias_std": np.ones(3)}, r"of one shape, got shapes \(2,\)"),
    ],
)
def test_what_is_no_network_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        wide.Network(**{"depth": 2, "activation": "erf", **changes})


@pytest.mark.parametrize(
    ("x", "other", "message"),
    [
        (
            np.ones(3),
            None,
            r"inputs must be \(N, ...\) with at least one feature, got shape \(3,\)",
        ),
        (np.ones((3, 0)), None, "inputs must be"),
        (np.full((3, 2), np.nan), None, "inputs must be finite"),
        (np.ones((3, 2)), np.ones((3, 4)), "inputs and other must have as many features, got 2 an"),
    ],
)
def test_inputs_that_do_not_fit_are_named(x, other, message):
    with pytest.raises(ValueError, match=message):
        wide.kernels(wide.Network(1, "relu"), x, other)

"""What a probe finds against channels of known information; activations under weight noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iw_jax as iw

KEY = jax.random.key(0)
SHIFT = 1.0
SIZES = {"fitting": 500, "stopping": 300, "held_out": 1500}  # examples, of two draws each


def channel(key, shift):
    """t uniform on {0, 1}, z ~ N(±shift, 1) beside a coordinate that never moves."""
    splits = {}
    for (name, number), own in zip(SIZES.items(), jax.random.split(key, 3), strict=True):
        first, second = jax.random.split(own)
        t = jax.random.bernoulli(first, 0.5, (number, 2)).astype(int)
        z = shift * (2 * t - 1) + jax.random.normal(second, (number, 2))
        splits[name] = jnp.stack([z, jnp.full_like(z, 3.0)], -1), t
    return splits


@functools.partial(jax.jit, static_argnames="num_steps")
def bound(key, shift, num_steps=200):
    draw, probe = jax.random.split(key)
    entropy = np.log(2)
    return iw.probe_information(
        probe, **channel(draw, shift), entropy=entropy, num_classes=2, width=8, num_steps=num_steps
    )


def exact(shift):
    """I(z; t) = ln 2 - E log(1 + exp(-2 shift z)), z ~ N(shift, 1), by quadrature; nats."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = shift + nodes
    return np.log(2) - weights @ np.log1p(np.exp(-2 * shift * z)) / weights.sum()


def test_the_bound_lies_just_below_the_information_of_a_gaussian_channel():
    found = jax.vmap(bound, in_axes=(0, None))(jax.random.split(KEY, 8), SHIFT)
    missing = exact(SHIFT) - np.asarray(found.value)
    # Eight independent channels and probes: their mean, with the error that they claim.
    error = np.sqrt(np.mean(found.stderr**2) / 8)
    assert -3 * error < missing.mean() < 0.01 + 3 * error
    assert 0.4 < missing.std(ddof=1) / np.sqrt(np.mean(found.stderr**2)) < 1.8
    np.testing.assert_array_equal(found.cost, SIZES["held_out"])


def test_a_label_that_is_not_in_the_activations_is_not_found():
    found = jax.vmap(bound, in_axes=(0, None))(jax.random.split(KEY, 8), 0.0)
    assert np.all(found.value < 3.5 * found.stderr + 1e-6)
    assert np.all(found.value > -0.03)  # the first state of a probe knows that it knows nothing


def test_shapes_that_do_not_fit_are_named():
    good = {name: (np.zeros((4, 2, 3)), np.zeros((4, 2), int)) for name in SIZES}
    bad = {**good, "held_out": (np.zeros((4, 2, 3)), np.zeros(4, int))}
    with pytest.raises(ValueError, match=r"held_out must be activations \(F, R, d\)"):
        iw.probe_information(KEY, **bad, entropy=0.7, num_classes=2)
    with pytest.raises(ValueError, match="num_classes must be"):
        iw.probe_information(KEY, **good, entropy=0.7, num_classes=1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ((np.full((4, 2, 3), np.nan), None), ValueError, "activations of held_out must be finite"),
        ((None, np.full((4, 2), 2)), ValueError, "held_out must lie from 0 to 1, got 2 to 2"),
        ((None, np.full((4, 2), -1)), ValueError, "held_out must lie from 0 to 1, got -1 to -1"),
        ((None, np.zeros((4, 2))), TypeError, "labels of held_out must be integers, got float"),
    ],
)
def test_activations_and_labels_that_say_nothing_are_named(changes, error, message):
    good = np.zeros((4, 2, 3)), np.zeros((4, 2), int)
    bad = [g if c is None else c for g, c in zip(good, changes, strict=True)]
    given = {**dict.fromkeys(SIZES, good), "held_out": tuple(bad)}
    with pytest.raises(error, match=message):
        iw.probe_information(KEY, **given, entropy=0.7, num_classes=2)


def test_numpy_arrays_are_taken():
    given = {name: (np.zeros((4, 2, 3)), np.zeros((4, 2), int)) for name in SIZES}
    measure = functools.partial(iw.probe_information, KEY, **given, entropy=0.7, num_classes=2)
    assert jax.eval_shape(measure).value.shape == ()


def test_every_input_sees_weights_of_its_own():
    """z = W x + b under independent Gaussian weights: N(M x + m, Σ x² S² + s²), apart per input."""
    mean = {"kernel": jnp.array([[1.0, -2.0], [0.5, 0.0]]), "bias": jnp.array([0.0, 1.0])}
    scale = {"kernel": jnp.array([[0.5, 1.0], [2.0, 0.1]]), "bias": jnp.array([0.3, 0.7])}
    code = iw.DiagonalGaussian(mean, scale)
    x = jnp.array([1.5, -1.0])

    def layer(params, inputs):
        return inputs @ params["kernel"] + params["bias"]

    number = 8000
    z = np.asarray(
        jax.jit(iw.noisy_activations, static_argnums=2)(
            KEY, code, layer, jnp.broadcast_to(x, (number, 2))
        )
    )
    variance = x**2 @ scale["kernel"] ** 2 + scale["bias"] ** 2
    error = np.sqrt(variance / number)
    assert np.all(np.abs(z.mean(0) - layer(mean, x[None])[0]) < 4 * error)
    np.testing.assert_allclose(z.var(0), variance, rtol=4 * np.sqrt(2 / number))
    assert np.all(np.abs(np.mean(z[1:] * z[:-1], 0) - z.mean(0) ** 2) < 5 * variance / 80)

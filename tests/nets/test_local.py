import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax import nets

KEY_MEAN, KEY_SCALE, KEY_INPUTS, KEY_DRAWS = jax.random.split(jax.random.key(5), 4)
NUM_DRAWS = 20_000
INPUTS = jax.random.normal(KEY_INPUTS, (2, 3))


@functools.cache
def gaussian(widths):
    """Means, standard deviations and the network, with three classes and noise of order one."""
    network = nets.mlp(3, widths=widths, activation="tanh")
    mean = network.init(KEY_MEAN, INPUTS)
    keys = dict(zip(mean, jax.random.split(KEY_SCALE, len(mean)), strict=True))
    scale = {
        name: {
            "kernel": jax.random.uniform(keys[name], layer["kernel"].shape, minval=0.1),
            "bias": jnp.full_like(layer["bias"], 0.3),
        }
        for name, layer in mean.items()
    }
    return mean, scale, network


def local_draws(widths, mean, scale, inputs=INPUTS):
    local = nets.mlp_local(3, widths=widths, activation="tanh")
    keys = jax.random.split(KEY_DRAWS, NUM_DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda k: local(k, mean, scale, inputs)))(keys), float)


def weight_draws(network, mean, scale, inputs=INPUTS):
    """Logits with all weights drawn afresh for every example: the law to be met."""

    flat_mean, unravel = jax.flatten_util.ravel_pytree(mean)
    flat_scale, _ = jax.flatten_util.ravel_pytree(scale)

    def one(key, x):
        noise = jax.random.normal(key, flat_mean.shape)
        return network.apply_fn(unravel(flat_mean + flat_scale * noise), x[None])[0]

    keys = jax.random.split(jax.random.fold_in(KEY_DRAWS, 1), (NUM_DRAWS, len(inputs)))
    return np.asarray(jax.jit(jax.vmap(jax.vmap(one), in_axes=(0, None)))(keys, inputs), float)


def mean_and_stderr(samples):
    return samples.mean(0), samples.std(0) / np.sqrt(len(samples))


def moments(logits):
    """All first and second moments, and the fourth power, of (draws, 2, 3) logits: columns."""
    flat = logits.reshape(len(logits), -1)
    products = flat[:, :, None] * flat[:, None, :]
    parts = flat, products.reshape(len(flat), -1), flat**4
    return np.concatenate(parts, axis=1)


def test_one_layer_has_exactly_the_gaussian_law():
    mean, scale, _ = gaussian(())
    kernel, bias = mean["Dense_0"]["kernel"], mean["Dense_0"]["bias"]
    centre = INPUTS @ kernel + bias
    variance = INPUTS**2 @ scale["Dense_0"]["kernel"] ** 2 + scale["Dense_0"]["bias"] ** 2
    z = (local_draws((), mean, scale) - np.asarray(centre)) / np.sqrt(np.asarray(variance))
    z = z.reshape(NUM_DRAWS, 6)
    # 6 means, 6 variances (of which each has variance 2/n), 15 correlations.
    root = np.sqrt(NUM_DRAWS)
    assert np.abs(z.mean(0) * root).max() < 4
    assert np.abs((np.mean(z**2, 0) - 1) * root / np.sqrt(2)).max() < 4
    correlations = (z.T @ z / NUM_DRAWS)[np.triu_indices(6, 1)]
    assert np.abs(correlations * root).max() < 4


def test_one_layer_adds_to_the_mean_the_exact_deviation():
    # For one key the noise is the same whatever the scale, so the draw is affine in it.
    mean, scale, network = gaussian(())
    local = nets.mlp_local(3, widths=(), activation="tanh")
    one = local(KEY_DRAWS, mean, scale, INPUTS) - network.apply_fn(mean, INPUTS)
    unit = jax.tree.map(jnp.zeros_like, mean)
    unit["Dense_0"]["bias"] = jnp.ones(3)
    noise = local(KEY_DRAWS, mean, unit, INPUTS) - network.apply_fn(mean, INPUTS)
    variance = INPUTS**2 @ scale["Dense_0"]["kernel"] ** 2 + scale["Dense_0"]["bias"] ** 2
    np.testing.assert_allclose(one, noise * jnp.sqrt(variance), rtol=1e-4, atol=1e-5)


@functools.cache
def two_layer_moments():
    mean, scale, network = gaussian((4,))
    received = moments(local_draws((4,), mean, scale))
    expected = moments(weight_draws(network, mean, scale))
    return received, expected


def test_two_layers_have_the_moments_of_weights_drawn_per_example():
    (received, error_r), (expected, error_e) = map(mean_and_stderr, two_layer_moments())
    z = (received - expected) / np.hypot(error_r, error_e)
    # 48 columns, 33 of them different.
    assert np.abs(z).max() < 4.2
    assert np.sqrt(np.mean(z**2)) < 1.5


def test_the_comparison_would_see_a_small_bias():
    # A variance 10 % too large in the last layer, as an epsilon would make it.
    mean, scale, _ = gaussian((4,))
    wrong = scale | {"Dense_1": jax.tree.map(lambda s: s * 1.1**0.5, scale["Dense_1"])}
    received, error_r = mean_and_stderr(moments(local_draws((4,), mean, wrong)))
    expected, error_e = mean_and_stderr(two_layer_moments()[1])
    assert np.abs((received - expected) / np.hypot(error_r, error_e)).max() > 4.2


def test_zero_deviation_is_the_network_itself():
    mean, scale, network = gaussian((4,))
    zero = jax.tree.map(jnp.zeros_like, scale)
    local = nets.mlp_local(3, widths=(4,), activation="tanh")
    received = local(KEY_DRAWS, mean, zero, INPUTS)
    np.testing.assert_allclose(received, network.apply_fn(mean, INPUTS), rtol=1e-6)


@pytest.mark.parametrize("deviation", [0.0, 1e-30, 1e-20, 1e-3])
def test_the_gradient_is_finite_down_to_zero_variance(deviation):
    mean, scale, _ = gaussian((4,))
    scale = jax.tree.map(lambda s: jnp.full_like(s, deviation), scale)
    local = nets.mlp_local(3, widths=(4,), activation="tanh")

    def loss(mean, scale, inputs):
        return jnp.sum(local(KEY_DRAWS, mean, scale, inputs) ** 2)

    blank = INPUTS.at[0].set(0.0)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(mean, scale, blank)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()


def test_the_gradient_is_the_slope():
    mean, scale, _ = gaussian((4,))
    local = nets.mlp_local(3, widths=(4,), activation="tanh")
    with jax.enable_x64(True):
        mean, scale, inputs = jax.tree.map(lambda x: x.astype(jnp.float64), (mean, scale, INPUTS))

        @jax.jit
        def loss(factor):
            wider = jax.tree.map(lambda s: factor * s, scale)
            return jnp.sum(jnp.sin(local(KEY_DRAWS, mean, wider, inputs)))

        slope = (loss(1 + 1e-6) - loss(1 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0), slope, rtol=1e-7)


def test_the_same_arguments_give_the_same_function():
    first = nets.mlp_local(3, widths=[4], activation="tanh")
    assert first is nets.mlp_local(3, widths=(4,), activation="tanh")


@pytest.mark.parametrize("argument", ["mean", "scale"])
def test_a_tree_with_other_layers_is_named(argument):
    mean, scale, _ = gaussian((4,))
    trees = {"mean": mean, "scale": scale} | {argument: {"Dense_0": mean["Dense_0"]}}
    local = nets.mlp_local(3, widths=(4,), activation="tanh")
    message = f"{argument} must have the layers Dense_0, Dense_1, got Dense_0"
    with pytest.raises(ValueError, match=message):
        local(KEY_DRAWS, trees["mean"], trees["scale"], INPUTS)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iw_jax import nets
from iw_jax.nets.normalize import group_norm
from iw_jax.nets.small_alexnet import _pool

KEY = jax.random.key(0)
_compiled = functools.cache(jax.jit)


@pytest.mark.parametrize(("width", "hidden"), [(0.5, 96), (2.0, 384), (1e-6, 1)])
def test_width_multiplies_the_channels(width, hidden):
    example = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(nets.all_cnn(10, width=width).init, KEY, example)
    assert params["Conv_8"]["kernel"].shape == (1, 1, hidden, 10)


@pytest.mark.parametrize("width", [0.0, -1.0, float("inf"), float("nan")])
def test_a_width_that_is_no_factor_is_named(width):
    with pytest.raises(ValueError, match=f"width must be positive and finite, got {width}"):
        nets.all_cnn(10, width=width)


def test_the_all_cnn_shrinks_images_twice_and_averages():
    # Constant kernels 1/fan_in pass a constant image on, except where padding adds zeros. So a
    # network of 1 x 1 kernels in disguise (only the centre is not 0) gives an exact answer.
    network = nets.all_cnn(2, width=1 / 96)
    images = jax.random.uniform(KEY, (2, 8, 8, 1))
    params = network.init(KEY, images)

    def centre_only(kernel):
        middle = kernel.shape[0] // 2
        return jnp.zeros_like(kernel).at[middle, middle, 0, 0].set(1.0)

    params = {
        name: {"kernel": centre_only(layer["kernel"]), "bias": layer["bias"]}
        for name, layer in params.items()
    }
    logits = jax.jit(network.apply_fn)(params, images)
    # A strided 3 x 3 window of SAME padding on an even side starts at pixel 0: centre at 1.
    kept = images[:, 1::2, 1::2][:, 1::2, 1::2]
    np.testing.assert_allclose(logits[:, 0], kept.mean(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(logits[:, 1], 0)


@pytest.mark.parametrize("layer", ["Conv_1", "Dense_0", "Dense_1"])
def test_a_normalized_layer_has_no_scale(layer):
    network = nets.small_alexnet(10)
    images = jax.random.normal(KEY, (2, 8, 8, 3))
    params = network.init(KEY, images)
    scaled = params | {layer: jax.tree.map(lambda w: 3.0 * w, params[layer])}
    apply_fn = _compiled(network.apply_fn)
    np.testing.assert_allclose(apply_fn(scaled, images), apply_fn(params, images), atol=2e-3)


def test_group_norm_gives_each_examples_groups_mean_0_and_variance_1():
    class Probe(nn.Module):
        @nn.compact
        def __call__(self, h):
            return group_norm(h)

    h = 5 + 3 * jax.random.normal(KEY, (2, 6, 6, 64))
    groups = jax.jit(Probe().apply)({}, h).reshape(2, 36, 32, 2)
    np.testing.assert_allclose(groups.mean(axis=(1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.var(axis=(1, 3)), 1, atol=1e-4)


def test_curvature_passes_through_the_overlapping_pools():
    # Half the squared outputs, summed: pixel i wins c_i windows, so the gradient is c_i x_i and
    # the Hessian diag(c).
    x = jax.random.normal(KEY, (2, 7, 7, 3))
    v = jax.random.normal(jax.random.key(1), x.shape)

    def loss(x):
        return 0.5 * jnp.sum(_pool(x) ** 2)

    gradient, product = jax.jit(lambda x, v: jax.jvp(jax.grad(loss), (x,), (v,)))(x, v)
    wins = np.rint(gradient / x)
    assert wins.max() > 1
    np.testing.assert_allclose(gradient, wins * x, rtol=1e-5)
    np.testing.assert_allclose(product, wins * v, rtol=1e-5, atol=1e-6)

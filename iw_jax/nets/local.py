"""Local reparameterization: noise on pre-activations with the law of noise on weights."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from iw_jax.nets.activations import ACTIVATIONS
from iw_jax.nets.mlp import check_mlp
from iw_jax.nets.network import Params, check_inputs

LocalApply = Callable[[jax.Array, Params, Params, jax.Array], jax.Array]


def mlp_local(
    num_classes: int, *, widths: Sequence[int] = (256, 256), activation: str = "relu"
) -> LocalApply:
    """The network of `mlp` under a factorized Gaussian over its weights, drawn per example.

    Returns `local_apply_fn(key, mean, scale, inputs) -> logits`. With weights
    W ~ N(M, S^2) and b ~ N(m, s^2), all independent, the pre-activation of one example is

        z = x W + b ~ N(x M + m, x^2 S^2 + s^2),

    independent over units; drawing z instead of W, layer by layer, has exactly the law of a
    fresh draw of all weights for EVERY example. So each example's loss has the expectation it
    has under one shared draw, and the sum over examples has the same expectation and far less
    variance. The joint law over examples is not that of one shared draw.

    Arguments of the function it returns:
      key: typed PRNG key.
      mean: parameters of `mlp`, the means; `{'Dense_0': {'kernel', 'bias'}, ...}`.
      scale: the same tree, the standard deviations (of one sign each, their square counts).
      inputs: (N, ...) floating point, flattened to (N, D).

    The result, logits (N, num_classes), may be differentiated with respect to `mean`, `scale`
    and `inputs`; the gradient is finite also where a variance is zero. Equal arguments give the
    same function object.

    Args:
      num_classes: K, number of logits.
      widths: units of each hidden layer.
      activation: 'relu', 'gelu', 'tanh' or 'identity'.

    Raises:
      ValueError: as `mlp`; when used, if `mean` or `scale` has other layers.

    References:
      Kingma, Salimans & Welling, arXiv:1506.02557, Eq. 6. Public codes add a small epsilon to
      the variance or inside x^2, which biases the noise; none is added here.
    """
    widths = check_mlp(num_classes, widths, activation)
    return _mlp_local(len(widths) + 1, activation)


# The tree holds the widths, so the number of layers is all that has to be known.
@functools.cache
def _mlp_local(num_layers: int, activation: str) -> LocalApply:
    layers = [f"Dense_{index}" for index in range(num_layers)]
    function = ACTIVATIONS[activation].function

    def local_apply_fn(key: jax.Array, mean: Params, scale: Params, inputs: jax.Array) -> jax.Array:
        check_inputs(inputs)
        for argument, tree in (("mean", mean), ("scale", scale)):
            if set(tree) != set(layers):
                raise ValueError(
                    f"{argument} must have the layers {', '.join(layers)}, got "
                    f"{', '.join(map(str, tree))}"
                )
        h = inputs.reshape(len(inputs), -1)
        for layer, key_layer in zip(layers, jax.random.split(key, num_layers), strict=True):
            if layer != layers[0]:
                h = function(h)
            h = _dense(key_layer, mean[layer], scale[layer], h)
        return h

    return local_apply_fn


def _dense(key: jax.Array, mean: Params, scale: Params, h: jax.Array) -> jax.Array:
    centre = h @ mean["kernel"] + mean["bias"]
    variance = jnp.square(h) @ jnp.square(scale["kernel"]) + jnp.square(scale["bias"])
    return centre + _safe_sqrt(variance) * jax.random.normal(key, centre.shape, centre.dtype)


def _safe_sqrt(variance: jax.Array) -> jax.Array:
    """Square root whose derivative at 0 is 0: no infinity to meet the 0 of d variance/d scale."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)

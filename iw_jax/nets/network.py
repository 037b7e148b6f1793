"""A network as a pair of pure functions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

Params = dict[str, Any]


class Network(NamedTuple):
    """A network without state: all it knows is in `params`.

    Attributes:
      init: (key, inputs) -> params. `inputs` (N, ...) is an example batch; the parameters take
        its dtype. The values are drawn in float32, so float32 and float64 start from the same
        point. Top-level keys are the layers, each a tree of {'kernel', 'bias'}.
      apply_fn: (params, inputs) -> logits (N, num_classes), no unit (nats after a softmax).
    """

    init: Callable[[jax.Array, jax.Array], Params]
    apply_fn: Callable[[Params, jax.Array], jax.Array]


# Cached: `jit` and the library's static arguments know a function by its identity, so a network
# made twice must not compile twice. Linen modules compare and hash by their fields.
@functools.cache
def as_network(module: nn.Module) -> Network:
    """The pair for a Linen module of this package.

    The module has parameters only (no batch statistics, no dropout), and its initializers give
    the standard deviation of each weight: zero for a bias.
    """

    # Compiled, because only then are the logits, which nobody asks for here, not computed.
    @jax.jit
    def init(key: jax.Array, inputs: jax.Array) -> Params:
        check_inputs(inputs)
        deviations = module.init(key, inputs.astype(jnp.float32))["params"]
        params = _draw(key, deviations)
        return jax.tree.map(lambda leaf: leaf.astype(inputs.dtype), params)

    def apply_fn(params: Params, inputs: jax.Array) -> jax.Array:
        check_inputs(inputs)
        logits: Any = module.apply({"params": params}, inputs)
        return logits

    return Network(init, apply_fn)


def _draw(key: jax.Array, deviations: Params) -> Params:
    """Independent normal kernels; vectors (biases) are left as they are, at zero.

    One long draw, cut into kernels: on XLA:CPU each draw of its own costs half a second of
    compilation, ten for a ResNet-18.
    """
    leaves, treedef = jax.tree.flatten(deviations)
    kernels = [leaf for leaf in leaves if leaf.ndim > 1]
    noise = jax.random.normal(key, (sum(kernel.size for kernel in kernels),), jnp.float32)
    start = 0
    drawn = []
    for leaf in leaves:
        if leaf.ndim > 1:
            piece = noise[start : start + leaf.size].reshape(leaf.shape)
            start += leaf.size
            drawn.append(leaf * piece)
        else:
            drawn.append(leaf)
    return jax.tree.unflatten(treedef, drawn)


def check_inputs(inputs: jax.Array) -> None:
    """Raises ValueError unless inputs are floating-point examples (N, ...)."""
    if jnp.ndim(inputs) < 2 or not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            "inputs must be floating-point numbers of shape (N, ...), got "
            f"{inputs.dtype} of {jnp.shape(inputs)}"
        )


def check_images(inputs: jax.Array) -> None:
    """Raises ValueError unless inputs are images (N, H, W, C)."""
    if jnp.ndim(inputs) != 4:
        raise ValueError(f"inputs must be images (N, H, W, C), got shape {jnp.shape(inputs)}")


def check_num_classes(num_classes: int) -> None:
    """Raises ValueError unless there is at least one output."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")

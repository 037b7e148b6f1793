"""The nonlinearities by name, each with the initial scale that keeps signals alive."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Activation(NamedTuple):
    """A nonlinearity and the deviation of the kernel in front of it.

    Attributes:
      function: elementwise.
      kernel_init: (key, shape, dtype) -> array filled with the standard deviation of a kernel
        entry. No draw: `as_network` makes the noise for all layers at once.
    """

    function: Callable[[jax.Array], jax.Array]
    kernel_init: Callable[..., jax.Array]


def _deviation(gain: float) -> Callable[..., jax.Array]:
    def fill(_key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.full(shape, math.sqrt(gain / math.prod(shape[:-1])), dtype)

    return fill


# He's variance 2/fan_in (arXiv:1502.01852, Eq. 10) for those that set half of their inputs to
# about zero, else LeCun's 1/fan_in.
_HE = _deviation(2.0)
LECUN = _deviation(1.0)
ACTIVATIONS = {
    "relu": Activation(jax.nn.relu, _HE),
    "gelu": Activation(jax.nn.gelu, _HE),
    "tanh": Activation(jnp.tanh, LECUN),
    "identity": Activation(lambda z: z, LECUN),
}
RELU = ACTIVATIONS["relu"]


def check_activation(activation: str) -> None:
    """Raises ValueError for a name that is not in `ACTIVATIONS`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")

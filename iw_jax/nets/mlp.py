"""Fully connected networks."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from iw_jax.nets.activations import ACTIVATIONS, LECUN, check_activation
from iw_jax.nets.network import Network, as_network, check_num_classes


def mlp(
    num_classes: int, *, widths: Sequence[int] = (256, 256), activation: str = "relu"
) -> Network:
    """A multilayer perceptron; inputs (N, ...) are flattened to (N, D).

    Layers `Dense_0` .. `Dense_L`, the last without nonlinearity. (From eleven layers on,
    `Dense_10` sorts before `Dense_2` where JAX sorts keys.)

    Args:
      num_classes: K, number of logits.
      widths: units of each hidden layer; empty gives a linear model. The default is a common
        size for MNIST, 269,322 weights.
      activation: 'relu', 'gelu', 'tanh' or 'identity'.

    Raises:
      ValueError: if a width or `num_classes` is not positive or the activation is unknown.
    """
    widths = check_mlp(num_classes, widths, activation)
    return as_network(_MLP(num_classes, widths, activation))


def check_mlp(num_classes: int, widths: Sequence[int], activation: str) -> tuple[int, ...]:
    """Checks the arguments of an MLP; returns the widths as something that can be hashed."""
    check_num_classes(num_classes)
    check_activation(activation)
    widths = tuple(int(width) for width in widths)
    if any(width < 1 for width in widths):
        raise ValueError(f"widths must be positive, got {widths}")
    return widths


class _MLP(nn.Module):
    num_classes: int
    widths: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        function, kernel_init = ACTIVATIONS[self.activation]
        h = inputs.reshape(len(inputs), -1)
        for width in self.widths:
            h = function(nn.Dense(width, kernel_init=kernel_init)(h))
        return nn.Dense(self.num_classes, kernel_init=LECUN)(h)

"""The convolutional network of the curvature benchmarks."""

import jax
from flax import linen as nn

from iw_jax.nets.activations import LECUN, RELU
from iw_jax.nets.network import Network, as_network


class _CNN(nn.Module):
    """conv 3x3-16, pool, conv 3x3-32, pool, dense 64, dense K; ReLU, max pools 2 x 2."""

    num_classes: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        h = inputs
        for channels in (16, 32):
            h = nn.relu(nn.Conv(channels, (3, 3), kernel_init=RELU.kernel_init)(h))
            h = nn.max_pool(h, (2, 2), strides=(2, 2))
        h = nn.relu(nn.Dense(64, kernel_init=RELU.kernel_init)(h.reshape(len(h), -1)))
        return nn.Dense(self.num_classes, kernel_init=LECUN)(h)


def cnn(num_classes: int = 10) -> Network:
    """A small CNN: 105,866 weights for 28 x 28 x 1 images and ten classes."""
    return as_network(_CNN(num_classes))

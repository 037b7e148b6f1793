"""ResNet-18 for small images."""

import jax
from flax import linen as nn

from iw_jax.nets.activations import LECUN, RELU
from iw_jax.nets.network import Network, as_network, check_images, check_num_classes
from iw_jax.nets.normalize import group_norm

# Channels and first stride of the eight blocks: four stages of two.
_BLOCKS = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


def resnet18(num_classes: int) -> Network:
    """ResNet-18 with the stem for CIFAR and group normalization: 11,169,162 weights for CIFAR-10.

    A 3 x 3 stem without pool, eight blocks of two 3 x 3 convolutions around a shortcut, mean
    over the image, one dense layer. Convolutions have a bias, because the normalization after
    them has neither gain nor shift (`nets/normalize.py` says why).

    Layers `Conv_0` (stem), `Conv_block_0` .. `Conv_block_7`, `Dense_0`: so named that sorting
    the keys, as JAX does, keeps the order of the layers.

    Args:
      num_classes: K, number of logits.

    Raises:
      ValueError: if `num_classes` is not positive; when used, if inputs are no images.

    References:
      He, Zhang, Ren & Sun, arXiv:1512.03385, Table 1 and Sec. 4.2; Wu & He, arXiv:1803.08494.
    """
    check_num_classes(num_classes)
    return as_network(_ResNet18(num_classes))


class _ResNet18(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        check_images(inputs)
        h = nn.relu(group_norm(nn.Conv(64, (3, 3), kernel_init=RELU.kernel_init)(inputs)))
        for index, (channels, stride) in enumerate(_BLOCKS):
            h = _Block(channels, stride, name=f"Conv_block_{index}")(h)
        return nn.Dense(self.num_classes, kernel_init=LECUN)(h.mean(axis=(1, 2)))


class _Block(nn.Module):
    channels: int
    stride: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        def conv(side: int, stride: int, inputs: jax.Array) -> jax.Array:
            layer = nn.Conv(
                self.channels, (side, side), strides=stride, kernel_init=RELU.kernel_init
            )
            return group_norm(layer(inputs))

        residual = nn.relu(conv(3, self.stride, h))
        residual = conv(3, 1, residual)
        # A 1 x 1 convolution where the shape changes (option B of the paper).
        shortcut = h if h.shape == residual.shape else conv(1, self.stride, h)
        return nn.relu(shortcut + residual)

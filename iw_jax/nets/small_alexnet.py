"""The small AlexNet of the random-label experiments."""

import jax
from flax import linen as nn

from iw_jax.nets.activations import LECUN, RELU
from iw_jax.nets.network import Network, as_network, check_images, check_num_classes
from iw_jax.nets.normalize import group_norm, layer_norm


def small_alexnet(num_classes: int) -> Network:
    """Two 5 x 5 convolutions and three dense layers; made for 28 x 28 crops of CIFAR.

    conv 5x5-64, pool, conv 5x5-64, norm, pool, dense 384, norm, dense 192, norm, dense K; ReLU;
    pools 3 x 3 with stride 2. 1,387,786 weights for 28 x 28 x 3 and ten classes. Batch
    normalization, at the same three places in the paper, is replaced by a normalization of each
    example by itself, without gain and shift (`nets/normalize.py` says why).

    Args:
      num_classes: K, number of logits.

    Raises:
      ValueError: if `num_classes` is not positive; when used, if inputs are no images.

    References:
      Zhang et al., arXiv:1611.03530, App. A; Achille & Soatto, arXiv:1706.01350, Fig. 1 (the
      dense widths and the places of the normalization are likely, not printed in full).
    """
    check_num_classes(num_classes)
    return as_network(_SmallAlexNet(num_classes))


class _SmallAlexNet(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        check_images(inputs)
        h = nn.Conv(64, (5, 5), kernel_init=RELU.kernel_init)(inputs)
        h = _pool(nn.relu(h))
        h = nn.Conv(64, (5, 5), kernel_init=RELU.kernel_init)(h)
        h = _pool(nn.relu(group_norm(h)))
        h = h.reshape(len(h), -1)
        for width in (384, 192):
            h = nn.relu(layer_norm(nn.Dense(width, kernel_init=RELU.kernel_init)(h)))
        return nn.Dense(self.num_classes, kernel_init=LECUN)(h)


def _pool(h: jax.Array) -> jax.Array:
    return nn.max_pool(h, (3, 3), strides=(2, 2), padding="SAME")

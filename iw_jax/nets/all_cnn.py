"""All-CNN-C: convolutions only."""

import math

import jax
from flax import linen as nn

from iw_jax.nets.activations import LECUN, RELU
from iw_jax.nets.network import Network, as_network, check_images, check_num_classes

# (channels at width 1, kernel side, stride) of each hidden layer: Springenberg et al., Table 1 C
# with the strided layers of Table 2 ("All-CNN") in place of pooling.
_LAYERS = (
    (96, 3, 1),
    (96, 3, 1),
    (96, 3, 2),
    (192, 3, 1),
    (192, 3, 1),
    (192, 3, 2),
    (192, 3, 1),
    (192, 1, 1),
)


def all_cnn(num_classes: int, *, width: float = 1.0) -> Network:
    """All-CNN-C: nine convolutions, then the mean over the image. 1,369,738 weights for CIFAR-10.

    Three things differ from the paper: every convolution pads (there the seventh does not), so
    that small images work too; no ReLU after the last layer, whose outputs are logits; no
    dropout, because the code over the weights is the only noise. No normalization, as there.

    Args:
      num_classes: K, number of logits.
      width: factor on the 96 and 192 channels; rounded, at least one channel.

    Raises:
      ValueError: if `width` is not positive and finite or `num_classes` not positive; when
        used, if inputs are no images.

    References:
      Springenberg, Dosovitskiy, Brox & Riedmiller, arXiv:1412.6806, Tables 1 and 2.
    """
    check_num_classes(num_classes)
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be positive and finite, got {width}")
    return as_network(_AllCNN(num_classes, float(width)))


class _AllCNN(nn.Module):
    num_classes: int
    width: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        check_images(inputs)
        h = inputs
        for channels, side, stride in _LAYERS:
            features = max(1, round(self.width * channels))
            conv = nn.Conv(features, (side, side), strides=stride, kernel_init=RELU.kernel_init)
            h = nn.relu(conv(h))
        h = nn.Conv(self.num_classes, (1, 1), kernel_init=LECUN)(h)
        return h.mean(axis=(1, 2))

"""The middle of every image."""

import dataclasses

import numpy as np

from iw_jax.data.dataset import Dataset


def central_crop(dataset: Dataset, size: int) -> Dataset:
    """The data set with every image cut to its central size x size pixels.

    The small AlexNet of Zhang et al. (arXiv:1611.03530, App. A) sees 28 x 28 of CIFAR's
    32 x 32. Where the margin is odd, the lower right side loses the extra pixel. Inputs are not
    standardized again.

    Args:
      dataset: images (N, H, W, C).
      size: pixels a side, 1 .. min(H, W).

    Raises:
      ValueError: if the inputs are no images, or `size` does not fit into them.
    """
    shape = dataset.train_inputs.shape
    if len(shape) != 4:
        raise ValueError(f"dataset must hold images (N, H, W, C), got inputs {shape}")
    height, width = shape[1:3]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size must be in 1 .. {min(height, width)}, got {size}")
    top, left = (height - size) // 2, (width - size) // 2

    def cut(images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images[:, top : top + size, left : left + size])

    return dataclasses.replace(
        dataset, train_inputs=cut(dataset.train_inputs), test_inputs=cut(dataset.test_inputs)
    )

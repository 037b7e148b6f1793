"""Images averaged down."""

import dataclasses

import numpy as np

from iw_jax.data.dataset import Dataset


def average_pool(dataset: Dataset, side: int) -> Dataset:
    """The data set with every image averaged down to at most `side` pixels a side.

    A pixel becomes the mean over k x k of them, with the least k that divides H and W and suffices.
    Inputs are not standardized again.

    Args:
      dataset: images (N, H, W, C), H = W.
      side: pixels a side at most, at least 1.

    Raises:
      ValueError: if the inputs are no square images, or `side` is below 1.
    """
    shape = dataset.train_inputs.shape
    if len(shape) != 4 or shape[1] != shape[2]:
        raise ValueError(f"dataset must hold square images (N, H, H, C), got inputs {shape}")
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}")
    height = shape[1]
    k = next(k for k in range(1, height + 1) if height % k == 0 and height // k <= side)

    def pool(images: np.ndarray) -> np.ndarray:
        blocks = images.reshape(len(images), height // k, k, height // k, k, shape[3])
        return blocks.mean((2, 4), dtype=np.float32)

    return dataclasses.replace(
        dataset, train_inputs=pool(dataset.train_inputs), test_inputs=pool(dataset.test_inputs)
    )

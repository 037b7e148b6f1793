"""scikit-learn's handwritten digits: 1,797 real 8 x 8 images, no download."""

import numpy as np

from iw_jax.data.packages import missing_package
from iw_jax.data.source import Source, Split

NUM_TEST = 360
# Fixed, and not the caller's seed: the test set must not change between runs that are compared.
_SPLIT_SEED = 1797


def source() -> Source:
    """The digits with 1,437 training and 360 test examples, the same ones always.

    The writers of the UCI test file come in blocks, so the split is a fixed random permutation;
    a writer can have digits on both sides.

    Raises:
      ModuleNotFoundError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise missing_package("digits", error) from error
    bunch = load_digits()
    pixels = bunch.images.astype(np.uint8)[..., None]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pixels))
    pixels, labels = pixels[order], bunch.target[order]
    train, test = slice(None, -NUM_TEST), slice(-NUM_TEST, None)
    # Sums of integers, so that mean and deviation do not depend on the order of summation.
    values = pixels[train].astype(np.int64)
    mean = int(values.sum()) / values.size
    variance = int((values**2).sum()) / values.size - mean**2
    return Source(
        train=_in_memory(pixels[train], labels[train]),
        test=_in_memory(pixels[test], labels[test]),
        num_classes=10,
        white=16.0,
        mean=(mean / 16,),
        std=(variance**0.5 / 16,),
    )


def _in_memory(pixels: np.ndarray, labels: np.ndarray) -> Split:
    return Split(len(pixels), lambda indices: (pixels[indices], labels[indices]))

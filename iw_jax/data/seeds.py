"""Random streams that stay apart, although the caller has only one seed."""

import zlib

import numpy as np


def generator(seed: int, purpose: str) -> np.random.Generator:
    """The generator of `seed` for one purpose.

    A run uses the same root seed to choose examples, to choose which labels to corrupt and to
    draw the new ones. Were the three made of the same stream, the choices would be correlated.

    Args:
      seed: a non-negative integer.
      purpose: a word; another word gives an independent stream.

    Raises:
      ValueError: if the seed is not a non-negative integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
    # crc32 and not hash(): the latter changes from process to process.
    return np.random.default_rng([int(seed), zlib.crc32(purpose.encode())])

"""What a loader knows about a data set before it has read the examples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Examples that can be read by index, only those that are wanted.

    Attributes:
      size: how many there are.
      read: indices (n,) -> pixels (n, H, W, C) uint8 and labels (n,) integers, in that order.
    """

    size: int
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Source(NamedTuple):
    """A data set on disk.

    Attributes:
      train: the training examples.
      test: the test examples.
      num_classes: K.
      white: the largest value a pixel can have.
      mean: per channel, of all training pixels; in units of `white`.
      std: per channel, of all training pixels; in units of `white`.
    """

    train: Split
    test: Split
    num_classes: int
    white: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

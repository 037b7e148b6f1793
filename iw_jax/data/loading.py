"""`load`: a data set by its name."""

import os
from pathlib import Path

import numpy as np

from iw_jax.data import digits, prepared
from iw_jax.data.dataset import Dataset
from iw_jax.data.source import Source, Split
from iw_jax.data.subsets import held_out_indices, subset_indices

NAMES = ("digits", *sorted(prepared.FACTS))


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    num_examples: int | None = None,
    num_test_examples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set; images are (N, H, W, C), centred and scaled.

    Pixels in [0, 1] have the mean of all training pixels of their channel taken off, and are
    divided by their standard deviation. Both are taken from the full training set, so
    `load(name, num_examples=n, seed=s)` equals `subset(load(name), n, s)` bit for bit, but it
    reads only the n training examples that it needs.

    Args:
      name: 'digits' (built in), 'mnist', 'fashion_mnist' or 'cifar10'.
      data_dir: the folder that holds TFDS data sets in array_record format; None is the default
        folder of TFDS. Without use for 'digits'.
      num_examples: how many training examples to draw, 1 .. N; None takes all, in the order of
        the files. Smaller draws are the first examples of larger ones.
      num_test_examples: how many test examples to keep, 0 .. M; None keeps all. Nested too, and
        the same ones for every seed, so that runs are compared on one test set.
      seed: a non-negative integer, which training examples to draw.

    Raises:
      ValueError: if the name is unknown or a number of examples is out of range.
      FileNotFoundError: if `data_dir` does not exist, or the set is not prepared in it and
        cannot be prepared here; said within 10 seconds.
      ModuleNotFoundError: if a package is missing; the message has the command to install it.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise FileNotFoundError(f"data_dir must be a folder that exists, got {str(data_dir)!r}")
    folder = None if data_dir is None else Path(data_dir)
    source = digits.source() if name == "digits" else prepared.source(name, folder)
    train = np.arange(source.train.size)
    if num_examples is not None:
        train = subset_indices(len(train), num_examples, seed, argument="num_examples")
    test = np.arange(source.test.size)
    if num_test_examples is not None:
        test = held_out_indices(len(test), num_test_examples)
    train_inputs, train_targets = _read(source, source.train, train)
    test_inputs, test_targets = _read(source, source.test, test)
    return Dataset(name, train_inputs, train_targets, test_inputs, test_targets, source.num_classes)


def _read(source: Source, split: Split, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = split.read(indices)
    mean, std = (np.asarray(moment, np.float32) for moment in (source.mean, source.std))
    inputs = pixels.astype(np.float32)
    inputs /= np.float32(source.white)
    inputs -= mean
    inputs /= std
    return inputs, labels.astype(np.int32)

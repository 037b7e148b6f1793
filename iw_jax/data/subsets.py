"""Random subsets of the training examples, nested in their size."""

import dataclasses

import numpy as np

from iw_jax.data.dataset import Dataset
from iw_jax.data.seeds import generator


def subset(dataset: Dataset, n: int, seed: int) -> Dataset:
    """The data set with `n` of its training examples, drawn without replacement.

    Nested: for one seed the first n of a larger subset are the smaller subset, in the same
    order. Classes are not balanced. The test examples stay.

    Args:
      dataset: what to draw from.
      n: how many training examples to keep, 1 .. N.
      seed: a non-negative integer.

    Raises:
      ValueError: if `n` is not in 1 .. N, or `seed` not a non-negative integer.
    """
    chosen = subset_indices(len(dataset.train_inputs), n, seed, argument="n")
    return dataclasses.replace(
        dataset,
        train_inputs=dataset.train_inputs[chosen],
        train_targets=dataset.train_targets[chosen],
    )


def subset_indices(num_available: int, n: int, seed: int, *, argument: str) -> np.ndarray:
    """The (n,) indices of the training subset; `argument` is what an error calls n."""
    _check_count(argument, n, 1, num_available, "training")
    return generator(seed, "subset").permutation(num_available)[:n]


def held_out_indices(num_available: int, n: int) -> np.ndarray:
    """The (n,) indices of a test subset: nested, and no seed, because all runs share it."""
    _check_count("num_test_examples", n, 0, num_available, "test")
    return generator(0, "test subset").permutation(num_available)[:n]


def _check_count(argument: str, n: int, least: int, most: int, kind: str) -> None:
    is_count = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if not is_count or not least <= n <= most:
        raise ValueError(
            f"{argument} must be an integer in {least} .. {most} (there are {most} {kind} "
            f"examples), got {n!r}"
        )

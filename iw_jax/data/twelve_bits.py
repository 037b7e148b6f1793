"""Twelve bits and one label: the problem of Shwartz-Ziv & Tishby, or a rule much like theirs."""

import os

import numpy as np

from iw_jax.data.dataset import Dataset

NUM_BITS, NUM_ONES, NUM_TRAIN = 12, 2118, 3277
_THRESHOLD = 48.4934
_OFFSET = 0.4  # not 0.5, with which y(x) = y(x reversed): labels would leak from train to test


def szt(path: str | os.PathLike[str] | None = None, *, seed: int = 0) -> Dataset:
    """All 4,096 patterns of 12 bits, with labels; 3,277 to train on, 819 to test.

    Without a file, labels are those of `rule`: results are like those with the original data, not
    equal. The original is `var_u.mat` of the authors, who do not allow it to be passed on.

    Args:
      path: of `var_u.mat`; None for the built-in rule.
      seed: a non-negative integer, which patterns are trained on.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it holds something else.
    """
    patterns = all_patterns()
    labels = rule() if path is None else _read(path)
    order = np.random.default_rng(seed).permutation(len(patterns))
    train, test = np.sort(order[:NUM_TRAIN]), np.sort(order[NUM_TRAIN:])
    inputs, targets = patterns.astype(np.float32), labels.astype(np.int32)
    name = "szt_rule" if path is None else "szt"
    return Dataset(name, inputs[train], targets[train], inputs[test], targets[test], 2)


def all_patterns() -> np.ndarray:
    """(4096, 12) bits in counting order, the most significant first."""
    return np.arange(2**NUM_BITS)[:, None] >> np.arange(NUM_BITS)[::-1] & 1


def rule() -> np.ndarray:
    """Labels of the patterns in counting order, (4096,): 2,118 ones.

    A pattern switches on some of twelve fixed points ω_k of the sphere, and

        y = 1 where (Σ_k x_k)² + 4 |Σ_k x_k ω_k|² >= 48.4934

    which no rotation of the points changes, as in Shwartz-Ziv & Tishby (arXiv:1703.00810). The
    nearest patterns are at 48.4794 and 48.5074.
    """
    k = np.arange(NUM_BITS)
    height, angle = 1 - 2 * (k + _OFFSET) / NUM_BITS, k * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)
    x = all_patterns()
    f = x.sum(1) ** 2 + 4 * np.square(x @ points).sum(1)
    return (f >= _THRESHOLD).astype(int)


def _read(path: str | os.PathLike[str]) -> np.ndarray:
    import scipy.io

    if not os.path.isfile(path):
        raise FileNotFoundError(f"path must be a file that exists, got {os.fspath(path)!r}")
    try:
        content = scipy.io.loadmat(path)
        patterns, labels = np.asarray(content["F"]), np.asarray(content["y"]).ravel()
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"path must be a MATLAB file with F and y, got {os.fspath(path)!r} ({error})"
        ) from error
    if not np.array_equal(patterns, all_patterns()):
        raise ValueError(
            "F in path must be the 4096 patterns of 12 bits in counting order, got "
            f"{patterns.shape}"
        )
    ones = int((labels == 1).sum())
    if labels.shape != (2**NUM_BITS,) or not np.isin(labels, (0, 1)).all() or ones != NUM_ONES:
        raise ValueError(
            f"y in path must be 4096 labels 0 and 1, {NUM_ONES} of them 1, got "
            f"{labels.shape} with {ones}"
        )
    return labels.astype(int)

"""Entropy of binned activations: a measure of how they cluster, for want of noise.

A bin is a cube of a grid, [low + k width, low + (k + 1) width) along each unit. Activations without
noise are a function of the input, so I(X; Bin(T)) = H(Bin(T)): it says how many inputs share a bin.
It cannot pass H(X), and the smaller the bins the nearer it is, whatever the network does.
"""

from typing import Any

import numpy as np

from iw_jax import checks


def binned_entropy(
    activations: Any, width: float, *, low: float = 0.0, high: float | None = None
) -> float:
    """H(Bin(T)), nats, T one of the rows of `activations`; plug-in, so at most log N.

    Args:
      activations: t, (N, d).
      width: of a bin, in units of the activations.
      low: an edge of the grid; the one that floor divides at for 0 (Saxe et al.: width 0.07).
      high: where the last bin ends, for activations that can reach their bounds: what lies at or
        above counts there, and what lies below `low` in the first bin. (Shwartz-Ziv & Tishby: low
        -1, high 1, width 2/30, in bits.)

    Raises:
      ValueError: for a width that is not positive, bounds in the wrong order, no rows, or
        activations that are not finite.

    References:
      Saxe et al., ICLR 2018; Goldfeld et al., arXiv:1810.05728, Sec. 6.
    """
    counts = _counts(_bins(activations, width, low, high, ndim=2))
    return _entropy(counts)


def binned_information(
    activations: Any, width: float, *, low: float = 0.0, high: float | None = None
) -> float:
    """I(X; Bin(T)) = H(Bin(T)) - H(Bin(T)|X), nats, from R draws of T for each of N inputs.

    Both entropies are plug-in ones: the second is too low where there are not many more draws than
    bins that an input reaches, and the information then too high.

    Args:
      activations: t, (R, N, d).
      width: as for `binned_entropy`.
      low: as for `binned_entropy`.
      high: as for `binned_entropy`.

    Raises:
      ValueError: as `binned_entropy`.
    """
    bins = _bins(activations, width, low, high, ndim=3)
    given = [_entropy(_counts(bins[:, i])) for i in range(bins.shape[1])]
    return _entropy(_counts(bins.reshape(-1, bins.shape[2]))) - float(np.mean(given))


def binned_label_information(
    activations: Any, labels: Any, width: float, *, low: float = 0.0, high: float | None = None
) -> float:
    """I(Y; Bin(T)) = H(Bin(T)) - H(Bin(T)|Y), nats, of rows with labels; plug-in.

    Args:
      activations: t, (N, d).
      labels: y, integers (N,).
      width: as for `binned_entropy`.
      low: as for `binned_entropy`.
      high: as for `binned_entropy`.

    Raises:
      ValueError: as `binned_entropy`, or for labels of another shape.
    """
    bins, labels = _bins(activations, width, low, high, ndim=2), np.asarray(labels)
    if labels.shape != bins.shape[:1]:
        raise ValueError(f"labels must be ({len(bins)},), one for each row, got {labels.shape}")
    classes, numbers = np.unique(labels, return_counts=True)
    given = [_entropy(_counts(bins[labels == y])) for y in classes]
    return _entropy(_counts(bins)) - float(np.dot(numbers, given) / len(bins))


def _bins(activations: Any, width: float, low: float, high: float | None, ndim: int) -> np.ndarray:
    checks.positive("width", width)
    t = np.asarray(activations, np.float64)
    if t.ndim != ndim or not t.size:
        shape = "(N, d)" if ndim == 2 else "(R, N, d)"
        raise ValueError(f"activations must be {shape} with at least one number, got {t.shape}")
    checks.finite("activations", t)
    bins = np.floor((t - low) / width)
    if high is not None:
        if not high > low:
            raise ValueError(f"high must be above low = {low}, got {high}")
        bins = np.clip(bins, 0, np.ceil((high - low) / width * (1 - 1e-12)) - 1)
    return bins


def _counts(bins: np.ndarray) -> np.ndarray:
    """How many rows each occupied bin holds."""
    rows = np.ascontiguousarray(bins + 0.0)  # -0 is 0
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))
    return np.unique(whole, return_counts=True)[1]


def _entropy(counts: np.ndarray) -> float:
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0

"""Estimates from draws, in float64 on the host where arrays are NumPy's."""

from typing import Any

import numpy as np

from iw_jax.estimates import Estimate


def mean_of(samples: Any, xp: Any) -> Estimate:
    """As `Estimate.mean_of`, of at least two samples, in the type that they have."""
    count, mean = len(samples), samples.mean(0)
    stderr = samples.std(0, ddof=1) / np.sqrt(count)
    dof = xp.full_like(mean, count - 1)
    return Estimate(mean, stderr, dof, mean, mean, count, xp.isfinite(mean))


def jackknife(whole: Any, left_out: Any, xp: Any) -> Estimate:
    """As `Estimate.jackknife`, in the type that they have."""
    return mean_of(whole + (len(left_out) - 1) * (whole - left_out), xp)


def exact(value: Any, xp: Any) -> Estimate:
    """As `Estimate.exact`, in the type that it has."""
    zero = xp.zeros_like(value)
    return Estimate(value, zero, zero + np.inf, value, value, 0, xp.isfinite(value))

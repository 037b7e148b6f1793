"""Numbers with error bars."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from iw_jax import checks, trees


@trees.record
class Estimate:
    """A number, how far sampling may have moved it, and between what truncation leaves it.

    Attributes:
      value: the estimate; nats unless its source says otherwise.
      stderr: standard error from sampling; 0 for what was computed exactly.
      dof: degrees of freedom of `stderr`; inf for what was computed exactly, 0 where one sample
        leaves the standard error unknown (then `stderr` is nan).
      bracket_lower: lower end of what truncation leaves open, sampling aside; `value` if nothing.
      bracket_upper: upper end of the same.
      cost: matrix-vector products or samples spent.
      converged: whether the accuracy asked for was reached.
    """

    value: Any
    stderr: Any
    dof: Any
    bracket_lower: Any
    bracket_upper: Any
    cost: Any
    converged: Any

    @staticmethod
    def exact(value: Any, cost: Any = 0) -> "Estimate":
        """What was computed without sampling or truncation."""
        zero = jnp.zeros_like(jnp.asarray(value, dtype=float))
        known = jnp.isfinite(jnp.asarray(value))
        return Estimate(value, zero, jnp.full_like(zero, jnp.inf), value, value, cost, known)

    @staticmethod
    def mean_of(samples: Any) -> "Estimate":
        """Mean of independent samples along axis 0, and its standard error."""
        samples = jnp.asarray(samples)
        count = samples.shape[0]
        mean = samples.mean(0)
        if count > 1:
            stderr = samples.std(0, ddof=1) / np.sqrt(count)
        else:
            stderr = jnp.full_like(mean, jnp.nan)
        dof = jnp.full_like(mean, count - 1)
        return Estimate(mean, stderr, dof, mean, mean, count, jnp.isfinite(mean))

    @staticmethod
    def jackknife(whole: Any, left_out: Any) -> "Estimate":
        """A smooth function of averages of N independent samples, its bias of order 1/N taken off.

        Args:
          whole: from all samples.
          left_out: (N, ...), from the averages `left_out` of all but one of them, N >= 2.

        References:
          Efron & Stein, Ann. Statist. 9 (1981).
        """
        return Estimate.mean_of(jackknife_pseudovalues(whole, left_out))

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Two-sided interval that covers sampling (Student t) and truncation (bracket).

        Args:
          level: wanted coverage, between 0 and 1.

        Returns:
          Lower and upper end, NumPy arrays of the shape of `value`; infinite where the standard
          error is unknown.
        """
        checks.between("level", level, 0.0, 1.0)
        stderr, dof = np.asarray(self.stderr, float), np.asarray(self.dof, float)
        # stdtrit is nan at dof = inf, where t is the normal quantile (an exact value has stderr 0).
        normal = special.ndtri((1 + level) / 2)
        t = np.where(np.isinf(dof), normal, special.stdtrit(np.clip(dof, 1, 1e9), (1 + level) / 2))
        reach = np.where(np.isnan(stderr) | (dof < 1), np.inf, t * stderr)
        reach = np.where(stderr == 0, 0.0, reach)
        return np.asarray(self.bracket_lower) - reach, np.asarray(self.bracket_upper) + reach

    def __str__(self) -> str:
        """The value with its 95 % interval; of an array, the first and the last entry."""
        value, (lower, upper) = np.asarray(self.value), self.interval()
        if value.ndim:
            return f"Estimate of shape {value.shape}, {value.flat[0]:.5g} ... {value.flat[-1]:.5g}"
        if lower == upper:
            return f"{value:.6g} (exact)"
        return f"{value:.6g} [{lower:.6g}, {upper:.6g}]"


def jackknife_pseudovalues(whole: Any, left_out: Any) -> Any:
    """(N, ...), as independent, nearly, as the samples; arguments as for `Estimate.jackknife`."""
    return whole + (left_out.shape[0] - 1) * (whole - left_out)


def left_out(samples: Any) -> Any:
    """(N, ...), means along axis 0 of all samples but one."""
    return (samples.sum(0) - samples) / (len(samples) - 1)


def combine_independent(estimates: Sequence[Estimate], coefficients: Sequence[Any]) -> Estimate:
    """The weighted sum of estimates whose sampling errors are INDEPENDENT of each other.

    Quantities that share probes or draws are not: combine those draw by draw before the mean is
    taken. Variances add with squared coefficients; degrees of freedom follow Welch-Satterthwaite.

    Args:
      estimates: what is summed.
      coefficients: one factor for each.
    """
    lower: Any = 0.0
    upper: Any = 0.0
    variance: Any = 0.0
    for e, c in zip(estimates, coefficients, strict=True):
        lower = lower + jnp.minimum(c * e.bracket_lower, c * e.bracket_upper)
        upper = upper + jnp.maximum(c * e.bracket_lower, c * e.bracket_upper)
        variance = variance + (c * e.stderr) ** 2
    value = sum(c * e.value for e, c in zip(estimates, coefficients, strict=True))
    # 1/dof = Σ share²/dof_j in shares of the variance, which neither over- nor underflow.
    total = jnp.where(variance > 0, variance, 1.0)
    inverse_dof = sum(
        ((c * e.stderr) ** 2 / total) ** 2 / e.dof
        for e, c in zip(estimates, coefficients, strict=True)
    )
    dof = jnp.where(jnp.isnan(variance), 0.0, 1 / jnp.asarray(inverse_dof))
    converged = functools.reduce(jnp.logical_and, [e.converged for e in estimates])
    cost = jax.tree.reduce(jnp.add, [e.cost for e in estimates])
    return Estimate(value, jnp.sqrt(variance), dof, lower, upper, cost, converged)

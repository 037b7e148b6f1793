r"""I(X; Z|D): how well the outputs of a trained ensemble tell which input they belong to.

p(z|x) = N(z; μ(x), s²(x) I) is known, so that of B inputs, with z_i ~ p(z|x_i),

    lower   mean_i log p(z_i|x_i) - log (1/B) Σ_j p(z_i|x_j)           at most log B
    upper   mean_i log p(z_i|x_i) - log (1/(B-1)) Σ_{j≠i} p(z_i|x_j)

lie, in expectation over inputs, below and above the information about an input. For X uniform on
the B inputs the lower one is that information. From draws of z, or for one output by an integral.
"""

from typing import Any

import jax
import numpy as np

from iw_jax import checks, trees
from iw_jax.estimates import Estimate
from iw_jax.wide import sampled
from iw_jax.wide.ensemble import Moments

# Nodes a standard deviation of the narrowest density. Where two densities, Δ apart, meet, their sum
# has zeros at πσ²/Δ off the real line, of which 16 nodes see 1e-14.
_DENSITY = 16
_REACH = 9.0  # standard deviations beyond which densities end
_MOST = 10**6  # nodes of one integral
_TILE = 2**22  # densities that are computed at once


@trees.record
class InputInformation:
    """Bounds of I(X; Z|D), estimates (T, ...), nats; their errors are those of the draws of z.

    Attributes:
      lower: InfoNCE with the known density; I(X; Z|D) itself for X uniform on the given inputs.
      upper: the own input left out of the mixture.
    """

    lower: Estimate
    upper: Estimate


def contrastive_bounds(
    key: jax.Array, moments: Moments, *, num_draws: int = 16
) -> InputInformation:
    """Both bounds from draws of z; any number of outputs.

    Args:
      key: random key; the same draws of noise serve all times.
      moments: of the outputs at B different inputs, B >= 2; at test inputs, since at training
        inputs s² falls to 0 and the bounds go to log B and to infinity.
      num_draws: draws of z for every input, at least 2.

    Raises:
      ValueError: for a single input, or a variance of 0.

    References:
      Poole et al., arXiv:1905.06922, Eqs. 10, 12 (known densities); Shwartz-Ziv & Alemi,
      arXiv:1911.09189, Sec. 3.
    """
    checks.key("key", key)
    checks.at_least("num_draws", num_draws, 2)
    _check(moments)
    xp = trees.namespace(moments)
    noise = xp.asarray(jax.random.normal(key, (num_draws, *moments.mean.shape[1:])), float)

    def bounds(one: tuple[Any, Any]) -> InputInformation:
        mean, variance = one
        found = [_of_draw(mean, variance, u, xp) for u in noise]
        lower, upper = (xp.stack(each) for each in zip(*found, strict=True))
        return InputInformation(sampled.mean_of(lower, xp), sampled.mean_of(upper, xp))

    pairs = zip(moments.mean, moments.variance, strict=True)
    return jax.tree.map(lambda *parts: xp.stack(parts), *map(bounds, pairs))


def contrastive_integrals(moments: Moments) -> InputInformation:
    """What both bounds are on average over z, for one output: trapezoidal rule, to rounding.

    Args:
      moments: as for `contrastive_bounds`, k = 1; concrete.

    Raises:
      ValueError: as `contrastive_bounds`; for more than one output; for a variance so small beside
        the range of the outputs that the integral takes more than a million nodes.
    """
    _check(moments)
    if moments.mean.shape[-1] != 1:
        raise ValueError(f"moments must have one output, got {moments.mean.shape[-1]}")
    mean = np.asarray(moments.mean, float)[..., 0]
    deviation = np.sqrt(np.asarray(moments.variance, float))
    inputs = mean.shape[-1]
    cells = zip(mean.reshape(-1, inputs), deviation.reshape(-1, inputs), strict=True)
    found = np.array([_integrals(*cell) for cell in cells]).reshape(*mean.shape[:-1], 2)
    return InputInformation(*(sampled.exact(found[..., i], np) for i in (0, 1)))


def _of_draw(mean: Any, variance: Any, noise: Any, xp: Any) -> tuple[Any, Any]:
    """Both bounds, (...), from one z of every input; mean (..., B, k)."""
    z = mean + xp.sqrt(variance)[..., None] * noise
    apart = ((z[..., :, None, :] - mean[..., None, :, :]) ** 2).sum(-1)
    size = mean.shape[-1]
    log_densities = -0.5 * (apart / variance[..., None, :] + size * xp.log(variance)[..., None, :])
    own = -0.5 * ((noise**2).sum(-1) + size * xp.log(variance))
    count = mean.shape[-2]
    itself = xp.eye(count, dtype=bool)
    rest = _log_sum(xp.where(itself, -np.inf, log_densities), xp)
    all_of_them = xp.logaddexp(rest, own)
    lower = own - all_of_them + np.log(count)
    upper = own - rest + np.log(count - 1)
    return lower.mean(-1), upper.mean(-1)


def _integrals(mean: np.ndarray, deviation: np.ndarray) -> tuple[float, float]:
    """Both bounds on average over z, of the B densities N(mean, deviation²)."""
    low, high = (mean - _REACH * deviation).min(), (mean + _REACH * deviation).max()
    nodes = int(np.ceil((high - low) / deviation.min() * _DENSITY)) + 1
    if nodes > _MOST:
        raise ValueError(
            f"the variance of the outputs is at least {deviation.min() ** 2:.2g} where they lie "
            f"within {high - low:.3g} of each other: an integral would take {nodes:.2g} nodes; "
            "leave out inputs that are in the training set, or draw (contrastive_bounds)"
        )
    grid, step = np.linspace(low, high, nodes, retstep=True)
    count, sums = len(mean), np.zeros(2)
    for z in np.array_split(grid, -(-nodes * count // _TILE)):
        away = (z[:, None] - mean) / deviation
        log_p = -0.5 * (away * away + np.log(2 * np.pi)) - np.log(deviation)
        # A sum without its largest term cannot be had by subtraction: that one is left out first.
        first = log_p.argmax(1)[:, None]
        largest = np.take_along_axis(log_p, first, 1)
        np.put_along_axis(log_p, first, -np.inf, 1)
        second = log_p.max(1, keepdims=True)
        p = np.exp(log_p - second)  # in units of the second largest
        without_first = second + np.log(p.sum(1, keepdims=True))
        total = np.logaddexp(largest, without_first)
        without = total + np.log1p(-p * np.exp(second - total))
        p *= np.exp(second)
        for array, at_first in ((log_p, largest), (without, without_first), (p, np.exp(largest))):
            np.put_along_axis(array, first, at_first, 1)
        lower = (p * (log_p - total)).sum() + p.sum() * np.log(count)
        upper = (p * (log_p - without)).sum() + p.sum() * np.log(count - 1)
        sums += lower, upper
    lower, upper = sums * step / count
    return lower, upper


def _log_sum(x: Any, xp: Any) -> Any:
    """log Σ exp along the last axis."""
    top = xp.maximum(x.max(-1), -1e300)
    return top + xp.log(xp.exp(x - top[..., None]).sum(-1))


def _check(moments: Moments) -> None:
    inputs = moments.mean.shape[-2]
    if inputs < 2:
        raise ValueError(f"moments must be those of at least two inputs, got {inputs}")
    variance = moments.variance
    if trees.is_concrete(variance) and not (np.min(variance) > 0):
        raise ValueError(
            "the variance of the outputs must be positive, got 0 or less: inputs that are in the "
            "training set are known exactly at late times; leave them out"
        )

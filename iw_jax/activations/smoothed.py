r"""h(P * N_σ), the entropy of a law that is smoothed by noise, from samples of the law.

The plug-in estimate is that of the mixture with the samples as centres. It is too low, by

    h(P*N) - E h(P_n*N) = E KL(P_n*N ‖ P*N) <= χ²/n

a bias that halving the samples shows: samples are split in two and in four, and the densities of
all these mixtures come from the same exponentials.
"""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from scipy import special

from iw_jax import checks, trees
from iw_jax.activations.mixture import draw, mixture_log_density
from iw_jax.estimates import Estimate

PARTS = 4  # into which samples are split
SLOWEST = 1.25  # the least ratio of two changes by doubling that still says where they lead


def smoothed_entropy(
    key: jax.Array,
    samples: Any,
    sigma: Any,
    *,
    num_points: int | None = None,
    mesh: Mesh | None = None,
) -> Estimate:
    """h(P * N_σ) from independent samples of P, in any order; nats.

    The value is the plug-in estimate; the bracket reaches up by the bias that is left, see
    `extrapolated`.

    Args:
      key: random key.
      samples: (n, d), at least 4.
      sigma: σ, the standard deviation of the noise.
      num_points: draws at which the density is evaluated; None for n. More than n are rounded up to
        a multiple of n.
      mesh: as for `iw.mixture_log_density`.

    Raises:
      ValueError: for fewer samples, or as `iw.mixture_log_density`.

    Warns:
      UserWarning: if the samples are so far apart in units of σ that the value tells their number
        only, with the worst that theory has to say.

    References:
      Goldfeld, Greenewald & Polyanskiy, arXiv:1810.11589, Eqs. 2, 7, 12.
    """
    checks.key("key", key)
    checks.optional_at_least("num_points", num_points, 2)
    samples = jnp.asarray(samples, float)
    if samples.ndim != 2 or len(samples) < PARTS:
        raise ValueError(f"samples must be (n, d) with n >= {PARTS}, got {samples.shape}")
    n, size = samples.shape
    parts = jnp.arange(n) % PARTS
    repeats = -(-(num_points or n) // n)
    count = repeats * n if repeats > 1 else num_points or n
    points, rows = draw(key, samples, sigma, count)
    densities = mixture_log_density(points, samples, sigma, weights=nested(parts), mesh=mesh)
    values = -of_own_part(densities, parts[rows])
    # Points of a sample are not independent: they are averaged. `draw` goes round all samples.
    estimate = extrapolated(values.reshape(repeats, -1, *values.shape[1:]).mean(0))
    estimate = trees.replace(estimate, cost=count)
    if trees.is_concrete(estimate) and not estimate.converged:
        warnings.warn(too_few("samples", n, size, sigma), stacklevel=2)
    return estimate


def nested(parts: Any) -> jax.Array:
    """Weights (n, 7) of the mixture of all samples, of two halves, and of four quarters.

    Args:
      parts: 0 to 3 for each sample, (n,).
    """
    groups = [jnp.zeros_like(parts), parts % 2, parts % 2, parts, parts, parts, parts]
    member = jnp.stack([g == i for g, i in zip(groups, (0, 0, 1, 0, 1, 2, 3), strict=True)], 1)
    return member / member.sum(0)


def of_own_part(densities: jax.Array, parts: jax.Array) -> jax.Array:
    """Of all samples, the own half and the own quarter: (m, 7, ...) to (m, 3, ...)."""
    own = jnp.stack([jnp.zeros_like(parts), 1 + parts % 2, 3 + parts], 1)
    return jnp.take_along_axis(densities, own.reshape(*own.shape, *(1,) * (densities.ndim - 2)), 1)


def extrapolated(values: jax.Array) -> Estimate:
    """The mean of the values from all samples, with a bracket for what more samples would change.

    A bias c/n^a changes by 2^a less at each doubling of n, so that the changes still to come add up
    to the last one over 2^a - 1. a is taken as measured, between 1 (theory's rate where the χ² of
    the law is finite) and 0.32. It has not converged where the change is clearly slower than that,
    and more than the standard error and rounding.

    Args:
      values: (m, 3, ...) from all samples, from half and from a quarter of them; m independent.
        Further levels are not looked at.
    """
    whole = Estimate.mean_of(values[:, 0])
    last = Estimate.mean_of(values[:, 0] - values[:, 1])
    before = Estimate.mean_of(values[:, 1] - values[:, 2])
    ratio = jnp.where(
        last.value == 0, 2.0, before.value / jnp.where(last.value == 0, 1, last.value)
    )
    change = last.value / (jnp.clip(ratio, SLOWEST, 2.0) - 1)
    # Twice the standard error of `before - SLOWEST * last`, at most.
    doubt = 2 * (before.stderr + SLOWEST * last.stderr)
    slow = jnp.abs(before.value) + doubt < SLOWEST * jnp.abs(last.value)
    return trees.replace(
        whole,
        bracket_lower=whole.value + jnp.minimum(change, 0),
        bracket_upper=whole.value + jnp.maximum(change, 0),
        converged=jnp.isfinite(whole.value)
        & ~(slow & (jnp.abs(last.value) > whole.stderr + rounding(values.dtype))),
    )


def rounding(dtype: Any) -> float:
    """Of means of log densities, which are some tens of nats."""
    return 100 * float(jnp.finfo(dtype).eps)


def too_few(what: str, number: int, size: int, sigma: Any) -> str:
    """The warning where halving the samples does not show how far the estimate is from its end."""
    sigma = float(np.asarray(sigma))
    most, least = (f(number, size, sigma) for f in (entropy_risk_bound, entropy_bias_bound))
    return (
        f"{number} {what} are too few in {size} dimensions at sigma = {sigma:g}: what more of them "
        "would change is not known, so the value tells their number rather than an information. "
        "For coordinates in [-1, 1] an entropy may be wrong by up to "
        f"{most:.3g} nats (1810.11589, Theorem 2), and for some laws is by {least:.3g} (Theorem 4)"
    )


# -------------------------------------------------------------------------------------- theory


def entropy_risk_bound(num_samples: int, size: int, sigma: float) -> float:
    """Upper bound of E|h - ĥ| for every law on [-1, 1]^d; nats. Loose where networks live.

    Args:
      num_samples: n.
      size: d.
      sigma: σ.

    References:
      Goldfeld, Greenewald & Polyanskiy, arXiv:1810.11589, Thm 2 (Eq. 52 as ε -> 0).
    """
    n, d, variance = num_samples, size, sigma**2
    reach = 2 + 2 * sigma * math.sqrt(2 * math.log(n))
    volume = d * math.log(reach) - d / 2 * math.log(math.pi * variance)  # log of R^d/(πσ²)^(d/2)
    c = d / 2 * math.log(2 * math.pi * variance) + d / variance
    log_first = -d / 4 * math.log(4 * math.pi * variance) + d / 2 * math.log(reach)
    first = 0.5 * _exp(log_first) * (math.log(n) + volume) / math.sqrt(n)
    inside = 8 * d * (d + 2 * variance**2 + d * variance**2) / variance**2
    return first + (c**2 + 2 * c * d * (1 + variance) / variance + inside) * 2 / n


def entropy_bias_bound(num_samples: int, size: int, sigma: float) -> float:
    """Lower bound of the bias of ĥ for the worst law on [-1, 1]^d; nats, at least 0.

    Args:
      num_samples: n.
      size: d.
      sigma: σ.

    References:
      Goldfeld, Greenewald & Polyanskiy, arXiv:1810.11589, Thm 4, at the best of 200 ε.
    """
    best = 0.0
    for eps in np.linspace(0.005, 0.995, 200):
        tail = -special.ndtri((1 - (1 - eps) ** (1 / size)) / 2)
        cells = math.floor(1 / (sigma * tail)) if sigma * tail > 0 else 0
        if cells >= 1:
            entropy = -special.xlogy(eps, eps) - special.xlog1py(1 - eps, -eps)
            best = max(best, size * (1 - eps) * math.log(cells) - math.log(num_samples) - entropy)
    return best


def monte_carlo_bound(
    num_samples: int, draws: int, size: int, sigma: float, second_moment: float | None = None
) -> float:
    """Upper bound of the root mean squared Monte-Carlo error of ĥ; nats.

    Args:
      num_samples: n.
      draws: n_MC, evaluation points a sample.
      size: d.
      sigma: σ.
      second_moment: M = E|S|² of activations that are not bounded (ReLU); None for [-1, 1]^d.

    References:
      Goldfeld, Greenewald & Polyanskiy, arXiv:1810.11589, Thm 5.
    """
    d, variance = size, sigma**2
    if second_moment is None:
        top = 2 * d * (2 + variance)
    else:
        root = sigma * math.sqrt(d)
        top = 9 * d * variance + 8 * (2 + root) * second_moment
        top += 3 * (11 * root + 1) * math.sqrt(second_moment)
    return math.sqrt(top / (variance * num_samples * draws))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf

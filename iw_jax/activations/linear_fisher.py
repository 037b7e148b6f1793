r"""Linear Fisher information: what the best linear readout of features tells about a parameter θ.

    J = μ'·Σ⁻¹ μ',      μ' = dE[z]/dθ,      Σ = Cov(z),      J <= I(θ)

in units of 1/θ². From T samples at θ - δ and T at θ + δ, with dθ = 2δ,

    μ' = (m₊ - m₋)/dθ,      Σ = (S₊ + S₋)/2,

    J = μ'·Σ⁻¹ μ' (2T - N - 3)/(2T - 2) - 2N/(T dθ²)

has no bias for N Gaussian features. Of other laws a bias of order N/T is left; it and the standard
error come from a jackknife over blocks of samples, which assumes no law.

Where Σ is singular, or nearly, J is that of the features with independent noise added to each. The
noise is not drawn: its variance is added to the diagonal, and N becomes tr Σ (Σ + noise)⁻¹. What is
added is at least 1e-11 of a feature's variance, more in float32, so that Σ can be inverted at all.

A Cholesky factor of all features holds those of the first one, the first two, ...: one triangular
solve gives J of every nested set.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy import linalg

from iw_jax import checks, trees
from iw_jax.estimates import Estimate, jackknife_pseudovalues

DEAD = 1e-9  # of a feature's typical variance: below that it tells nothing but rounding


@trees.record
class Moments:
    """Sums over samples of standardised features, in G blocks.

    Attributes:
      counts: samples of a block at either value of θ, (G,).
      sums: of the features at θ - δ and θ + δ, (G, 2, N).
      products: of pairs of features at both, (G, N, N).
    """

    counts: Any
    sums: Any
    products: Any


def linear_fisher_information(
    minus: Any, plus: Any, delta: Any, *, noise: float = 0.0, num_blocks: int = 20
) -> Estimate:
    """J = μ'·Σ⁻¹ μ' about a parameter θ, from samples of features at θ - δ and θ + δ; 1/θ².

    Without the bias of few samples. That of a finite δ is left, of order δ²: halve δ to see it. The
    Fisher information of the features is at least J. Features that are constant are left out.
    A combination of features without variance, such as the difference of two equal ones, counts for
    nothing as long as θ does not move it. If θ does, as in (x, x + θ), the information is infinite
    and J a large number set by `noise`, or by the 1e-11 that stands for it where it is 0. Computed
    in float64 on the host.

    Args:
      minus: features at θ - δ, independent samples (T, N), T >= N + 3.
      plus: features at θ + δ, (T, N), independent of those.
      delta: δ, positive; half the distance between the two values of θ.
      noise: standard deviation of the noise that every feature is taken to have beside its own, in
        units of its own standard deviation; at least 0.
      num_blocks: G, of the jackknife that the standard error comes from; at least 2. T, if there
        are no more samples.

    Returns:
      J, with G - 1 degrees of freedom; `cost` is 2T. It may be below 0, where the truth is near it.

    Raises:
      ValueError: for δ <= 0, noise < 0, samples that are not finite or too few, shapes that differ,
        or a feature that θ moves and that has no variance besides: its information is infinite.

    References:
      Kanitscheider et al., PLoS Comput. Biol. 11 (2015) e1004218: the correction. Weimar et al.,
      arXiv:2509.02407, leave its factor out.
    """
    checks.positive("delta", delta)
    checks.scalar("delta", delta)
    check_noise(noise)
    checks.at_least("num_blocks", num_blocks, 2)
    minus, plus = np.asarray(minus, np.float64), np.asarray(plus, np.float64)
    if minus.ndim != 2 or minus.shape != plus.shape or not minus.size:
        raise ValueError(
            f"minus and plus must both be (T, N), N >= 1, got {minus.shape} and {plus.shape}"
        )
    checks.finite("minus", minus)
    checks.finite("plus", plus)
    require_samples("T", *minus.shape)
    shift, scale = standardisation(np.stack([minus, plus]))
    minus, plus = ((x - shift) * scale for x in (minus, plus))
    _require_variance(minus, plus)
    low, high = (np.array_split(x, min(num_blocks, len(x))) for x in (minus, plus))
    moments = Moments(
        counts=np.array([len(x) for x in low]),
        sums=np.array([[x.sum(0), y.sum(0)] for x, y in zip(low, high, strict=True)]),
        products=np.array([x.T @ x + y.T @ y for x, y in zip(low, high, strict=True)]),
    )
    found = information(moments, float(delta), noise, [minus.shape[1]])
    return jax.tree.map(lambda x: x[0] if np.ndim(x) else x, found)


def information(moments: Moments, delta: float, noise: float, sizes: Sequence[int]) -> Estimate:
    """J of the first features, as many as each of `sizes` says; (len(sizes),), 1/θ²."""
    found = Estimate.mean_of(pseudovalues(moments, delta, noise, sizes))
    return trees.replace(found, cost=2 * int(np.sum(moments.counts)))


def pseudovalues(moments: Moments, delta: float, noise: float, sizes: Sequence[int]) -> np.ndarray:
    """Those of the jackknife, (G, len(sizes)): `information` is their mean, as if independent.

    Differences of those of the same samples give differences of J, with the error that these have.

    Args:
      moments: of all of them; its dtype says how far they are rounded.
      delta: δ.
      noise: as for `linear_fisher_information`.
      sizes: increasing.
    """
    rounded = np.finfo(np.asarray(moments.products).dtype).eps
    counts, sums, products = (
        np.asarray(x, np.float64) for x in (moments.counts, moments.sums, moments.products)
    )
    # Rounding may take as much from an eigenvalue of the correlations, which has to stay above 0;
    # the first is for what is rounded later.
    floor = max(1e-11, 2 * np.sqrt(products.shape[-1]) * rounded)
    last = np.asarray(sizes) - 1

    def without(own: Any) -> np.ndarray:
        count, total, product = (x - part for x, part in zip(totals, own, strict=True))
        return _information(count, total, product, delta, noise**2 + floor)[last]

    totals = counts.sum(), sums.sum(0), products.sum(0)
    left_out = np.stack([without(own) for own in zip(counts, sums, products, strict=True)])
    return jackknife_pseudovalues(without((0, 0, 0)), left_out)


def _information(
    count: float, sums: np.ndarray, products: np.ndarray, delta: float, noise: float
) -> np.ndarray:
    """J of the first one, two, ... of N features, (N,), from sums over `count` samples at each θ.

    Args:
      count: T.
      sums: (2, N).
      products: (N, N).
      delta: δ.
      noise: its variance, in units of those of the features.
    """
    mean = sums / count
    covariance = (products - count * mean.T @ mean) / (2 * count - 2)
    variance = covariance.diagonal()
    live = variance > DEAD
    scale = np.where(live, variance, 1) ** -0.5 * live
    correlation = covariance * scale * scale[:, None]
    np.fill_diagonal(correlation, 1 + noise)
    factor = linalg.cholesky(correlation, lower=True, check_finite=False)
    whitener = linalg.lapack.dtrtri(factor, lower=1)[0]  # L⁻¹
    slope = (mean[1] - mean[0]) * scale / (2 * delta)
    naive = np.cumsum((whitener @ slope) ** 2)
    # tr Σ (Σ + noise)⁻¹: the number of live features, where there is no noise.
    number = np.cumsum(live * (1 - noise * (whitener**2).sum(1)))
    shrink = (2 * count - number - 3) / (2 * count - 2)
    return naive * shrink - 2 * number / (count * (2 * delta) ** 2)


def standardisation(features: Any) -> tuple[Any, Any]:
    """(N,) what to subtract of features, and to multiply by, for mean 0 and variance 1.

    Args:
      features: (2, T, N), at both values of θ. What is constant is multiplied by 0.
    """
    xp = trees.namespace(features)
    eps = xp.finfo(features.dtype).eps
    mean = features.mean((0, 1))
    spread = xp.sqrt(xp.square(features - mean).mean((0, 1)))
    live = spread > 100 * eps * xp.abs(mean)
    return mean, live / xp.where(live, spread, 1.0)


def _require_variance(minus: np.ndarray, plus: np.ndarray) -> None:
    """Raises where a standardised feature has its variance, 1, from the distance of θ alone."""
    constant = (minus.var(0) + plus.var(0)) / 2 < DEAD
    if (known := constant & (minus[0] != plus[0])).any():
        raise ValueError(
            f"feature {known.argmax()} must vary at θ - δ and at θ + δ where it differs between "
            "them, got a constant at each: it tells θ without error, and J is infinite"
        )


def check_noise(noise: float) -> None:
    """Raises unless it is a number of at least 0."""
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be at least 0 and finite, got {noise}")


def require_samples(name: str, count: int, features: int) -> None:
    """Raises where the covariance of so many features is not to be had from so few samples."""
    if count < features + 3:
        raise ValueError(
            f"{name} must be at least {features + 3}, the number of features + 3, got {count}: "
            f"their covariance cannot be inverted otherwise"
        )

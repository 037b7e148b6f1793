"""Multiplicative log-normal noise on the weights, and the log-uniform pre-distribution."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.special import log_ndtr, ndtr, ndtri

from iw_jax import checks, trees
from iw_jax.codes import gaussian
from iw_jax.normals import standard_normal
from iw_jax.trees import PyTree

# Neklyudov et al. truncate log|w| to [-20, 0], which forbids weights beyond 1; networks with
# few inputs need larger ones, so the upper end here is 3 (|w| <= 20). It costs log(23/20) nats.
INTERVAL = (-20.0, 3.0)

# Without truncation more noise is always cheaper; Achille & Soatto stop its variance at 0.7.
MAX_VARIANCE = 0.7

# With truncation a scale of many interval lengths is the log-uniform distribution itself, and an
# optimiser would drift on until no digits are left. At 10 lengths KL - log 2 is below 2e-6.
MAX_LENGTHS = 10.0

_HALF_LOG_2PI_E = float(0.5 * np.log(2 * np.pi * np.e))


@trees.record
class LogUniform:
    """Every magnitude is as likely as every other: log|w| is uniform, the sign is a fair coin.

    Attributes:
      interval: (a, b), the support of log|w|, which makes the distribution proper; None for the
        improper c/|w|, whose KL has an arbitrary constant.
    """

    interval: tuple[float, float] | None = trees.static(default=INTERVAL)

    def __post_init__(self) -> None:
        """Raises ValueError unless a < b, both finite."""
        object.__setattr__(self, "interval", _checked_interval(self.interval))


@trees.record
class LogNormalNoise:
    """w = location * exp(noise): the magnitude of every weight is known to a relative precision.

    log|w| ~ N(log|location|, scale²), truncated to `interval`, with the sign of the location.
    Without truncation the noise is centred as in Achille & Soatto, log-noise ~ N(-α/2, α) with
    α = scale², so that the mean of w is the location.

    Attributes:
      location: weights; magnitudes outside the interval count as its ends.
      log_scale: unconstrained leaf behind `scale`, of the shapes of `location`.
      interval: (a, b) that log|w| stays in; None for no truncation (for the improper prior).

    Raises:
      ValueError: for scales that are not positive and finite (or not below 10 lengths of the
        interval; without truncation, scale² not below 0.7), shapes that differ, an interval
        without length.

    References:
      Achille & Soatto, arXiv:1706.01350, Sec. 4; Neklyudov et al., arXiv:1705.07283.
    """

    location: PyTree
    log_scale: PyTree
    interval: tuple[float, float] | None = trees.static(default=INTERVAL)

    def __init__(
        self,
        location: PyTree,
        scale: PyTree,
        interval: tuple[float, float] | None = INTERVAL,
    ) -> None:
        """Takes the standard deviation of log|w|: scale > 0, or a pytree prefix of it."""
        checks.positive("scale", scale)
        checks.finite("location", location)
        interval = _checked_interval(interval)
        location = jax.tree.map(gaussian.floating, location)
        largest = _largest_variance(interval)

        def unconstrained(s):
            inverse = 1 / s**2 - 1 / largest
            if trees.is_concrete(s) and jnp.any(inverse <= 0):
                raise ValueError(
                    f"scale² must stay below {largest:.6g} for interval {interval}, got scale "
                    f"{jnp.max(s)}"
                )
            return -0.5 * jnp.log(inverse)

        full = gaussian.full_scale("location", location, scale)
        object.__setattr__(self, "location", location)
        object.__setattr__(self, "log_scale", jax.tree.map(unconstrained, full))
        object.__setattr__(self, "interval", interval)

    @property
    def scale(self) -> PyTree:
        """Standard deviations of log|w| before truncation, of the shapes of `location`."""
        return jax.tree.map(self._scale, self.log_scale)

    @property
    def mean(self) -> PyTree:
        """E[w], exact."""
        return _for_all(self._mean, self.location, self.log_scale)

    def noise(self, key: jax.Array) -> PyTree:
        """Standard normal, of the shape of the weights."""
        return standard_normal(key, self.location)

    def weights(self, noise: PyTree) -> PyTree:
        """sign(location) exp(t), t the (truncated) normal's quantile at Φ(noise)."""
        return _for_all(self._weights, self.location, self.log_scale, noise)

    def kl(self, prior: Any) -> jax.Array:
        """KL to a prior: scalar, nats.

        Log-uniform, the same interval: Σ log 2 + log(b-a) - H, with the entropy of log|w|
        H = log σ + ½ log 2πe + log Z + [Aφ(A) - Bφ(B)]/(2Z); exact.
        Improper: -½ Σ log α, up to a constant that has no meaning: compare only differences.
        Gaussian N(m, λ²): Σ ½ log 2πλ² + E(w-m)²/(2λ²) - H - E log|w|; exact.
        """
        return optax.tree.sum(self.kl_by_tensor(prior))

    def kl_by_tensor(self, prior: Any) -> PyTree:
        """What each tensor adds to `kl`: scalars in the structure of the weights, nats."""
        return jax.tree.map(jnp.sum, self._kl_by_weight(prior))

    def _kl_by_weight(self, prior: Any) -> PyTree:
        if isinstance(prior, gaussian.IsotropicGaussian | gaussian.DiagonalGaussian):
            centre, log_scale = gaussian.units(prior, self.location)
            full = gaussian.full_scale("location", self.location, log_scale)
            return _for_all(self._gaussian_kl, self.location, self.log_scale, centre, full)
        if not isinstance(prior, LogUniform):
            raise TypeError(
                "LogNormalNoise has a closed-form KL to a LogUniform or a Gaussian prior, got a "
                f"prior of type {type(prior).__name__}"
            )
        if prior.interval != self.interval:
            raise ValueError(
                "code and prior must have the same interval (else the KL is infinite), got "
                f"{self.interval} and {prior.interval}"
            )
        return _for_all(self._log_uniform_kl, self.location, self.log_scale)

    def in_units_of(self, prior: Any) -> "LogNormalNoise":
        """The code itself: magnitudes are relative, and a log-uniform prior has no unit."""
        del prior
        return self

    from_units_of = in_units_of

    def _scale(self, leaf: jax.Array) -> jax.Array:
        # α = 1/(1/α_max + e^-2l): any leaf l stays below α_max, with a gradient that never dies.
        log_inverse = -float(np.log(_largest_variance(self.interval)))
        return jnp.exp(-0.5 * jnp.logaddexp(log_inverse, -2 * leaf))

    def _standardised(self, location: jax.Array, leaf: jax.Array):
        """μ, σ, A = (a-μ)/σ, B = (b-μ)/σ. Since a <= μ <= b, A <= 0 <= B and Z never vanishes."""
        low, high = self.interval  # type: ignore[misc]
        magnitude = jnp.clip(jnp.abs(location), float(np.exp(low)), float(np.exp(high)))
        mu, sigma = jnp.log(magnitude), self._scale(leaf)
        return mu, sigma, (low - mu) / sigma, (high - mu) / sigma

    def _weights(self, location: jax.Array, leaf: jax.Array, noise: jax.Array) -> jax.Array:
        sign = jnp.where(location < 0, -1, 1).astype(location.dtype)
        if self.interval is None:
            sigma = self._scale(leaf)
            return location * jnp.exp(sigma * noise - 0.5 * sigma**2)
        mu, sigma, a, b = self._standardised(location, leaf)
        # The quantile from the nearer tail: 1 - Φ has no digits left where Φ is close to 1.
        upper = noise > 0
        from_below = ndtr(a) + ndtr(noise) * (ndtr(b) - ndtr(a))
        from_above = ndtr(-b) + ndtr(-noise) * (ndtr(-a) - ndtr(-b))
        tiny = jnp.finfo(location.dtype).tiny
        p = jnp.clip(jnp.where(upper, from_above, from_below), tiny, 1.0)
        z = jnp.clip(jnp.where(upper, -1, 1) * _quantile(p), a, b)
        return sign * jnp.exp(mu + sigma * z)

    def _mean(self, location: jax.Array, leaf: jax.Array) -> jax.Array:
        if self.interval is None:
            return location
        sign = jnp.where(location < 0, -1, 1).astype(location.dtype)
        return sign * self._moment(location, leaf)

    def _moment(self, location: jax.Array, leaf: jax.Array) -> jax.Array:
        """E|w| = exp(μ + σ²/2) [Φ(B-σ) - Φ(A-σ)]/Z; in logarithms, exp(σ²/2) overflows."""
        if self.interval is None:
            return jnp.abs(location)
        mu, sigma, a, b = self._standardised(location, leaf)
        log_ratio = _log_mass(a - sigma, b - sigma) - _log_mass(a, b)
        return jnp.exp(mu + 0.5 * sigma**2 + log_ratio)

    def _variance(self, location: jax.Array, leaf: jax.Array) -> jax.Array:
        """E w² - (E w)² = (E w)² [exp(σ²) Z [Φ(B-2σ) - Φ(A-2σ)]/[Φ(B-σ) - Φ(A-σ)]² - 1]."""
        square = self._moment(location, leaf) ** 2
        if self.interval is None:
            return square * jnp.expm1(self._scale(leaf) ** 2)
        _, sigma, a, b = self._standardised(location, leaf)
        masses = [_log_mass(a - r * sigma, b - r * sigma) for r in range(3)]
        return square * jnp.expm1(sigma**2 + masses[0] - 2 * masses[1] + masses[2])

    def _entropy(self, location: jax.Array, leaf: jax.Array) -> jax.Array:
        """Of log|w|, nats, for each weight."""
        if self.interval is None:
            return jnp.log(self._scale(leaf)) + _HALF_LOG_2PI_E
        _, sigma, a, b = self._standardised(location, leaf)
        log_z = _log_mass(a, b)
        ends = (a * _density(a) - b * _density(b)) / (2 * jnp.exp(log_z))
        return jnp.log(sigma) + _HALF_LOG_2PI_E + log_z + ends

    def _log_magnitude(self, location: jax.Array, leaf: jax.Array) -> jax.Array:
        """E log|w|."""
        if self.interval is None:
            return jnp.log(jnp.abs(location)) - 0.5 * self._scale(leaf) ** 2
        mu, sigma, a, b = self._standardised(location, leaf)
        return mu + sigma * (_density(a) - _density(b)) / jnp.exp(_log_mass(a, b))

    def _log_uniform_kl(self, location: jax.Array, leaf: jax.Array) -> jax.Array:
        if self.interval is None:
            return -jnp.log(self._scale(leaf))
        low, high = self.interval
        return float(np.log(2 * (high - low))) - self._entropy(location, leaf)

    def _gaussian_kl(
        self, location: jax.Array, leaf: jax.Array, centre: jax.Array, log_scale: jax.Array
    ) -> jax.Array:
        moved = self._mean(location, leaf) - centre
        square = (self._variance(location, leaf) + moved**2) * jnp.exp(-2 * log_scale)
        density = float(0.5 * np.log(2 * np.pi)) + log_scale + 0.5 * square
        return density - self._entropy(location, leaf) - self._log_magnitude(location, leaf)


def _for_all(function: Callable[..., jax.Array], *trees_: PyTree) -> PyTree:
    """function(of every weight), over one vector of all of them.

    Tensor by tensor, its polynomials would take XLA seconds to compile for each.
    """
    _, unravel = ravel_pytree(trees_[0])
    return unravel(function(*(ravel_pytree(tree)[0] for tree in trees_)))


def _checked_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    if interval is None:
        return None
    low, high = interval
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"interval must be (a, b) with a < b, both finite, got {interval}")
    return float(low), float(high)


def _largest_variance(interval: tuple[float, float] | None) -> float:
    if interval is None:
        return MAX_VARIANCE
    low, high = interval
    return (MAX_LENGTHS * (high - low)) ** 2


@jax.custom_jvp
def _quantile(p: jax.Array) -> jax.Array:
    """Φ^-1, with the derivative 1/φ: that of its rational approximations compiles for a minute."""
    return ndtri(p)


@_quantile.defjvp
def _quantile_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    z = _quantile(*primals)
    return z, tangents[0] / _density(z)


def _density(x: jax.Array) -> jax.Array:
    return jnp.exp(-0.5 * x**2) / float(np.sqrt(2 * np.pi))


def _log_mass(a: jax.Array, b: jax.Array) -> jax.Array:
    """log[Φ(b) - Φ(a)] for a < b, from the side where both are small."""
    flip = a + b > 0
    low, high = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    log_high = log_ndtr(high)
    return log_high + jnp.log1p(-jnp.exp(log_ndtr(low) - log_high))

"""The spectral measure of an operator: every spectral quantity, for every c, from one set of nodes.

In the notation of log-determinants from matrix-vector products: A is the curvature of the summed
loss, c = λ²/β the prior's variance over the price of a nat (c = 1/β where A already carries
per-layer prior scales), s = c * eigenvalue.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from iw_jax import checks, trees
from iw_jax.curvature.quadrature import Quadrature
from iw_jax.estimates import Estimate
from iw_jax.trees import namespace

Array = Any
POLICIES = ("error", "clip", "abs")

# Rounding of a product and of its sum over the data moves an eigenvalue by some eps times the
# largest; 25 eps were seen in float32 in the GGN of 2,000 images.
_ROUNDING = 50.0

# Where |B|² and (tr B)²/d agree to this part, B is a multiple of the identity.
_EQUAL = 1e-12

# Rounding of an exact measure is told where it is more than this part of the value.
_CLOSED = 1e-4

# An estimate counts as converged where truncation leaves less than this part of it open.
OPEN = 0.01


@trees.record
class SpectralMeasure:
    """Nodes and weights that stand for the spectrum of A: tr f(A) ≈ Σ weights f(nodes).

    Two parts: the trace over a space Q of deflated directions ("head"), and the mean over random
    probes z with |z|² = n - dim Q, uniform on the sphere orthogonal to Q, which estimates the rest
    without bias. Methods return an `Estimate` each: sampling error over the probes, and what
    truncation (and rounding) leaves open, of head and probes, as a bracket.

    * policy "error" (A positive semi-definite): the bracket is rigorous, Gauss-Radau <= z'f(A)z <=
      Gauss for log(1 + cx) and cx/(1 + cx); `value` is its middle, the point whose guaranteed
      error is smallest. Negative Ritz values within `tolerance` are rounding, and count as 0.
    * "clip" counts negative eigenvalues as 0, "abs" as their magnitude. f has a kink there and no
      bound holds: `value` is the Gauss rule, the bracket ± its change from half the depth, an
      estimate of the error and not a bound.

    `Estimate.converged` says that the interval is finite, that the bracket's half-width is at most
    1 % of the value, with "error" that nothing was negative, and where a tolerance was asked for
    that the interval meets it. Operators in float32 know eigenvalues only down to about 1e-7 of the
    largest; where c * largest is beyond 1e6 that noise reaches log det.

    Attributes:
      gauss: Gauss rule on the whole space.
      radau: Gauss-Radau rule of the same products.
      half: Gauss rule at half the depth of the probes.
      overlap: W, (k, k): |f(T) on the rows outside Q|² = f'W f, f at the nodes of `gauss`.
      cost: products spent.
      tolerance: what counts as negative lies below -tolerance; nats per squared weight.
      rank: dim Q.
      size: n, the number of weights.
      policy: "error", "clip" or "abs".
      ended: "exact" (all n eigenvalues), "tolerance" or "budget": what ended the measurement.
      rtol: the tolerance that was asked for, 0 if none was.
      atol: added to rtol * value; nats.
    """

    gauss: Quadrature
    radau: Quadrature
    half: Quadrature
    overlap: Array
    cost: Any
    tolerance: Array
    rank: Any
    size: int = trees.static()
    policy: str = trees.static()
    ended: str = trees.static()
    rtol: float = trees.static(default=0.0)
    atol: float = trees.static(default=0.0)

    @property
    def smallest(self) -> Array:
        """The smallest eigenvalue or Ritz value seen; nats per squared weight."""
        return self.gauss.nodes.min()

    @property
    def largest(self) -> Array:
        """The largest eigenvalue or Ritz value seen; nats per squared weight."""
        return self.gauss.nodes.max()

    @property
    def negative_count(self) -> Estimate:
        """How many eigenvalues lie below -tolerance."""
        return self.integrate(lambda x: 1.0 * (x < -self.tolerance))

    @property
    def negative_trace(self) -> Estimate:
        """The sum of the eigenvalues below -tolerance; nats per squared weight, not positive."""
        return self.integrate(lambda x: x * (x < -self.tolerance))

    def logdet(self, c: Any) -> Estimate:
        """log det(I + cA) = Σ log(1 + s).

        Args:
          c: positive, scalar or array.

        Returns:
          Estimate of the shape of c; nats.

        Raises:
          ValueError: unless every c is positive and finite.
        """
        return self._estimate(*self._bracket(_log, c), self._of(_log, c))

    def effective_dimension(self, c: Any) -> Estimate:
        """γ(c) = Σ s/(1 + s) = c d/dc log det(I + cA), the effective number of weights.

        Args:
          c: positive, scalar or array.

        Returns:
          Estimate of the shape of c; between 0 and n.

        Raises:
          ValueError: unless every c is positive and finite.
        """
        return self._estimate(*self._bracket(_effective, c), self._of(_effective, c))

    def information(self, c: Any) -> Estimate:
        """½ Σ [log(1 + s) - s/(1 + s)]: what the covariance contributes to the IW. Halved.

        From log det and γ of the SAME probes. Its integrand has derivatives of no fixed sign, so
        the bracket of a probe is ½ [log_lower - γ_upper, log_upper - γ_lower].

        Args:
          c: positive, scalar or array.

        Returns:
          Estimate of the shape of c; nats.

        Raises:
          ValueError: unless every c is positive and finite.
        """
        log_lower, log_upper = self._bracket(_log, c)
        lower, upper = self._bracket(_effective, c)
        lower, upper = (log_lower - upper) / 2, (log_upper - lower) / 2
        return self._estimate(lower, upper, self._of(_information, c))

    def trace(self) -> Estimate:
        """tr A, of A itself whatever the policy; nats per squared weight. No truncation error."""
        return self.integrate(lambda x: x)

    def density(self, grid: Any, width: Any) -> Estimate:
        """The spectral density, each eigenvalue smeared out as a Gaussian: eigenvalues per unit.

        Args:
          grid: (g,), where to evaluate; nats per squared weight.
          width: standard deviation of the Gaussian, positive, in the same units.

        Returns:
          Estimate (g,); over the whole line it integrates to n.

        Raises:
          ValueError: unless `width` is positive and finite.
        """
        checks.positive("width", width)
        xp = namespace(grid, width, self)
        at = xp.asarray(grid)[..., None]
        height = 1 / (width * math.sqrt(2 * math.pi))
        return self.integrate(lambda x: height * xp.exp(-0.5 * ((x - at) / width) ** 2))

    def log_density(self, grid: Any, width: Any) -> Estimate:
        """The spectral density over log10 of the eigenvalue: eigenvalues per decade.

        Bulk and outliers of a network lie decades apart; here both can be seen. Zero and negative
        eigenvalues are not in it.

        Args:
          grid: (g,), positive, where to evaluate; nats per squared weight.
          width: standard deviation of the Gaussian, in decades; positive.

        Returns:
          Estimate (g,).

        Raises:
          ValueError: unless `grid` and `width` are positive and finite.
        """
        checks.positive("grid", grid)
        checks.positive("width", width)
        xp = namespace(grid, width, self)
        at = xp.log10(xp.asarray(grid))[..., None]
        height = 1 / (width * math.sqrt(2 * math.pi))

        def bump(x: Array) -> Array:
            decades = xp.log10(xp.where(x > self.tolerance, x, 1))
            seen = height * xp.exp(-0.5 * ((decades - at) / width) ** 2)
            return xp.where(x > self.tolerance, seen, 0)

        return self.integrate(bump)

    def integrate(self, f: Callable[[Array], Array]) -> Estimate:
        """tr f(A) = Σ f(eigenvalue), of A itself whatever the policy, for any f.

        Nothing is known about f's derivatives, so the bracket is ± the change of the Gauss rule
        from half the depth: an estimate of the truncation error, not a bound.

        Args:
          f: (k,) eigenvalues -> (..., k) values.
        """
        full, half = (_traces(rule, f(rule.nodes)) for rule in (self.gauss, self.half))
        return self._estimate(*_change(full, half), f, monotone=False)

    def _bracket(self, f: Callable[[Array], Array], c: Any) -> tuple[Array, Array]:
        """Lower and upper end of head + each probe, (..., P), or (..., 1) without probes."""
        checks.positive("c", c)
        at = self._of(f, c)
        full = _traces(self.gauss, at(self.gauss.nodes))
        if self.policy == "error":
            # Down to -1 both f are operator monotone; a node that low is beyond all rounding.
            radau = _traces(self.radau, self._of(f, c, least=-0.5)(self.radau.nodes))
            xp = namespace(radau, full)
            return xp.maximum(xp.minimum(radau, full), 0), xp.maximum(radau, full)
        return _change(full, _traces(self.half, at(self.half.nodes)))

    def _of(
        self, f: Callable[[Array], Array], c: Any, least: float = 0.0
    ) -> Callable[[Array], Array]:
        """Nodes (k,) -> f(s) for every c, (..., k), with s = c * node, but not below `least`."""

        def at(nodes: Array) -> Array:
            xp = namespace(c, nodes)
            prices = xp.asarray(c, *([np.float64] if xp is np else []))
            prices = xp.where((prices > 0) & xp.isfinite(prices), prices, np.nan)  # traced ones
            s = prices[..., None] * nodes
            return f(xp.abs(s) if self.policy == "abs" else xp.maximum(s, least))

        return at

    def _estimate(
        self, lower: Array, upper: Array, f: Callable[[Array], Array], monotone: bool = True
    ) -> Estimate:
        """Means over probes, and the standard error that the Ritz values predict."""
        xp = namespace(lower, self)
        probes = self.gauss.probes.shape[0]
        low, high = lower.mean(-1), upper.mean(-1)
        middle, zero = (low + high) / 2, 0 * low
        rounding = self._rounding(f)
        if self.ended == "exact":  # closed, but where rounding is all that is left of small nodes
            rounding = xp.where(rounding > _CLOSED * xp.abs(middle), rounding, 0)
        low, high = low - rounding, high + rounding
        converged = (high - low) / 2 <= OPEN * xp.abs(middle)
        if self.policy == "error":
            converged = converged & (self.smallest >= -self.tolerance)
        if probes == 0:  # all is deflated, or nothing is known of what is not
            whole = self.rank == self.size
            stderr, dof = xp.where(whole, zero, np.nan), xp.where(whole, zero + np.inf, 0)
            return Estimate(middle, stderr, dof, low, high, self.cost, converged & whole)
        variance, dof = self._variance(f, monotone)
        estimate = Estimate(
            middle, xp.sqrt(variance / probes), dof, low, high, self.cost, converged
        )
        if not (self.rtol or self.atol) or not trees.is_concrete(estimate):
            return estimate
        lower, upper = estimate.interval()
        reached = (upper - lower) / 2 <= self.rtol * np.abs(middle) + self.atol
        return trees.replace(estimate, converged=converged & reached)

    def _rounding(self, f: Callable[[Array], Array]) -> Array:
        """How far tr f moves if every node is off by a few eps of the largest, independently.

        Where the products have found everything there is, nothing else is left open. A node that
        stands for many eigenvalues counts once: the products with a random direction, which know
        them, are rounded in proportion to their own lengths.
        """
        rule = self.gauss
        weights = rule.head + (rule.probes.mean(0) if len(rule.probes) else 0)
        step = 4 / _ROUNDING * self.tolerance
        moved = f(rule.nodes + step) - f(rule.nodes)
        xp = namespace(self, moved)
        total = xp.abs(f(rule.nodes)) @ weights
        largest = xp.max(xp.abs(rule.nodes))
        relative = step / xp.where(largest > 0, largest, 1)  # 4 eps of the products' type
        return xp.sqrt(moved**2 @ xp.clip(weights, 0, 1)) + relative * total

    def _variance(self, f: Callable[[Array], Array], monotone: bool) -> tuple[Array, Array]:
        """The variance of one probe's z'f(A)z and the degrees of freedom it is known with.

        For z uniform on the sphere |z|² = d it is 2d/(d+2) (|B|² - (tr B)²/d), B = f(A) on the
        complement of Q. The probes know it far better than their own spread does: the mean of
        |f(A)z|² is tr B² (and a little more, of what f(A)z has in Q), itself an average over all
        directions, which makes P (tr B²)²/tr B⁴ degrees of freedom.

        The Gauss rule has |f(A)z|² too small while probes are shallow: of one product Az it knows
        only the part along z. The Radau rule has the residual too (for linear f it is exact), but
        may be too small where f is steep at 0. Each is an estimate from below; the larger counts.

        For a monotone f it has a floor: on the directions of the space that are not in Q, f(T) is
        part of B, and the squared entries of a part sum to less. An eigenvector that every probe
        happens to miss makes the mean too small, and its spread too; but it is in the space, and
        the floor knows it. (A Ritz value in a gap of the spectrum would be mistaken for an
        eigenvalue by an f with a peak there.)
        """
        dimension = namespace(self).maximum(self.size - self.rank, 1)  # 0 where all is deflated
        spreads, ratios = [], []
        for rule in (self.gauss, self.radau):
            values, weights = f(rule.nodes), rule.probes.mean(0)
            xp = namespace(values, weights, dimension)
            if rule is self.gauss:  # of size 1, since fourth powers may leave the floats
                unit = xp.maximum(xp.max(xp.abs(values), -1), np.finfo(np.float32).tiny)
            values = values / unit[..., None]
            trace, second, fourth = (values**power @ weights for power in (1, 2, 4))
            mean = trace / dimension
            spread = second - mean * trace
            if monotone and rule is self.gauss:
                parts = xp.sum((values @ self.overlap) * values, -1)
                parts = parts - 2 * mean * (values @ rule.tail) + mean**2 * rule.tail.sum()
                spread = xp.maximum(spread, parts)
            spreads.append(xp.where(spread > _EQUAL * second, spread, 0))
            ratios.append(xp.where(fourth > 0, second**2 / xp.where(fourth > 0, fourth, 1), np.inf))
        variance = 2 * dimension / (dimension + 2) * xp.maximum(*spreads) * unit**2
        return variance, xp.maximum(rule.probes.shape[0] * xp.minimum(*ratios), 1.0)


def _traces(rule: Quadrature, values: Array) -> Array:
    """tr Q'f(A)Q + z'f(A)z for each probe: (..., P), or (..., 1) where there is none."""
    head = (values @ rule.head)[..., None]
    return head + values @ rule.probes.T if rule.probes.shape[0] else head


def _change(full: Array, half: Array) -> tuple[Array, Array]:
    change = namespace(full, half).abs(full - half)
    return full - change, full + change


def exact_measure(
    eigenvalues: Array, size: int, dtype: Any, policy: str, cost: int
) -> SpectralMeasure:
    """The measure of an operator all of whose eigenvalues, but for zeros, are known.

    Args:
      eigenvalues: (k,), k <= size.
      size: n, the number of weights.
      dtype: the type that the products were computed in.
      policy: as in `SpectralMeasure`.
      cost: products spent.
    """
    xp = namespace(eigenvalues)
    nodes = xp.sort(eigenvalues)[max(len(eigenvalues) - size, 0) :]
    zeros = size - len(nodes)
    weights = xp.ones(len(nodes))
    if zeros:
        nodes = xp.concatenate([xp.zeros(1), nodes])
        weights = xp.concatenate([xp.full(1, float(zeros)), weights])
    k = len(nodes)
    rule = Quadrature(nodes, weights, xp.zeros(k), xp.zeros((0, k)))
    return SpectralMeasure(
        gauss=rule,
        radau=rule,
        half=rule,
        overlap=xp.zeros((k, k)),
        cost=cost,
        tolerance=spectral_tolerance(nodes, dtype),
        rank=size,
        size=size,
        policy=policy,
        ended="exact",
    )


def spectral_tolerance(nodes: Array, dtype: Any) -> Array:
    """Below minus this, an eigenvalue is negative, not rounded; dtype is that of the products."""
    xp = namespace(nodes)
    return _ROUNDING * float(np.finfo(dtype).eps) * xp.max(xp.abs(nodes))


def require_policy(policy: str) -> None:
    """Raises ValueError unless `policy` is one of the three."""
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {POLICIES}, got {policy!r}")


def require_sound(measure: SpectralMeasure) -> SpectralMeasure:
    """The measure itself, once seen to be finite and, with policy "error", not negative.

    Traced measures pass; there `Estimate.converged` tells.
    """
    if not trees.is_concrete(measure):
        return measure
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((measure.gauss, measure.radau))):
        raise ValueError(
            "the nodes and weights of a measure must be finite, got NaN or inf: the operator's "
            "entries leave the range of its type"
        )
    if measure.policy == "error" and measure.smallest < -measure.tolerance:
        raise ValueError(
            "A must be positive semi-definite with policy='error', got an eigenvalue estimate of "
            f"{measure.smallest:.4g} (largest {measure.largest:.4g}, rounding explains "
            f"{measure.tolerance:.1g}); measure the ggn or fisher, or say policy='clip' (negative "
            "directions cost nothing) or policy='abs'"
        )
    return measure


def _log(s: Array) -> Array:
    # log1p, because most of a network's s are so small that log(1 + s) would round to 0.
    return namespace(s).log1p(s)


def _effective(s: Array) -> Array:
    return s / (1 + s)


def _information(s: Array) -> Array:
    return (_log(s) - _effective(s)) / 2


# What a measurement can be asked to be accurate in: methods of `SpectralMeasure`, sums over s.
QUANTITIES = {"logdet": _log, "effective_dimension": _effective, "information": _information}

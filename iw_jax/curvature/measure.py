"""The spectral measure of an operator: every spectral quantity, for every c, from one set of nodes.

In the notation of log-determinants from matrix-vector products: A is the curvature of the summed
loss, c = λ²/β the prior's variance over the price of a nat (c = 1/β where A already carries
per-layer prior scales), s = c * eigenvalue.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from iw_jax import checks, trees
from iw_jax.curvature.quadrature import Quadrature, namespace
from iw_jax.estimates import Estimate

Array = Any
POLICIES = ("error", "clip", "abs")

# Rounding of one product moves an eigenvalue by a few eps times the largest; in p entries of random
# sign it adds up to sqrt(p) eps. (24 eps were seen in a GGN of 2,000 images and 61,000 weights.)
_ROUNDING = 10.0

# An estimate counts as converged where truncation leaves less than this part of it open.
_OPEN = 0.01


@trees.record
class SpectralMeasure:
    """Nodes and weights that stand for the spectrum of A: tr f(A) ≈ Σ weights f(nodes).

    An exactly known part, and one quadrature rule for each random probe z with |z|² = the dimension
    that is left, whose mean estimates the rest. Methods return an `Estimate` each: sampling error
    over the probes, and what Lanczos truncation leaves open as a bracket.

    * policy "error" (A positive semi-definite): the bracket is rigorous, Gauss-Radau <= z'f(A)z <=
      Gauss for log(1 + cx) and cx/(1 + cx); `value` is its middle, the point whose guaranteed
      error is smallest. Negative nodes within `tolerance` are rounding, and count as 0.
    * "clip" counts negative eigenvalues as 0, "abs" as their magnitude. f has a kink there and no
      bound holds: `value` is the Gauss rule, the bracket ± its change from half the depth, an
      estimate of the error and not a bound.

    `Estimate.converged` says that the bracket's half-width is at most 1 % of the value (and, with
    "error", that nothing was negative). Operators in float32 know eigenvalues only down to about
    1e-7 of the largest; where c * largest is beyond 1e6 that noise reaches log det.

    Attributes:
      exact: the part known without sampling: nodes and weights (h,), e.g. all eigenvalues.
      gauss: Gauss rules of the P probes, (P, k).
      radau: Gauss-Radau rules of the same probes, (P, k + 1).
      half: Gauss rules of the same probes at depth k // 2.
      exhausted: (P,), whether a probe's rule is exact because its Krylov space ended.
      cost: products spent.
      tolerance: what counts as negative lies below -tolerance; nats per squared weight.
      size: n, the number of weights.
      policy: "error", "clip" or "abs".
    """

    exact: Quadrature
    gauss: Quadrature
    radau: Quadrature
    half: Quadrature
    exhausted: Array
    cost: Any
    tolerance: Array
    size: int = trees.static()
    policy: str = trees.static()

    @property
    def smallest(self) -> Array:
        """The smallest eigenvalue or Ritz value seen; nats per squared weight."""
        return self._extreme("min")

    @property
    def largest(self) -> Array:
        """The largest eigenvalue or Ritz value seen; nats per squared weight."""
        return self._extreme("max")

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
        lower, upper, known = self._bracket(_log, c)
        return self._estimate(lower, upper, known, self._at_nodes(_log, c))

    def effective_dimension(self, c: Any) -> Estimate:
        """γ(c) = Σ s/(1 + s) = c d/dc log det(I + cA), the effective number of weights.

        Args:
          c: positive, scalar or array.

        Returns:
          Estimate of the shape of c; between 0 and n.

        Raises:
          ValueError: unless every c is positive and finite.
        """
        lower, upper, known = self._bracket(_effective, c)
        return self._estimate(lower, upper, known, self._at_nodes(_effective, c))

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
        log_lower, log_upper, log_known = self._bracket(_log, c)
        lower, upper, known = self._bracket(_effective, c)
        at_nodes = (self._at_nodes(_log, c) - self._at_nodes(_effective, c)) / 2
        ends = (log_lower - upper) / 2, (log_upper - lower) / 2
        return self._estimate(*ends, (log_known - known) / 2, at_nodes)

    def trace(self) -> Estimate:
        """tr A, of A itself whatever the policy; nats per squared weight. No truncation error."""
        return self.integrate(lambda x: x)

    def integrate(self, f: Callable[[Array], Array]) -> Estimate:
        """tr f(A) = Σ f(eigenvalue), of A itself whatever the policy, for any f.

        Nothing is known about f's derivatives, so the bracket is ± the change of the Gauss rule
        from half the depth: an estimate of the truncation error, not a bound.

        Args:
          f: elementwise on arrays of eigenvalues.
        """
        full, half = (rule.integrate(f) for rule in (self.gauss, self.half))
        ends = self._change(full, half)
        return self._estimate(*ends, self.exact.integrate(f), f(self.gauss.nodes))

    def _bracket(self, f: Callable[[Array], Array], c: Any) -> tuple[Array, Array, Array]:
        """Lower and upper end for each probe (..., P), and the exact part (...); f of s = cx."""
        checks.positive("c", c)
        xp = namespace(c, self)
        if xp is np:
            c = np.asarray(c, np.float64)
        at = xp.asarray(c)[..., None]

        def integrate(rule: Quadrature, at: Array) -> Array:
            return rule.integrate(lambda x: f(at * self._magnitude(x)))

        known, at = integrate(self.exact, at), at[..., None]
        full = integrate(self.gauss, at)
        if self.policy == "error":
            radau = integrate(self.radau, at)
            return xp.minimum(radau, full), xp.maximum(radau, full), known
        return *self._change(full, integrate(self.half, at)), known

    def _at_nodes(self, f: Callable[[Array], Array], c: Any) -> Array:
        """f(c |node|) at the Ritz values of every probe: (..., P, k)."""
        xp = namespace(c, self)
        at = xp.asarray(c, *([np.float64] if xp is np else []))[..., None, None]
        return f(at * self._magnitude(self.gauss.nodes))

    def _change(self, full: Array, half: Array) -> tuple[Array, Array]:
        xp = namespace(full)
        change = xp.where(self.exhausted, 0, xp.abs(full - half))
        return full - change, full + change

    def _magnitude(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.abs(x) if self.policy == "abs" else xp.maximum(x, 0)

    def _estimate(self, lower: Array, upper: Array, known: Array, at_nodes: Array) -> Estimate:
        """Means over probes; the spread is the largest of those of lower end, middle and upper."""
        xp, probes = namespace(lower, known, at_nodes), lower.shape[-1]
        zero = xp.zeros_like(known)
        if probes == 0:
            return Estimate(known, zero, zero + np.inf, known, known, self.cost, zero == 0)
        ends = xp.stack([lower, (lower + upper) / 2, upper])
        means = ends.mean(-1)
        low, middle, high = known + means
        if probes == 1:
            stderr = zero + np.nan
        else:
            seen = ends.var(-1, ddof=1).max(0)
            stderr = xp.sqrt(xp.maximum(seen, self._least_variance(at_nodes, means[1])) / probes)
        converged = (high - low) / 2 <= _OPEN * xp.abs(middle)
        if self.policy == "error":
            converged = converged & (self.smallest >= -self.tolerance)
        return Estimate(middle, stderr, zero + (probes - 1), low, high, self.cost, converged)

    def _least_variance(self, at_nodes: Array, trace: Array) -> Array:
        """What the variance of z'f(A)z is at least, from the Ritz values; f increasing.

        It is 2d/(d+2) Σ_j (f(λ_j) - mean f)² for z uniform on the sphere |z|² = d. An eigenvector
        that every probe happens to miss makes the mean too small and the spread too; but its
        eigenvalue is seen all the same: the j-th largest Ritz value is at most λ_j (Cauchy).
        Without this floor a 95 % interval of six probes held the truth in 88 of 100 runs.
        """
        xp = namespace(at_nodes, trace)
        dimension = self.gauss.weights.sum(-1).max()  # |z|², the same for all probes
        above = xp.maximum(at_nodes - (trace / dimension)[..., None, None], 0)
        return 2 * dimension / (dimension + 2) * (above**2).sum(-1).max(-1)

    def _extreme(self, kind: str) -> Array:
        parts = [getattr(x, kind)() for x in (self.exact.nodes, self.gauss.nodes) if x.size]
        return getattr(namespace(parts), kind)(namespace(parts).stack(parts))


def spectral_tolerance(nodes: Array, size: int, dtype: Any) -> Array:
    """Below minus this, an eigenvalue of a size x size operator is negative, not rounded."""
    xp = namespace(nodes)
    relative = max(_ROUNDING, math.sqrt(size)) * float(np.finfo(dtype).eps)
    return relative * xp.max(xp.abs(nodes))


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

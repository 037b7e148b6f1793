r"""All networks that random starts lead to: a Gaussian process whose mean and covariance move.

Gradient flow on ½ Σ |f(x_i) - y_i|² from outputs of covariance K, E = I - exp(-tΘ),

    A(x) = Θ(x, X) Θ^-1 E,      μ(x) = A(x) Y
    Σ(x, x') = K(x, x') + A(x) K A(x')' - A(x) K(X, x') - K(x, X) A(x')'

with one eigendecomposition Θ = V diag(λ) V' for all times: Θ^-1 E = V diag(ψ) V' with
ψ = (1 - e^-tλ)/λ, which is t where λ = 0. No inverse, no jitter. On the training inputs
Σ = exp(-tΘ) K exp(-tΘ).
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from iw_jax import checks, trees
from iw_jax.wide.kernels import Kernels, exactly


@trees.record
class Moments:
    """Mean and variance of the outputs; the k outputs are independent, of one variance.

    Attributes:
      mean: μ, (T, ..., M, k).
      variance: s² = Σ(x, x), (T, ..., M); at least 0.
    """

    mean: Any
    variance: Any


@trees.record
class Ensemble:
    """What of the training set is needed at any time, in the eigenvectors of Θ.

    Attributes:
      eigenvalues: λ of Θ(X, X), (..., N), increasing; at least 0.
      eigenvectors: V, (..., N, N), a column each.
      prior: V' K(X, X) V, (..., N, N).
      targets: V' Y, (..., N, k).
    """

    eigenvalues: Any
    eigenvectors: Any
    prior: Any
    targets: Any

    def at(self, times: Any, across: Kernels, prior_variance: Any) -> Moments:
        """Mean and variance at other inputs.

        Args:
          times: t >= 0 of gradient flow, (T,); inf for its limit.
          across: kernels of the M other inputs with the N training inputs, (..., M, N).
          prior_variance: K(x, x) of the others, (..., M).

        Raises:
          ValueError: for shapes that do not fit, a negative time, or t = inf where Θ has no
            inverse.
        """
        xp, times = self._checked(times, across, prior_variance)
        size = self.eigenvalues.shape[-1]
        others = np.shape(prior_variance)[-1]
        for name, kernel in (("nngp", across.nngp), ("ntk", across.ntk)):
            if np.shape(kernel)[-2:] != (others, size):
                raise ValueError(
                    f"across.{name} must be (..., M, N) with M = {others} as prior_variance has "
                    f"and N = {size} training inputs, got shape {np.shape(kernel)}"
                )
        ntk, nngp = self._rotated(across, xp)

        def moments(t: Any) -> Moments:
            a = ntk * reached_by(t, self.eigenvalues, xp)[..., None, :]
            variance = prior_variance + ((_dot(a, self.prior, xp) - 2 * nngp) * a).sum(-1)
            return Moments(_dot(a, self.targets, xp), xp.maximum(variance, 0.0))

        return over_times(moments, times, xp)

    def at_training(self, times: Any) -> Moments:
        """Mean and variance at the training inputs; `times` and errors as for `at`."""
        xp, times = self._checked(times)
        v = self.eigenvectors

        def moments(t: Any) -> Moments:
            decay = -exponents(t, self.eigenvalues, xp)
            mean = _dot(v, -xp.expm1(decay)[..., None] * self.targets, xp)
            left = xp.exp(decay)
            count = v.shape[-1] if xp is not np else _remaining(t, self.eigenvalues)
            rows = v[..., :count] * left[..., None, :count]
            variance = (_dot(rows, self.prior[..., :count, :count], xp) * rows).sum(-1)
            return Moments(mean, xp.maximum(variance, 0.0))

        return over_times(moments, times, xp)

    def covariance(
        self, times: Any, across: Kernels, prior_covariance: Any, target_covariance: Any = None
    ) -> Any:
        """Σ(x, x') of all other inputs, (T, ..., M, M); of each of the k outputs.

        Args:
          times: as for `at`.
          across: as for `at`.
          prior_covariance: K(x, x') of the others, (..., M, M).
          target_covariance: S, (N, N), of targets that are random too, Y ~ N(0, S): adds A S A'.
        """
        xp, times = self._checked(times, across, prior_covariance, target_covariance)
        ntk, nngp = self._rotated(across, xp)
        known = self.prior
        if target_covariance is not None:
            known = known + self.rotated(target_covariance)

        def covariance(t: Any) -> Any:
            a = ntk * reached_by(t, self.eigenvalues, xp)[..., None, :]
            half = _dot(_dot(a, known, xp) / 2 - nngp, _transposed(a, xp), xp)
            return prior_covariance + half + _transposed(half, xp)

        return over_times(covariance, times, xp)

    def rotated(self, matrix: Any) -> Any:
        """V' M V of a matrix (..., N, N) on the training inputs."""
        xp = trees.namespace(self, matrix)
        size = self.eigenvalues.shape[-1]
        if np.shape(matrix)[-2:] != (size, size):
            raise ValueError(
                f"a matrix on the training inputs must be (..., {size}, {size}), got shape "
                f"{np.shape(matrix)}"
            )
        v = self.eigenvectors
        return _dot(_transposed(v, xp), _dot(xp.asarray(matrix, float), v, xp), xp)

    def _rotated(self, across: Kernels, xp: Any) -> tuple[Any, Any]:
        """Θ(x, X) V and K(x, X) V."""
        both = (xp.asarray(kernel, float) for kernel in (across.ntk, across.nngp))
        ntk, nngp = (_dot(kernel, self.eigenvectors, xp) for kernel in both)
        return ntk, nngp

    def _checked(self, times: Any, *others: Any) -> tuple[Any, Any]:
        """The namespace to compute in, and the times if they can be."""
        xp = trees.namespace(self, times, others)
        return xp, checked_times(self, times, xp)


def ensemble(within: Kernels, targets: Any) -> Ensemble:
    """The ensemble that gradient flow on these targets leads through; one eigendecomposition.

    Args:
      within: kernels of the training inputs with each other, (..., N, N).
      targets: Y, (N, k), or (N,) for one output.

    Raises:
      ValueError: for shapes that do not fit, numbers that are not finite, or kernels that are none:
        not symmetric, or Θ with a negative eigenvalue.

    References:
      Lee et al., arXiv:1902.06720, Eqs. 10 to 13; Shwartz-Ziv & Alemi, arXiv:1911.09189, Sec. 2.
    """
    xp = trees.namespace(within, targets)
    y = xp.asarray(targets, float)
    y = y[:, None] if y.ndim == 1 else y
    nngp, ntk = (xp.asarray(kernel, float) for kernel in (within.nngp, within.ntk))
    if y.ndim != 2 or any(k.ndim < 2 or k.shape[-2:] != (len(y), len(y)) for k in (nngp, ntk)):
        raise ValueError(
            "targets must be (N,) or (N, k) and both kernels within (..., N, N), got shapes "
            f"{np.shape(targets)}, {nngp.shape} and {ntk.shape}"
        )
    for name, value in (("targets", y), ("within.nngp", nngp), ("within.ntk", ntk)):
        checks.finite(name, value)
    for name, value in (("within.nngp", nngp), ("within.ntk", ntk)):
        checks.symmetric(name, value)
    eigenvalues, v = xp.linalg.eigh(ntk)
    checks.semidefinite("within.ntk", eigenvalues)
    turned = _transposed(v, xp)
    return Ensemble(
        eigenvalues=xp.maximum(eigenvalues, 0.0),
        eigenvectors=v,
        prior=_dot(turned, _dot(nngp, v, xp), xp),
        targets=_dot(turned, y, xp),
    )


def checked_times(of: Ensemble, times: Any, xp: Any) -> Any:
    """Times (T,) as floats.

    Raises:
      ValueError: for another shape, a time below 0, or inf where Θ has no inverse.
    """
    times = xp.asarray(times, float)
    if times.ndim != 1 or not len(times):
        raise ValueError(f"times must be (T,), at least one, got shape {times.shape}")
    if not trees.is_concrete(times):
        return times
    bad = times[~(times >= 0)]
    if len(bad):
        raise ValueError(f"times must be at least 0, got {bad[0]}")
    if np.isinf(times).any() and trees.is_concrete(of.eigenvalues):
        lowest, highest = np.min(of.eigenvalues, -1), np.max(of.eigenvalues, -1)
        floor = of.eigenvalues.shape[-1] * np.finfo(float).eps * highest
        if np.any(lowest <= floor):
            raise ValueError(
                "times may be inf only where the tangent kernel of the training inputs has an "
                f"inverse, but its eigenvalues go from {np.min(lowest):.3g} to "
                f"{np.max(highest):.3g}: two inputs may be the same; leave one out, or name a "
                "finite time"
            )
    return times


def over_times(function: Callable[[Any], Any], times: Any, xp: Any) -> Any:
    """function(t) for every t, stacked along a first axis; one after the other, to save memory."""
    if xp is np:
        return jax.tree.map(lambda *parts: np.stack(parts), *(function(t) for t in times))
    return jax.lax.map(function, times)


def reached_by(t: Any, eigenvalues: Any, xp: Any) -> Any:
    """ψ = (1 - e^-tλ)/λ, of all times if t has an axis of them; t where λ = 0."""
    there = eigenvalues > 0
    safe = xp.where(there, eigenvalues, 1.0)
    return xp.where(there, -xp.expm1(-t * safe) / safe, t)


def exponents(t: Any, eigenvalues: Any, xp: Any) -> Any:
    """t λ, with 0 for λ = 0."""
    return xp.where(eigenvalues > 0, t * xp.where(eigenvalues > 0, eigenvalues, 1.0), 0.0)


def _remaining(t: Any, eigenvalues: np.ndarray) -> int:
    """How many of e^-tλ are not below rounding beside the largest of them."""
    apart = exponents(t, eigenvalues - eigenvalues[..., :1], np)
    return int((apart < 40).reshape(-1, apart.shape[-1]).any(0).sum())


def _transposed(matrix: Any, xp: Any) -> Any:
    return xp.swapaxes(matrix, -1, -2)


def _dot(a: Any, b: Any, xp: Any) -> Any:
    return xp.matmul(a, b, **exactly(xp))

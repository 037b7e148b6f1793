r"""What gradient flow writes into an ensemble's weights and outputs; nats.

Where outputs are linear in the weights and θ0 ~ N(0, I), K = Θ = J J', and θ_t given the data D is
Gaussian with mean J' Θ^-1 E Y and covariance exp(-2tΘ) along the training directions. Hence

    KL(p(θ_t|D) ‖ p_0) = k t Tr Θ + ½ E|θ_t - θ0|² - k Tr(C Θ^-1 E),     C = E[(J θ0) f0'] = K

The first term is the volume that flow has shrunk, and grows for ever; the others are the change of
the mean square of θ. This form holds for any J that the weights θ0 do not turn, with its own C:
which `iw_jax.wide.alignment` has.
"""

from typing import Any

import numpy as np

from iw_jax import checks, trees
from iw_jax.wide.ensemble import Ensemble, Moments, checked_times, exponents, reached_by
from iw_jax.wide.kernels import Kernels


def distance_moved(ensemble: Ensemble, times: Any) -> Any:
    """E|θ_t - θ0|², (T, ...): Tr(Y' Θ^-1 E² Y) + k Tr(K Θ^-1 E²).

    Exact where outputs are linear in the weights, as they are in the limit of infinite width.

    Args:
      ensemble: from `iw_jax.wide.ensemble`.
      times: t >= 0, (T,); inf for the limit.

    Raises:
      ValueError: for a negative time, or t = inf where Θ has no inverse.
    """
    xp, t, eigenvalues = _spectral(ensemble, times)
    moved = eigenvalues * reached_by(t, eigenvalues, xp) ** 2  # of Θ^-1 E²
    size = ensemble.targets.shape[-1]
    return (moved * ((ensemble.targets**2).sum(-1) + size * _diagonal(ensemble.prior, xp))).sum(-1)


def fisher_trace(ensemble: Ensemble) -> Any:
    """k Tr Θ, (...): the trace of the Fisher information of the weights, the same at all times."""
    return ensemble.targets.shape[-1] * ensemble.eigenvalues.sum(-1)


def weight_information(ensemble: Ensemble, times: Any, alignment: Any = None) -> Any:
    """KL(p(θ_t|D) ‖ p_0), (T, ...), nats; its mean over data sets is at least I(Θ_t; D).

    Exact where Θ = K, as for a linear model or where only the last layer is trained. For a network
    it is that of its linearisation with J held fixed, although J depends on θ0: no bound. At t =
    inf it is infinite.

    Args:
      ensemble: from `iw_jax.wide.ensemble`.
      times: as for `distance_moved`.
      alignment: C, (..., N, N), from `iw_jax.wide.alignment` for a network; None for K.

    References:
      Shwartz-Ziv & Alemi, arXiv:1911.09189, Sec. 3; in the authors' code t Tr Θ less the squared
      displacement, here with the sign and the cross term that the KL has.
    """
    xp, t, eigenvalues = _spectral(ensemble, times)
    size, v = ensemble.targets.shape[-1], ensemble.eigenvectors
    if alignment is None:
        along = _diagonal(ensemble.prior, xp)
    else:
        along = ((xp.asarray(alignment, float) @ v) * v).sum(-2)
    volume = size * exponents(t, eigenvalues, xp).sum(-1)
    cross = size * (along * reached_by(t, eigenvalues, xp)).sum(-1)
    return volume + distance_moved(ensemble, times) / 2 - cross


def data_information(moments: Moments, prior_variance: Any) -> Any:
    """KL(p_t(z|x, D) ‖ p_0(z|x)) of every input, (T, ..., M), nats; its mean bounds I(Z; D|X).

    Args:
      moments: of the outputs at M inputs.
      prior_variance: K(x, x), (..., M), positive. The KL is infinite where s² is 0.

    Raises:
      ValueError: for another shape, or a prior variance that is not positive.
    """
    xp = trees.namespace(moments, prior_variance)
    prior, size = xp.asarray(prior_variance, float), moments.mean.shape[-1]
    if prior.shape != moments.variance.shape[1:]:
        raise ValueError(
            f"prior_variance must be of shape {moments.variance.shape[1:]} as the outputs are, "
            f"got {prior.shape}"
        )
    checks.positive("prior_variance", prior)
    ratio = moments.variance / prior
    there = ratio > 0
    log_ratio = xp.where(there, xp.log(xp.where(there, ratio, 1.0)), -np.inf)
    return (size * (ratio - 1 - log_ratio) + (moments.mean**2).sum(-1) / prior) / 2


# ------------------------------------------------------- targets that are Gaussian themselves
# Y|X ~ N(0, S), each of the k outputs: weights, outputs and targets are jointly Gaussian.


def mean_weight_information(ensemble: Ensemble, times: Any, target_covariance: Any) -> Any:
    """E_Y KL(p(θ_t|X, Y) ‖ p_0), (T, ...), nats, for Y ~ N(0, S): at least I(Θ_t; Y|X).

    Args:
      ensemble: with Θ = K; its targets do not matter.
      times: as for `distance_moved`.
      target_covariance: S, (N, N).

    Raises:
      ValueError: as `distance_moved`; for Θ other than K, or S that is no covariance.
    """
    xp, t, eigenvalues = _spectral(ensemble, times)
    _check_frozen(ensemble)
    size, psi = ensemble.targets.shape[-1], reached_by(t, eigenvalues, xp)
    blank = trees.replace(ensemble, targets=xp.zeros_like(ensemble.targets))
    turned = ensemble.rotated(target_covariance)
    _check_covariance(target_covariance)
    spread = size * (eigenvalues * psi**2 * _diagonal(turned, xp))
    return weight_information(blank, times) + spread.sum(-1) / 2


def target_information(ensemble: Ensemble, times: Any, target_covariance: Any) -> Any:
    """I(Θ_t; Y|X) for Y ~ N(0, S), (T, ...), nats: what weights know of the targets. Exact.

    ½ k log det(I + D V'SV D), D = (e^tλ - 1)/√λ, also I(f_t(X); Y|X). Sums and determinants are
    scaled, so that e^tλ may overflow.

    Args:
      ensemble: with Θ = K; its targets do not matter.
      times: finite; as for `distance_moved`.
      target_covariance: S, (N, N).

    Raises:
      ValueError: for an infinite time, Θ other than K, or S that is no covariance.
    """
    xp, t, eigenvalues = _spectral(ensemble, times)
    _check_frozen(ensemble)
    if trees.is_concrete(t) and np.isinf(t).any():
        raise ValueError("times must be finite: exact outputs know an infinite number of nats")
    there = eigenvalues > 0
    exponent = exponents(t, eigenvalues, xp)
    reached = xp.sqrt(eigenvalues) * reached_by(t, eigenvalues, xp)  # (1 - e^-tλ)/√λ = e^-tλ D
    positive = there & (reached > 0)
    log_d = exponent + xp.log(xp.where(positive, reached, 1.0))
    log_d = xp.where(positive, log_d, -np.inf)
    log_c = xp.maximum(log_d, 0.0)  # det(I + DSD) = c² det(c^-2 + (D/c) S (D/c))
    spread = ensemble.rotated(target_covariance)
    _check_covariance(target_covariance)
    d = xp.exp(log_d - log_c)
    scaled = d[..., :, None] * spread * d[..., None, :]
    scaled = scaled + xp.exp(-2 * log_c)[..., None] * xp.eye(spread.shape[-1])
    log_determinant = xp.linalg.slogdet(scaled)[1] + 2 * log_c.sum(-1)
    return ensemble.targets.shape[-1] / 2 * log_determinant


def output_information(
    ensemble: Ensemble, times: Any, across: Kernels, prior_covariance: Any, target_covariance: Any
) -> Any:
    """I(f_t(X*); Y|X) for Y ~ N(0, S), (T, ...), nats: what outputs elsewhere know. Exact, any Θ.

    Args:
      ensemble: its targets do not matter.
      times: as for `distance_moved`.
      across: kernels of the M other inputs with the training inputs, (..., M, N).
      prior_covariance: K(x, x') of the others, (..., M, M).
      target_covariance: S, (N, N).

    Raises:
      ValueError: for S that is no covariance, or where the covariance of the outputs is singular
        to rounding, as at two equal inputs.
    """
    xp = trees.namespace(ensemble, times, across, prior_covariance, target_covariance)
    spread, whole = (
        ensemble.covariance(times, across, prior_covariance, s) for s in (None, target_covariance)
    )
    _check_covariance(target_covariance)
    if xp is np:
        lowest = np.linalg.eigvalsh(spread)[..., 0]
        if np.any(lowest <= 0):
            raise ValueError(
                "the covariance of the outputs must have an inverse, got one whose smallest "
                f"eigenvalue is {lowest.min():.2g}: leave out inputs that are the same, or those "
                "of the training set at late times"
            )
    logdet = xp.linalg.slogdet
    return ensemble.targets.shape[-1] / 2 * (logdet(whole)[1] - logdet(spread)[1])


def _spectral(ensemble: Ensemble, times: Any) -> tuple[Any, Any, Any]:
    """The namespace, times (T, 1, ..., 1) and eigenvalues (..., N)."""
    xp = trees.namespace(ensemble, times)
    times, eigenvalues = checked_times(ensemble, times, xp), xp.asarray(ensemble.eigenvalues)
    return xp, times.reshape(-1, *(1,) * eigenvalues.ndim), eigenvalues


def _check_frozen(ensemble: Ensemble) -> None:
    """Raises unless Θ = K, where outputs are linear in weights that start as N(0, I)."""
    if not trees.is_concrete(ensemble):
        return
    prior, eigenvalues = np.asarray(ensemble.prior), np.asarray(ensemble.eigenvalues)
    apart = np.abs(prior - eigenvalues[..., None] * np.eye(eigenvalues.shape[-1])).max()
    if apart > checks.ROUNDING * eigenvalues.max():
        raise ValueError(
            "ensemble must be one of Θ = K, as where only the last layer is trained: "
            f"ensemble(Kernels(K, K), targets); got kernels {apart:.3g} apart"
        )


def _check_covariance(target_covariance: Any) -> None:
    """Raises for S that is not symmetric, or has a negative eigenvalue."""
    if trees.is_concrete(target_covariance):
        checks.symmetric("target_covariance", target_covariance)
        eigenvalues = np.linalg.eigvalsh(np.asarray(target_covariance, float))
        checks.semidefinite("target_covariance", eigenvalues)


def _diagonal(matrix: Any, xp: Any) -> Any:
    return xp.diagonal(matrix, axis1=-2, axis2=-1)

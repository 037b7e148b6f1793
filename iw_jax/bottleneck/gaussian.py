r"""The bottleneck of jointly Gaussian X and Y, in closed form.

Y = A X + noise, X ~ N(0, S_x), noise ~ N(0, S_n). In the eigenbasis of S_x^½ A' S_n^-1 A S_x^½,
whose eigenvalues are the signal-to-noise ratios snr_i, components go their own ways. With u = β - 1
(IB) or u = β (dualIB), those of u snr_i > 1 are active, and

    I(X;Xh) = ½ Σ_active log(u snr_i),       I(Y;Xh) = ½ Σ_active [log(1 + snr_i) - log(1 + 1/u)]

The geometric mean of Gaussians of one covariance is such a Gaussian, so dualIB is rate-distortion
with weighted squared errors: reverse water-filling, u the inverse water level. Both trace one
curve, the most that Xh can know of Y for what it knows of X.
"""

from typing import Any

import numpy as np

from iw_jax import checks, trees
from iw_jax.bottleneck.discrete import check_beta


def signal_to_noise(input_covariance: Any, map: Any, noise_covariance: Any) -> np.ndarray:
    """snr_i of Y = A X + noise, largest first; no unit, (min(n, m),).

    Args:
      input_covariance: S_x, (n, n), positive semi-definite.
      map: A, (m, n).
      noise_covariance: S_n, (m, m), positive definite.

    Raises:
      ValueError: for shapes that do not fit, or a covariance that is none.
    """
    S_x, A, S_n = (np.asarray(x, np.float64) for x in (input_covariance, map, noise_covariance))
    if A.ndim != 2 or S_x.shape != (A.shape[1],) * 2 or S_n.shape != (A.shape[0],) * 2:
        raise ValueError(
            "map must be (m, n) with an input_covariance (n, n) and a noise_covariance (m, m), got "
            f"{A.shape}, {S_x.shape} and {S_n.shape}"
        )
    signal, axes = _eigh("input_covariance", S_x)
    noise, noise_axes = _eigh("noise_covariance", S_n)
    if noise.min() <= 0:
        raise ValueError(
            f"noise_covariance must be positive definite, got an eigenvalue of {noise.min():.3g}"
        )
    root = (noise_axes / np.sqrt(noise)).T @ A @ (axes * np.sqrt(np.maximum(signal, 0)))
    return np.linalg.svd(root, compute_uv=False) ** 2


def _eigh(name: str, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    checks.finite(name, matrix)
    scale = np.abs(matrix).max()
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-6 * scale):
        raise ValueError(f"{name} must be symmetric, got a difference to its transpose")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values.min() < -1e-6 * scale:
        raise ValueError(
            f"{name} must be positive semi-definite, got an eigenvalue of {values.min():.3g}"
        )
    return values, vectors


def gaussian_critical_betas(snr: Any, *, dual: bool = False) -> Any:
    """β from which each component is active: 1 + 1/snr_i for IB, 1/snr_i for dualIB; (n,).

    Args:
      snr: signal-to-noise ratios, (n,), at least 0.
      dual: for dualIB.
    """
    _check_snr(snr)
    xp = trees.namespace(snr)
    with np.errstate(divide="ignore"):
        return (not dual) + 1 / xp.asarray(snr, float)


def gaussian_information(snr: Any, beta: Any, *, dual: bool = False) -> tuple[Any, Any]:
    """I(X;Xh) and I(Y;Xh) of the optimal Xh, nats, of the shape of β.

    Args:
      snr: signal-to-noise ratios, (n,), at least 0.
      beta: prices of distortion, any shape; at least 1, for dualIB positive.
      dual: for dualIB.

    Raises:
      ValueError: for negative ratios, or a β out of range.

    References:
      Chechik, Globerson, Tishby & Weiss, JMLR 6 (2005), Sec. 4; Piran et al., arXiv:2006.04641.
    """
    _check_snr(snr)
    check_beta(beta, dual)
    xp = trees.namespace((snr, beta))
    snr, u = xp.asarray(snr, float), xp.asarray(beta, float) - (not dual)
    return _informations(xp, snr, u[..., None])


def gaussian_frontier(snr: Any, rate: Any) -> Any:
    """The largest I(Y;Xh) for a given I(X;Xh), nats, of the shape of the rate; concave in it.

    Args:
      snr: signal-to-noise ratios, (n,), at least 0, one above.
      rate: I(X;Xh), nats, any shape; at least 0.

    Raises:
      ValueError: for negative or no ratios, or negative rates.
    """
    _check_snr(snr, some=True)
    if trees.is_concrete(rate) and not np.all(np.asarray(rate) >= 0):
        raise ValueError(f"rate must be at least 0, got {np.min(rate)}")
    xp = trees.namespace((snr, rate))
    snr, rate = xp.sort(xp.asarray(snr, float))[::-1], xp.asarray(rate, float)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # With the k largest active, rate = ½ Σ log(u snr_i) gives u; k is the largest that agrees.
        number = xp.arange(1, len(snr) + 1)
        log_u = (2 * rate - xp.cumsum(xp.log(snr))) / number
        agrees = (snr > 0) & (log_u + xp.log(snr) >= 0)
        last = xp.maximum(agrees.sum(-1, keepdims=True) - 1, 0)
        u = xp.exp(xp.take_along_axis(xp.where(agrees, log_u, -xp.log(snr[0])), last, -1))
    return _informations(xp, snr, u)[1]


def _informations(xp: Any, snr: Any, u: Any) -> tuple[Any, Any]:
    active = u * snr > 1
    safe = xp.where(active, u * snr, 1)
    of_x = 0.5 * xp.log(safe).sum(-1)
    level = xp.log1p(1 / xp.where(u > 0, u, 1))
    return of_x, 0.5 * xp.where(active, xp.log1p(snr) - level, 0).sum(-1)


def _check_snr(snr: Any, some: bool = False) -> None:
    if np.ndim(snr) != 1 or np.shape(snr)[0] < 1:
        raise ValueError(f"snr must be (n,), at least one, got shape {np.shape(snr)}")
    if trees.is_concrete(snr):
        values = np.asarray(snr, np.float64)
        if not (np.all(np.isfinite(values)) and values.min() >= 0 and values.max() > 0 * some):
            allowed = "finite and at least 0" + (", one above" if some else "")
            raise ValueError(f"snr must be {allowed}, got {values!r:.80}")

r"""Shannon information in the weights: I(w; D) = E_D KL(Q(w|D)‖Q(w)), with Q(w) = E_D Q(w|D).

Q(w|D) is what training makes of D whatever its seed, Q(w|D) = E_seed Q(w|D,seed): an estimate that
compares single runs would be

    I(w; D, seed) = I(w; D) + I(w; seed|D)

and mostly measure which of many equal minima the seed has reached. All three are entropies of
mixtures less those of their components, and pairwise distances bracket those without sampling:

    -Σ_i c_i log Σ_j c_j e^(-B_ij) <= I(w; component) <= -Σ_i c_i log Σ_j c_j e^(-KL_ij)

with B the Bhattacharyya distance (Kolchinsky & Tracey, arXiv:1706.02419).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import special

from iw_jax import trees
from iw_jax.codes.gaussian import DiagonalGaussian, IsotropicGaussian
from iw_jax.estimates import Estimate


@trees.record
class ShannonInformation:
    """I(w; D) over M data sets, and what it must not be mistaken for; all in nats.

    Attributes:
      nats: I(w; D), with its bracket; `value` is the middle, `stderr` the spread over data sets. A
        sample of M data sets cannot show more than log M. Converged where that does not bind.
      naive: I(w; D, seed), what comparing single runs measures.
      seed: I(w; seed|D), the difference.
      adapted: E KL(Q(w|D,seed)‖P) to the best Gaussian P with independent weights, fitted to these
        codes: above I(w; D, seed), since no P is better than the mixture.
      ceiling: log M.
      binds: whether the upper end reaches within 0.1 nats of the ceiling: the truth may be larger.
    """

    nats: Estimate
    naive: Estimate
    seed: Estimate
    adapted: Any
    ceiling: float
    binds: Any


def shannon_iw(codes: Any) -> ShannonInformation:
    """Shannon information in the weights from the codes of several data sets and seeds; nats.

    Args:
      codes: a `DiagonalGaussian` whose leaves have two leading axes, (M, R, ...): R seeds for each
        of M data sets drawn from one law (`jax.vmap` over both makes one), or an
        `IsotropicGaussian` with such leaves. With R = 1 nothing tells data from seed, and `nats` is
        I(w; D, seed).

    Raises:
      TypeError: for codes that are not Gaussian with independent weights.
      ValueError: for one data set only, leaves without the two axes, or numbers that
        are not finite.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Prop. 2.3, with the seed averaged out; there
      the codes of single runs are compared.
    """
    means, log_scales, sets, runs = _flat(codes)
    kl, bhattacharyya = (np.asarray(d, np.float64) for d in _distances(means, log_scales))
    owner = np.repeat(np.arange(sets), runs)
    same = owner[:, None] == owner[None, :]
    naive = _mixture(bhattacharyya, kl, np.ones_like(same))
    seed = _mixture(bhattacharyya, kl, same)
    by_set = lambda x: x.reshape(sets, runs).mean(1)  # noqa: E731
    ceiling = float(np.log(sets))
    lower = np.maximum(by_set(naive[0]) - by_set(seed[1]), 0)
    upper = np.clip(by_set(naive[1]) - by_set(seed[0]), lower, None)
    nats = _estimate(lower, upper)
    end = min(float(nats.bracket_upper), ceiling)  # of a mixture of M parts, exactly
    start = min(float(nats.bracket_lower), ceiling)
    binds = end > ceiling - 0.1
    nats = trees.replace(
        nats,
        value=(start + end) / 2,
        bracket_lower=start,
        bracket_upper=end,
        converged=not binds,
    )
    return ShannonInformation(
        nats=nats,
        naive=_estimate(*map(by_set, naive)),
        seed=_estimate(*map(by_set, seed)),
        adapted=_adapted(np.asarray(means, np.float64), np.asarray(log_scales, np.float64)),
        ceiling=ceiling,
        binds=binds,
    )


def _flat(codes: Any) -> tuple[jax.Array, jax.Array, int, int]:
    """Means and log standard deviations (M R, n), and M and R."""
    if not isinstance(codes, DiagonalGaussian | IsotropicGaussian):
        raise TypeError(
            "codes must be Gaussian with independent weights (DiagonalGaussian, "
            f"IsotropicGaussian), got {type(codes).__name__}"
        )
    shapes = {np.shape(leaf)[:2] for leaf in jax.tree.leaves(codes)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            "codes must have leaves with leading axes (data sets, seeds), got leading axes "
            f"{sorted(shapes)}; make them with jax.vmap(jax.vmap(...))"
        )
    ((sets, runs),) = shapes
    if sets < 2:
        raise ValueError(
            "codes must come from at least 2 data sets, got 1: information about the data is what "
            "differs between them"
        )

    def one(code: Any) -> tuple[jax.Array, jax.Array]:
        full = jax.tree.map(jnp.broadcast_to, code.full_log_scale(code.mean), _shapes(code.mean))
        return ravel_pytree(code.mean)[0], ravel_pytree(full)[0]

    means, log_scales = jax.vmap(jax.vmap(one))(codes)
    if not (jnp.isfinite(means).all() and jnp.isfinite(log_scales).all()):
        raise ValueError("codes must be finite, got NaN or inf in them")
    flat = lambda x: x.reshape(sets * runs, -1)  # noqa: E731
    return flat(means), flat(log_scales), sets, runs


def _shapes(tree: Any) -> Any:
    return jax.tree.map(jnp.shape, tree)


@jax.jit
def _distances(means: jax.Array, log_scales: jax.Array) -> tuple[jax.Array, jax.Array]:
    """KL(i‖j) and the Bhattacharyya distance of all pairs, (K, K) each; row by row."""

    def row(at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mean, log_scale = at
        square, ratio = (mean - means) ** 2, 2 * (log_scale - log_scales)
        kl = jnp.expm1(ratio) - ratio + square * jnp.exp(-2 * log_scales)
        # log of (σ_i² + σ_j²)/(2 σ_i σ_j) as log cosh of the log ratio.
        sum_of_squares = jnp.exp(2 * log_scale) + jnp.exp(2 * log_scales)
        cosh = jnp.logaddexp(ratio / 2, -ratio / 2) - jnp.log(2.0)
        return 0.5 * kl.sum(-1), (0.25 * square / sum_of_squares + 0.5 * cosh).sum(-1)

    return jax.lax.map(row, (means, log_scales))


def _adapted(means: np.ndarray, log_scales: np.ndarray) -> float:
    """½ Σ log λ² - E log σ², the mean KL to the prior that has the pooled mean and variance."""
    pooled = means.var(0) + np.exp(2 * log_scales).mean(0)
    return float(0.5 * np.sum(np.log(pooled) - 2 * log_scales.mean(0)))


def _mixture(lower: np.ndarray, upper: np.ndarray, among: np.ndarray) -> tuple[Any, Any]:
    """-log Σ_j c_j e^(-d_ij) over the components that i is mixed with, by both distances."""
    share = among / among.sum(1, keepdims=True)
    first, second = (-special.logsumexp(-d, axis=1, b=share) for d in (lower, upper))
    return first, second


def _estimate(lower: np.ndarray, upper: np.ndarray) -> Estimate:
    mean = Estimate.mean_of((lower + upper) / 2)
    return trees.replace(mean, bracket_lower=lower.mean(), bracket_upper=upper.mean())

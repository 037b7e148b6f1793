r"""Shannon information in the weights: I(w; D) = E_D KL(Q(w|D)‖Q(w)), with Q(w) = E_D Q(w|D).

Q(w|D) is what training makes of D whatever its seed, Q(w|D) = E_seed Q(w|D,seed): an estimate that
compares single runs would be

    I(w; D, seed) = I(w; D) + I(w; seed|D)

and mostly measure which of many equal minima the seed has reached. All three are entropies of
mixtures less those of their components, and pairwise distances bracket those without sampling:

    -Σ_i c_i log Σ_j c_j e^(-B_ij) <= I(w; component) <= -Σ_i c_i log Σ_j c_j e^(-KL_ij)

with B the Bhattacharyya distance (Kolchinsky & Tracey, arXiv:1706.02419). The lower end holds for
the sum over i only, the upper one for each of its terms.

Few seeds make data sets look different by chance: I is convex in Q(w|D), so that with the mean of
R seeds for Q(w|D) it is too large on average, by about (K - 1)/(2R) nats for K minima that are far
apart. For any q that does not depend on the run, E_run log q(w) <= -H(w|D): with the run's own code
in the mixture of its data set replaced by the mean of the codes of all other seeds, I is too small
on average (Barber & Agakov 2003). The bracket of I(w; D) reaches from there to the former.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from iw_jax import trees
from iw_jax.codes.gaussian import DiagonalGaussian, IsotropicGaussian
from iw_jax.estimates import Estimate

_CLOSE = 0.1  # nats: what the ceiling or the number of seeds may leave open


@trees.record
class ShannonInformation:
    """I(w; D) over M data sets, and what it must not be mistaken for; all in nats.

    Attributes:
      nats: I(w; D), with its bracket, which holds on average over seeds; `value` is the middle,
        `stderr` the spread over data sets. A sample of M data sets cannot show more than log M.
        Converged where neither that nor the number of seeds binds.
      naive: I(w; D, seed), what comparing single runs measures.
      seed: I(w; seed|D), the difference, of these runs as if there were no others.
      adapted: E KL(Q(w|D,seed)‖P) to a Gaussian P with independent weights that has the mean and
        variance of the codes of the other data sets: on average above I(w; D, seed), as it is for
        any P that does not depend on the data set.
      bias: how much higher the bracket of `nats` would start were these seeds all there are; nan
        for one seed. More seeds lower it, and so do the same seeds for all data sets.
      ceiling: log M.
      binds: whether the upper end reaches within 0.1 nats of the ceiling: the truth may be larger.
    """

    nats: Estimate
    naive: Estimate
    seed: Estimate
    adapted: Estimate
    bias: Any
    ceiling: float
    binds: Any


def shannon_iw(codes: Any) -> ShannonInformation:
    """Shannon information in the weights from the codes of several data sets and seeds; nats.

    Args:
      codes: a `DiagonalGaussian` whose leaves have two leading axes, (M, R, ...): R seeds for each
        of M data sets drawn from one law (`jax.vmap` over both makes one), or an
        `IsotropicGaussian` with such leaves. With R = 1 nothing tells data from seed: `nats` is
        I(w; D, seed), and is not called converged.

    Raises:
      TypeError: for codes that are not Gaussian with independent weights.
      ValueError: for one data set only, leaves without the two axes, or numbers that
        are not finite.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Prop. 2.3, with the seed averaged out; there
      the codes of single runs are compared.
    """
    means, log_scales, sets, runs = _flat(codes)
    terms = (np.asarray(x, np.float64) for x in _terms(means, log_scales, sets, runs))
    every_low, every_high, own_low, own_high, unseen_high = (x.mean(1) for x in terms)
    ceiling = float(np.log(sets))  # of a mixture of M parts, exactly
    lower, upper = every_low - own_high, every_high - own_low
    within = lambda x: float(np.clip(x.mean(), 0, ceiling))  # noqa: E731
    seen, end = within(lower), within(upper)
    start = within(every_low - unseen_high) if runs > 1 else seen
    bias = seen - start if runs > 1 else np.nan
    binds = end > ceiling - _CLOSE
    nats = trees.replace(
        _estimate(lower, upper),
        value=(start + end) / 2,
        bracket_lower=start,
        bracket_upper=end,
        converged=not binds and bias < _CLOSE,
    )
    return ShannonInformation(
        nats=nats,
        naive=_estimate(every_low, every_high),
        seed=_estimate(own_low, own_high),
        adapted=_adapted(np.asarray(means, np.float64), np.asarray(log_scales, np.float64), sets),
        bias=bias,
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


@partial(jax.jit, static_argnames=("sets", "runs"))
def _terms(means: jax.Array, log_scales: jax.Array, sets: int, runs: int) -> tuple[jax.Array, ...]:
    """-log Σ_j c_j e^(-d_ij) of every code i, (M, R) each.

    Returns:
      By both distances with all codes; by both with those of the data set; by KL with those, the
      own one replaced by all of other seeds. Their memory is that of a few rows of distances.
    """
    owner, seed = jnp.divmod(jnp.arange(sets * runs), runs)

    def bound(distances: jax.Array) -> jax.Array:
        """With equal weights for the codes."""
        return np.log(distances.size) - logsumexp(-distances)

    def row(i: jax.Array) -> tuple[jax.Array, ...]:
        mean, log_scale = means[i], log_scales[i]
        square, ratio = (mean - means) ** 2, 2 * (log_scale - log_scales)
        kl = 0.5 * (jnp.expm1(ratio) - ratio + square * jnp.exp(-2 * log_scales)).sum(-1)
        # log of (σ_i² + σ_j²)/(2 σ_i σ_j) as log cosh of the log ratio.
        sum_of_squares = jnp.exp(2 * log_scale) + jnp.exp(2 * log_scales)
        cosh = jnp.logaddexp(ratio / 2, -ratio / 2) - jnp.log(2.0)
        bhattacharyya = (0.25 * square / sum_of_squares + 0.5 * cosh).sum(-1)
        own = lambda x: x.reshape(sets, runs)[owner[i]]  # noqa: E731
        # R - 1 parts of the data set's other runs, one part of all runs of other seeds.
        parts = (seed != seed[i]) * ((owner == owner[i]) + 1 / (sets * max(runs - 1, 1)))
        unseen = -logsumexp(-kl, b=parts / runs)
        return bound(bhattacharyya), bound(kl), bound(own(bhattacharyya)), bound(own(kl)), unseen

    terms = jax.lax.map(row, jnp.arange(sets * runs))
    return tuple(x.reshape(sets, runs) for x in terms)


def _adapted(means: np.ndarray, log_scales: np.ndarray, sets: int) -> Estimate:
    """Mean KL to N(m, λ²) with the mean and variance of the other sets' codes, for every set."""
    by_set = lambda x: x.reshape(sets, -1, means.shape[-1]).mean(1)  # noqa: E731
    others = lambda x: (x.sum(0) - x) / (sets - 1)  # noqa: E731
    means = means - means.mean(0)  # so that squares lose no digits
    first, second = by_set(means), by_set(means**2 + np.exp(2 * log_scales))
    centre = others(first)
    variance = others(second) - centre**2
    square = second - 2 * centre * first + centre**2  # of a weight's distance from the centre
    each = square / variance - 1 + np.log(variance) - 2 * by_set(log_scales)
    return Estimate.mean_of(0.5 * each.sum(-1))


def _estimate(lower: np.ndarray, upper: np.ndarray) -> Estimate:
    mean = Estimate.mean_of((lower + upper) / 2)
    return trees.replace(mean, bracket_lower=lower.mean(), bracket_upper=upper.mean())

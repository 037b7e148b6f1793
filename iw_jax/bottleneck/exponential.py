r"""DualIB of an exponential family, which it preserves: k statistics instead of |Y| labels.

    p(y|x) = exp(-Σ_r λ_r(y) A_r(x)) / Z(x),  r = 1 .. k,    makes p(y|xh) of the same form, with
    A_r(xh) = E[A_r(x) | xh],      λ_r(xh) = Σ_y p(y|xh) λ_r(y)
    D(p(y|xh) ‖ p(y|x)) = Σ_r λ_r(xh) (A_r(x) - A_r(xh)) + log Z(x) - log Z(xh)

A geometric mean of members is a member; the arithmetic mean of IB is not.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from iw_jax import checks, trees
from iw_jax.bottleneck import discrete, sources
from iw_jax.bottleneck.acceleration import Evaluation, fixed_point
from iw_jax.bottleneck.discrete import MAX_STEPS, TOLERANCE, Solution
from iw_jax.bottleneck.sources import Source, dot


@trees.record
class ExponentialFamily:
    """p(y|x) = exp(-Σ_r λ_r(y) A_r(x)) / Z(x), with p(x).

    Attributes:
      p_x: p(x), (X,).
      statistics: A_r(x), (X, k).
      multipliers: λ_r(y), (Y, k).
    """

    p_x: Any
    statistics: Any
    multipliers: Any

    @property
    def joint(self) -> np.ndarray:
        """p(x, y), (X, Y)."""
        scores = -np.asarray(self.statistics, np.float64) @ np.asarray(self.multipliers).T
        return np.asarray(self.p_x)[:, None] * np.exp(scores - _log_sum(scores))


def _log_sum(scores: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(scores, axis=1, keepdims=True)


def exponential_family(joint: Any, *, rtol: float = 1e-10) -> ExponentialFamily:
    """The smallest exponential family that holds every p(y|x), from an SVD of its logarithm.

    Any positive joint is one, with k < |Y|; it is a reduction where k is much smaller.

    Args:
      joint: p(x, y), (X, Y), positive.
      rtol: singular values of log p(y|x), centred over y, below this part of the largest are 0.

    Raises:
      ValueError: as `iw.bottleneck.blahut_arimoto` for dualIB.
    """
    checks.between("rtol", rtol, 0, 1)
    sources.checked(joint, dual=True)
    joint = np.asarray(joint, np.float64)
    p_x = joint.sum(1)
    log = np.log(joint / p_x[:, None])
    # A constant over y goes into Z(x). What all x share needs one statistic that is constant.
    left, values, right = np.linalg.svd(log - log.mean(1, keepdims=True), full_matrices=False)
    k = max(int((values > rtol * values[0]).sum()), 1)
    return ExponentialFamily(p_x / p_x.sum(), -left[:, :k] * values[:k], right[:k].T)


def dual_from_statistics(
    family: ExponentialFamily,
    beta: Any,
    *,
    num_clusters: int | None = None,
    key: jax.Array | None = None,
    start: Any = None,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Solution:
    """DualIB of an exponential family: as `iw.bottleneck.blahut_arimoto` of its joint.

    An iteration costs |X| T k instead of |X| T |Y|.

    Args:
      family: the source.
      beta: price of distortion, scalar, positive.
      num_clusters: as there, like the others.
      key: as there.
      start: as there.
      tolerance: as there.
      max_steps: as there.

    Raises:
      ValueError: as there, or for a family whose shapes do not fit.
      TypeError: as there.
    """
    shapes = tuple(map(np.shape, (family.p_x, family.statistics, family.multipliers)))
    if [len(s) for s in shapes] != [1, 2, 2] or (shapes[0][0], shapes[2][1]) != shapes[1]:
        raise ValueError(
            "family must have p_x (X,), statistics (X, k) and multipliers (Y, k), got shapes "
            f"{', '.join(map(str, shapes))}"
        )
    checks.finite("family", family)
    discrete.check_budget(tolerance, max_steps)
    discrete.check_beta(beta, dual=True)
    with sources.widest(family, beta, key, start) as finish:
        source = sources.checked(family.joint, dual=True)
        family = jax.tree.map(lambda x: jnp.asarray(x, float), family)
        z = discrete.first_state(source, True, num_clusters, key, start)
        # A cluster's statistics are those of its x.
        _, log_marginal, back = discrete.clusters(source, z, jnp.asarray(beta, float), True)
        z = jnp.concatenate([log_marginal[:, None], dot(back, family.statistics)], 1)
        beta = jnp.asarray(beta, float)
        return discrete.named(
            finish(_solution(source, family, z, beta, tolerance, max_steps)), dual=True
        )


@partial(jax.jit, static_argnames="tolerance")
def _solution(source, family, z, beta, tolerance, max_steps):
    floor = discrete.floored(tolerance, z.dtype)
    z, change, steps = fixed_point(
        lambda z: iterate(source, family, z, beta),
        lambda z: z.at[:, 0].add(-logsumexp(z[:, 0])),
        z,
        tolerance=floor,
        max_steps=max_steps,
    )
    scores = -dot(z[:, 1:], family.multipliers.T)
    full = jnp.concatenate([z[:, :1], scores], 1)
    return discrete.describe(source, discrete.normalised(full), beta, True, steps, change <= floor)


def iterate(source: Source, family: ExponentialFamily, z: jax.Array, beta: Any) -> Evaluation:
    """One round of (log p(xh), A(xh)), (T, 1 + k)."""
    scores = _scores(family, z, beta)
    log_Z = logsumexp(scores, axis=0)
    encoder = jnp.exp(scores - log_Z)
    p_x = jnp.exp(source.log_p_x)
    together = encoder * p_x
    marginal = jnp.maximum(together.sum(1), jnp.finfo(z.dtype).tiny)
    statistics = dot(together, family.statistics) / marginal[:, None]
    after = jnp.concatenate([jnp.log(marginal)[:, None], statistics], 1)
    moved = _scores(family, after, beta) - scores
    moved = moved - (encoder * moved).sum(0)
    change = (encoder * jnp.abs(moved)).sum(0).max()
    root = jnp.sqrt(marginal)[:, None]
    spread = jnp.sqrt(beta) * family.multipliers.std(0)
    metric = root * jnp.concatenate([jnp.ones(1), spread])
    return Evaluation(after, -dot(p_x, log_Z), change, metric)


def _scores(family: ExponentialFamily, z: jax.Array, beta: Any) -> jax.Array:
    """log p(xh) - β D, (T, X)."""
    A = z[:, 1:]
    exponents = -dot(A, family.multipliers.T)
    log_Z_xh = logsumexp(exponents, axis=1)
    mean = dot(jax.nn.softmax(exponents, axis=1), family.multipliers)  # λ(xh)
    log_Z_x = logsumexp(-dot(family.statistics, family.multipliers.T), axis=1)
    D = dot(mean, family.statistics.T) - (mean * A).sum(1)[:, None] + log_Z_x - log_Z_xh[:, None]
    return z[:, :1] - beta * D

r"""The β from which something is better than nothing.

F is a mean over clusters of a function of p(x|xh), so its minimum is that function's lower convex
envelope at p(x). The trivial solution is the best one as long as no q = p(x|xh) lies below its
tangent there, that is

    D(q ‖ p(x)) >= β E_q [D(x, trivial) - D(x, q)]        for every q

with D(x, q) the distortion of x in a cluster of q. The right side is β D(q(y) ‖ p(y)) for IB and
β D(p(y|trivial) ‖ p(y|q)) for dualIB. Close to p(x) it holds up to the β of `critical`; where a q
far away breaks it first, a cluster of no weight begins there, before the trivial solution loses its
stability.
"""

from typing import Any

import jax
import jax.numpy as jnp

from iw_jax.bottleneck import critical, sources
from iw_jax.bottleneck.sources import Source, dot

_MIXING = 0.05  # of p(x) into the q to start from: D is finite
_TOLERANCE, _MAX_STEPS = 1e-12, 20_000


def learnable_beta(joint: Any, *, dual: bool = False) -> Any:
    """β up to which no Xh is better than one that is independent of X; no unit.

    1/s* with s* = sup_q D(q(y) ‖ p(y)) / D(q(x) ‖ p(x)), the strong data processing constant, for
    IB. At most `iw.bottleneck.first_critical_beta`: in between a solution that is not trivial is
    better, though the trivial one is stable. Most paths of falling β follow it down to here; one
    that is on another branch by then loses that earlier.

    The supremum is that of the local maxima climbed to from every x and from every p(x|y); a higher
    one that none of them leads to would be missed.

    Args:
      joint: p(x, y), (X, Y).
      dual: for dualIB.

    Returns:
      Scalar, at least 1 for IB; inf if X and Y are independent.

    Raises:
      ValueError: as `iw.bottleneck.blahut_arimoto` for the joint.

    References:
      Anantharam et al., arXiv:1304.6133 (s*); Wu et al., arXiv:1907.07331 (learnability). For
      dualIB: the same argument.
    """
    with sources.widest(joint) as finish:
        return finish(_learnable(sources.checked(joint, dual), dual))


@jax.jit
def _learnable(source: Source, dual: Any) -> jax.Array:
    p_x = jnp.exp(source.log_p_x)
    of_y = source.p_y.T * p_x
    of_y = of_y / jnp.maximum(of_y.sum(1, keepdims=True), jnp.finfo(p_x.dtype).tiny)
    starts = jnp.concatenate([jnp.eye(len(p_x), dtype=p_x.dtype), of_y])
    found = jax.lax.map(
        lambda q: _climb(source, dual, jnp.log((1 - _MIXING) * q + _MIXING * p_x)),
        starts,
        batch_size=64,
    )
    near = critical.first(source, dual)
    return jnp.where(jnp.isinf(near), near, jnp.minimum(found.min(), near))


def _climb(source: Source, dual: Any, log_q: jax.Array) -> jax.Array:
    """D(q ‖ p(x)) / E_q[...], after q has made it as small as it can; inf where q comes to p(x).

    At β the sum D(q ‖ p(x)) - β E_q[...] is convex less convex; with the second made linear it is
    least at the next q, p(x) exp(β (D(x, trivial) - D(x, q))): a cluster of no weight.
    """
    eps = jnp.finfo(log_q.dtype).eps
    tolerance = max(_TOLERANCE, 4 * float(eps))
    p_x = jnp.exp(source.log_p_x)

    def price(log_q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        log_ratio = log_q - source.log_p_x
        apart = (jnp.exp(log_q) * log_ratio - p_x * jnp.expm1(log_ratio)).sum()
        gain, mean_gain = _gain(source, p_x, p_x * jnp.expm1(log_ratio), dual)
        told = (apart > eps) & (mean_gain > 0)  # nearer to p(x), `critical` has the limit
        beta = jnp.where(told, apart / jnp.where(told, mean_gain, 1), jnp.inf)
        return beta, gain, told

    def body(carry):
        log_q, beta, gain, steps, _ = carry
        log_q = jax.nn.log_softmax(source.log_p_x + beta * gain)
        after, gain, told = price(log_q)
        return log_q, after, gain, steps + 1, told & (after < beta * (1 - tolerance))

    def more(carry):
        _, _, _, steps, falls = carry
        return falls & (steps < _MAX_STEPS)

    beta, gain, told = price(log_q)
    return jax.lax.while_loop(more, body, (log_q, beta, gain, jnp.array(0), told))[1]


def _gain(
    source: Source, p_x: jax.Array, more: jax.Array, dual: Any
) -> tuple[jax.Array, jax.Array]:
    """D(x, trivial) - D(x, q) but for a constant, (X,), and E_q of it; of q = p(x) + more.

    Differences before products and logs: of a weak dependence, or a q near p(x), nothing is lost.
    """

    def of_ib() -> tuple[jax.Array, jax.Array]:
        p_y = dot(p_x, source.p_y)
        held = p_y > 0
        excess = jnp.where(held, dot(more, source.p_y - p_y) / jnp.where(held, p_y, 1), 0)
        log_ratio = jnp.log1p(jnp.maximum(excess, jnp.finfo(p_x.dtype).eps - 1))
        mean = p_y * ((1 + excess) * log_ratio - excess)
        return dot(source.p_y, log_ratio), mean.sum()

    def of_dual() -> tuple[jax.Array, jax.Array]:
        L = source.log_p_y - dot(p_x, source.log_p_y)
        r = jnp.exp(sources.decoder(source, p_x[None], dual=True)[0])
        shift = dot(more, L)
        log_ratio = shift - jnp.log1p(dot(r, jnp.expm1(shift)))
        excess = jnp.expm1(log_ratio)
        return dot(L - dot(L, r)[:, None], r * excess), dot(r, excess - log_ratio)

    return sources.either(dual, of_dual, of_ib)

r"""Where clusters split: critical β in closed form.

Two halves of a cluster xh that differ by p(x|xh)(1 ± ε φ(x)), E[φ|xh] = 0, are driven apart by the
factor β σ² an iteration, at most, where σ is a singular value of a matrix over x and y:

    IB      sqrt(p(x|xh)) (p(y|x) - p(y|xh)) / sqrt(p(y|xh))            the largest
    dualIB  sqrt(p(x|xh)) L(x, y) sqrt(p(y|xh))                         the largest

with L = log p(y|x) centred over x by p(x|xh), then over y by p(y|xh). So the cluster is stable up
to β = 1/σ². A single cluster that holds all of X, p(x|xh) = p(x), gives the first transition; for
IB σ is then the Hirschfeld-Gebelein-Rényi maximal correlation of X and Y.
"""

from typing import Any

import jax
import jax.numpy as jnp

from iw_jax.bottleneck import sources
from iw_jax.bottleneck.sources import Source, dot


def first_critical_beta(joint: Any, *, dual: bool = False) -> Any:
    """β up to which the trivial solution, Xh independent of X, is locally stable; no unit.

    A solution that is not trivial may be better from a smaller β on, and be reached from above: see
    `iw.bottleneck.learnable_beta`.

    Args:
      joint: p(x, y), (X, Y).
      dual: for dualIB.

    Returns:
      Scalar; inf if X and Y are independent.

    Raises:
      ValueError: as `iw.bottleneck.blahut_arimoto` for the joint.

    References:
      IB: Witsenhausen 1975; Wu et al., arXiv:1907.07331. dualIB: Piran et al., arXiv:2006.04641,
      here in closed form for any |Y|.
    """
    with sources.widest(joint) as finish:
        return finish(first(sources.checked(joint, dual), dual))


@jax.jit
def first(source: Source, dual: Any) -> jax.Array:
    """`first_critical_beta` of a source."""
    back = jnp.exp(source.log_p_x)[None]
    log_decoder = sources.decoder(source, back, dual)
    rate, _ = deviations(source, back, log_decoder, dual)
    negligible = 100 * jnp.finfo(rate.dtype).eps  # σ² of independent X and Y is rounding
    return jnp.where(rate[0] > negligible, 1 / jnp.maximum(rate[0], negligible), jnp.inf)


def deviations(
    source: Source, back: jax.Array, log_decoder: jax.Array, dual: Any
) -> tuple[jax.Array, jax.Array]:
    """σ² of every cluster, (T,), and how log p(y|xh) deviates as it begins to split, (T, Y).

    The deviation is that of ε = 1: E of its square under p(y|xh) is one.

    Args:
      source: p(x), p(y|x).
      back: p(x|xh), (T, X).
      log_decoder: log p(y|xh), (T, Y).
      dual: for dualIB.
    """

    def gram(cluster: tuple[jax.Array, jax.Array]) -> jax.Array:
        back, r = cluster

        # Differences before products: of a weak dependence nothing is lost.
        def of_dual() -> jax.Array:
            L = source.log_p_y - dot(back, source.log_p_y)
            return (L - dot(L, r)[:, None]) * jnp.sqrt(r)

        def of_ib() -> jax.Array:
            return (source.p_y - r) * _inverse_root(r)

        B = sources.either(dual, of_dual, of_ib)
        return dot(B.T * back, B)

    r = jnp.exp(log_decoder)
    values, vectors = jnp.linalg.eigh(jax.lax.map(gram, (back, r)))
    return jnp.maximum(values[..., -1], 0), vectors[..., -1] * _inverse_root(r)


def _inverse_root(r: jax.Array) -> jax.Array:
    """1/sqrt(r), and 0 for a label that does not occur."""
    return jnp.where(r > 0, 1 / jnp.sqrt(jnp.where(r > 0, r, 1)), 0)

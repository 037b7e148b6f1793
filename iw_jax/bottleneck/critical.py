r"""Where clusters split: critical β in closed form.

Two halves of a cluster xh that differ by p(x|xh)(1 ± ε φ(x)), E[φ|xh] = 0, are driven apart by the
factor β σ² an iteration, at most, where σ is a singular value of a matrix over x and y:

    IB      sqrt(p(x|xh)) (p(y|x) - p(y|xh)) / sqrt(p(y|xh))            the largest
    dualIB  sqrt(p(x|xh)) L(x, y) sqrt(p(y|xh))                         the largest

with L = log p(y|x) centred over x by p(x|xh), then over y by p(y|xh). So the cluster is stable up
to β = 1/σ². A single cluster that holds all of X, p(x|xh) = p(x), gives the first transition; for
IB σ is then the Hirschfeld-Gebelein-Rényi maximal correlation of X and Y.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iw_jax.bottleneck import sources
from iw_jax.bottleneck.sources import Source, dot


def first_critical_beta(joint: Any, *, dual: bool = False) -> Any:
    """β up to which the trivial solution, Xh independent of X, is locally stable; no unit.

    A solution that is not trivial may be better, and be reached from above, before: a transition of
    first order (1907.07331).

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
        return finish(_first(sources.checked(joint, dual), dual))


@partial(jax.jit, static_argnames="dual")
def _first(source: Source, dual: bool) -> jax.Array:
    back = jnp.exp(source.log_p_x)[None]
    log_decoder = sources.decoder(source, back, dual)
    rate, _ = deviations(source, back, log_decoder, dual)
    negligible = 100 * jnp.finfo(rate.dtype).eps  # σ² of independent X and Y is rounding
    return jnp.where(rate[0] > negligible, 1 / jnp.maximum(rate[0], negligible), jnp.inf)


def deviations(
    source: Source, back: jax.Array, log_decoder: jax.Array, dual: bool
) -> tuple[jax.Array, jax.Array]:
    """σ² of every cluster, (T,), and how log p(y|xh) deviates as it begins to split, (T, Y).

    The deviation is that of ε = 1: E of its square under p(y|xh) is one.

    Args:
      source: p(x), p(y|x).
      back: p(x|xh), (T, X).
      log_decoder: log p(y|xh), (T, Y).
      dual: for dualIB.
    """
    r = jnp.exp(log_decoder)
    root = jnp.sqrt(r)
    if dual:
        mean = dot(back, source.log_p_y)  # E[log p(y|x) | xh]
        second = jnp.einsum(
            "tx,xy,xz->tyz", back, source.log_p_y, source.log_p_y, precision=sources.HIGHEST
        )
        covariance = second - mean[:, :, None] * mean[:, None]
        # Centred over y: (1 - 1 r') from both sides.
        covariance -= jnp.einsum("tyz,tz->ty", covariance, r, precision=sources.HIGHEST)[..., None]
        covariance -= jnp.einsum("tyz,ty->tz", covariance, r, precision=sources.HIGHEST)[:, None]
        gram = root[:, :, None] * covariance * root[:, None]
    else:
        # Differences before products: of a weak dependence nothing is lost.
        def one(back_t, r_t, root_t):
            B = (source.p_y - r_t) * jnp.sqrt(back_t)[:, None]
            B = B / jnp.where(root_t > 0, root_t, 1)
            return dot(B.T, B)

        gram = jax.vmap(one)(back, r, root)
    values, vectors = jnp.linalg.eigh(gram)
    direction = vectors[..., -1] / jnp.where(root > 0, root, 1)
    return jnp.maximum(values[..., -1], 0), direction

r"""Error exponents: how fast n labels of an x tell it from others, and what dualIB does to that.

Of n labels drawn from p(y|x), those that look as if drawn from r(y) have the probability
exp(-n D(r ‖ p(y|x))), to first order in the exponent (Sanov). So D(p(y|xh) ‖ p(y|x)) is the
exponent with which labels of x pass for typical ones of the cluster xh. Its mean over p(x, xh), the
distortion of dualIB, is least for the geometric mean of the cluster's p(y|x):

    min_r E[D(r ‖ p(y|x)) | xh] = -log Σ_y Π_x p(y|x)^p(x|xh) = -log Z(xh)

For two x it is -log Σ_y p(y|x)^λ p(y|x')^(1-λ), λ = p(x|xh), the exponent of Chernoff's bound; the
largest over λ, the Chernoff information, is that of the best test between them. A theorem on that
is in 2006.04641; here is what was verified.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from iw_jax import checks, trees
from iw_jax.bottleneck import discrete, sources
from iw_jax.bottleneck.sources import Source

_HALVINGS = 60  # of the interval of λ: to rounding


@trees.record
class ErrorExponent:
    """Mean exponent with which labels of x pass for labels of its cluster.

    Attributes:
      nats: E[-log Z(xh)], nats per label.
      clusters: -log Z(xh), (T,), nats per label.
    """

    nats: Any
    clusters: Any


def error_exponent(joint: Any, encoder: Any) -> ErrorExponent:
    """The mean error exponent of any encoder, with the decoder that is best for it.

    Encoders that minimise F of dualIB have the smallest among those of the same I(X;Xh).

    Args:
      joint: p(x, y), (X, Y), positive.
      encoder: p(xh|x), (X, T).

    Raises:
      ValueError: as `iw.bottleneck.blahut_arimoto` for dualIB.
    """
    with sources.widest(joint, encoder) as finish:
        source = sources.checked(joint, dual=True)
        return finish(_exponents(source, jnp.asarray(encoder, float)))


@jax.jit
def _exponents(source: Source, encoder: jax.Array) -> ErrorExponent:
    _, log_marginal, back = discrete.posterior_of(source, encoder)
    exponents = -logsumexp(sources.dot(back, source.log_p_y), axis=1)
    return ErrorExponent(sources.dot(jnp.exp(log_marginal), exponents), exponents)


def chernoff_information(p: Any, q: Any) -> Any:
    """max_λ -log Σ_y p^λ q^(1-λ), nats per label: the exponent of the best test between two laws.

    The tilted law p^λ q^(1-λ)/Z is then as far from the one as from the other: λ, by halving.

    Args:
      p: law of a label, (..., Y), sums to one.
      q: the other, of the same shape.

    Returns:
      (...); inf where they share no label.

    Raises:
      ValueError: for shapes that differ, or what is no law.

    References:
      Cover & Thomas, Elements of Information Theory, Thm 11.9.1.
    """
    for name, law in (("p", p), ("q", q)):
        if np.shape(law) != np.shape(p) or np.ndim(law) < 1:
            raise ValueError(
                f"{name} must be a law (..., Y) like the other, got shape {np.shape(law)}"
            )
        checks.finite(name, law)
        values = np.asarray(law, np.float64) if trees.is_concrete(law) else np.ones((1, 1))
        if np.min(values) < 0 or not np.allclose(values.sum(-1), 1, atol=1e-5):
            raise ValueError(f"{name} must not be negative, and sum to one over its last axis")
    with sources.widest(p, q) as finish:
        p, q = jnp.asarray(p, float), jnp.asarray(q, float)
        both = (p > 0) & (q > 0)
        log_p, log_q = (jnp.log(jnp.where(both, x, 1)) for x in (p, q))
        # A minimum over λ of the convex log Σ_y q (p/q)^λ, from its slope.
        ratio = log_p - log_q

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            tilted = jax.nn.softmax(
                jnp.where(both, log_q + middle[..., None] * ratio, -jnp.inf), axis=-1
            )
            rising = (tilted * ratio).sum(-1) > 0
            return jnp.where(rising, low, middle), jnp.where(rising, middle, high)

        ends = jnp.zeros(p.shape[:-1]), jnp.ones(p.shape[:-1])
        best = jax.lax.fori_loop(0, _HALVINGS, halve, ends)[0][..., None]
        total = jnp.where(both, jnp.exp(log_q + best * ratio), 0).sum(-1)
        return finish(jnp.maximum(-jnp.log(total), 0))

r"""I(X;Z) from both sides, where the encoder e(z|x) is known: nothing has to be learned.

    lower:  mean_i log e(z_i|x_i) - log (1/n)     Σ_j     e(z_i|x_j)        at most log n
    upper:  mean_i log e(z_i|x_i) - log 1/(n - 1) Σ_{j≠i} e(z_i|x_j)

Either puts a mixture in the place of p(z), with the own input or without it. The lower one is also
the information about which of the n inputs it is.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.estimates import Estimate

_ENTRIES = 2**22  # of a tile of differences (rows, n, d)


def contrastive_information(key: jax.Array, mean: Any, scale: Any, groups: Any = None) -> Estimate:
    """I(X;Z) for z ~ N(mean(x), diag scale(x)²) and independent inputs; nats.

    Value and lower end of the bracket: the lower bound, of which more inputs make more. Upper end:
    the upper one, infinite where an input is alone in its group. One draw of z for each input. The
    standard error, over inputs, is that of the lower bound; what the mixture's inputs add to it is
    of smaller order, since I(X;Z) is stationary in the marginal p(z).

    Args:
      key: random key.
      mean: (n, d), of n >= 2 inputs.
      scale: (n, d), positive.
      groups: integers (n,), for I(X;Z|group): inputs are contrasted with those of their own group.
        None for one group.

    Raises:
      ValueError: for a single input, shapes that do not fit, scales that are not positive.

    References:
      Poole et al., arXiv:1905.06922: the bounds with a tractable conditional, and "leave one out".
    """
    checks.key("key", key)
    mean, scale = jnp.asarray(mean, float), jnp.asarray(scale, float)
    if mean.ndim != 2 or len(mean) < 2 or scale.shape != mean.shape:
        raise ValueError(
            f"mean and scale must be (n, d) each with n >= 2, got {mean.shape} and {scale.shape}"
        )
    checks.positive("scale", scale)
    groups = jnp.zeros(len(mean), int) if groups is None else jnp.asarray(groups)
    if groups.shape != (len(mean),):
        raise ValueError(f"groups must be ({len(mean)},), one for each input, got {groups.shape}")
    z = mean + scale * jax.random.normal(key, mean.shape, mean.dtype)
    lower, upper = contrasts(z, mean, scale, groups)
    return bounds(lower, upper)


def contrasts(
    z: jax.Array, mean: jax.Array, scale: jax.Array, groups: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Terms of the lower and of the upper bound, (n,) each; draw i of z comes from input i."""
    number, size = mean.shape
    narrow = jnp.log(scale).sum(1)

    def of_draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Differences before squares: a product of matrices would lose them where scales are small.
        exponents = -jnp.square((z[i] - mean) / scale).sum(1) / 2 - narrow
        with_own = groups == groups[i]
        others = with_own & (jnp.arange(number) != i)
        return tuple(
            exponents[i] - jax.nn.logsumexp(exponents, where=those) + jnp.log(those.sum())
            for those in (with_own, others)
        )

    at_once = int(np.clip(_ENTRIES // (number * size), 1, number))
    lower, upper = jax.lax.map(of_draw, jnp.arange(number), batch_size=at_once)
    return lower, jnp.where(jnp.isnan(upper), jnp.inf, upper)  # alone: log 0 - log 0


def bounds(lower: jax.Array, upper: jax.Array) -> Estimate:
    """The Estimate of terms (n,) of both bounds."""
    found = Estimate.mean_of(lower)
    return trees.replace(found, bracket_upper=jnp.maximum(upper.mean(), found.value))

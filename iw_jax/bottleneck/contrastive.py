r"""I(X;Z) from both sides, where the encoder e(z|x) is known: nothing has to be learned.

    lower:  mean_i log e(z_i|x_i) - log (1/n)     Σ_j     e(z_i|x_j)        at most log n
    upper:  mean_i log e(z_i|x_i) - log 1/(n - 1) Σ_{j≠i} e(z_i|x_j)

Either puts a mixture in the place of p(z), with the own input or without it. The lower one is also
the information about which of the n inputs it is.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from iw_jax import checks, trees
from iw_jax.estimates import Estimate

_T = TypeVar("_T")
_ENTRIES = 2**22  # of a tile of differences (rows, n, d)


def contrastive_information(key: jax.Array, mean: Any, scale: Any, groups: Any = None) -> Estimate:
    """I(X;Z) for z ~ N(mean(x), diag scale(x)²) and independent inputs; nats.

    Value and lower end of the bracket: the lower bound, of which more inputs make more. Upper end:
    the upper one, infinite where an input is alone in its group. One draw of z for each input. The
    standard error, over inputs, is the larger of theirs: the lower bound has next to none where it
    comes to log n. What the mixture's inputs add is of smaller order, since I(X;Z) is stationary in
    the marginal p(z).

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
    return contrasts(z, mean, scale, [groups])[0]


def contrasts(
    z: jax.Array, mean: jax.Array, scale: jax.Array, groupings: Sequence[jax.Array]
) -> list[Estimate]:
    """As `contrastive_information`, for several groupings; draw i of z comes from input i."""
    number, size = mean.shape
    groups = jnp.stack(groupings)
    narrow = jnp.log(scale).sum(1)

    def of_draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Differences before squares: a product of matrices would lose them where scales are small.
        exponents = -jnp.square((z[i] - mean) / scale).sum(1) / 2 - narrow
        with_own = groups == groups[:, i, None]
        those = jnp.stack([with_own, with_own & (jnp.arange(number) != i)])
        log_mean = jax.nn.logsumexp(exponents, axis=-1, where=those) - jnp.log(those.sum(-1))
        lower, upper = exponents[i] - log_mean
        return lower, jnp.where(jnp.isnan(upper), jnp.inf, upper)  # alone: log 0 - log 0

    lower, upper = in_chunks(of_draw, number, max(1, _ENTRIES // (number * size)))
    return [
        bracketed(*(Estimate.mean_of(terms) for terms in each))
        for each in zip(lower.T, upper.T, strict=True)
    ]


def bracketed(lower: Estimate, upper: Estimate) -> Estimate:
    """The lower bound with a bracket up to the upper one; the larger of both standard errors."""
    stderr = jnp.where(jnp.isfinite(upper.value), upper.stderr, 0.0)
    return trees.replace(
        lower,
        bracket_upper=jnp.maximum(upper.value, lower.value),  # but for what chance puts below
        stderr=jnp.maximum(lower.stderr, stderr),
    )


def in_chunks(of_row: Callable[[jax.Array], _T], number: int, at_once: int) -> _T:
    """`of_row` of 0 .. number - 1, leaves (number, ...), so many at once; the last ones twice.

    `jax.lax.map` with a batch size would compile the function once more for what is left over.
    """
    at_once = min(at_once, number)
    rows = jnp.arange(-(-number // at_once) * at_once) % number
    found = jax.lax.map(jax.vmap(of_row), rows.reshape(-1, at_once))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:number], found)

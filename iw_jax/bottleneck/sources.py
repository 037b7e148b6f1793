"""p(x, y) as the bottleneck needs it: checked, in logs, in the widest floating-point type."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, xlogy

from iw_jax import checks, trees

HIGHEST = jax.lax.Precision.HIGHEST
dot = partial(jnp.dot, precision=HIGHEST)
_SUM = 1e-5  # by how much float32 probabilities may miss one


class Source(NamedTuple):
    """A joint law in parts.

    Attributes:
      log_p_x: log p(x), (X,).
      log_p_y: log p(y|x), (X, Y); -inf where it is zero.
      p_y: p(y|x), (X, Y).
      negentropy: Σ_y p(y|x) log p(y|x), (X,), nats.
    """

    log_p_x: jax.Array
    log_p_y: jax.Array
    p_y: jax.Array
    negentropy: jax.Array


@contextlib.contextmanager
def widest(*arguments: Any) -> Iterator[Callable[[Any], Any]]:
    """Float64 inside, if all arguments are concrete; yields what takes results out of it.

    Those are NumPy arrays then, since JAX without x64 would round float64 when it next computes.
    Of traced arguments the precision is the caller's.
    """
    if trees.is_concrete(arguments):
        with jax.enable_x64(True):
            yield partial(jax.tree.map, np.asarray)
    else:
        yield lambda result: result


def checked(joint: Any, dual: bool) -> Source:
    """The source of a joint p(x, y), (X, Y), normalised.

    Raises:
      ValueError: for another shape than (X, Y), numbers that are negative or not finite, a sum that
        is not one, an x of no probability, or with dualIB a zero anywhere.
    """
    if np.ndim(joint) != 2 or min(np.shape(joint)) < 2:
        raise ValueError(
            f"joint must be p(x, y) as (X, Y), at least two of each, got shape {np.shape(joint)}"
        )
    if trees.is_concrete(joint):
        _check_numbers(np.asarray(joint, np.float64), dual)
    return _parts(jnp.asarray(joint, float))


@jax.jit
def _parts(joint: jax.Array) -> Source:
    joint = joint / joint.sum()
    p_x = joint.sum(1)
    p_y = joint / p_x[:, None]
    return Source(jnp.log(p_x), jnp.log(p_y), p_y, xlogy(p_y, p_y).sum(1))


def _check_numbers(joint: np.ndarray, dual: bool) -> None:
    if not np.all(np.isfinite(joint)):
        raise ValueError("joint must be finite, got NaN or inf in it")
    if joint.min() < 0:
        x, y = np.unravel_index(joint.argmin(), joint.shape)
        raise ValueError(f"joint must be at least 0, got {joint[x, y]} at x = {x}, y = {y}")
    if abs(joint.sum() - 1) > _SUM:
        raise ValueError(f"joint must sum to 1, got {joint.sum():.6g}; counts need joint.sum()")
    empty = np.flatnonzero(joint.sum(1) == 0)
    if empty.size:
        raise ValueError(
            f"joint must give every x a probability, got none for x = {empty[0]}; leave it out"
        )
    if dual and joint.min() == 0:
        x, y = np.argwhere(joint == 0)[0]
        raise ValueError(
            "joint must be positive everywhere for dualIB, whose distortion "
            f"D(p(y|xh) ‖ p(y|x)) is infinite at a zero, got 0 at x = {x}, y = {y}; mix in label "
            "noise, with iw.bottleneck.with_floor for one"
        )


def with_floor(joint: Any, floor: float) -> np.ndarray:
    """p(x, y) whose p(y|x) is (1 - floor) p(y|x) + floor/|Y|: noise that leaves no zeros; (X, Y).

    Args:
      joint: p(x, y), (X, Y).
      floor: share of labels drawn anew, all equally likely; between 0 and 1.

    Raises:
      ValueError: if floor is not between 0 and 1, or as `iw.bottleneck.blahut_arimoto`.
    """
    checks.between("floor", floor, 0, 1)
    checked(joint, dual=False)
    joint = np.asarray(joint, np.float64)
    joint = joint / joint.sum()
    return (1 - floor) * joint + floor * joint.sum(1, keepdims=True) / joint.shape[1]


def either(dual: Any, of_dual: Callable[[], Any], of_ib: Callable[[], Any]) -> Any:
    """What dualIB or IB needs, inside the one program that serves both (`dual` is traced there)."""
    if isinstance(dual, bool):
        return of_dual() if dual else of_ib()
    return jax.lax.cond(dual, of_dual, of_ib)


def decoder(source: Source, back: jax.Array, dual: Any) -> jax.Array:
    """log p(y|xh), (T, Y), from p(x|xh), (T, X): arithmetic mean for IB, geometric for dualIB."""

    def arithmetic() -> jax.Array:
        tiny = jnp.finfo(back.dtype).tiny
        return jnp.log(jnp.maximum(dot(back, source.p_y), tiny))

    def geometric() -> jax.Array:
        mean = dot(back, source.log_p_y)
        return mean - logsumexp(mean, axis=1, keepdims=True)

    return either(dual, geometric, arithmetic)


def divergence(source: Source, log_decoder: jax.Array, dual: Any) -> jax.Array:
    """D of x to xh, (T, X), nats: D(p(y|x) ‖ p(y|xh)) for IB, the other way for dualIB."""

    def to_x() -> jax.Array:
        r = jnp.exp(log_decoder)
        return jnp.sum(r * log_decoder, 1)[:, None] - dot(r, source.log_p_y.T)

    def from_x() -> jax.Array:
        return source.negentropy - dot(log_decoder, source.p_y.T)

    return either(dual, to_x, from_x)

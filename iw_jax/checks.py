"""Checks of arguments, made before any compilation. Each message names, shows and allows."""

import math
from typing import Any

import jax
import numpy as np

from iw_jax import trees

ROUNDING = 1e-6  # of the largest entry or eigenvalue of a matrix: of one computed in float32


def positive(name: str, value: Any) -> None:
    """Raises unless every number in `value` is positive and finite. Traced values pass."""
    if not trees.is_concrete(value):
        return
    leaves = jax.tree.leaves(value)
    if not leaves:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    for leaf in leaves:
        numbers = np.asarray(leaf, dtype=np.float64).ravel()
        bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
        if bad.size:
            raise ValueError(f"{name} must be positive and finite, got {bad[0]}")


def scalar(name: str, value: Any) -> None:
    """Raises unless `value` has no axes."""
    if np.ndim(value) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}")


def at_least(name: str, value: int, minimum: int) -> None:
    """Raises unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def optional_at_least(name: str, value: int | None, minimum: int) -> None:
    """As `at_least`, with None allowed."""
    if value is not None:
        at_least(name, value, minimum)


def between(name: str, value: float, low: float, high: float) -> None:
    """Raises unless low < value < high."""
    if not (math.isfinite(value) and low < value < high):
        raise ValueError(f"{name} must lie between {low} and {high}, got {value}")


def key(name: str, value: Any, shape: tuple[int, ...] | None = ()) -> None:
    """Raises unless `value` is a typed random key (of this shape; None for any shape)."""
    if not (hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)):
        raise TypeError(
            f"{name} must be a typed random key such as jax.random.key(0), got {value!r:.80}"
        )
    if shape is not None and value.shape != shape:
        raise ValueError(f"{name} must be a key of shape {shape}, got shape {value.shape}")


def finite(name: str, value: Any) -> None:
    """Raises if a floating-point leaf holds NaN or inf. Traced values pass."""
    if not trees.is_concrete(value):
        return
    with jax.ensure_compile_time_eval():  # under jit, operations on constants would be traced
        good = bool(_all_finite(value))
    if not good:
        raise ValueError(f"{name} must be finite, got NaN or inf in it")


def symmetric(name: str, value: Any) -> None:
    """Raises unless matrices (..., N, N) are symmetric, to rounding. Traced ones pass."""
    if not trees.is_concrete(value):
        return
    matrix = np.asarray(value)
    apart = np.abs(matrix - np.swapaxes(matrix, -1, -2)).max(initial=0.0)
    if apart > ROUNDING * np.abs(matrix).max(initial=0.0):
        raise ValueError(f"{name} must be symmetric, got entries {apart:.3g} apart")


def semidefinite(name: str, eigenvalues: Any) -> None:
    """Raises where a matrix has eigenvalues (..., N) below 0, to rounding. Traced ones pass."""
    if not trees.is_concrete(eigenvalues):
        return
    values = np.asarray(eigenvalues)
    if np.any(values.min(-1) < -ROUNDING * np.abs(values).max(-1)):
        raise ValueError(
            f"{name} must have no negative eigenvalue, got {values.min():.3g} beside "
            f"{values.max():.3g}"
        )


_all_finite = jax.jit(trees.all_finite)  # leaf by leaf, every shape would be compiled on its own


def same_structure(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Raises unless two pytrees have the same structure and leaf shapes."""
    shapes = [jax.tree.map(np.shape, t) for t in (tree, reference)]
    if jax.tree.flatten(shapes[0]) != jax.tree.flatten(shapes[1]):
        raise ValueError(
            f"{name} must have the structure and shapes of {reference_name}, "
            f"got {_brief(shapes[0])} instead of {_brief(shapes[1])}"
        )


def _brief(shapes: Any) -> str:
    text = str(shapes)
    return text if len(text) < 300 else text[:300] + " ..."

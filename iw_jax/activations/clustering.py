"""How activations cluster: what compression in noisy networks looks like."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks
from iw_jax.activations.mixture import (
    coarse_and_fine,
    log_peak,
    mixture_log_density,
    squared_distances,
)
from iw_jax.trees import record

_CHUNK = 256  # rows that are compared with all others at the same time
_dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@record
class PairHistogram:
    """How the pairs of different rows are distributed over bins, as densities.

    Attributes:
      edges: of the bins, (B + 1,).
      within: of pairs with the same label, (B,); integrates to 1 over the bins if all lie inside.
      between: of pairs with different labels, (B,).
      mean_within: mean over all pairs with the same label.
      mean_between: of those with different ones.
    """

    edges: jax.Array
    within: jax.Array
    between: jax.Array
    mean_within: jax.Array
    mean_between: jax.Array


def distance_histogram(activations: Any, labels: Any, *, edges: Any) -> PairHistogram:
    """Euclidean distances of all pairs.

    Memory does not grow with N².

    Args:
      activations: (N, d), at least 2.
      labels: integers (N,).
      edges: of the bins, increasing, (B + 1,).

    References:
      Goldfeld et al., arXiv:1810.05728, Fig. 4.
    """
    return _histogram(_distances, *_checked(activations, labels), _checked_edges(edges))


def cosine_histogram(activations: Any, labels: Any, *, edges: Any = None) -> PairHistogram:
    """Cosine similarities of all pairs.

    Args:
      activations: (N, d), at least 2, none of them 0 (whose similarity would be taken for 0).
      labels: integers (N,).
      edges: of the bins, increasing, (B + 1,); None for 100 bins from -1 to 1.

    References:
      Goldfeld et al., arXiv:1810.05728, Fig. 5.
    """
    edges = np.linspace(-1, 1, 101) if edges is None else edges
    return _histogram(_cosines, *_checked(activations, labels), _checked_edges(edges))


def neighbour_purity(activations: Any, labels: Any, *, num_neighbours: int = 10) -> jax.Array:
    """Mean share of the k nearest neighbours that have the label of their centre; scalar.

    Args:
      activations: (N, d).
      labels: integers (N,).
      num_neighbours: k, below N.
    """
    activations, labels = _checked(activations, labels)
    checks.at_least("num_neighbours", num_neighbours, 1)
    if num_neighbours >= len(activations):
        raise ValueError(
            f"num_neighbours must be below N = {len(activations)}, got {num_neighbours}"
        )
    return _purity(activations, labels, num_neighbours)


def effective_clusters(activations: Any, sigma: Any) -> jax.Array:
    """How many clusters there are at resolution σ: 1 if all lie together, N if all lie apart.

    exp(-mean_i log mean_j exp(-|t_i - t_j|²/(2σ²))), the exponential of an upper bound of what a
    row under noise of width σ tells about which row it is.

    Args:
      activations: (N, d).
      sigma: σ.

    References:
      Leinster & Cobbold, Measuring diversity (Ecology 2012), order 1, with the similarity
      exp(-|t - s|²/(2σ²)); the bound is Kolchinsky & Tracey's (arXiv:1706.02419).
    """
    activations = jnp.asarray(activations, float)
    densities = mixture_log_density(activations, activations, sigma)
    return jnp.exp(log_peak(activations.shape[-1], sigma) - densities.mean())


def _checked(activations: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    activations, labels = jnp.asarray(activations, float), jnp.asarray(labels)
    if activations.ndim != 2 or len(activations) < 2 or labels.shape != activations.shape[:1]:
        raise ValueError(
            "activations must be (N, d) with N >= 2 and labels (N,), got "
            f"{activations.shape} and {labels.shape}"
        )
    checks.finite("activations", activations)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    return activations, labels


def _checked_edges(edges: Any) -> jax.Array:
    edges = np.asarray(edges, float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges must be at least two increasing numbers, got {edges!r:.80}")
    return jnp.asarray(edges)


def _distances(activations: jax.Array) -> Any:
    """Rows, and what gives the distances of one of them to all."""
    rows, all_rows, cell = coarse_and_fine(activations, activations)

    def measure(row: Any) -> jax.Array:
        squares = squared_distances(jax.tree.map(lambda x: x[None], row), all_rows)[0]
        return cell * jnp.sqrt(jnp.maximum(squares, 0.0))

    return rows, measure


def _cosines(activations: jax.Array) -> Any:
    """As `_distances`, for cosine similarities."""
    length = jnp.sqrt(jnp.square(activations).sum(1, keepdims=True))
    unit = activations / jnp.where(length > 0, length, 1.0)
    return unit, lambda row: jnp.clip(_dot(unit, row), -1.0, 1.0)


def _by_rows(function: Callable[..., Any], rows: Any, labels: jax.Array) -> Any:
    """function(row number, row, its label) of every row, so many at the same time."""
    at = jnp.arange(len(labels)), rows, labels
    return jax.lax.map(lambda x: function(*x), at, batch_size=min(_CHUNK, len(labels)))


@partial(jax.jit, static_argnums=0)
def _histogram(
    measures: Callable[..., Any], activations: jax.Array, labels: jax.Array, edges: jax.Array
) -> PairHistogram:
    rows, measure = measures(activations)
    bins = len(edges) - 1

    def of_row(number: jax.Array, row: Any, label: jax.Array) -> Any:
        values = measure(row)
        other = jnp.arange(len(labels)) != number
        inside = (values >= edges[0]) & (values <= edges[-1])
        place = jnp.clip(jnp.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
        found = []
        for pairs in (other & (labels == label), other & (labels != label)):
            counts = jnp.zeros(bins).at[place].add(pairs & inside)
            found.append((counts, pairs.sum(dtype=values.dtype), (values * pairs).sum()))
        return found

    sums = jax.tree.map(lambda x: x.sum(0), _by_rows(of_row, rows, labels))
    densities, means = [], []
    for counts, number, total in sums:
        densities.append(counts / jnp.maximum(number, 1) / jnp.diff(edges))
        means.append(total / number)  # nan where there is no such pair
    return PairHistogram(edges, *densities, *means)


@partial(jax.jit, static_argnums=2)
def _purity(activations: jax.Array, labels: jax.Array, num_neighbours: int) -> jax.Array:
    rows, measure = _distances(activations)

    def of_row(number: jax.Array, row: Any, label: jax.Array) -> jax.Array:
        distances = measure(row).at[number].set(jnp.inf)
        _, nearest = jax.lax.top_k(-distances, num_neighbours)
        return (labels[nearest] == label).mean(dtype=float)

    return _by_rows(of_row, rows, labels).mean()

r"""What each tensor of the weights contributes to a trace: tr f(A) = Σ_l tr E_l f(A).

E_l keeps the weights of tensor l. With f = h², h(A) on the space S of all products, z = S'p:

    tr E_l f(A) = tr h(A) E_l h(A) >= 0
    z'h(A) E_l h(A)z ≈ (h(T)p)' M_l (h(T)p),    M_l = S E_l S',    Σ_l M_l = I
"""

import collections
from collections.abc import Callable
from typing import Any

import numpy as np

from iw_jax import trees
from iw_jax.curvature import krylov
from iw_jax.curvature.dense import require_finite, to_dense
from iw_jax.curvature.growing import Growth, spectral_measure
from iw_jax.curvature.measure import SpectralMeasure
from iw_jax.curvature.operators import Operator
from iw_jax.curvature.quadrature import widened
from iw_jax.estimates import Estimate

Array = Any


@trees.record
class LayerTraces:
    """The same products as a `SpectralMeasure`, with where in the weights they are.

    Attributes:
      nodes: (k,), Ritz values.
      head: (r, k), coordinates of the deflated directions in the eigenvectors of T.
      probes: (P, k), those of the probes.
      parts: name of a tensor -> V'M_l V, (k, k).
      cost: products spent.
    """

    nodes: Array
    head: Array
    probes: Array
    parts: dict[str, Array]
    cost: Any

    def integrate(self, f: Callable[[Array], Array]) -> dict[str, Estimate]:
        """tr E_l f(A) of every tensor, for an f >= 0: mean over the probes and its error.

        Their sum is the Gauss rule of the whole. No bracket: what truncation leaves open is not
        known tensor by tensor.

        Args:
          f: (k,) eigenvalues -> (..., k) values; negative ones count as 0.
        """
        roots = np.sqrt(np.maximum(f(self.nodes), 0))
        kept = self.head.T @ self.head

        def of(part: Array) -> Estimate:
            exact = np.einsum("...i,ij,...j->...", roots, part * kept, roots)
            if not len(self.probes):
                return Estimate.exact(exact, self.cost)
            seen = roots[..., None, :] * self.probes  # (..., P, k)
            values = exact[..., None] + np.einsum("...i,...i->...", seen @ part, seen)
            mean = Estimate.mean_of(np.moveaxis(values, -1, 0))
            return trees.replace(mean, cost=self.cost)

        return {name: of(part) for name, part in self.parts.items()}


def spectral_measure_by_tensor(
    A: Operator, *, callback: Callable[[Growth], None] | None = None, **options: Any
) -> tuple[SpectralMeasure, LayerTraces]:
    """`spectral_measure`, and what each tensor contributes to it; not under `jit`.

    Args:
      A: a symmetric operator.
      callback: as for `spectral_measure`.
      **options: as for `spectral_measure`.
    """
    last: collections.deque[Growth] = collections.deque(maxlen=1)

    def keep(state: Growth) -> None:
        last.append(state)
        if callback is not None:
            callback(state)

    spectrum = spectral_measure(A, callback=keep, **options)
    return spectrum, layer_traces(A, last[0] if last else None)


def _places(A: Operator) -> dict[str, slice]:
    """Name of every tensor -> its place in a flat vector."""
    places, start = {}, 0
    for name, leaf in trees.by_name(A.like).items():
        places[name] = slice(start, start + leaf.size)
        start += leaf.size
    return places


def layer_traces(A: Operator, state: Growth | None = None) -> LayerTraces:
    """The contributions of all tensors, from the last state of a measurement.

    Args:
      A: the operator that was measured.
      state: as `spectral_measure` showed it last; None to take n products and be exact.

    Raises:
      ValueError: if a product holds NaN or inf.
    """
    if state is None:
        (matrix,) = widened(require_finite(to_dense(A)))
        nodes, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        parts = {name: vectors[at].T @ vectors[at] for name, at in _places(A).items()}
        return LayerTraces(nodes, vectors, np.zeros((0, A.size)), parts, A.size)
    filled, space = state.spent, state.space
    matrix, probes = widened(space.matrix[:filled, :filled], state.probes[:, :filled])
    nodes, vectors = np.linalg.eigh(matrix)
    parts = {}
    for name, at in _places(A).items():
        (overlaps,) = widened(krylov.gram(space.basis[:filled, at]))
        parts[name] = vectors.T @ overlaps @ vectors
    return LayerTraces(nodes, vectors[: state.head], probes @ vectors, parts, filled)

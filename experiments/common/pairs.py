"""How the pairs of hidden representations compare: columns of a table, and what they say.

Rows are those of a kind of network, a seed and a layer.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common import checks, tables
from experiments.common.tables import Rows

BINS = {"cosine": np.linspace(-1, 1, 41), "distance": np.linspace(0, 2.5, 51)}
PAIRS = ("within", "between")  # of the same class, of different ones
RESOLUTION = 0.25  # of the number of clusters, in units of the rms distance
NEIGHBOURS = 10
ROUNDED = 1e-3  # what four digits of a density may do to an integral


def measure(layers: Sequence[jax.Array], labels: jax.Array) -> dict[str, jax.Array]:
    """`layer_columns` of layers (N, ...), leaves (L, ...)."""
    rows = [t.reshape(len(t), -1) for t in layers]
    widest = max(t.shape[1] for t in rows)
    # Zeros change no cosine and no distance, and so one program serves all layers.
    alike = jnp.stack([jnp.pad(t, ((0, 0), (0, widest - t.shape[1]))) for t in rows])
    return jax.lax.map(lambda t: layer_columns(t, labels), alike)


def layer_columns(activations: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Histograms and means of cosines and distances, purity, number of clusters; of (N, d).

    Distances are in units of their root mean square over all pairs, so that no scale counts.
    """
    number = len(activations)
    square = 2 * activations.var(0).sum() * number / (number - 1)
    scaled = activations / jnp.sqrt(square)
    found = {
        "cosine": iw.cosine_histogram(activations, labels, edges=BINS["cosine"]),
        "distance": iw.distance_histogram(scaled, labels, edges=BINS["distance"]),
    }
    columns = {
        "rms_distance": jnp.sqrt(square),
        "neighbour_purity": iw.neighbour_purity(scaled, labels, num_neighbours=NEIGHBOURS),
        "effective_clusters": iw.effective_clusters(scaled, RESOLUTION),
    }
    for name, pairs in found.items():
        columns |= {f"{name}_{pair}_mean": getattr(pairs, f"mean_{pair}") for pair in PAIRS}
    for name, pairs in found.items():
        columns |= {f"{name}_{pair}_density": getattr(pairs, pair) for pair in PAIRS}
    return columns


def flat(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Columns: densities by the centres of their bins, four digits."""
    columns = {}
    for name, value in values.items():
        if np.ndim(value) == 0:
            columns[name] = float(value)
            continue
        columns |= {
            f"{name}_at_{centre:.3f}": float(f"{density:.4g}")
            for centre, density in zip(centres(name), value, strict=True)
        }
    return columns


def centres(name: str) -> np.ndarray:
    """Of the bins of a histogram whose name begins with what it measures."""
    edges = BINS[name.partition("_")[0]]
    return (edges[1:] + edges[:-1]) / 2


def column(rows: Rows, name: str, kind: str) -> np.ndarray:
    """A column of a kind, (L, S)."""
    return tables.grid(rows, name, axes=("layer", "seed"), kind=kind)


def density(rows: Rows, name: str, kind: str) -> np.ndarray:
    """A histogram of a kind, such as `cosine_within`, (bins, L, S); its integral is 1."""
    return np.stack(
        [column(rows, f"{name}_density_at_{centre:.3f}", kind) for centre in centres(name)]
    )


def contrast(rows: Rows, kind: str) -> np.ndarray:
    """Mean cosine within classes less that between classes, (L, S)."""
    within, between = (column(rows, f"cosine_{pair}_mean", kind) for pair in PAIRS)
    return within - between


def moved(rows: Rows, kind: str, other: str, shift: int = 0) -> np.ndarray:
    """How far histograms of cosines of two kinds are apart, (L, S): earth mover's distance.

    The mean of those within and between classes; in units of the cosine.

    Args:
      rows: of the table.
      kind: one kind.
      other: the other.
      shift: of its seeds; networks of equal seed have the same start and minibatches.
    """
    width = np.diff(BINS["cosine"])[0]
    apart = []
    for pair in PAIRS:
        own, its = (density(rows, f"cosine_{pair}", k) for k in (kind, other))
        difference = np.cumsum(own - np.roll(its, shift, axis=-1), axis=0) * width
        apart.append(np.abs(difference).sum(0) * width)
    return np.mean(apart, axis=0)


def check_histograms(rows: Rows, kinds: Sequence[str]) -> checks.Check:
    """Integrals, and means of histograms beside those over all pairs: off by half a bin at most."""
    inside, off = [], []
    for name, pair, kind in itertools.product(BINS, PAIRS, kinds):
        width = np.diff(BINS[name])[0]
        shares = density(rows, f"{name}_{pair}", kind) * width
        mean = np.tensordot(centres(name), shares, 1)
        inside.append(np.abs(shares.sum(0) - 1).max())
        off.append(np.abs(mean - column(rows, f"{name}_{pair}_mean", kind)).max() / width)
    return checks.Check(
        "histograms integrate to 1, and their means are those over all pairs",
        bool(max(inside) < ROUNDED and max(off) < 0.5 + ROUNDED / width),
        f"off by at most {max(inside):.2g}, and by {max(off):.2g} of a bin",
    )

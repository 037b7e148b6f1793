"""What binned activations of a network without noise show: clusters, at the scale of the bins.

Such a network maps every input to a point of its own, so that it loses nothing at any layer, at any
time. H(Bin(T)) nevertheless moves during training, and how depends on the bins: fine ones hold one
input each and stay at H(X), until tanh saturates; coarse ones see inputs move together and apart.
So does the effective number of clusters at the same scale, which needs no bins.

Default: three networks, about 3 minutes on 2 CPU cores. Paper: Goldfeld et al. (arXiv:1810.05728),
Sec. 6, on the network and the labels of `noisy_szt`.
"""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

import iw_jax as iw
from experiments.common import checks, cost, style, szt, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

FINEST = 0.99  # of H(X): what the finest bins show of the first layer at least


@dataclasses.dataclass(frozen=True)
class Config(szt.Config):
    """What is binned.

    Attributes:
      sigma: has no use here: there is no noise.
      bin_widths: of the bins, along every unit; increasing.
      num_neighbours: k of the purity of neighbourhoods.
    """

    num_seeds: int = 3
    bin_widths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    num_neighbours: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        common.at_least(self, num_neighbours=1)
        rising = list(self.bin_widths) == sorted(set(self.bin_widths))
        common.require(
            rising and all(0 < w < np.inf for w in self.bin_widths) and len(self.bin_widths) > 1,
            "bin_widths",
            "at least two, positive and increasing",
            self.bin_widths,
        )


PRESETS = {
    "quick": Config(num_epochs=60, num_times=4, num_seeds=1),
    "default": Config(),
    "paper": Config(num_times=100, num_seeds=20),
}

load = szt.load


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What training will take; see `common.cost`."""
    return [szt.stage(config, dataset)]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each seed, epoch, hidden layer and width."""
    history = szt.train(config, dataset, context, sigma=0.0)
    inputs, labels = szt.all_of(dataset)
    epochs = szt.epochs(config)
    rows = []
    for seed, time in context.track(
        list(itertools.product(range(config.num_seeds), range(len(epochs)))), "binning"
    ):
        params = jax.tree.map(lambda w, at=(time, seed): w[at], history)
        activations = szt.activations(config, params, inputs)
        last = iw.neighbour_purity(activations[-1], labels, num_neighbours=config.num_neighbours)
        for layer, t in enumerate(activations):
            for width in config.bin_widths:
                rows.append(
                    {
                        "seed": seed,
                        "epoch": epochs[time],
                        "layer": layer + 1,
                        "bin_width": width,
                        "binned_entropy_nats": iw.binned_entropy(t, width),
                        "binned_label_information_nats": iw.binned_label_information(
                            t, labels, width
                        ),
                        "effective_clusters": float(iw.effective_clusters(t, width)),
                        "last_layer_neighbour_purity": float(last),
                        "num_inputs": len(inputs),
                    }
                )
    return rows


# ------------------------------------------------------------------------------------ reading


def curves(rows: Rows, name: str, width: float) -> np.ndarray:
    """A column as (seeds, epochs, layers)."""
    return tables.grid(rows, name, axes=("seed", "epoch", "layer"), bin_width=width)


def widths(rows: Rows) -> list[float]:
    """Of the bins, increasing."""
    return sorted({row["bin_width"] for row in rows})


def summarize(rows: Rows, _: Config) -> dict[str, Any]:
    """How far the entropy of each layer falls from its peak, for every width."""
    found: dict[str, Any] = {
        "ceiling_nats": tables.rounded(np.log(rows[0]["num_inputs"])),
        "correlation_with_log_clusters": tables.rounded(_agreement(rows)),
    }
    for width in widths(rows):
        entropy = curves(rows, "binned_entropy_nats", width)
        fall = (entropy.max(1) - entropy[:, -1]).mean(0)
        found[f"fall_from_the_peak_nats_width_{width:g}"] = [tables.rounded(f) for f in fall]
    purity = curves(rows, "last_layer_neighbour_purity", widths(rows)[0])
    found["neighbour_purity_last_layer"] = {
        "first": tables.spread(purity[:, 0, -1]),
        "last": tables.spread(purity[:, -1, -1]),
    }
    return found


def _agreement(rows: Rows) -> float:
    """Correlation of H(Bin) with the log of the number of clusters, over all cells."""
    entropy, clusters = (
        tables.column(rows, name) for name in ("binned_entropy_nats", "effective_clusters")
    )
    return float(np.corrcoef(entropy, np.log(clusters))[0, 1])


def check(rows: Rows, _: Config) -> list[checks.Check]:
    """What holds whatever the network does, and what the experiment is about."""
    ceiling = float(np.log(rows[0]["num_inputs"]))
    all_widths = widths(rows)
    entropy = np.stack([curves(rows, "binned_entropy_nats", w) for w in all_widths])
    label = np.stack([curves(rows, "binned_label_information_nats", w) for w in all_widths])
    # Bins of ten times the width are unions of bins; so are those of whole multiples.
    ratios = np.divide(all_widths[1:], all_widths[:-1])
    nested = np.isclose(ratios, ratios.round(), rtol=1e-9)
    rise = np.diff(entropy, axis=0)[nested].max(initial=-np.inf)
    found = [
        checks.Check(
            "0 <= I(Y;Bin) <= H(Bin) <= H(X)",
            bool(
                (label > -1e-9).all()
                and (label <= entropy + 1e-9).all()
                and (entropy <= ceiling + 1e-9).all()
            ),
            f"H(X) = {ceiling:.4g} nats, largest H(Bin) {entropy.max():.4g}",
        ),
        checks.Check(
            "wider bins that are unions of narrower ones have no more entropy",
            # Edges are multiples of the widths up to rounding, which can move a point or two.
            bool(rise <= 1e-3),
            f"largest rise {rise:.2g} nats" if nested.any() else "no width divides the next",
        ),
    ]
    first = entropy[0, :, :, 0]
    found.append(
        checks.Check(
            f"the finest bins show the first layer at H(X), at least {100 * FINEST:g} % of it",
            bool(first.min() >= FINEST * ceiling),
            f"smallest {first.min() / ceiling:.4f} of it; narrower --bin-widths would come nearer",
        )
    )
    return found


def table(rows: Rows) -> str:
    """H(Bin) of the last layer, averaged over seeds, at a few epochs."""
    epochs = sorted({row["epoch"] for row in rows})
    last = [curves(rows, "binned_entropy_nats", w)[:, :, -1].mean(0) for w in widths(rows)]
    purity = curves(rows, "last_layer_neighbour_purity", widths(rows)[0])[:, :, -1].mean(0)
    names = [f"b={w:g}" for w in widths(rows)]
    lines = [
        "H(Bin(T)) of the last hidden layer, nats; purity of neighbourhoods",
        f"{'epoch':>7}" + "".join(f"{name:>10}" for name in names) + f"{'purity':>9}",
    ]
    for i in np.unique(np.linspace(0, len(epochs) - 1, 14).round().astype(int)):
        values = "".join(f"{column[i]:10.3f}" for column in last)
        lines.append(f"{epochs[i]:>7}{values}{purity[i]:9.3f}")
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Above what bins show, below the clusters at that scale; a column for each width."""
    import matplotlib.pyplot as plt

    epochs = sorted({row["epoch"] for row in rows})
    all_widths = widths(rows)
    ceiling = np.log(rows[0]["num_inputs"])
    figure, axes = plt.subplots(
        2, len(all_widths), figsize=(3 * len(all_widths), 5.6), sharex=True, sharey=True
    )
    layers = curves(rows, "binned_entropy_nats", all_widths[0]).shape[2]
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, layers))
    for width, (above, below) in zip(all_widths, axes.T, strict=True):
        entropy = curves(rows, "binned_entropy_nats", width)
        clusters = np.log(curves(rows, "effective_clusters", width))
        for axis, values in ((above, entropy), (below, clusters)):
            for layer, colour in enumerate(colours):
                style.band(
                    axis, epochs, values[:, :, layer].T, color=colour, label=f"layer {layer + 1}"
                )
            axis.axhline(ceiling, color="black", linestyle=":", linewidth=1)
            axis.set(xscale="log", ylim=(0, 1.08 * ceiling))
        above.set(title=f"bins of {width:g}")
        below.set(title=f"clusters at σ = {width:g}", xlabel="epoch")
    axes[0, 0].set(ylabel="H(Bin(T))  (nats)")
    axes[1, 0].set(ylabel="log of effective clusters  (nats)")
    axes[0, 0].text(epochs[0], ceiling, "H(X)", va="bottom", fontsize=8)
    axes[0, 0].legend(fontsize=8, loc="lower left")
    labels = "original labels" if config.szt_file else "built-in rule"
    figure.suptitle(
        f"deterministic 12-{'-'.join(map(str, config.widths))}-2 {config.activation}, {labels}; "
        f"mean and range of {config.num_seeds} seeds",
        fontsize=10,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.binning")

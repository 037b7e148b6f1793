"""What the hidden layers of a noisy network know of its input, while it learns 12 bits' label.

Every hidden layer has Gaussian noise, in training too, so that I(X; T) is finite and depends on the
weights. In narrow tanh layers it rises early and falls later, while the network still learns: not
since inputs are forgotten one by one, but since those of a class come to lie together, in the
corners of the cube. With rows kept orthonormal (--orthonormal) it does not fall, and the network
generalises as well.

Default: five networks, about 4 minutes on 2 CPU cores. Paper: Goldfeld et al. (arXiv:1810.05728),
Figs. 2 to 4; labels by a built-in rule, or the original ones from a file.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import checks, cost, noisy, style, szt, tables
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

SCATTERS, SHOWN = 4, 1024  # epochs, and patterns, of the scatter plots


Config = noisy.Config
PRESETS = {
    "quick": Config(num_times=4, **noisy.QUICK),
    "default": Config(),
    "paper": Config(**noisy.PAPER),
}

load = szt.load


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What training will take; see `common.cost`."""
    return [szt.stage(config, dataset)]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each seed, epoch and hidden layer."""
    history = szt.train(config, dataset, context, config.sigma)
    fits = {
        name: szt.fits(history, config.activation, jnp.asarray(inputs), jnp.asarray(targets))
        for name, inputs, targets in (
            ("train", dataset.train_inputs, dataset.train_targets),
            ("test", dataset.test_inputs, dataset.test_targets),
        )
    }
    epochs, ledger = szt.epochs(config), context.ledger("information")
    shown = _scattered(epochs)
    rows = []
    cells = list(itertools.product(range(config.num_seeds), range(len(epochs))))
    for seed, time in context.track(cells, "information"):
        params = jax.tree.map(lambda w, at=(time, seed): w[at], history)
        found = ledger.get(
            f"{seed}-{time}",
            lambda s=seed, t=time, p=params: noisy.measure(config, dataset, p, s, t),
        )
        scatter = ""
        if seed == 0 and epochs[time] in shown:
            last = szt.activations(config, params, szt.all_of(dataset)[0])[-1]
            scatter = _hex(_squashed(last[_kept(config)], config))
        for layer, values in enumerate(found):
            rows.append(
                {
                    "seed": seed,
                    "epoch": epochs[time],
                    "layer": layer + 1,
                    "units": config.widths[layer],
                    **{
                        f"{part}_{what}": float(fits[part][i][time, seed])
                        for part in fits
                        for i, what in enumerate(("loss_nats_per_label", "accuracy"))
                    },
                    **values,
                    "scatter": scatter if layer == len(found) - 1 else "",
                }
            )
    return rows


def _scattered(epochs: list[int]) -> list[int]:
    """Epochs of the scatter plots: the first, the last, and between."""
    places = np.linspace(0, len(epochs) - 1, min(SCATTERS, len(epochs))).round().astype(int)
    return [epochs[i] for i in places]


def _kept(config: Config) -> np.ndarray:
    """Patterns in the scatter plots."""
    number = 2 ** data.szt().train_inputs.shape[1]
    return np.random.default_rng((config.seed, 2)).permutation(number)[:SHOWN]


def _squashed(t: Any, config: Config) -> np.ndarray:
    """Activations as they are drawn, from -1 to 1: t, or t/(1 + |t|) where they have no bounds."""
    return np.asarray(t if config.activation == "tanh" else t / (1 + np.abs(t)))


def _hex(points: np.ndarray) -> str:
    """Numbers from -1 to 1 in 255 steps, a byte each."""
    return np.uint8(np.round(127 + 127 * points)).tobytes().hex()


def _points(text: str, units: int) -> np.ndarray:
    """(SHOWN, units), from `_hex`."""
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, units) / 127.0 - 1


# ------------------------------------------------------------------------------------ reading


def curves(rows: Rows, name: str) -> np.ndarray:
    """A column as (seeds, epochs, layers)."""
    return tables.grid(rows, name, axes=noisy.AXES)


def shape(curve: np.ndarray) -> dict[str, float]:
    """Where a curve over epochs turns, for every seed: (S, E) to (S,) each.

    Attributes:
      peak: the highest value.
      fall: from there to the end.
      dips: falls and rises again of at least a tenth of the peak, before the end.
    """
    peak = curve.max(1)
    dips = [_turns(c, 0.1 * c.max()) for c in curve]
    return {"peak": peak, "fall": peak - curve[:, -1], "dips": np.array(dips, float)}


def _turns(curve: np.ndarray, size: float) -> int:
    """How often a curve falls, and then rises, by at least `size`."""
    found, highest, lowest = 0, curve[0], np.inf
    for value in curve:
        if lowest < np.inf and value - lowest >= size:
            found, highest, lowest = found + 1, value, np.inf
        elif highest - value >= size:
            lowest = min(lowest, value)
        highest = max(highest, value)
    return found


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """How high the information in each layer rises, how far it falls, and how the networks fit."""
    information = curves(rows, "input_information_nats")
    found: dict[str, Any] = {
        "labels": "built-in rule, not those of Shwartz-Ziv & Tishby"
        if not config.szt_file
        else "original",
        "ceiling_nats": tables.rounded(curves(rows, "input_entropy_nats").mean()),
    }
    for layer in range(information.shape[2]):
        turns = shape(information[:, :, layer])
        found[f"layer_{layer + 1}"] = {
            "peak_nats": tables.spread(turns["peak"]),
            "last_nats": tables.spread(information[:, -1, layer]),
            "fall_nats": tables.spread(turns["fall"]),
            "seeds_that_dip_and_rise_again": int((turns["dips"] > 0).sum()),
        }
    for part in ("train", "test"):
        found[f"{part}_accuracy"] = tables.spread(curves(rows, f"{part}_accuracy")[:, -1, 0])
    loss = curves(rows, "test_loss_nats_per_label")[:, :, 0]
    found["test_loss_above_its_minimum_nats"] = tables.spread(loss[:, -1] - loss.min(1))
    return found


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Data processing, ceilings; two ways to measure agree."""
    return noisy.check(rows, config)


def table(rows: Rows) -> str:
    """I(X; T) of every layer, averaged over seeds, at a few epochs."""
    information = curves(rows, "input_information_nats").mean(0)
    epochs = sorted({row["epoch"] for row in rows})
    layers = "".join(f"{f'I(X;T{i + 1})':>9}" for i in range(information.shape[1]))
    lines = [f"{'epoch':>7}{layers}{'train':>8}{'test':>8}"]
    accuracy = [curves(rows, f"{part}_accuracy")[:, :, 0].mean(0) for part in ("train", "test")]
    for i in np.unique(np.linspace(0, len(epochs) - 1, 14).round().astype(int)):
        values = "".join(f"{v:9.3f}" for v in information[i])
        lines.append(f"{epochs[i]:>7}{values}{accuracy[0][i]:8.3f}{accuracy[1][i]:8.3f}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- figure


def plot(rows: Rows, config: Config) -> Any:
    """Information, losses and accuracies over epochs; where the last hidden layer puts inputs."""
    import matplotlib.pyplot as plt

    epochs = sorted({row["epoch"] for row in rows})
    information = curves(rows, "input_information_nats")
    shown = [row for row in rows if row["scatter"]]
    figure = plt.figure(figsize=(12, 7.4))
    above, below = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    axes = above.subplots(1, 4)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, information.shape[2]))
    for name, axis, title in (
        ("input", axes[0], "I(X;T), mean and range of seeds"),
        ("label", axes[2], "I(Y;T)"),
    ):
        values = curves(rows, f"{name}_information_nats")
        for layer, colour in enumerate(colours):
            style.band(
                axis, epochs, values[:, :, layer].T, color=colour, label=f"layer {layer + 1}"
            )
        ceiling = curves(rows, f"{name}_entropy_nats").mean()
        axis.axhline(ceiling, color="black", linestyle=":", linewidth=1)
        symbol = "H(X)" if name == "input" else "H(Y)"
        axis.text(epochs[0], ceiling, symbol, va="bottom", fontsize=8)
        axis.set(title=title, ylabel="nats", ylim=(0, 1.08 * ceiling))
    for seed, curve in enumerate(information[:, :, -1]):
        axes[1].plot(
            epochs, curve, color=colours[-1], linewidth=1, label="last layer" if not seed else None
        )
        if information.shape[2] > 1:
            axes[1].plot(
                epochs, information[seed, :, -2], color=colours[-2], linewidth=1, linestyle="--",
                label="layer before" if not seed else None,
            )  # fmt: skip
    axes[1].set(title="I(X;T), seed by seed", ylim=axes[0].get_ylim())
    for part, colour in (("train", style.BLUE), ("test", style.ORANGE)):
        loss, accuracy = (
            curves(rows, f"{part}_{what}")[:, :, 0].T
            for what in ("loss_nats_per_label", "accuracy")
        )
        style.band(axes[3], epochs, loss, color=colour, label=f"loss, {part} (nats)")
        style.band(
            axes[3], epochs, 1 - accuracy, color=colour, linestyle="--", label=f"error, {part}"
        )
    axes[3].set(title="fit without noise", ylim=(0, None))
    for axis in axes:
        axis.set(xscale="log", xlabel="epoch")
    axes[1].legend(fontsize=8)
    axes[3].legend(fontsize=8)
    above.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    _scatter(below, shown, config)
    labels = "original labels" if config.szt_file else "built-in rule"
    labels += ", shuffled" if config.shuffled_labels else ""
    extra = ", orthonormal rows" if config.orthonormal else ""
    figure.suptitle(
        f"12-{'-'.join(map(str, config.widths))}-2 {config.activation}, σ = {config.sigma:g}, "
        f"{labels}{extra}; {config.num_seeds} seeds",
        fontsize=10,
    )
    return figure


def _scatter(figure: Any, shown: Rows, config: Config) -> None:
    """The last hidden layer without noise, its first three units, seed 0."""
    drawn = "" if config.activation == "tanh" else ", t/(1 + |t|)"
    labels = np.asarray(szt.all_of(szt.load(config, None))[1])[_kept(config)]
    for i, row in enumerate(shown):
        points = _points(row["scatter"], row["units"])
        flat = points.shape[1] < 3
        axis = figure.add_subplot(1, len(shown), i + 1, projection=None if flat else "3d")
        for y, colour, marker in ((0, style.BLUE, "o"), (1, style.ORANGE, "^")):
            own = points[labels == y][:, :3].T
            own = own if len(own) > 1 else np.stack([own[0], np.zeros_like(own[0])])
            axis.scatter(
                *own, s=5, color=colour, marker=marker, alpha=0.5, linewidths=0, label=f"y = {y}"
            )
        axis.set(title=f"epoch {row['epoch']}{drawn}", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
        if not flat:
            axis.set(zlim=(-1.05, 1.05), zticks=(-1, 0, 1))
        axis.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axis.tick_params(labelsize=7, pad=0)
        if not flat:
            axis.view_init(elev=22, azim=-125)
        if i == 0:
            axis.legend(fontsize=8, loc="upper left")


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.noisy_szt")

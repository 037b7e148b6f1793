"""The Fisher information while a network learns: bumps as features form, and a fall by saturation.

A small network is trained by SGD on points in the plane. At epochs that grow geometrically: the
trace of its Fisher F, and ½ log det(I + λ²F) for several λ (F is singular: without the damping
there is nothing to plot, and λ sets what is seen). Logits that grow make F fall without any change
of a decision, so the trace stands beside that of the same network at a matched temperature. From
the usual random start, which has features already, and from a smaller one.

Default: about a minute on 2 CPU cores. Paper: Achille, Paolini & Soatto (arXiv:1905.12213), Fig. 1.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import checks, cost, descent, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.descent import half_logdet
from experiments.common.tables import Rows
from iw_jax import data


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: points (in the plane, two classes), digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      network: mlp (tanh), small_alexnet, all_cnn or resnet18.
      widths: hidden units of the mlp.
      starts: factors on the initial weights; decreasing, from 1.
      num_seeds: networks for each, with a start and minibatches of their own.
      num_steps: SGD steps.
      batch_size: examples a step.
      learning_rate: of the mean loss; constant.
      num_stops: how often the Fisher is measured, epochs growing geometrically.
      prior_scales: λ of ½ log det(I + λ²F); increasing.
      num_matvecs: curvature products allowed for a network; exact if it has no more weights.
      seed: root of all randomness.
    """

    dataset: str = "points"
    num_examples: int = 200
    network: str = "mlp"
    widths: tuple[int, ...] = (16, 16)
    starts: tuple[float, ...] = (1.0, 0.3)
    num_seeds: int = 5
    num_steps: int = 30_000
    batch_size: int = 20
    learning_rate: float = 0.1
    num_stops: int = 22
    prior_scales: tuple[float, ...] = (0.1, 1.0, 10.0)
    num_matvecs: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self, common.WITH_POINTS)
        if self.starts[:1] != (1.0,) or min(self.starts) <= 0 or np.any(np.diff(self.starts) >= 0):
            raise ValueError(f"starts must be positive and decrease from 1, got {self.starts}")
        common.at_least(self, num_seeds=2, num_stops=3)


PRESETS = {
    "quick": Config(num_examples=100, widths=(8, 8), num_seeds=2, num_steps=3000, num_stops=5),
    "default": Config(),
    "paper": Config(
        num_examples=1000,
        widths=(64, 64),
        num_seeds=20,
        num_steps=300_000,
        batch_size=50,
        num_stops=60,
        num_matvecs=8192,
    ),
}
FITTED = 0.95  # training accuracy from which on what falls is no longer due to learning much
LOOKS = ((style.BLUE, "-"), (style.ORANGE, "--"), (style.GREEN, "-."), (style.GREY, ":"))


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels."""
    return common.load(config, data_dir, config.num_examples)


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    network = common.network(config, dataset.num_classes, "tanh")
    task = descent.pool(network, dataset)
    return [
        cost.descent(
            network,
            task,
            config,
            networks=len(config.starts) * config.num_seeds,
            num_matvecs=config.num_matvecs,
            spectra=descent.SPECTRA * config.num_stops,
        )
    ]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each start, seed and stop."""
    network = common.network(config, dataset.num_classes, "tanh")
    task = descent.pool(network, dataset)
    count = task.num_examples
    making, probing = jax.random.split(jax.random.key(config.seed))
    places = np.repeat(config.starts, config.num_seeds)
    everybody = np.tile(np.arange(count), (len(places), 1))
    members = descent.family(making, network, task, everybody, count)
    shrink = jax.vmap(lambda factor, w: jax.tree.map(lambda x: factor * x, w))
    members = dataclasses.replace(members, params=shrink(jnp.asarray(places), members.params))
    steps = np.geomspace(1, config.num_steps, config.num_stops - 1).round().astype(int)
    stops = [0, *np.unique(steps).tolist()]
    weights = descent.path(
        context, task, members, stops, micro=config.batch_size, rate=config.learning_rate
    )
    ledger, rows = context.ledger("fisher"), []

    def columns(stop: int, member: int) -> dict[str, Any]:
        return descent.fisher_columns(
            task,
            jax.tree.map(lambda w: w[stop, member], weights),
            prior_scales=config.prior_scales,
            key=jax.random.fold_in(probing, member),
            num_matvecs=config.num_matvecs,
        )

    for stop, member in context.track(list(np.ndindex(len(stops), len(places))), "fisher"):
        found = ledger.get(f"{stop} {member}", partial(columns, stop, member))
        where = {"start": float(places[member]), "seed": member % config.num_seeds}
        rows.append({**where, "epoch": stops[stop] * config.batch_size / count, **found})
    return rows


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, name: str, start: float) -> np.ndarray:
    """One column, (stops, seeds), epochs increasing."""
    return tables.grid(rows, name, axes=("epoch", "seed"), start=start)


def quantities(config: Config) -> list[str]:
    """The columns that Fig. 1 is about."""
    scales = [half_logdet(scale) for scale in config.prior_scales]
    return ["trace_per_label", "matched_trace_per_label", *scales]


def story(rows: Rows, name: str, start: float) -> dict[str, Any]:
    """The largest rise of log(quantity), and its fall once the data are fitted to 95 %.

    The ends of the rise of a seed are those of the mean over the other seeds, so that no noise is
    taken for a rise. Told beside it, since bumps of different seeds need not coincide: the largest
    rise of every seed alone, smoothed over three stops, which is never below 0.
    """
    logs = np.log(column(rows, name, start))[1:]  # before the first step nothing is learned
    accuracy, epochs = (column(rows, c, start).mean(1)[1:] for c in ("accuracy", "epoch"))
    low, high = _largest_rise(logs.mean(1))
    seeds = range(logs.shape[1])
    others = [_largest_rise(np.delete(logs, seed, axis=1).mean(1)) for seed in seeds]
    rises = [logs[end, seed] - logs[begin, seed] for seed, (begin, end) in enumerate(others)]
    fitted = int(np.argmax(accuracy >= min(FITTED, accuracy.max())))
    smooth = (logs[:-2] + logs[1:-1] + logs[2:]) / 3 if len(logs) > 2 else logs
    each = [own[end] - own[begin] for own in smooth.T for begin, end in [_largest_rise(own)]]
    return {
        "log_rise": tables.mean_and_stderr(np.array(rises)),
        "rise_epochs": [tables.rounded(epochs[i]) for i in (low, high)],
        "rise_accuracies": [tables.rounded(accuracy[i]) for i in (low, high)],
        "log_rise_of_a_seed": tables.mean_and_stderr(np.array(each)),
        "log_fall_once_fitted": tables.mean_and_stderr(logs[fitted] - logs[-1]),
    }


def _largest_rise(curve: np.ndarray) -> tuple[int, int]:
    """Where a curve (T,) is lowest and highest, in this order, around its largest rise."""
    rises = np.triu(curve[None, :] - curve[:, None])  # from row to column
    low, high = np.unravel_index(np.argmax(rises), rises.shape)
    return int(low), int(high)


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """The paper's two claims for every start and quantity: a bump, and a fall at the end."""
    stories = {
        f"start_{start:g}": {name: story(rows, name, start) for name in quantities(config)}
        for start in config.starts
    }
    seen = {
        said: {
            start: {name: own[key][0] > 3 * own[key][1] for name, own in by_name.items()}
            for start, by_name in stories.items()
        }
        for said, key in (("bump", "log_rise"), ("falls_at_the_end", "log_fall_once_fitted"))
    }
    return {**stories, **seen}


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether log-determinants and traces fit together, and the networks learn."""
    begin, end = (
        np.array([column(rows, "accuracy", start)[i].mean() for start in config.starts])
        for i in (0, -1)
    )
    return [
        *descent.check_logdets(rows, config.prior_scales),
        checks.Check(
            "the networks learn, from every start",
            bool(np.all(end > begin)),
            f"accuracy {begin.round(3)} before, {end.round(3)} after training",
        ),
    ]


def table(rows: Rows) -> str:
    """Means over seeds along the epochs."""
    names = [n for n in rows[0] if n.endswith("trace_per_label") or n.startswith("half_logdet")]
    names = ["accuracy", "temperature"] + [n for n in names if not n.endswith("er")]
    heads = [
        n.replace("half_logdet_nats_scale_", "½logdet λ=").replace("_per_label", "/N")
        for n in names
    ]
    lines = [f"{'start':>5} {'epoch':>9} " + " ".join(f"{head:>16}" for head in heads)]
    for start in sorted({row["start"] for row in rows}, reverse=True):
        epochs, *columns = (column(rows, n, start).mean(1) for n in ("epoch", *names))
        for i in range(0, len(epochs), max(len(epochs) // 8, 1)):
            lines.append(
                f"{start:5g} {epochs[i]:9.3g} " + " ".join(f"{c[i]:16.4g}" for c in columns)
            )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Traces, log-determinants, and how well the networks fit, against epochs; a row a start."""
    import matplotlib.pyplot as plt

    shape = len(config.starts), 3
    figure, axes = plt.subplots(
        *shape, figsize=(12, 0.7 + 2.9 * shape[0]), sharex=True, sharey="col", squeeze=False
    )
    for start, (traces, volumes, fit) in zip(config.starts, axes, strict=True):
        series = {n: column(rows, n, start)[1:] for n in rows[0] if n not in ("start", "ended_by")}
        epoch = series["epoch"].mean(1)
        curves = (
            (traces, "trace_per_label", "tr F/N", 0),
            (traces, "matched_trace_per_label", "tr F/N at the matched temperature", 1),
            (fit, "loss_nats_per_label", "loss, nats a label", 0),
            (fit, "error", "error, part of the examples", 1),
        )
        series["error"] = 1 - series["accuracy"]
        for axis, name, label, look in curves:
            colour, dash = LOOKS[look]
            style.band(axis, epoch, series[name], color=colour, linestyle=dash, label=label)
            axis.set_yscale("log")
        for scale, (colour, dash) in zip(config.prior_scales, LOOKS, strict=False):
            values = series[half_logdet(scale)]
            largest = values.mean(1).max()
            label = f"λ = {scale:g} (1 is {largest:.3g} nats)"
            volumes.plot(epoch, values / largest, color=colour, linewidth=0.5, alpha=0.4)
            mean = values.mean(1) / largest
            volumes.plot(epoch, mean, color=colour, linestyle=dash, label=label)
        said = "the usual start" if start == 1 else f"{start:g} of the usual start"
        traces.set_ylabel(f"from {said}\nnats per squared weight")
        volumes.set(ylabel="part of the largest mean", ylim=(0, 1.6))
        fit.set_ylabel("training set")
        for axis in (traces, volumes, fit):
            axis.set_xscale("log")
            axis.legend(fontsize=8)
    for axis, title in zip(axes[0], ("trace", "½ log det(I + λ²F)", "fit"), strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.suptitle(
        f"{config.dataset}, {rows[0]['num_examples']} examples, {rows[0]['num_weights']} weights; "
        f"{config.num_seeds} seeds: mean, and range or single seeds",
        fontsize=10,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.fisher_during_training")

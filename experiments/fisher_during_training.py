"""The Fisher information while a network learns: bumps as features form, and a fall by saturation.

A small network is trained by SGD on points in the plane. At epochs that grow geometrically: the
trace of its Fisher F, and ½ log det(I + λ²F) for several λ (F is singular: without the damping
there is nothing to plot, and λ sets what is seen). Logits that grow make F fall without any change
of a decision, so the trace stands beside that of the same network at a matched temperature.

Default: about a minute on 2 CPU cores. Paper: Achille, Paolini & Soatto (arXiv:1905.12213), Fig. 1.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import checks, descent, style, tables
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
      num_seeds: networks, each with its own start and minibatches.
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
    num_seeds: int = 8
    num_steps: int = 30_000
    batch_size: int = 20
    learning_rate: float = 0.1
    num_stops: int = 24
    prior_scales: tuple[float, ...] = (0.1, 1.0, 10.0)
    num_matvecs: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        if self.num_seeds < 2 or self.num_stops < 3:
            raise ValueError(
                "num_seeds must be at least 2 and num_stops at least 3, got "
                f"{self.num_seeds} and {self.num_stops}"
            )


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


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each seed and stop."""
    network = common.network(config, dataset.num_classes, "tanh")
    inputs, count = dataset.train_inputs, len(dataset.train_inputs)
    present = np.ones(dataset.num_classes, bool)
    task = descent.pool(network, inputs, dataset.train_targets, present)
    making, probing = jax.random.split(jax.random.key(config.seed))
    everybody = np.tile(np.arange(count), (config.num_seeds, 1))
    members = descent.family(making, network, task.inputs["x"], everybody, count)
    steps = np.geomspace(1, config.num_steps, config.num_stops - 1).round().astype(int)
    stops = [0, *np.unique(steps).tolist()]
    weights = descent.path(
        context, task, members, stops, micro=config.batch_size, rate=config.learning_rate
    )
    ledger = context.ledger("fisher")
    places = [(i, s) for i in range(len(stops)) for s in range(config.num_seeds)]
    return [
        {
            "seed": s,
            "epoch": stops[i] * config.batch_size / count,
            **ledger.get(
                f"{i} {s}",
                lambda i=i, s=s: descent.fisher_columns(
                    task,
                    jax.tree.map(lambda w: w[i, s], weights),
                    members.weights(s, count),
                    prior_scales=config.prior_scales,
                    key=jax.random.fold_in(probing, s),
                    num_matvecs=config.num_matvecs,
                ),
            ),
        }
        for i, s in context.track(places, "fisher")
    ]


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, name: str) -> np.ndarray:
    """One column, (stops, seeds), epochs increasing."""
    return tables.grid(rows, name, axes=("epoch", "seed"))


def quantities(config: Config) -> list[str]:
    """The columns that Fig. 1 is about."""
    scales = [half_logdet(scale) for scale in config.prior_scales]
    return ["trace_per_label", "matched_trace_per_label", *scales]


def story(rows: Rows, name: str) -> dict[str, Any]:
    """The largest rise of log(quantity), and its fall once the data are fitted to 95 %.

    Where they are is read off the means over seeds; errors are those of the paired differences.
    """
    logs = np.log(column(rows, name))[1:]  # at the start nothing has been learned
    accuracy, epochs = (column(rows, c).mean(1)[1:] for c in ("accuracy", "epoch"))
    mean = logs.mean(1)
    rises = np.triu(mean[None, :] - mean[:, None])  # from row to column
    low, high = np.unravel_index(np.argmax(rises), rises.shape)
    fitted = int(np.argmax(accuracy >= min(FITTED, accuracy.max())))
    return {
        "log_rise": _mean(logs[high] - logs[low]),
        "rise_epochs": [tables.rounded(epochs[i]) for i in (low, high)],
        "rise_accuracies": [tables.rounded(accuracy[i]) for i in (low, high)],
        "log_fall_once_fitted": _mean(logs[fitted] - logs[-1]),
    }


def _mean(differences: np.ndarray) -> list[float | None]:
    """Mean over seeds and its standard error."""
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return [tables.rounded(differences.mean()), tables.rounded(error)]


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """The paper's two claims for every quantity: a bump, and a fall at the end."""
    stories = {name: story(rows, name) for name in quantities(config)}
    seen = {
        said: {n: s[key][0] > 3 * s[key][1] for n, s in stories.items()}
        for said, key in (("bump", "log_rise"), ("falls_at_the_end", "log_fall_once_fitted"))
    }
    final = tables.rounded(column(rows, "accuracy")[-1].mean())
    return {**stories, **seen, "final_accuracy": final}


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether log-determinants and traces fit together, and the networks learn."""
    accuracy = column(rows, "accuracy")
    return [
        *descent.check_logdets(rows, config.prior_scales),
        checks.Check(
            "the networks learn",
            bool(accuracy[-1].mean() > accuracy[0].mean()),
            f"accuracy {accuracy[0].mean():.3f} before, {accuracy[-1].mean():.3f} after training",
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
    lines = [f"{'epoch':>9} " + " ".join(f"{head:>16}" for head in heads)]
    epochs, columns = column(rows, "epoch").mean(1), [column(rows, n).mean(1) for n in names]
    for i in range(0, len(epochs), max(len(epochs) // 8, 1)):
        lines.append(f"{epochs[i]:9.3g} " + " ".join(f"{c[i]:16.4g}" for c in columns))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Traces, log-determinants, and how well the networks fit, against epochs."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9))
    epoch = column(rows, "epoch")[1:].mean(1)
    traces = (
        ("trace_per_label", "tr F/N", style.BLUE, "-"),
        ("matched_trace_per_label", "at the matched temperature", style.ORANGE, "--"),
    )
    for name, label, colour, dash in traces:
        style.band(
            axes[0], epoch, column(rows, name)[1:], color=colour, linestyle=dash, label=label
        )
    axes[0].set(yscale="log", ylabel="trace (nats per squared weight)", title="trace")
    for scale, (colour, dash) in zip(config.prior_scales, LOOKS, strict=False):
        values = column(rows, half_logdet(scale))
        look = {"color": colour, "linestyle": dash, "label": f"λ = {scale:g}"}
        style.band(axes[1], epoch, values[1:], **look)
    axes[1].set(yscale="log", ylabel="nats", title="½ log det(I + λ²F)")
    loss, error = column(rows, "loss_nats_per_label"), 1 - column(rows, "accuracy")
    style.band(axes[2], epoch, error[1:], color=style.BLUE, label="training error")
    style.band(
        axes[2], epoch, loss[1:], color=style.GREY, linestyle="--", label="loss (nats a label)"
    )
    axes[2].set(title="fit")
    for axis in axes:
        axis.set(xscale="log", xlabel="epoch")
        axis.title.set_fontsize(10)
        axis.legend(fontsize=8)
    figure.suptitle(
        f"{config.dataset}, {rows[0]['num_examples']} examples, {rows[0]['num_weights']} weights; "
        f"mean and range of {config.num_seeds} seeds",
        fontsize=10,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.fisher_during_training")

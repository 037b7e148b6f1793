"""The Fisher of trained networks along one setting, under controls for what changes beside it.

A control is a rule for what is kept the same while the setting is swept, such as the epochs or the
steps. Without it a trend says little: a smaller batch at equal epochs also takes more steps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

import iw_jax as iw
from experiments.common import config as common
from experiments.common import cost, descent, style, tables
from experiments.common.context import Context
from experiments.common.descent import Family, half_logdet
from experiments.common.tables import Rows

LOOKS = ((style.BLUE, "o", "-"), (style.ORANGE, "s", "--"), (style.GREEN, "D", "-."))


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured; the common part of the Configs of both experiments.

    Attributes:
      dataset: digits, mnist, fashion_mnist, cifar10 or points (in the plane, two classes).
      num_examples: training examples; 0 for all.
      network: mlp, small_alexnet, all_cnn or resnet18.
      widths: hidden units of the mlp.
      num_epochs: of training.
      learning_rate: of the mean loss, at the first step; falls to 0 along a cosine.
      num_seeds: networks a point.
      prior_scales: λ of ½ log det(I + λ²F); increasing.
      num_matvecs: curvature products allowed for a network; exact if it has no more weights.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 1000
    network: str = "mlp"
    widths: tuple[int, ...] = (8,)
    num_epochs: int = 40
    learning_rate: float = 0.05
    num_seeds: int = 4
    prior_scales: tuple[float, ...] = (0.1, 1.0)
    num_matvecs: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        if self.num_seeds < 2 or self.num_epochs < 1:
            raise ValueError(
                "num_seeds must be at least 2 and num_epochs at least 1, got "
                f"{self.num_seeds} and {self.num_epochs}"
            )


@dataclasses.dataclass(frozen=True)
class Point:
    """Networks, one a seed, to be trained alike.

    Attributes:
      control: the rule.
      x: value of the swept setting.
      members: the networks at their start, their data sets and outputs.
      num_steps: SGD steps, along which the rate falls to 0.
      rate: learning rate at the first step.
      parts: of a batch (see `descent.descend`).
    """

    control: str
    x: float
    members: Family
    num_steps: int
    rate: float
    parts: int = 1

    @property
    def label(self) -> str:
        """What is computed; where two controls agree they share it."""
        outputs = np.sum(np.asarray(self.members.absent) == 0, axis=1)
        return (
            f"{self.x:g}: {self.members.counts.tolist()} examples, {outputs.tolist()} outputs, "
            f"{self.num_steps} steps of {self.parts} at {self.rate:g}"
        )


def stages(
    points: Sequence[Point], task: iw.Task, config: Config, *, micro: int
) -> list[cost.Stage]:
    """What `measure` will take; see `cost`. Arguments as there."""
    return [
        cost.training(
            task,
            point.members.member(0).params,
            optax.sgd(point.rate),
            # Parts are computed one after the other, as if they were steps.
            batch=micro,
            steps=point.num_steps * point.parts,
            networks=config.num_seeds,
            num_matvecs=config.num_matvecs,
            spectra=descent.SPECTRA,
        )
        for point in {point.label: point for point in points}.values()
    ]


def measure(
    context: Context,
    axis: str,
    points: Sequence[Point],
    task: iw.Task,
    config: Config,
    *,
    key: jax.Array,
    micro: int,
) -> Rows:
    """One row for each point and seed; resumes point by point.

    Args:
      context: of the run.
      axis: name of the swept column.
      points: what to train.
      task: the pool of their examples.
      config: of the run.
      key: random key, for the probes.
      micro: examples a part of a batch.
    """
    ledger, rows = context.ledger("points"), []
    for point in context.track(points, "networks"):
        compute = partial(_train_and_measure, point, task, config, key, micro)
        same = {"num_steps": point.num_steps, "learning_rate": point.rate}
        rows += [
            {"control": point.control, axis: point.x, "seed": seed, **same, **columns}
            for seed, columns in enumerate(ledger.get(point.label, compute))
        ]
    return rows


def _train_and_measure(
    point: Point, task: iw.Task, config: Config, key: jax.Array, micro: int
) -> list[dict[str, Any]]:
    """The columns of every member."""
    trained = descent.descend(
        task,
        point.members,
        0,
        point.num_steps,
        micro=micro,
        parts=point.parts,
        rate=point.rate,
        horizon=float(point.num_steps),
    )
    return [
        descent.fisher_columns(
            trained.task(seed, task),
            trained.member(seed).params,
            prior_scales=config.prior_scales,
            key=jax.random.fold_in(key, seed),
            num_matvecs=config.num_matvecs,
        )
        for seed in range(config.num_seeds)
    ]


# ------------------------------------------------------------------------ what the table says


def quantities(prior_scales: Sequence[float]) -> dict[str, str]:
    """Columns of the figures, and what they are called."""
    scales = {half_logdet(scale): f"½ log det(I + {scale:g}²F)" for scale in prior_scales}
    return {"trace_per_label": "tr F/N", "matched_trace_per_label": "tr F/N, matched T"} | scales


def column(rows: Rows, axis: str, control: str, name: str) -> np.ndarray:
    """One column of a control, (points, seeds)."""
    return tables.grid(rows, name, axes=(axis, "seed"), control=control)


def slope(rows: Rows, axis: str, control: str, name: str) -> list[float | None]:
    """d log(quantity) / d log(setting), least squares of every seed: [mean, its error]."""
    x = np.log(column(rows, axis, control, axis).mean(1))
    y = np.log(column(rows, axis, control, name))
    return tables.mean_and_stderr(((x - x.mean()) @ y) / ((x - x.mean()) @ x))


def log_steps(rows: Rows, axis: str, control: str, name: str) -> list[list[float | None]]:
    """Change of log(quantity) from one setting to the next, paired by seed: [mean, its error]."""
    steps = np.diff(np.log(column(rows, axis, control, name)), axis=0)
    return [tables.mean_and_stderr(step) for step in steps]


def summarize(rows: Rows, axis: str, config: Config) -> dict[str, Any]:
    """Of every quantity under every control, [mean, standard error over seeds].

    d log(quantity)/d log(setting) and whether it is above 0 by three standard errors; and the
    changes of log(trace) and log(loss) from one setting to the next.
    """
    controls = dict.fromkeys(row["control"] for row in rows)
    names = quantities(config.prior_scales)
    found: dict[str, Any] = {c: {n: slope(rows, axis, c, n) for n in names} for c in controls}
    return {
        "log_slope": found,
        "rises": {
            c: {n: mean > 3 * error for n, (mean, error) in own.items()} for c, own in found.items()
        },
        "trace_log_steps": {c: log_steps(rows, axis, c, "trace_per_label") for c in controls},
        "loss_log_steps": {c: log_steps(rows, axis, c, "loss_nats_per_label") for c in controls},
    }


def table(rows: Rows, axis: str) -> str:
    """Means over seeds, a line a point."""
    kept = [n for n in rows[0] if n.endswith("trace_per_label") or n.startswith("half_logdet")]
    names = ["num_steps", "num_examples", "loss_nats_per_label", "accuracy"]
    names += [n for n in kept if not n.endswith(("lower", "upper"))]
    heads = [n.replace("half_logdet_nats_scale_", "½logdet λ=") for n in names]
    heads = [h.replace("_per_label", "/N").replace("loss_nats", "loss") for h in heads]
    lines = [f"{'control':<10} {axis:>10} " + " ".join(f"{h:>15}" for h in heads)]
    for control in dict.fromkeys(row["control"] for row in rows):
        columns = [column(rows, axis, control, n).mean(1) for n in (axis, *names)]
        for x, *values in zip(*columns, strict=True):
            lines.append(f"{control:<10} {x:10g} " + " ".join(f"{v:15.4g}" for v in values))
    return "\n".join(lines)


def plot(rows: Rows, axis: str, label: str, controls: Mapping[str, str], config: Config) -> Any:
    """Every quantity, and the loss, against the setting; mean and standard error over seeds.

    Args:
      rows: of the table.
      axis: column of the setting.
      label: of the horizontal axes.
      controls: names, and what the legend calls them.
      config: of the run.
    """
    import matplotlib.pyplot as plt

    names = quantities(config.prior_scales)
    figure, axes = plt.subplots(1, len(names) + 1, figsize=(3.1 * (len(names) + 1), 3.7))
    for place, name in zip(axes, [*names, "loss_nats_per_label"], strict=True):
        for (control, said), (colour, marker, dash) in zip(controls.items(), LOOKS, strict=True):
            x, y = (column(rows, axis, control, n) for n in (axis, name))
            error = tables.stderr(y)
            look = {"color": colour, "marker": marker, "linestyle": dash, "label": said}
            place.errorbar(x.mean(1), y.mean(1), error, capsize=2, **look)
        place.set(xscale="log", xlabel=label)
        ticks = sorted({row[axis] for row in rows})
        place.set_xticks(ticks, [f"{t:g}" for t in ticks])
        place.xaxis.minorticks_off()
        if name in names:
            place.set_ylim(bottom=0)
            place.set_ylabel("nats" if name.startswith("half") else "nats per squared weight")
            place.set_title(names[name], fontsize=10)
    axes[-1].set(yscale="log", ylabel="nats a label")
    axes[-1].set_title("training loss", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(controls), fontsize=9)
    figure.suptitle(
        f"{config.dataset}, {rows[0]['num_weights']} weights; mean and standard error of "
        f"{config.num_seeds} seeds",
        fontsize=11,
    )
    return figure

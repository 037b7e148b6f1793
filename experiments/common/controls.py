"""The Fisher of trained networks along one setting, under controls for what changes beside it.

A control is a rule for what is kept the same while the setting is swept, such as the epochs or the
steps. Without it a trend says little: a smaller batch at equal epochs also takes more steps.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common import descent, style, tables
from experiments.common.context import Context
from experiments.common.descent import Family, half_logdet
from experiments.common.tables import Rows

LOOKS = ((style.BLUE, "o", "-"), (style.ORANGE, "s", "--"), (style.GREEN, "D", "-."))


@dataclasses.dataclass(frozen=True)
class Point:
    """Networks, one a seed, to be trained alike.

    Attributes:
      control: the rule.
      x: value of the swept setting.
      task: the pool, and which outputs there are.
      members: the networks at their start.
      num_steps: SGD steps, along which the rate falls to 0.
      parts: of a batch (see `descent.descend`).
      rate: learning rate at the first step.
    """

    control: str
    x: float
    task: iw.Task
    members: Family
    num_steps: int
    parts: int
    rate: float

    @property
    def label(self) -> str:
        """What is computed; where two controls agree they share it."""
        outputs = int(jnp.sum(self.task.inputs["absent"][0] == 0))
        return (
            f"{self.x:g}: {int(self.members.count)} examples, {outputs} outputs, "
            f"{self.num_steps} steps of {self.parts} at {self.rate:g}"
        )


def measure(
    context: Context,
    axis: str,
    points: Sequence[Point],
    *,
    key: jax.Array,
    micro: int,
    prior_scales: Sequence[float],
    num_matvecs: int,
) -> Rows:
    """One row for each point and seed; `axis` names the swept column. Resumes point by point."""
    ledger, rows = context.ledger("points"), []
    options = {"prior_scales": prior_scales, "num_matvecs": num_matvecs}
    for point in context.track(points, "networks"):
        found = ledger.get(point.label, partial(_train_and_measure, point, key, micro, options))
        same = {"num_steps": point.num_steps, "learning_rate": point.rate}
        rows += [
            {"control": point.control, axis: point.x, "seed": seed, **same, **columns}
            for seed, columns in enumerate(found)
        ]
    return rows


def _train_and_measure(
    point: Point, key: jax.Array, micro: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """The columns of every member."""
    trained = descent.descend(
        point.task,
        point.members,
        0,
        point.num_steps,
        micro=micro,
        parts=point.parts,
        rate=point.rate,
        horizon=float(point.num_steps),
    )

    def columns(seed: int) -> dict[str, Any]:
        params = jax.tree.map(lambda w: w[seed], trained.params)
        weights = trained.weights(seed, point.task.num_examples)
        own = jax.random.fold_in(key, seed)
        return descent.fisher_columns(point.task, params, weights, key=own, **options)

    return [columns(seed) for seed in range(len(trained.keys))]


# ------------------------------------------------------------------------ what the table says


def quantities(prior_scales: Sequence[float]) -> dict[str, str]:
    """Columns of the figures, and what they are called."""
    scales = {half_logdet(scale): f"½ log det(I + {scale:g}²F)" for scale in prior_scales}
    return {"trace_per_label": "tr F/N", "matched_trace_per_label": "tr F/N, matched T"} | scales


def column(rows: Rows, axis: str, control: str, name: str) -> np.ndarray:
    """One column of a control, (points, seeds)."""
    return tables.grid(rows, name, axes=(axis, "seed"), control=control)


def slope(rows: Rows, axis: str, control: str, name: str) -> tuple[float, float]:
    """d log(quantity) / d log(setting), least squares: mean over seeds, and its standard error."""
    x = np.log(column(rows, axis, control, axis).mean(1))
    y = np.log(column(rows, axis, control, name))
    each = ((x - x.mean()) @ y) / ((x - x.mean()) @ x)
    return float(each.mean()), float(tables.stderr(each))


def log_steps(rows: Rows, axis: str, control: str, name: str) -> list[list[float | None]]:
    """Change of log(quantity) from one setting to the next, paired by seed: [mean, its error]."""
    steps = np.diff(np.log(column(rows, axis, control, name)), axis=0)
    return [tables.mean_and_stderr(step) for step in steps]


def slopes(rows: Rows, axis: str, controls: Iterable[str], scales: Sequence[float]) -> dict:
    """[slope, standard error] of every quantity under every control; the steps of the trace."""
    names = quantities(scales)
    found = {c: {n: slope(rows, axis, c, n) for n in names} for c in controls}
    return {
        "log_slope": {
            c: {n: [tables.rounded(v) for v in pair] for n, pair in own.items()}
            for c, own in found.items()
        },
        "rises": {
            c: {n: bool(mean > 3 * error) for n, (mean, error) in own.items()}
            for c, own in found.items()
        },
        "trace_log_steps": {c: log_steps(rows, axis, c, "trace_per_label") for c in found},
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


def plot(
    rows: Rows, axis: str, label: str, controls: Mapping[str, str], scales: Sequence[float]
) -> Any:
    """Every quantity, and the loss, against the setting; mean and standard error over seeds.

    Args:
      rows: of the table.
      axis: column of the setting.
      label: of the horizontal axes.
      controls: names, and what the legend calls them.
      scales: λ of the log-determinants.
    """
    import matplotlib.pyplot as plt

    names = quantities(scales)
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
    return figure

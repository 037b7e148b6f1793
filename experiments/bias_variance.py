"""Test error against the size of a network, and against the information in its weights.

A network is trained on few examples, some of whose labels are wrong. More weights do not make it
overfit; more nats in them do: as the price β of a nat falls, the test error falls while the weights
learn what the examples share, and rises again once they store the wrong labels one by one. The
trade-off of bias and variance runs along the information, not along the number of weights.

Default: digits, about 4 minutes on 2 CPU cores. Paper: Achille & Soatto (arXiv:1706.01350),
Fig. 3 (All-CNN on CIFAR-10, grids unknown).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import checks, cost, measures, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets


@dataclasses.dataclass(frozen=True)
class Config(common.TrainingConfig):
    """What is swept.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      corrupted_fraction: of the training labels, drawn anew; those of the test set stay.
      factors: on the width of every hidden layer (mlp) or of all channels (all_cnn); increasing.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_seeds: seeds, which differ in initial weights, noise, minibatches and corruption.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 200
    corrupted_fraction: float = 0.3
    factors: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    betas: tuple[float, ...] = (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
    num_seeds: int = 3
    num_steps: int = 1200
    batch_size: int = 100
    learning_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in ("mlp", "all_cnn"):
            raise ValueError(f"network must be mlp or all_cnn, got {self.network!r}")
        rising = all(a < b for a, b in zip(self.factors, self.factors[1:], strict=False))
        if len(self.factors) < 2 or not rising or not 0 < self.factors[0] <= self.factors[-1] < 1e6:
            raise ValueError(
                f"factors must be at least two, positive and increasing, got {self.factors}"
            )
        if not 0 <= self.corrupted_fraction <= 1:
            raise ValueError(f"corrupted_fraction must be in [0, 1], got {self.corrupted_fraction}")
        if len(self.betas) < 3:  # two arms and a bottom
            raise ValueError(f"betas must be at least three, got {self.betas}")


PRESETS = {
    "quick": Config(
        factors=(0.1, 0.3),
        betas=(0.001, 0.2, 10.0),
        num_seeds=2,
        num_steps=400,
        num_draws=16,
    ),
    "default": Config(),
    "paper": Config(
        dataset="cifar10",
        network="all_cnn",
        num_examples=0,
        corrupted_fraction=0.0,
        factors=(0.125, 0.25, 0.5, 1.0, 2.0),
        betas=tuple(float(f"{b:.2g}") for b in np.logspace(-3, 2, 16)),
        num_steps=36_000,
        batch_size=500,
        learning_rate=0.005,
        member_batch=4,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels."""
    return common.load(config, data_dir, config.num_examples)


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    scales = (scaled(config, factor, dataset.num_classes) for factor in config.factors)
    return [cost.sweep(config, dataset, 1, net) for net in scales]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (width, β, seed)."""
    seeds = [common.label_seed(config.seed, s) for s in range(config.num_seeds)]
    true, part, classes = dataset.train_targets, config.corrupted_fraction, dataset.num_classes
    targets = jnp.asarray([[data.corrupt_labels(true, part, classes, s) for s in seeds]])
    rows = []
    for factor in config.factors:
        net = scaled(config, factor, dataset.num_classes)
        params = jax.eval_shape(net.init, jax.random.key(0), dataset.train_inputs[:1])
        size = sum(w.size for w in jax.tree.leaves(params))
        sets = [{"width_factor": factor, "num_weights": size}]
        stage = f"width {factor:g}"
        rows += measures.sweep_rows(
            config, dataset, context, targets, None, sets, net=net, stage=stage
        )
    return rows


def scaled(config: Config, factor: float, num_classes: int) -> nets.Network:
    """The network of the config with its widths multiplied by `factor`, at least one unit each."""
    if config.network == "all_cnn":
        return nets.all_cnn(num_classes, width=factor)
    return nets.mlp(num_classes, widths=[max(1, round(factor * w)) for w in config.widths])


# ------------------------------------------------------------------------ what the table says


def error(rows: Rows, name: str = "test_accuracy_mean") -> np.ndarray:
    """Test error at the mean weights (or another), (widths, B, S); both axes increasing."""
    return 1 - tables.grid(rows, name, ("num_weights", "beta", "seed"))


def best(rows: Rows) -> np.ndarray:
    """The β of the lowest test error of each width, mean over seeds, as an index: (widths,)."""
    return error(rows).mean(-1).argmin(-1)


def at_best(rows: Rows, values: np.ndarray) -> np.ndarray:
    """Of (widths, B, S), what each width has at its best β: (widths, S)."""
    return np.take_along_axis(values, best(rows)[:, None, None], axis=1)[:, 0]


def nats(rows: Rows) -> np.ndarray:
    """KL/N, (widths, B, S); nats per label."""
    return tables.grid(rows, "kl_nats_per_label", ("num_weights", "beta", "seed"))


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Of each width: error without a price and at its best β, that β, and its nats."""
    errors, lowest = error(rows), at_best(rows, error(rows))
    return {
        str(size): {
            "best_beta": config.betas[best(rows)[i]],
            "test_error_at_best_beta": tables.spread(lowest[i]),
            "added_at_smallest_beta": tables.spread(errors[i, 0] - lowest[i]),
            "added_at_largest_beta": tables.spread(errors[i, -1] - lowest[i]),
            "test_error_at_smallest_beta": tables.spread(errors[i, 0]),
            "nats_per_label_at_best_beta": tables.spread(at_best(rows, nats(rows))[i]),
            "nats_per_label_at_smallest_beta": tables.spread(nats(rows)[i, 0]),
        }
        for i, size in enumerate(_sizes(rows))
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep for every width; both arms of the U; and no rise with the width."""
    curves = []
    for factor in config.factors:
        name = f"width factor {factor:g}"
        curves += checks.curves_of(rows, name, config.num_draws, width_factor=factor)
    errors, lowest = error(rows), at_best(rows, error(rows))
    arms = np.minimum(errors[:, 0], errors[:, -1]).mean(-1) - lowest.mean(-1)
    remedy = "train longer (--num-steps), or ask more seeds (--num-seeds)"
    claim = "test accuracy does not fall with the number of weights"
    return [
        *checks.check_curves(curves),
        checks.Check(
            "test error has its minimum along beta inside, at every width",
            bool(arms.min() > 0),
            f"the lower end is {arms.min():.3f} to {arms.max():.3f} above it",
        ),
        checks.check_rises(f"{claim} at beta = {config.betas[0]:g}", -errors[:, 0], remedy),
        checks.check_rises(f"{claim}, each at its best beta", -lowest, remedy),
    ]


def _sizes(rows: Rows) -> list[int]:
    return sorted({int(row["num_weights"]) for row in rows})


def table(rows: Rows) -> str:
    """Test error at the mean weights, number of weights down, β across."""
    betas = sorted({r["beta"] for r in rows})
    lines = ["test error at the mean weights, mean over seeds"]
    lines.append("weights" + "".join(f"{b:>8.3g}" for b in betas) + "  = beta")
    for size, row in zip(_sizes(rows), error(rows).mean(-1), strict=True):
        lines.append(f"{size:7d}" + "".join(f"{e:8.3f}" for e in row))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Test error against the number of weights, against β, and against nats."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4), sharey=True)
    errors, sizes = error(rows), _sizes(rows)
    between = int(np.median(best(rows)))
    lines = (
        (f"β = {config.betas[0]:g}", errors[:, 0], style.ORANGE, "s", "--"),
        (f"β = {config.betas[between]:g}", errors[:, between], style.GREEN, "^", "-."),
        ("the best β of each", at_best(rows, errors), style.BLUE, "o", "-"),
    )
    for said, values, colour, marker, dash in lines:
        look = {"color": colour, "marker": marker, "linestyle": dash, "label": said}
        style.band(left, sizes, values, **look)
    for own, known, size, shade, marker in zip(
        errors,
        nats(rows),
        sizes,
        np.linspace(0.0, 0.85, len(sizes)),
        "ov^sDP*X<>" * len(sizes),
        strict=False,
    ):
        look = {"color": plt.get_cmap("viridis")(shade), "marker": marker}
        style.band(middle, config.betas, own, label=f"{size:,} weights", **look)
        right.plot(known.mean(-1), own.mean(-1), **look)
    left.set(xscale="log", xlabel="number of weights", ylabel="test error at the mean weights")
    left.legend()
    middle.set(xscale="log", xlabel="β, price of a nat of weights (nats of loss)")
    middle.legend(fontsize=8)
    right.set_xscale("symlog", linthresh=0.1)
    right.set_xlim(left=0)
    right.set(xlabel="KL(Q‖P) / N  (nats per label)", ylim=(0, None))
    for axis, letter in zip((left, middle, right), "abc", strict=True):
        axis.set_title(f"({letter})", loc="left", fontsize=10, weight="bold")
    number = int(rows[0]["num_examples"])
    figure.suptitle(
        f"{config.dataset}, N = {number}, {config.corrupted_fraction:.0%} of the labels drawn "
        f"anew, {config.network}, {config.code} code; bands: range of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.bias_variance")

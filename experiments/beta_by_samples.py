"""Accuracy over the plane of β and the number of training examples, real beside random labels.

Small β memorises, large β underfits. With random labels the edge between the two is sharp; with
real labels a wide range of β fits, the wider the more examples there are, since what is learned
from many is paid for once.

A training set of N is the largest one with the other examples masked, so minibatches of small ones
hold few examples: their gradients are noisier.

Default: digits, about 3 minutes on 2 CPU cores. Paper: Achille & Soatto (arXiv:1706.01350),
Fig. 1, whose axes are these (there a small AlexNet on CIFAR-10, log-normal noise).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import checks, cost, measures, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

KINDS = ("real", "random")


@dataclasses.dataclass(frozen=True)
class Config(common.TrainingConfig):
    """What is swept.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      numbers: training examples; every smaller set is part of the larger ones.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_seeds: seeds, which differ in initial weights, noise, minibatches and random labels.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    numbers: tuple[int, ...] = (90, 180, 360, 720, 1437)
    betas: tuple[float, ...] = (0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 1.0, 2.0, 4.0, 8.0, 16.0)
    num_seeds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("numbers", "betas"):  # a map has two sides
            if len(getattr(self, name)) < 2:
                raise ValueError(f"{name} must be at least two, got {getattr(self, name)}")


PRESETS = {
    "quick": Config(
        numbers=(100, 200),
        betas=(0.001, 0.1, 30.0),
        widths=(20,),
        num_steps=200,
        batch_size=100,
        learning_rate=0.05,
        num_draws=16,
    ),
    "default": Config(),
    "paper": Config(
        dataset="cifar10",
        network="small_alexnet",
        code="log_normal",
        numbers=(100, 500, 1000, 5000, 10_000, 30_000, 50_000),
        betas=tuple(float(f"{b:.2g}") for b in np.logspace(-2, 2, 17)),
        num_steps=36_000,
        batch_size=500,
        learning_rate=0.005,
        member_batch=17,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, as many examples as the largest number asks for."""
    return common.load(config, data_dir, max(config.numbers))


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    return [cost.sweep(config, dataset, len(KINDS) * len(config.numbers))]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (labels, N, β, seed)."""
    targets, weights = target_sets(config, dataset)
    sets = [{"labels": kind} for kind in KINDS for _ in config.numbers]
    return measures.sweep_rows(config, dataset, context, targets, weights, sets)


def target_sets(config: Config, dataset: data.Dataset) -> tuple[jax.Array, jax.Array]:
    """Labels and example weights of every (labels, N): (T, S, N_max) each.

    A smaller training set is the larger one with the weights of the other examples at 0, so that
    all sizes are members of one program.
    """
    random = common.random_labels(config, dataset)
    real = np.broadcast_to(dataset.train_targets, random.shape)
    largest = random.shape[1]
    first = np.arange(largest) < np.asarray(config.numbers)[:, None]
    weights = np.broadcast_to(first[:, None], (len(first), config.num_seeds, largest))
    targets = np.concatenate([np.repeat(y[None], len(first), axis=0) for y in (real, random)])
    return jnp.asarray(targets), jnp.asarray(np.concatenate([weights, weights]), jnp.float32)


# ------------------------------------------------------------------------ what the table says


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Critical β of each label kind and number of examples."""
    return {
        f"critical_beta_{kind}": {
            str(n): tables.spread(tables.critical_betas(rows, labels=kind, num_examples=n))
            for n in config.numbers
        }
        for kind in KINDS
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep, for every curve."""
    curves = []
    for kind in KINDS:
        for n in config.numbers:
            name = f"{kind} labels, N = {n}"
            own = {"labels": kind, "num_examples": n}
            curves += checks.curves_of(rows, name, config.num_draws, **own)
    return checks.check_curves(curves)


def table(rows: Rows) -> str:
    """Training accuracy under noise, N down, β across, for each label kind."""
    lines = []
    for kind in KINDS:
        accuracy = tables.grid(
            rows, "train_accuracy_noisy", ("num_examples", "beta", "seed"), labels=kind
        ).mean(-1)
        betas, numbers = (sorted({r[k] for r in rows}) for k in ("beta", "num_examples"))
        lines.append(f"{kind} labels, training accuracy under noise")
        lines.append("     N" + "".join(f"{b:>7.3g}" for b in betas) + "  = beta")
        for number, row in zip(numbers, accuracy, strict=True):
            lines.append(f"{number:6d}" + "".join(f"{a:7.2f}" for a in row))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Heat maps over (β, N): training accuracy of both label kinds, test accuracy of real ones."""
    import matplotlib.pyplot as plt

    panels = (
        ("real", "train_accuracy_noisy", "real labels, training"),
        ("random", "train_accuracy_noisy", "random labels, training"),
        ("real", "test_accuracy_noisy", "real labels, test"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), sharey=True)
    for axis, (kind, name, title) in zip(axes, panels, strict=True):
        image = tables.grid(rows, name, ("num_examples", "beta", "seed"), labels=kind).mean(-1)
        mesh = axis.pcolormesh(
            _edges(config.betas), _edges(config.numbers), image, cmap="cividis", vmin=0, vmax=1
        )
        line = [
            tables.mean_known(tables.critical_betas(rows, labels=kind, num_examples=n))
            for n in config.numbers
        ]
        axis.plot(
            line,
            config.numbers,
            color="white",
            marker="o",
            markeredgecolor="black",
            label="critical β",
        )
        axis.axvline(1, color="white", linestyle=":", linewidth=1.2, label="β = 1")
        axis.set(xscale="log", yscale="log", title=title)
        axis.set_xlabel("β, price of a nat of weights (nats of loss)")
        axis.set_yticks(config.numbers, [str(n) for n in config.numbers])
        axis.minorticks_off()
        axis.grid(visible=False)
    axes[0].set_ylabel("N, training examples")
    axes[1].legend(loc="lower right", labelcolor="white", fontsize=8)  # dark there
    figure.colorbar(mesh, ax=axes, label="accuracy under weight noise", shrink=0.9)
    figure.suptitle(f"{config.dataset}, {config.network}, {config.code} code", fontsize=11)
    return figure


def _edges(centres: Any) -> np.ndarray:
    """Cell edges half-way between the centres, in logarithms."""
    logs = np.log(np.asarray(centres, float))
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]]))


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.beta_by_samples")

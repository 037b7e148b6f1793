"""Nats in the weights for each training example as labels are corrupted.

A fraction of the labels is drawn anew, uniformly over the classes. Each such label carries nats
that follow from nothing, and a network that fits them has to store them one by one: the
information in its weights rises with the fraction.

Default: digits, about 2 minutes on 2 CPU cores. Paper: Achille & Soatto (arXiv:1706.01350),
Fig. 2 right (there at β = 0.1, about 3 nats a sample more for fully random labels; ln 10 = 2.30).
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import checks, cost, measures, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data


@dataclasses.dataclass(frozen=True)
class Config(common.TrainingConfig):
    """What is swept.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      fractions: of the labels that are drawn anew; the corrupted examples are nested.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_seeds: seeds, which differ in initial weights, noise, minibatches and corruption.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    fractions: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    betas: tuple[float, ...] = (0.01, 0.03, 0.1)
    num_seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = all(a < b for a, b in itertools.pairwise(self.fractions))
        if len(self.fractions) < 2 or not rising or self.fractions[0] < 0 or self.fractions[-1] > 1:
            raise ValueError(
                "fractions must be at least two increasing numbers from 0 to 1, got "
                f"{self.fractions}"
            )


PRESETS = {
    "quick": Config(
        num_examples=200,
        fractions=(0.0, 0.5, 1.0),
        betas=(0.001, 0.01),
        num_seeds=2,
        widths=(20,),
        num_steps=300,
        batch_size=100,
        learning_rate=0.05,
        num_draws=16,
    ),
    "default": Config(),
    "paper": Config(
        dataset="cifar10",
        network="small_alexnet",
        code="log_normal",
        num_examples=30_000,
        betas=(0.1,),
        num_steps=36_000,
        batch_size=500,
        learning_rate=0.005,
        member_batch=7,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels."""
    return common.load(config, data_dir, config.num_examples)


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    return [cost.sweep(config, dataset, len(config.fractions))]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (fraction, β, seed)."""
    sets = [{"corrupted_fraction": fraction} for fraction in config.fractions]
    return measures.sweep_rows(config, dataset, context, corrupted(config, dataset), None, sets)


def corrupted(config: Config, dataset: data.Dataset) -> jax.Array:
    """Labels of every fraction and seed: (T, S, N)."""
    true, classes = dataset.train_targets, dataset.num_classes
    seeds = [common.label_seed(config.seed, s) for s in range(config.num_seeds)]
    return jnp.asarray(
        [[data.corrupt_labels(true, f, classes, s) for s in seeds] for f in config.fractions]
    )


# ------------------------------------------------------------------------ what the table says


def label_nats(fraction: np.ndarray, num_classes: int) -> np.ndarray:
    """H(label | image) if the image tells the true label: what a corrupted label adds; nats."""
    wrong = fraction * (1 - 1 / num_classes)
    p = np.stack([1 - wrong, *[wrong / (num_classes - 1)] * (num_classes - 1)])
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=0)


def nats(rows: Rows, beta: float) -> np.ndarray:
    """KL/N at one β: (fractions, S)."""
    return tables.grid(rows, "kl_nats_per_label", ("corrupted_fraction", "seed"), beta=beta)


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Nats per label at each β, and how much fully random labels add."""
    return {
        f"beta_{beta:g}": {
            "kl_nats_per_label": {
                f"{f:g}": tables.spread(row)
                for f, row in zip(sorted(config.fractions), nats(rows, beta), strict=True)
            },
            "added_by_full_corruption": tables.spread(nats(rows, beta)[-1] - nats(rows, beta)[0]),
        }
        for beta in config.betas
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep for every fraction; and nats that rise with the fraction."""
    curves = []
    for fraction in config.fractions:
        name = f"fraction {fraction:g}"
        curves += checks.curves_of(rows, name, config.num_draws, corrupted_fraction=fraction)
    # Beyond its critical β a network gives the corrupted labels up, and its nats fall; the law is
    # for networks that store their labels, so it is asked at the smallest β.
    rises = checks.check_rises(
        f"nats per label rise with the corrupted fraction at beta = {min(config.betas):g}",
        nats(rows, min(config.betas)),
        "train longer (--num-steps) or take a smaller beta (--betas)",
    )
    return [*checks.check_curves(curves), rises]


def table(rows: Rows) -> str:
    """Nats per label (mean over seeds), fractions down, β across."""
    betas = sorted({r["beta"] for r in rows})
    fractions = sorted({r["corrupted_fraction"] for r in rows})
    lines = [
        "KL/N in nats per label",
        "fraction" + "".join(f"{b:>9.3g}" for b in betas) + "  = beta",
    ]
    for f, row in zip(fractions, np.stack([nats(rows, b).mean(1) for b in betas], 1), strict=True):
        lines.append(f"{f:8.2f}" + "".join(f"{x:9.3f}" for x in row))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Nats per label and accuracy against the corrupted fraction."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    fractions = np.array(sorted(config.fractions))
    looks = [
        {"color": style.BLUE, "marker": "o", "linestyle": "-"},
        {"color": style.ORANGE, "marker": "s", "linestyle": "--"},
        {"color": style.GREEN, "marker": "^", "linestyle": "-."},
        {"color": style.GREY, "marker": "D", "linestyle": ":"},
    ]
    axes = ("corrupted_fraction", "seed")
    for i, beta in enumerate(config.betas):
        look = {**looks[i % len(looks)], "label": f"β = {beta:g}"}
        style.band(left, fractions, nats(rows, beta), **look)
        train = tables.grid(rows, "train_accuracy_noisy", axes, beta=beta)
        test = tables.grid(rows, "test_accuracy_mean", axes, beta=beta)
        style.band(right, fractions, train, **look)
        style.band(right, fractions, test, **{**look, "label": None, "markerfacecolor": "white"})
    labels = label_nats(fractions, int(rows[0]["num_classes"]))
    left.plot(fractions, labels, color=style.GREY, linewidth=1, label="H(label | image)")
    left.set(xlabel="corrupted fraction of the labels", ylabel="KL(Q‖P) / N  (nats per label)")
    left.set_ylim(bottom=0)
    left.legend()
    right.set(xlabel="corrupted fraction of the labels", ylabel="accuracy", ylim=(0, 1.05))
    right.set_title("filled: train, under noise; open: test, at the mean", fontsize=9)
    figure.suptitle(
        f"{config.dataset}, N = {int(rows[0]['num_examples'])}, {config.network}, {config.code} "
        f"code; bands: range of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.corruption")

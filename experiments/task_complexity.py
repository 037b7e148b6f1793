"""Loss against nats in the weights for several tasks: how complex each one is.

The same images are to be told apart in several ways (by what they show, odd from even, by a linear
rule, at random), so that only the labels differ. Each task has its structure function, the loss
that so many nats of weights can reach; its critical β, up to which it is worth learning; and its
description length, that of the labels given the images, in nats of code and of loss.

Default: digits, about 3 minutes on 2 CPU cores. Paper: Achille, Paolini, Mbeng & Soatto
(arXiv:1904.03292), Fig. 2 (MNIST, CIFAR-10, random labels; All-CNN).
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.common import checks, measures, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

FITTED = 0.9  # of H(label): what the nats that a task needs are asked to explain
SLACK = 10.0  # nats by which random labels are compressed with probability below exp(-10)
LOOKS = {
    "real": ("what they show", style.BLUE, "o"),
    "parity": ("odd or even", style.GREEN, "^"),
    "linear": ("a linear rule", style.PURPLE, "D"),
    "random": ("random", style.ORANGE, "s"),
    "random_two": ("random, two classes", style.YELLOW, "v"),
}
Labels = Literal["real", "parity", "linear", "random", "random_two"]


@dataclasses.dataclass(frozen=True)
class Config(common.TrainingConfig):
    """What is swept.

    Attributes:
      datasets: of digits, mnist, fashion_mnist and cifar10.
      labels: ways to label each: real, parity (of the class), linear (the largest of K random
        linear functions), random (uniform), random_two (uniform over two).
      num_examples: training examples, the same number for all; 0 for all there are.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_seeds: seeds, which differ in initial weights, noise, minibatches and random labels.
      seed: root of all randomness.
    """

    datasets: tuple[str, ...] = ("digits",)
    labels: tuple[Labels, ...] = ("real", "parity", "linear", "random", "random_two")
    num_examples: int = 500
    betas: tuple[float, ...] = (0.003, 0.01, 0.02, 0.04, 0.07, 0.12, 0.2, 0.4, 1.0, 2.0, 4.0)
    num_seeds: int = 2
    widths: tuple[int, ...] = (50,)
    num_steps: int = 1200
    batch_size: int = 100
    learning_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("datasets", data.NAMES), ("labels", tuple(LOOKS))):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given) or not set(given) <= set(allowed):
                raise ValueError(
                    f"{name} must be at least one of {', '.join(allowed)}, each once, got {given}"
                )
        if max(self.betas) < 1:  # the description length is that at β = 1
            raise ValueError(f"betas must reach 1, got {self.betas}")


PRESETS = {
    "quick": Config(
        labels=("real", "random"),
        num_examples=200,
        betas=(0.001, 0.1, 1.0, 30.0),
        widths=(20,),
        num_steps=300,
        num_draws=16,
    ),
    "default": Config(),
    "paper": Config(
        datasets=("mnist", "cifar10"),
        labels=("real", "random"),
        network="all_cnn",
        num_examples=40_000,
        betas=tuple(float(f"{b:.2g}") for b in np.logspace(-3, 1, 17)),
        num_steps=36_000,
        batch_size=500,
        learning_rate=0.005,
        member_batch=4,
    ),
}


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The tasks, by data set and labels; with what a run asks of a single `data.Dataset`."""

    sets: dict[tuple[str, str], data.Dataset]

    @property
    def name(self) -> str:
        """Of the data sets."""
        return ", ".join(dict.fromkeys(name for name, _ in self.sets))

    @property
    def checksum(self) -> str:
        """16 hexadecimal digits that stand for all of them."""
        all_of_them = " ".join(dataset.checksum for dataset in self.sets.values())
        return hashlib.sha256(all_of_them.encode()).hexdigest()[:16]


def load(config: Config, data_dir: Path | None) -> Tasks:
    """Every way of labelling every data set; random labels are those of the first seed."""
    sets = {}
    for name in config.datasets:
        dataset = common.load(config, data_dir, config.num_examples, name)
        for labels in config.labels:
            sets[name, labels] = labelled(dataset, labels, common.label_seed(config.seed, 0))
    return Tasks(sets)


def labelled(dataset: data.Dataset, labels: str, seed: int) -> data.Dataset:
    """The data set with other labels, training and test; `seed` of those that are drawn."""
    classes = 2 if labels in ("parity", "random_two") else dataset.num_classes
    makers: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "real": lambda: (dataset.train_targets, dataset.test_targets),
        "parity": lambda: (dataset.train_targets % 2, dataset.test_targets % 2),
        "linear": lambda: _linear(dataset, seed),
        "random": lambda: _random(dataset, classes, seed),
        "random_two": lambda: _random(dataset, classes, seed),
    }
    train, test = makers[labels]()
    return dataclasses.replace(dataset, train_targets=train, test_targets=test, num_classes=classes)


def _random(dataset: data.Dataset, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    number = len(dataset.train_targets)
    both = data.random_labels(seed, number + len(dataset.test_targets), classes)
    return both[:number], both[number:]


def _linear(dataset: data.Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest of K random linear functions, each standardised over the training images."""
    train, test = (x.reshape(len(x), -1) for x in (dataset.train_inputs, dataset.test_inputs))
    rule = np.random.default_rng(seed).normal(size=(train.shape[1], dataset.num_classes))
    centre, scale = (train @ rule).mean(0), (train @ rule).std(0)
    train, test = (np.argmax((x @ rule - centre) / scale, 1) for x in (train, test))
    return train.astype(np.int32), test.astype(np.int32)


def run(config: Config, tasks: Tasks, context: Context) -> Rows:
    """One row for each (task, β, seed)."""
    rows = []
    for (name, labels), dataset in tasks.sets.items():
        if labels.startswith("random"):  # others for each seed
            targets = common.random_labels(config, dataset)
            entropy = np.log(dataset.num_classes)
        else:
            shape = config.num_seeds, len(dataset.train_targets)
            targets = np.broadcast_to(dataset.train_targets, shape)
            entropy = stats.entropy(np.bincount(dataset.train_targets))
        sets = [{"dataset": name, "labels": labels, "label_entropy_nats": float(entropy)}]
        rows += measures.sweep_rows(
            config,
            dataset,
            context,
            jnp.asarray(targets)[None],
            None,
            sets,
            stage=f"{name} {labels}",
        )
    return rows


# ------------------------------------------------------------------------ what the table says


def tasks_of(rows: Rows) -> list[dict[str, str]]:
    """The columns that tell the tasks apart, in the order of the table."""
    return [
        {"dataset": dataset, "labels": labels}
        for dataset, labels in dict.fromkeys((row["dataset"], row["labels"]) for row in rows)
    ]


def entropy(rows: Rows, task: dict[str, str]) -> float:
    """H(label) of a task, nats: the loss of knowing nothing."""
    return float(tables.grid(rows, "label_entropy_nats", **task)[0, 0])


def edges(rows: Rows, task: dict[str, str], part: float = 0.5) -> np.ndarray:
    """β at which the loss is part of the way from its smallest value to H(label), (S,)."""
    beta, loss = (tables.grid(rows, n, **task) for n in ("beta", "loss_nats_per_label"))
    chance = entropy(rows, task)
    return np.array(
        [tables.critical_beta(b, x, chance, part) for b, x in zip(beta.T, loss.T, strict=True)]
    )


def lagrangian(rows: Rows, task: dict[str, str]) -> np.ndarray:
    """C_β/N, (B, S); nats per label."""
    number = tables.grid(rows, "num_examples", **task)
    return tables.grid(rows, "lagrangian_nats", **task) / number


def description(rows: Rows, task: dict[str, str]) -> np.ndarray:
    """C_1/N, nats of code and loss per label at β = 1 (or the next β of the table), (S,)."""
    beta = tables.grid(rows, "beta", **task)[:, 0]
    return lagrangian(rows, task)[np.flatnonzero(beta >= 1)[0]]


def nats_to_fit(rows: Rows, task: dict[str, str]) -> np.ndarray:
    """KL/N at which the structure function has explained 90 % of H(label), (S,); nats per label.

    That is the R with S(R) = 0.1 H, the largest (C_β - 0.1 H)/β; nan where no β explained so much.
    """
    beta, loss = (tables.grid(rows, n, **task) for n in ("beta", "loss_nats_per_label"))
    left = (1 - FITTED) * entropy(rows, task)
    needed = ((lagrangian(rows, task) - left) / beta).max(0)
    return np.where(loss.min(0) <= left, needed, np.nan)


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Critical β, width of the edge, description length and nats needed, of each task."""
    del config  # the rows say it all
    summary = {}
    for task in tasks_of(rows):
        width = np.log10(edges(rows, task, 0.75) / edges(rows, task, 0.25))
        summary[f"{task['dataset']}_{task['labels']}"] = {
            "label_entropy_nats": tables.rounded(entropy(rows, task)),
            "critical_beta": tables.spread(edges(rows, task)),
            "edge_decades_of_beta": tables.spread(width),
            "description_nats_per_label": tables.spread(description(rows, task)),
            "nats_per_label_to_explain_90_percent": tables.spread(nats_to_fit(rows, task)),
            "test_accuracy_mean_highest": tables.spread(
                tables.grid(rows, "test_accuracy_mean", **task).max(0)
            ),
        }
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep for every task; random labels that nobody compresses or keeps long."""
    curves, short, early = [], [], []
    for task in tasks_of(rows):
        name = f"{task['dataset']} {task['labels']}"
        curves += checks.curves_of(rows, name, config.num_draws, **task)
        if task["labels"].startswith("random"):
            number = tables.grid(rows, "num_examples", **task)[0]
            short.append(float((number * (entropy(rows, task) - description(rows, task))).max()))
        twin = {"random": "real", "random_two": "parity"}.get(task["labels"])
        if twin in config.labels:
            true = edges(rows, {**task, "labels": twin})
            early.append(float((edges(rows, task) / true).max()))
    found = checks.check_curves(curves)
    if short:
        found.append(
            checks.Check(
                "random labels are not compressed: C_1 >= N ln K",
                max(short) < SLACK,
                f"at most {max(short):.2g} nats below, of which up to {SLACK:g} are chance",
            )
        )
    if early:
        found.append(
            checks.Check(
                "random labels are given up at a smaller beta than true ones of as many classes",
                bool(max(early) < 1),
                f"critical beta at most {max(early):.2g} times that of the true labels",
            )
        )
    return found


def table(rows: Rows) -> str:
    """One line for each task, means over seeds."""
    lines = [
        f"{'task':<22} {'H(y)':>6} {'critical β':>10} {'C_1/N':>7} {'KL/N for 90 %':>14}   (nats "
        "per label)"
    ]
    for task in tasks_of(rows):
        name = f"{task['dataset']}, {LOOKS[task['labels']][0]}"
        numbers = [f(rows, task) for f in (edges, description, nats_to_fit)]
        critical, code, needed = (tables.mean_known(x) for x in numbers)
        lines.append(
            f"{name:<22} {entropy(rows, task):6.3f} {critical:10.3g} {code:7.3f} {needed:14.3f}"
        )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Loss against β, loss against nats with the structure functions, and the complexities."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.4))
    tasks = tasks_of(rows)
    dashes = dict(zip(config.datasets, ("-", "--", "-.", ":"), strict=False))
    for place, task in enumerate(tasks):
        said, colour, marker = LOOKS[task["labels"]]
        dash, chance = dashes[task["dataset"]], entropy(rows, task)
        beta, loss, kl = (
            tables.grid(rows, n, **task)
            for n in ("beta", "loss_nats_per_label", "kl_nats_per_label")
        )
        label = f"{task['dataset']}, {said}" if len(config.datasets) > 1 else said
        look = {"color": colour, "marker": marker}
        style.band(left, beta[:, 0], loss / chance, label=label, linestyle=dash, **look)
        middle.plot(kl, loss, linestyle="none", **look)
        fine = np.concatenate([np.linspace(0, 1, 200), np.geomspace(1, max(kl.max(), 2), 200)])
        best = lagrangian(rows, task).min(1)
        hull = tables.structure_function(beta[:, 0], best, fine)
        middle.plot(fine, hull, color=colour, linestyle=dash, linewidth=1)
        for value, filled in (
            (description(rows, task), "white"),
            (nats_to_fit(rows, task), colour),
        ):
            right.plot(
                value, [place] * len(value), linestyle="none", markerfacecolor=filled, **look
            )
        right.plot([chance] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=1.5)
    left.axvline(1, color=style.GREY, linestyle=":", linewidth=1)
    left.set(xscale="log", ylim=(0, 1.08), xlabel="β, price of a nat of weights (nats of loss)")
    left.set_ylabel("E$_Q$[L] / N H(y), part of the labels left")
    ideal = np.linspace(0, max(entropy(rows, task) for task in tasks), 200)
    middle.plot(ideal, ideal[::-1], color=style.GREY, linestyle="--", linewidth=1)
    middle.annotate("1 nat of code\nper nat of loss", (1.2, 1.2), color=style.GREY, fontsize=8)
    middle.set_xscale("symlog", linthresh=1)
    middle.set_xlim(left=0)
    middle.set_ylim(bottom=0)
    middle.set(xlabel="KL(Q‖P) / N  (nats per label)", ylabel="E$_Q$[L] / N  (nats per label)")
    right.set_yticks(range(len(tasks)), left.get_legend_handles_labels()[1])
    right.invert_yaxis()
    right.set(xscale="log", xlabel="nats per label")
    right.set_xticks((0.3, 1, 3, 10, 30), ("0.3", "1", "3", "10", "30"))
    right.minorticks_off()
    right.set_title(
        f"open: C at β = 1; filled: KL that explains {FITTED:.0%}; bar: H(y)", fontsize=9
    )
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9
    )
    number = int(rows[0]["num_examples"])
    figure.suptitle(
        f"{', '.join(config.datasets)}, N = {number}, {config.network}, {config.code} code; bands: "
        f"range of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.task_complexity")

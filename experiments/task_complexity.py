"""Loss against nats in the weights for several tasks: how complex each one is.

The same images are to be told apart in several ways (by what they show, odd from even, by a linear
rule, at random), so that only the labels differ; or several data sets, as many images of each, of
about one size. Each task has its structure function, the loss that so many nats of weights can
reach; its critical β, up to which it is worth learning; and its description length, that of the
labels given the images, in nats of code and of loss.

Default: digits, about 5 minutes on 2 CPU cores. Paper: Achille, Paolini, Mbeng & Soatto
(arXiv:1904.03292), Fig. 2 (MNIST, CIFAR-10, random labels; All-CNN). MNIST and CIFAR-10 as well:
--datasets digits mnist cifar10 --labels real random --num-steps 3000 --data-dir PATH
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.common import checks, cost, measures, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

FITTED = 0.9  # of H(label): what the nats that a task needs are asked to explain
SLACK = 10.0  # nats by which random labels are compressed with probability below exp(-10)
LEARNT = 0.1  # of H(label): what a code has to explain for its price to be told
LOOKS = {
    "real": ("what they show", style.BLUE, "o"),
    "parity": ("odd or even", style.GREEN, "^"),
    "linear": ("a linear rule", style.PURPLE, "D"),
    "random": ("random", style.ORANGE, "s"),
    "random_two": ("random, two classes", style.YELLOW, "v"),
}
COLOURS = style.BLUE, style.GREEN, style.PURPLE, style.ORANGE  # of data sets, if there are several
Labels = Literal["real", "parity", "linear", "random", "random_two"]
Looks = list[tuple[dict[str, str], str, dict[str, str]]]  # of tasks: which, its name, its style


@dataclasses.dataclass(frozen=True)
class Config(common.TrainingConfig):
    """What is swept.

    Attributes:
      datasets: of digits, mnist, fashion_mnist and cifar10.
      labels: ways to label each: real, parity (of the class), linear (the largest of K random
        linear functions), random (uniform), random_two (uniform over two).
      num_examples: training examples, the same number for all; 0 for all there are.
      side: pixels a side at most; larger images are averaged down.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_seeds: seeds, which differ in initial weights, noise, minibatches and random labels.
      seed: root of all randomness.
    """

    datasets: tuple[str, ...] = ("digits",)
    labels: tuple[Labels, ...] = ("real", "parity", "linear", "random", "random_two")
    num_examples: int = 500
    side: int = 8
    betas: tuple[float, ...] = (
        *(0.004, 0.015, 0.05, 0.063, 0.08, 0.1, 0.125, 0.16, 0.2, 0.25, 0.32),
        *(0.4, 0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0),
    )
    num_seeds: int = 3
    widths: tuple[int, ...] = (50,)
    num_steps: int = 1500
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
        if self.side < 1:
            raise ValueError(f"side must be an integer of at least 1, got {self.side}")
        if max(self.betas) < 1:  # the description length is that at β = 1
            raise ValueError(f"betas must reach 1, got {self.betas}")


PRESETS = {
    "quick": Config(
        labels=("real", "random"),
        num_examples=200,
        betas=(0.001, 0.1, 1.0, 30.0),
        num_seeds=2,
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
        side=32,
        betas=tuple(float(f"{b:.2g}") for b in np.logspace(-3, 1, 17)),
        num_seeds=2,
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
        dataset = data.average_pool(dataset, config.side)
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


def stages(config: Config, tasks: Tasks) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    return [cost.sweep(config, dataset, 1) for dataset in tasks.sets.values()]


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
    """Neighbouring β between which that part of the way to H(label) lies, (2, S); see `edge`."""
    beta, loss = (tables.grid(rows, n, **task) for n in ("beta", "loss_nats_per_label"))
    chance = entropy(rows, task)
    return np.transpose(
        [tables.edge(b, x, chance, part) for b, x in zip(beta.T, loss.T, strict=True)]
    )


def edge_width(rows: Rows, task: dict[str, str]) -> np.ndarray:
    """Decades of β from a quarter to three quarters of the way, the least and the most, (2, S)."""
    with np.errstate(divide="ignore"):  # β = 0: not learned at any β of the table
        quarter, three = (np.log10(edges(rows, task, part)) for part in (0.25, 0.75))
    return np.stack([np.maximum(three[0] - quarter[1], 0), three[1] - quarter[0]])


def prices(rows: Rows, task: dict[str, str]) -> np.ndarray:
    """Nats of code for a nat of label, KL/(N H - E_Q[L]), the least of each seed, (S,).

    Of codes that explain a tenth of the labels or more; less is a ratio of two small numbers.
    """
    loss, kl = (tables.grid(rows, f"{n}_nats_per_label", **task) for n in ("loss", "kl"))
    explained = entropy(rows, task) - loss
    learnt = explained >= LEARNT * entropy(rows, task)
    return np.where(learnt, kl / np.where(learnt, explained, 1), np.inf).min(0)


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
    """Critical β, width of the edge, description length, nats needed and price, of each task.

    What a grid of β can tell of an edge is given as [lowest, highest] over all seeds.
    """
    del config  # the rows say it all
    summary = {}
    for task in tasks_of(rows):
        summary[f"{task['dataset']}_{task['labels']}"] = {
            "label_entropy_nats": tables.rounded(entropy(rows, task)),
            "critical_beta_between": _ends(edges(rows, task)),
            "edge_decades_of_beta_between": _ends(edge_width(rows, task)),
            "description_nats_per_label": tables.spread(description(rows, task)),
            "nats_per_label_to_explain_90_percent": tables.spread(nats_to_fit(rows, task)),
            "lowest_price_nats_per_nat": tables.spread(prices(rows, task)),
            "test_accuracy_mean_highest": tables.spread(
                tables.grid(rows, "test_accuracy_mean", **task).max(0)
            ),
        }
    return summary


def _ends(between: np.ndarray) -> list[float | None]:
    """The lowest lower and the highest upper end, from (2, S); None for infinity."""
    return [tables.rounded(between[0].min()), tables.rounded(between[1].max())]


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep for every task; random labels that are not compressed, nor kept."""
    curves = []
    for task in tasks_of(rows):
        name = f"{task['dataset']} {task['labels']}"
        curves += checks.curves_of(rows, name, config.num_draws, **task)
    found = checks.check_curves(curves)
    random = [task for task in tasks_of(rows) if task["labels"].startswith("random")]
    if random:
        found.append(_check_price(rows, random))
    twins = {"random": "real", "random_two": "parity"}
    pairs = [(t, {**t, "labels": twins[t["labels"]]}) for t in random]
    pairs = [(task, twin) for task, twin in pairs if twin in tasks_of(rows)]
    if pairs:
        found.append(_check_order(rows, pairs))
    return found


def _check_price(rows: Rows, random: list[dict[str, str]]) -> checks.Check:
    """C_1 >= N ln K for every code, whatever the β that it was minimised for.

    Since E exp(N ln K - L_D(w)) = 1 over random labels, for every w, the mean over P is above
    exp(SLACK) with probability below exp(-SLACK) (Markov), and N ln K - E_Q[L_D] - KL is below its
    logarithm for all Q at once (Donsker & Varadhan). SLACK has to do for the scales of P, too,
    where they are learned.
    """
    saved, price = [], []
    for task in random:
        loss, kl, number = (
            tables.grid(rows, n, **task) for n in ("loss_nats", "kl_nats", "num_examples")
        )
        saved.append(float((number * entropy(rows, task) - loss - kl).max()))
        price.append(float(prices(rows, task).min()))
    return checks.Check(
        "no code, of whatever beta, compresses random labels: E_Q[L] + KL >= N ln K",
        max(saved) < SLACK,
        f"at most {max(saved):.2g} nats below, of which up to {SLACK:g} are chance; a nat of label "
        f"costs at least {min(price):.2g} nats of code",
    )


def _check_order(rows: Rows, pairs: list[tuple[dict[str, str], dict[str, str]]]) -> checks.Check:
    """As far as the grid of β can tell: both edges may lie between the same neighbours."""
    ends = [(edges(rows, task)[0].max(), edges(rows, twin)[1].min()) for task, twin in pairs]
    return checks.Check(
        "random labels are not kept to a larger beta than true ones of as many classes",
        all(random < true for random, true in ends),
        "; ".join(
            f"{task['dataset']} {task['labels']} to {random:g}, {twin['labels']} given up by "
            f"{true:g}"
            for (task, twin), (random, true) in zip(pairs, ends, strict=True)
        ),
    )


def table(rows: Rows) -> str:
    """One line for each task; critical β of all seeds, means over them."""
    lines = [
        f"{'task':<28} {'H(y)':>6} {'critical β':>12} {'C_1/N':>7} {'KL/N for 90 %':>14} "
        f"{'price':>6}   (nats per label; nats of code per nat of label)"
    ]
    for task in tasks_of(rows):
        name = f"{task['dataset']}, {LOOKS[task['labels']][0]}"
        numbers = [f(rows, task) for f in (description, nats_to_fit, prices)]
        code, needed, price = (tables.mean_known(x) for x in numbers)
        low, high = edges(rows, task)
        lines.append(
            f"{name:<28} {entropy(rows, task):6.3f} {low.min():>5.3g} -{high.max():>5.3g} "
            f"{code:7.3f} {needed:14.3f} {price:6.2f}"
        )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Loss against β, loss against nats with the structure functions, and the complexities."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.4))
    looks = [(task, *_look(task, config)) for task in tasks_of(rows)]
    _draw_losses(left, rows, looks)
    _draw_structure(middle, rows, looks)
    _draw_complexities(right, rows, looks)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9
    )
    number = int(rows[0]["num_examples"])
    figure.suptitle(
        f"{', '.join(config.datasets)}, N = {number}, {config.network}, {config.code} code; bands: "
        f"range of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


def _look(task: dict[str, str], config: Config) -> tuple[str, dict[str, str]]:
    """Name and style of a task; several data sets differ in colour, their labels in marker."""
    said, colour, marker = LOOKS[task["labels"]]
    if len(config.datasets) == 1:
        return said, {"color": colour, "marker": marker, "linestyle": "-"}
    colour = COLOURS[config.datasets.index(task["dataset"])]
    dash = "-" if task["labels"] == "real" else "--"
    return f"{task['dataset']}, {said}", {"color": colour, "marker": marker, "linestyle": dash}


def _draw_losses(axis: Any, rows: Rows, looks: Looks) -> None:
    for task, said, look in looks:
        beta, loss = (tables.grid(rows, n, **task) for n in ("beta", "loss_nats_per_label"))
        style.band(axis, beta[:, 0], loss / entropy(rows, task), label=said, **look)
    axis.axvline(1, color=style.GREY, linestyle=":", linewidth=1)
    axis.set(xscale="log", ylim=(0, 1.08), xlabel="β, price of a nat of weights (nats of loss)")
    axis.set_ylabel("E$_Q$[L] / N H(y), part of the labels left")


def _draw_structure(axis: Any, rows: Rows, looks: Looks) -> None:
    for task, _, look in looks:
        kl, loss = (tables.grid(rows, f"{n}_nats_per_label", **task) for n in ("kl", "loss"))
        axis.plot(kl, loss, **{**look, "linestyle": ""})
        fine = np.concatenate([np.linspace(0, 1, 200), np.geomspace(1, max(kl.max(), 2), 200)])
        beta, best = tables.grid(rows, "beta", **task)[:, 0], lagrangian(rows, task).min(1)
        hull = tables.structure_function(beta, best, fine)
        axis.plot(fine, hull, **{**look, "marker": ""}, linewidth=1)
    ideal = np.linspace(0, max(entropy(rows, task) for task, *_ in looks), 200)
    axis.plot(ideal, ideal[::-1], color=style.GREY, linestyle=":", linewidth=1)
    axis.annotate("1 nat of code\nper nat of loss", (1.2, 1.2), color=style.GREY, fontsize=8)
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.set(xlabel="KL(Q‖P) / N  (nats per label)", ylabel="E$_Q$[L] / N  (nats per label)")


def _draw_complexities(axis: Any, rows: Rows, looks: Looks) -> None:
    for place, (task, _, look) in enumerate(looks):
        for value, filled in ((description, "white"), (nats_to_fit, look["color"])):
            nats = value(rows, task)
            own = {**look, "linestyle": "", "markerfacecolor": filled}
            axis.plot(nats, [place] * len(nats), **own)
        axis.plot([entropy(rows, task)] * 2, [place - 0.3, place + 0.3], color=look["color"])
    axis.set_yticks(range(len(looks)), [said for _, said, _ in looks])
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="nats per label")
    axis.set_xticks((0.3, 1, 3, 10, 30), ("0.3", "1", "3", "10", "30"))
    axis.minorticks_off()
    axis.set_title(
        f"open: C at β = 1; filled: KL that explains {FITTED:.0%}; bar: H(y)", fontsize=9
    )


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.task_complexity")

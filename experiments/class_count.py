"""The Fisher information of trained networks against the number of classes.

A network learns c of the classes: the first c in an order of its own, so that an error over seeds
tells what the choice of classes does too. More classes also mean more examples, more steps and more
outputs; so the sweep is made three times: as it comes, with as many examples whatever c, and with
as many outputs whatever c.

Default: digits, about a minute on 2 CPU cores. Paper: Achille, Paolini & Soatto
(arXiv:1905.12213), Fig. 4 right.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

import iw_jax as iw
from experiments.common import checks, controls, cost, descent
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

AXIS = "classes"
CONTROLS = {
    "natural": "all examples of c classes, c outputs (the paper)",
    "examples": "equal N",
    "outputs": "equal outputs",
}


@dataclasses.dataclass(frozen=True)
class Config(controls.Config):
    """What is swept.

    Attributes:
      classes: how many of the classes; increasing.
      num_epochs: of training.
      batch_size: examples a step.
      num_seeds: networks a point, each with an order of the classes.
    """

    classes: tuple[int, ...] = (2, 4, 6, 8, 10)
    num_epochs: int = 60
    batch_size: int = 16
    num_seeds: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) < 2 or self.classes[0] < 2 or np.any(np.diff(self.classes) <= 0):
            raise ValueError(
                f"classes must be at least two increasing numbers from 2 on, got {self.classes}"
            )


PRESETS = {
    "quick": Config(num_examples=200, widths=(4,), classes=(2, 10), num_epochs=10, num_seeds=2),
    "default": Config(),
    "paper": Config(
        dataset="cifar10",
        num_examples=0,
        network="resnet18",
        num_epochs=30,
        batch_size=128,
        prior_scales=(0.01, 0.1),
        num_matvecs=240,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels.

    Raises:
      ValueError: if it has fewer classes than are asked for, or a class has no example.
    """
    dataset = common.load(config, data_dir, config.num_examples)
    if config.classes[-1] > dataset.num_classes:
        raise ValueError(
            f"classes must be at most {dataset.num_classes}, those of {config.dataset}, got "
            f"{config.classes}"
        )
    found = len(np.unique(dataset.train_targets))
    if found < dataset.num_classes:
        raise ValueError(
            f"num_examples must be so large that all {dataset.num_classes} classes occur, got "
            f"{config.num_examples} with {found} of them"
        )
    return dataset


def points(config: Config, dataset: data.Dataset) -> tuple[list[controls.Point], iw.Task]:
    """What is trained, and on which pool."""
    network = common.network(config, dataset.num_classes)
    task = descent.pool(network, dataset)
    making, _ = _keys(config)
    # ranks[s, k] is the place of class k in the order of seed s.
    ranks = np.random.default_rng(config.seed).permuted(
        np.tile(np.arange(dataset.num_classes), (config.num_seeds, 1)), axis=1
    )
    of_examples = ranks[:, dataset.train_targets]
    # Those of the first classes before the others, so that N of them can be taken.
    examples = {c: np.argsort(of_examples >= c, axis=1, kind="stable") for c in config.classes}
    fewest = np.sum(of_examples < config.classes[0], axis=1).min()
    found = []
    for control in CONTROLS:
        for c in config.classes:
            counts = fewest if control == "examples" else np.sum(of_examples < c, axis=1)
            outputs = ranks < (config.classes[-1] if control == "outputs" else c)
            members = descent.family(making, network, task, examples[c], counts, outputs)
            steps = int(np.ceil(config.num_epochs * np.mean(counts) / config.batch_size))
            found.append(controls.Point(control, c, members, steps, config.learning_rate))
    return found, task


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    return controls.stages(*points(config, dataset), config, micro=config.batch_size)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each control, number of classes and seed."""
    _, probing = _keys(config)
    found, task = points(config, dataset)
    micro = config.batch_size
    return controls.measure(context, AXIS, found, task, config, key=probing, micro=micro)


def _keys(config: Config) -> tuple[jax.Array, ...]:
    """Of the networks and their minibatches, of the probes."""
    return tuple(jax.random.split(jax.random.key(config.seed)))


# ------------------------------------------------------------------------ what the table says


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """d log(quantity)/d log(classes) under every control; the paper's is a rising trace."""
    return controls.summarize(rows, AXIS, config)


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether log-determinants and traces fit together."""
    return descent.check_logdets(rows, config.prior_scales)


def table(rows: Rows) -> str:
    """Means over seeds, a line a point."""
    return controls.table(rows, AXIS)


def plot(rows: Rows, config: Config) -> Any:
    """Traces, log-determinants and loss against the number of classes."""
    return controls.plot(rows, AXIS, "classes", CONTROLS, config)


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.class_count")

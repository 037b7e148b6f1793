"""The Fisher information of trained networks against the number of classes.

A network learns the first c classes. More classes also mean more examples, more steps and more
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

from experiments.common import checks, controls, descent
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

CONTROLS = {
    "natural": "all examples of c classes, c outputs (the paper)",
    "examples": "equal N",
    "outputs": "equal outputs",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples of all classes; 0 for all.
      network: mlp, small_alexnet, all_cnn or resnet18.
      widths: hidden units of the mlp.
      classes: how many of the classes, from the first on; increasing.
      num_epochs: of training.
      batch_size: examples a step.
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
    classes: tuple[int, ...] = (2, 4, 6, 8, 10)
    num_epochs: int = 60
    batch_size: int = 16
    learning_rate: float = 0.05
    num_seeds: int = 4
    prior_scales: tuple[float, ...] = (0.1, 1.0)
    num_matvecs: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        if len(self.classes) < 2 or self.classes[0] < 2 or np.any(np.diff(self.classes) <= 0):
            raise ValueError(
                f"classes must be at least two increasing numbers from 2 on, got {self.classes}"
            )
        if self.num_seeds < 2 or self.num_epochs < 1:
            raise ValueError(
                "num_seeds must be at least 2 and num_epochs at least 1, got "
                f"{self.num_seeds} and {self.num_epochs}"
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
      ValueError: if it has fewer classes than are asked for.
    """
    dataset = common.load(config, data_dir, config.num_examples)
    if config.classes[-1] > dataset.num_classes:
        raise ValueError(
            f"classes must be at most {dataset.num_classes}, those of {config.dataset}, got "
            f"{config.classes}"
        )
    return dataset


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each control, number of classes and seed."""
    network = common.network(config, dataset.num_classes)
    targets = dataset.train_targets
    making, probing = jax.random.split(jax.random.key(config.seed))
    fewest = int(np.sum(targets < config.classes[0]))
    points = []
    for control in CONTROLS:
        for c in config.classes:
            # Those of the first c classes before the others, so that N of them can be taken.
            examples = np.argsort(targets >= c, kind="stable")
            count = fewest if control == "examples" else int(np.sum(targets < c))
            outputs = np.arange(dataset.num_classes) < (
                config.classes[-1] if control == "outputs" else c
            )
            # Examples of outputs that are not there have weight 0, but need a valid label.
            task = descent.pool(
                network, dataset.train_inputs, np.where(outputs[targets], targets, 0), outputs
            )
            members = descent.family(
                making, network, task.inputs["x"], np.tile(examples, (config.num_seeds, 1)), count
            )
            steps = -(-config.num_epochs * count // config.batch_size)
            points.append(controls.Point(control, c, task, members, steps, 1, config.learning_rate))
    return controls.measure(
        context,
        "classes",
        points,
        key=probing,
        micro=config.batch_size,
        prior_scales=config.prior_scales,
        num_matvecs=config.num_matvecs,
    )


# ------------------------------------------------------------------------ what the table says


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """d log(quantity)/d log(classes) under every control; the paper's is a rising trace."""
    return controls.slopes(rows, "classes", CONTROLS, config.prior_scales)


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether log-determinants and traces fit together."""
    return descent.check_logdets(rows, config.prior_scales)


def table(rows: Rows) -> str:
    """Means over seeds, a line a point."""
    return controls.table(rows, "classes")


def plot(rows: Rows, config: Config) -> Any:
    """Traces, log-determinants and loss against the number of classes."""
    figure = controls.plot(rows, "classes", "classes", CONTROLS, config.prior_scales)
    figure.suptitle(
        f"{config.dataset}, {rows[0]['num_weights']} weights; mean and standard error of "
        f"{config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.class_count")

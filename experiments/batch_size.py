"""The Fisher information of trained networks against batch size, with what else changes held fixed.

Small batches are said to end where the Fisher is small. At equal epochs, as in the paper, a smaller
batch also takes more steps, and with equal rate its steps are noisier; so the sweep is made three
times: at equal epochs, at equal steps, and at equal epochs with equal rate/batch.

Default: digits, about a minute on 2 CPU cores. Paper: Achille, Paolini & Soatto
(arXiv:1905.12213), Fig. 4 left.
"""

import dataclasses
import itertools
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
    "epochs": "equal epochs (the paper)",
    "steps": "equal steps",
    "ratio": "equal epochs and rate/batch",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist, cifar10 or points.
      num_examples: training examples; 0 for all.
      network: mlp, small_alexnet, all_cnn or resnet18.
      widths: hidden units of the mlp.
      batches: batch sizes; each a multiple of the one before. The middle one is the reference, the
        same under every control.
      num_epochs: of training; where steps are equal, those of the reference.
      learning_rate: of the mean loss, at the first step; falls to 0 along a cosine. Where
        rate/batch is equal, that of the reference.
      num_seeds: networks a point.
      prior_scales: λ of ½ log det(I + λ²F); increasing.
      num_matvecs: curvature products allowed for a network; exact if it has no more weights.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 1000
    network: str = "mlp"
    widths: tuple[int, ...] = (8,)
    batches: tuple[int, ...] = (8, 32, 128, 512)
    num_epochs: int = 40
    learning_rate: float = 0.05
    num_seeds: int = 4
    prior_scales: tuple[float, ...] = (0.1, 1.0)
    num_matvecs: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        pairs = itertools.pairwise(self.batches)
        if len(self.batches) < 2 or not all(0 < a < b and b % a == 0 for a, b in pairs):
            raise ValueError(
                "batches must be at least two, each a multiple of the one before, got "
                f"{self.batches}"
            )
        if self.num_seeds < 2 or self.num_epochs < 1:
            raise ValueError(
                "num_seeds must be at least 2 and num_epochs at least 1, got "
                f"{self.num_seeds} and {self.num_epochs}"
            )


PRESETS = {
    "quick": Config(num_examples=100, widths=(4,), batches=(5, 20), num_epochs=10, num_seeds=2),
    "default": Config(),
    "paper": Config(
        dataset="cifar10",
        num_examples=0,
        network="resnet18",
        batches=(32, 128, 512, 2048),
        num_epochs=30,
        prior_scales=(0.01, 0.1),
        num_matvecs=240,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels."""
    return common.load(config, data_dir, config.num_examples)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each control, batch size and seed."""
    network = common.network(config, dataset.num_classes)
    count = len(dataset.train_inputs)
    present = np.ones(dataset.num_classes, bool)
    task = descent.pool(network, dataset.train_inputs, dataset.train_targets, present)
    making, probing = jax.random.split(jax.random.key(config.seed))
    everybody = np.tile(np.arange(count), (config.num_seeds, 1))
    members = descent.family(making, network, task.inputs["x"], everybody, count)
    micro, reference = config.batches[0], config.batches[(len(config.batches) - 1) // 2]
    points = [
        controls.Point(
            control,
            batch,
            task,
            members,
            num_steps=-(-config.num_epochs * count // (reference if control == "steps" else batch)),
            parts=batch // micro,
            rate=config.learning_rate * (batch / reference if control == "ratio" else 1.0),
        )
        for control in CONTROLS
        for batch in config.batches
    ]
    return controls.measure(
        context,
        "batch",
        points,
        key=probing,
        micro=micro,
        prior_scales=config.prior_scales,
        num_matvecs=config.num_matvecs,
    )


# ------------------------------------------------------------------------ what the table says


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """d log(quantity)/d log(batch) under every control; the paper's is a rising trace."""
    return controls.slopes(rows, "batch", CONTROLS, config.prior_scales)


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether log-determinants and traces fit together."""
    return descent.check_logdets(rows, config.prior_scales)


def table(rows: Rows) -> str:
    """Means over seeds, a line a point."""
    return controls.table(rows, "batch")


def plot(rows: Rows, config: Config) -> Any:
    """Traces, log-determinants and loss against batch size."""
    figure = controls.plot(rows, "batch", "batch size", CONTROLS, config.prior_scales)
    figure.suptitle(
        f"{config.dataset}, {rows[0]['num_examples']} examples, {rows[0]['num_weights']} weights; "
        f"mean and standard error of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.batch_size")

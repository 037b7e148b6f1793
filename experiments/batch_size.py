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

import iw_jax as iw
from experiments.common import checks, controls, cost, descent
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

AXIS = "batch"
CONTROLS = {
    "epochs": "equal epochs (the paper)",
    "steps": "equal steps",
    "ratio": "equal epochs and rate/batch",
}


@dataclasses.dataclass(frozen=True)
class Config(controls.Config):
    """What is swept.

    Attributes:
      batches: batch sizes; each a multiple of the one before. The middle one is the reference, the
        same under every control: its steps are those where steps are equal, its learning rate is
        `learning_rate` where rate/batch is equal.
    """

    batches: tuple[int, ...] = (8, 32, 128, 512)

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = itertools.pairwise(self.batches)
        if len(self.batches) < 2 or not all(0 < a < b and b % a == 0 for a, b in pairs):
            raise ValueError(
                "batches must be at least two, each a multiple of the one before, got "
                f"{self.batches}"
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
    """The data set, true labels.

    Raises:
      ValueError: if a batch is larger than the data set.
    """
    dataset = common.load(config, data_dir, config.num_examples)
    count = len(dataset.train_inputs)
    if config.batches[-1] > count:
        raise ValueError(
            f"batches must be at most {count}, the number of examples, got {config.batches}"
        )
    return dataset


def points(config: Config, dataset: data.Dataset) -> tuple[list[controls.Point], iw.Task]:
    """What is trained, and on which pool."""
    network = common.network(config, dataset.num_classes)
    task = descent.pool(network, dataset)
    count = task.num_examples
    making, _ = _keys(config)
    everybody = np.tile(np.arange(count), (config.num_seeds, 1))
    members = descent.family(making, network, task, everybody, count)
    micro, reference = config.batches[0], config.batches[(len(config.batches) - 1) // 2]
    found = [
        controls.Point(
            control,
            batch,
            members,
            num_steps=-(-config.num_epochs * count // (reference if control == "steps" else batch)),
            rate=config.learning_rate * (batch / reference if control == "ratio" else 1.0),
            parts=batch // micro,
        )
        for control in CONTROLS
        for batch in config.batches
    ]
    return found, task


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    return controls.stages(*points(config, dataset), config, micro=config.batches[0])


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each control, batch size and seed."""
    _, probing = _keys(config)
    found, task = points(config, dataset)
    micro = config.batches[0]
    return controls.measure(context, AXIS, found, task, config, key=probing, micro=micro)


def _keys(config: Config) -> tuple[jax.Array, ...]:
    """Of the networks and their minibatches, of the probes."""
    return tuple(jax.random.split(jax.random.key(config.seed)))


# ------------------------------------------------------------------------ what the table says


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """d log(quantity)/d log(batch) under every control; the paper's is a rising trace."""
    return controls.summarize(rows, AXIS, config)


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether log-determinants and traces fit together."""
    return descent.check_logdets(rows, config.prior_scales)


def table(rows: Rows) -> str:
    """Means over seeds, a line a point."""
    return controls.table(rows, AXIS)


def plot(rows: Rows, config: Config) -> Any:
    """Traces, log-determinants and loss against batch size."""
    return controls.plot(rows, AXIS, "batch size", CONTROLS, config)


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.batch_size")

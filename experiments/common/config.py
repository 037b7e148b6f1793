"""What all experiments can be told, and the data, network and training that follow from it."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax

import iw_jax as iw
from experiments.common import points
from iw_jax import checks, data, nets

NUM_ROUNDS = 40  # of a sweep: how often codes are exchanged, checkpoints may be written
CROP = 28  # pixels a side that the small AlexNet of Zhang et al. sees


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the codes of an experiment are minimised; the common part of its Config.

    Attributes:
      network: mlp, small_alexnet, all_cnn or resnet18.
      widths: hidden units of the mlp.
      code: family of Q: one scale a layer, one scale a weight, that plus 8 shared directions, or
        multiplicative log-normal noise (whose prior is log-uniform, without scales).
      prior: scale of the Gaussian prior P: learned for each layer, learned for all weights, or
        fixed at the size of the network's initialisation.
      initial_noise: the code's first standard deviation, in units of the prior's.
      num_steps: optimiser steps of every member.
      noise: how E_Q[L] is estimated in a step: one weight draw, an antithetic pair, or local
        reparameterisation (mlp with a diagonal or isotropic code). See docs/variance.md.
      batch_size: examples a step, and in a chunk of the evaluation.
      learning_rate: Adam's, in units of the prior; decays to 0 along a cosine.
      num_draws: weight draws of the evaluation.
      member_batch: (targets, beta) cells computed at once; 0 for all. Lower it if memory is short.
    """

    network: str = "mlp"
    widths: tuple[int, ...] = (100,)
    code: Literal["isotropic", "diagonal", "low_rank", "log_normal"] = "diagonal"
    prior: Literal["layer", "global", "fixed"] = "layer"
    initial_noise: float = 0.1
    num_steps: int = 2600
    noise: Literal["weight", "antithetic", "local"] = "antithetic"
    batch_size: int = 200
    learning_rate: float = 0.03
    num_draws: int = 64
    member_batch: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        check_fields(self)
        local = self.network == "mlp" and self.code in ("diagonal", "isotropic")
        require(
            local or self.noise != "local",
            "noise",
            "weight or antithetic unless network is mlp and code diagonal or isotropic",
            self.noise,
        )


def check_fields(config: Any, datasets: tuple[str, ...] = data.NAMES) -> None:
    """Raises ValueError for a field, of those that several configs have, with an unusable value.

    Args:
      config: a dataclass.
      datasets: those that this experiment can do with.
    """
    known = {**_KNOWN, "dataset": datasets}
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if name in _LEAST:
            checks.at_least(name, value, _LEAST[name])
        elif name in _POSITIVE:
            checks.positive(name, value)
        elif name in _SHARES:
            checks.between(name, value, 0, 1)
        elif name in _RISING:
            rising = all(a < b for a, b in itertools.pairwise(value))
            good = len(value) > 0 and rising and all(0 < v < float("inf") for v in value)
            require(good, name, "positive, finite and increasing", value)
        elif name == "widths":
            require(all(w >= 1 for w in value), name, "at least 1 each", value)
        elif name in known:
            require(value in known[name], name, f"one of {', '.join(known[name])}", value)


# The smallest value that each whole number of a config may have.
_LEAST = {
    "num_steps": 1,
    "batch_size": 1,
    "num_draws": 2,
    "member_batch": 0,
    "num_examples": 0,
    "num_seeds": 1,
    "num_matvecs": 4,
    "seed": 0,
}
_POSITIVE = ("beta", "initial_noise", "learning_rate", "prior_beta", "prior_scale", "rtol")
_SHARES = ("delta", "draws_delta", "prior_part", "wrong")  # neither nothing nor all
_RISING = ("betas", "numbers", "prior_scales")
_KNOWN = {
    "network": nets.NAMES,
    "code": ("isotropic", "diagonal", "low_rank", "log_normal"),
    "prior": ("layer", "global", "fixed"),
    "noise": ("weight", "antithetic", "local"),
}
WITH_POINTS = (*data.NAMES, "points")


def at_least(config: Any, **least: int) -> None:
    """Raises ValueError for a whole number that is too small: `at_least(self, num_seeds=2)`."""
    for name, smallest in least.items():
        checks.at_least(name, getattr(config, name), smallest)


def positive(config: Any, *names: str) -> None:
    """Raises ValueError for a number, or one of a list, that is not positive and finite."""
    for name in names:
        checks.positive(name, getattr(config, name))


def some_of(config: Any, **allowed: Sequence[str]) -> None:
    """Raises ValueError unless a list holds at least one of those allowed, each at most once."""
    for name, names in allowed.items():
        given = getattr(config, name)
        good = given and len(set(given)) == len(given) and set(given) <= set(names)
        require(good, name, f"at least one of {', '.join(names)}, each once", given)


def require(condition: Any, name: str, allowed: str, given: Any) -> None:
    """Raises ValueError that says what is allowed and what is given, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {given!r}")


def network(config: Any, num_classes: int, activation: str = "relu") -> nets.Network:
    """The network of a config with `network` and `widths`; the activation is that of an mlp."""
    if config.network == "mlp":
        return nets.mlp(num_classes, widths=config.widths, activation=activation)
    return nets.make(config.network, num_classes)


def sweep_options(config: TrainingConfig, num_classes: int) -> dict[str, Any]:
    """The arguments of `iw.sweep` that a config settles."""
    estimator = iw.antithetic_noise if config.noise == "antithetic" else iw.weight_noise
    if config.noise == "local":
        estimator = iw.local_noise(nets.mlp_local(num_classes, widths=config.widths))
    return {
        "optimizer": optimizer(config.learning_rate, config.num_steps),
        "num_steps": config.num_steps,
        "num_rounds": NUM_ROUNDS,
        "batch_size": config.batch_size,
        "estimator": estimator,
        "learn_prior": config.prior != "fixed" and config.code != "log_normal",
        "member_batch": config.member_batch or None,
        "num_draws": config.num_draws,
    }


@functools.cache  # an optimiser is known by identity: the same one must not compile twice
def optimizer(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam with a cosine decay to 0."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))


def load(
    config: Any, data_dir: Path | None, num_examples: int, name: str | None = None
) -> data.Dataset:
    """The data set, true labels, as the network wants it.

    Args:
      config: with `dataset` (unless there is a name), `network` and `seed`.
      data_dir: folder of prepared TFDS sets.
      num_examples: training examples; 0 for all.
      name: of the data set; None for that of the config.
    """
    name = name or config.dataset
    if name == "points":
        return data.subset(points.load(), num_examples or points.NUM_TRAIN, config.seed)
    dataset = data.load(
        name, data_dir=data_dir, num_examples=num_examples or None, seed=config.seed
    )
    if config.network == "small_alexnet" and min(dataset.train_inputs.shape[1:3]) > CROP:
        return data.central_crop(dataset, CROP)
    return dataset


def random_labels(config: Any, dataset: data.Dataset) -> np.ndarray:
    """Labels that tell nothing, (S, N), other ones for each seed and each root seed."""
    count = len(dataset.train_targets)
    seeds = [label_seed(config.seed, s) for s in range(config.num_seeds)]
    return np.stack([data.random_labels(s, count, dataset.num_classes) for s in seeds])


def label_seed(root: int, seed: int) -> int:
    """A seed for the labels of one seed of a run, different for every root."""
    return int(np.random.SeedSequence((root, seed)).generate_state(1)[0])

"""Codes to start a sweep from, and what is measured on its members afterwards."""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common.context import Context
from iw_jax import data, nets


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
      batch_size: examples a step.
      learning_rate: Adam's, in units of the prior; decays to 0 along a cosine.
      num_draws: weight draws of the evaluation.
      member_batch: (targets, beta) cells computed at once; 0 for all. Lower it if memory is short.
    """

    network: str = "mlp"
    widths: tuple[int, ...] = (100,)
    code: Literal["isotropic", "diagonal", "low_rank", "log_normal"] = "diagonal"
    prior: Literal["layer", "global", "fixed"] = "layer"
    initial_noise: float = 0.1
    num_steps: int = 3000
    batch_size: int = 200
    learning_rate: float = 0.03
    num_draws: int = 64
    member_batch: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        known = {
            "network": nets.NAMES,
            "dataset": data.NAMES,
            "code": ("isotropic", "diagonal", "low_rank", "log_normal"),
            "prior": ("layer", "global", "fixed"),
        }
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _LEAST:
                least = _LEAST[field.name]
                _require(value >= least, field.name, f"an integer of at least {least}", value)
            elif field.name in ("initial_noise", "learning_rate"):
                _require(_positive(value), field.name, "positive and finite", value)
            elif field.name in ("betas", "numbers"):
                rising = all(a < b for a, b in itertools.pairwise(value))
                good = len(value) > 0 and rising and all(map(_positive, value))
                _require(good, field.name, "positive, finite and increasing", value)
            elif field.name == "widths":
                _require(all(w >= 1 for w in value), field.name, "at least 1 each", value)
            elif field.name in known:
                names = ", ".join(known[field.name])
                _require(value in known[field.name], field.name, f"one of {names}", value)


# The smallest value that each whole number of a config may have.
_LEAST = {
    "num_steps": 1,
    "batch_size": 1,
    "num_draws": 2,
    "member_batch": 0,
    "num_examples": 0,
    "num_seeds": 1,
    "num_matvecs": 1,
    "seed": 0,
}


def _positive(value: float) -> bool:
    return 0 < value < float("inf")


def _require(condition: bool, name: str, allowed: str, given: Any) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {given!r}")


RANK = 8  # shared directions of the low_rank code


def network(config: TrainingConfig, num_classes: int) -> nets.Network:
    """The network of a config."""
    if config.network == "mlp":
        return nets.mlp(num_classes, widths=config.widths)
    return nets.make(config.network, num_classes)


def sweep_options(config: TrainingConfig) -> dict[str, Any]:
    """The arguments of `iw.sweep` that a config settles."""
    return {
        "optimizer": optimizer(config.learning_rate, config.num_steps),
        "num_steps": config.num_steps,
        "batch_size": config.batch_size,
        "learn_prior": config.prior != "fixed" and config.code != "log_normal",
        "member_batch": config.member_batch or None,
        "num_draws": config.num_draws,
    }


@functools.cache  # an optimiser is known by identity: the same one must not compile twice
def optimizer(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam with a cosine decay to 0."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))


def initial_code(
    config: TrainingConfig, net: nets.Network, inputs: jax.Array
) -> Callable[[jax.Array], tuple[iw.Code, Any]]:
    """key -> (code, prior): weights at their initialisation with little noise, and the prior.

    The prior starts at N(0, λ_l²) with λ_l the root mean square of the layer's initial kernel.

    Args:
      config: family of the code, kind of prior, first noise.
      net: the network.
      inputs: a few examples.
    """

    @jax.jit  # one small program instead of some thirty
    def init(key: jax.Array) -> tuple[iw.Code, Any]:
        key_weights, key_factor = jax.random.split(key)
        params = net.init(key_weights, inputs)
        if config.code == "log_normal":
            return iw.LogNormalNoise(params, config.initial_noise), iw.LogUniform()
        scales = _layer_scales(params)
        if config.prior == "global":
            scales = _rms(params)
        prior = iw.IsotropicGaussian(scales)
        noise = jax.tree.map(lambda s: config.initial_noise * s, scales)
        if config.code == "isotropic":
            return iw.IsotropicGaussian(noise, mean=params), prior
        if config.code == "diagonal":
            return iw.DiagonalGaussian(params, noise), prior
        full = jax.tree.broadcast(noise, params)
        shape = lambda w: jax.ShapeDtypeStruct((RANK, *w.shape), w.dtype)  # noqa: E731
        directions = optax.tree.random_like(key_factor, jax.tree.map(shape, params))
        factor = jax.tree.map(lambda u, s: 0.1 * s * u, directions, full)
        return iw.LowRankGaussian(params, noise, factor), prior

    return init


def _rms(params: Any) -> jax.Array:
    squares = jax.tree.map(lambda w: jnp.sum(w**2), params)
    return jnp.sqrt(optax.tree.sum(squares) / optax.tree.size(params))


def _layer_scales(params: Any) -> Any:
    """One scale for each node that holds tensors: the root mean square of its kernel."""
    if any(hasattr(child, "shape") for child in params.values()):
        # Biases and gains start at 0 or 1, which says nothing about the size they will need.
        return _rms(params.get("kernel", params))
    return {name: _layer_scales(child) for name, child in params.items()}


@functools.partial(jax.jit, static_argnames=("apply_fn", "num_draws"))
def accuracies(
    apply_fn: Callable,
    keys: jax.Array,
    code: Any,
    train: tuple[Any, jax.Array],
    test: tuple[Any, jax.Array],
    *,
    num_draws: int,
    weights: Any = None,
) -> dict[str, jax.Array]:
    """Accuracy under weight noise (mean over draws) and at the mean weights, of every member.

    Args:
      apply_fn: the network.
      keys: (S,) one a seed.
      code: leaves (T, B, S, ...).
      train: inputs of leading axis N; (T, S, N) labels.
      test: inputs of leading axis M; (M,) labels.
      num_draws: weight draws.
      weights: (T, S, N); training examples of weight 0 do not count. None for all ones.

    Returns:
      (T, B, S) each, between 0 and 1, by the name of the table's column.
    """
    (train_inputs, targets), (test_inputs, test_targets) = train, test
    weights = jnp.ones(targets.shape) if weights is None else weights

    def member(code, labels, weights, key):
        def accuracy(params):
            hits = jnp.argmax(apply_fn(params, train_inputs), -1) == labels
            test_hits = jnp.argmax(apply_fn(params, test_inputs), -1) == test_targets
            return jnp.average(hits, weights=weights), test_hits.mean()

        draws = jax.random.split(key, num_draws)
        train, test = jax.lax.map(lambda k: accuracy(iw.sample(k, code)), draws)
        train_mean, test_mean = accuracy(code.mean)
        return {
            "train_accuracy_noisy": train.mean(),
            "train_accuracy_mean": train_mean,
            "test_accuracy_noisy": test.mean(),
            "test_accuracy_mean": test_mean,
        }

    def cell(arguments):
        return jax.vmap(member)(*arguments, keys)

    sets, betas = jax.tree.leaves(code)[0].shape[:2]
    cells = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), code)
    repeat = functools.partial(jnp.repeat, repeats=betas, axis=0)
    results = jax.lax.map(cell, (cells, repeat(targets), repeat(weights)))
    return jax.tree.map(lambda x: x.reshape(sets, betas, -1), results)


def cost_columns(result: iw.SweepResult, numbers: Any) -> Callable[[tuple], dict[str, Any]]:
    """(target set, β, seed) -> what every table says of a member's Lagrangian.

    Args:
      result: of the sweep.
      numbers: (T,) examples of each target set.
    """
    cost = jax.tree.map(np.asarray, result.lagrangian)
    paired = step_stderr(result.loss_draws)
    betas = np.asarray(result.betas)

    def columns(at: tuple[int, int, int]) -> dict[str, Any]:
        number = int(numbers[at[0]])
        return {
            "beta": float(f"{betas[at[1]]:.6g}"),
            "seed": at[2],
            "num_examples": number,
            "loss_nats": float(cost.loss.value[at]),
            "loss_nats_per_label": float(cost.loss.value[at]) / number,
            "loss_stderr_nats": float(cost.loss.stderr[at]),
            "loss_step_stderr_nats": float(paired[at]),
            "kl_nats": float(cost.kl.value[at]),
            "kl_nats_per_label": float(cost.kl.value[at]) / number,
            "lagrangian_nats": float(cost.value.value[at]),
            "lagrangian_stderr_nats": float(cost.value.stderr[at]),
        }

    return columns


def fisher_of_members(
    key: jax.Array,
    task: iw.Task,
    targets: jax.Array,
    result: iw.SweepResult,
    num_matvecs: int,
    batch_size: int | None,
    context: Context,
) -> dict[tuple[int, int, int], tuple[float, float, float]]:
    """`fisher_iw` at the mean of every member, with its own β and prior.

    Args:
      key: of the probes; the same ones for all members.
      task: network, likelihood, inputs.
      targets: (T, S, N).
      result: of the sweep.
      num_matvecs: matrix-vector products a member.
      batch_size: examples a chunk.
      context: for progress, and to go on where a killed run stopped.

    Returns:
      (value, lower, upper), nats, by (target set, β, seed).
    """
    ledger = context.ledger("fisher")
    sets, betas, seeds = result.lagrangian.kl.value.shape
    members = [(t, b, s) for t in range(sets) for b in range(betas) for s in range(seeds)]

    def measure(t: int, b: int, s: int) -> tuple[float, float, float]:
        params, prior, labels = _own_arrays(result.code, result.prior, targets, (t, b, s))
        own = iw.Task(task.apply_fn, task.likelihood, task.inputs, labels, task.weights)
        try:
            information = iw.fisher_iw(
                own,
                params,
                prior,
                beta=float(result.betas[b]),
                key=key,
                num_matvecs=num_matvecs,
                batch_size=batch_size,
            )
        except ValueError as error:  # one member must not cost the run all others
            warnings.warn(f"no Fisher information for member {(t, b, s)}: {error}", stacklevel=2)
            return float("nan"), float("nan"), float("nan")
        lower, upper = information.nats.interval()
        return float(information.nats.value), float(lower), float(upper)

    return {
        member: tuple(ledger.get(str(member), functools.partial(measure, *member)))
        for member in context.track(members, "fisher")
    }


@jax.jit  # one program, whatever the member
def _own_arrays(code: Any, prior: Any, targets: jax.Array, at: tuple[int, int, int]) -> Any:
    """Mean, prior and labels of the member (target set, β, seed)."""
    code, prior = jax.tree.map(lambda x: x[at], (code, prior))
    return code.mean, prior, targets[at[0], at[2]]


def step_stderr(loss_draws: Any) -> np.ndarray:
    """Standard error of loss[b] - loss[b-1], draw by draw: (T, B, S), nats; 0 at b = 0."""
    draws = np.asarray(loss_draws, np.float64)
    steps = np.diff(draws, axis=2)
    stderr = steps.std(0, ddof=1) / np.sqrt(draws.shape[0])
    return np.concatenate([np.zeros_like(draws[0, :, :1]), stderr], axis=1)


def task_of(dataset: data.Dataset, net: nets.Network) -> iw.Task:
    """The classification task of a data set."""
    return iw.Task(
        net.apply_fn,
        iw.Categorical(),
        jnp.asarray(dataset.train_inputs),
        jnp.asarray(dataset.train_targets),
    )

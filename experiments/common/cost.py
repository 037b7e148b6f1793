"""What a run will take: FLOPs as XLA counts them, and time at a rate that is measured here.

A run is a list of stages, networks of one shape that are trained alike. XLA counts the FLOPs of one
network's step, look and curvature product; the rate is that of the optimiser steps of a few of the
networks, side by side in a loop as they will be, for a second. So no table of devices is needed,
and what small kernels lose, or convolutions in loops, is in it. Compilation is not, nor what NumPy
does: eigenproblems, figures.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import machine, starts
from experiments.common.config import NUM_ROUNDS, network, sweep_options
from iw_jax import data, nets
from iw_jax.task import take
from iw_jax.weights.members import decode
from iw_jax.weights.sweeping import EXCHANGE_DRAWS, EXCHANGE_FROM

FEW = 8  # examples that a look and a product are counted with
FIRST = 3e8  # FLOPs of the first step that is timed, where one example has no more
SECONDS = 0.5  # for which steps are timed, and that one of them may take

UNITS = {"years": 365 * 86400, "days": 86400, "hours": 3600, "minutes": 60}  # seconds

# (key, examples, variables) -> what the optimiser minimises
Loss = Callable[[jax.Array, iw.Task, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Networks of one shape that are trained alike.

    Attributes:
      task: the network and its examples.
      params: weights of one network.
      loss: what a step differentiates.
      variables: what the optimiser moves, of one network: its weights, or a code and scales.
      optimizer: optax transformation.
      batch: examples a step.
      steps: of every network.
      networks: how many.
      abreast: of them, computed at once; None for all.
      looks: passes of a network over all examples beside that, without a gradient.
      num_matvecs: curvature products, a pass each, of a spectrum; no more than weights are needed.
      spectra: of a network.
      shared: whether networks side by side see the same examples in a step, as in a sweep; to
        gather other ones for each takes time.
      at_most: whether steps or products are limits, for what ends when it has arrived.
    """

    task: iw.Task
    params: nets.Params
    loss: Loss
    variables: Any
    optimizer: optax.GradientTransformation
    batch: int
    steps: int
    networks: int
    abreast: int | None = None
    looks: float = 0.0
    num_matvecs: int = 0
    spectra: float = 1.0
    shared: bool = False
    at_most: bool = False

    @property
    def at_once(self) -> int:
        """Networks that are computed side by side."""
        return min(self.abreast or self.networks, self.networks)

    @property
    def weights(self) -> int:
        """Of one network."""
        return sum(w.size for w in jax.tree.leaves(self.params))

    @property
    def state_bytes(self) -> int:
        """What all networks keep from step to step."""
        state = jax.eval_shape(self.optimizer.init, self.variables)
        kept = jax.tree.leaves((self.variables, state))
        return self.networks * sum(x.size * x.dtype.itemsize for x in kept)

    def flops(self, unit: "Unit") -> float:
        """Of all steps, looks and products of all networks."""
        products = self.spectra * min(self.num_matvecs, self.weights)
        passes = self.looks * unit.look + products * unit.product
        return self.networks * (self.steps * unit.step + self.task.num_examples * passes)


class Unit(NamedTuple):
    """FLOPs of what a network does, as XLA counts them in what JAX has traced.

    Attributes:
      step: one gradient.
      look: one example.
      product: one curvature product of one example.
    """

    step: float
    look: float
    product: float


def training(
    task: iw.Task, params: nets.Params, optimizer: optax.GradientTransformation, **numbers: Any
) -> Stage:
    """A stage that trains weights on the mean loss; `numbers` are the other attributes."""
    return Stage(task, params, _mean_loss, params, optimizer, **numbers)


def descent(network: nets.Network, pool: iw.Task, config: Any, **numbers: Any) -> Stage:
    """A stage of SGD at one rate, on examples of `descent.pool`; `numbers` as for `training`."""
    return training(
        pool,
        network.init(jax.random.key(0), pool.inputs["x"][:1]),
        optax.sgd(config.learning_rate),
        batch=config.batch_size,
        steps=config.num_steps,
        **numbers,
    )


def _mean_loss(key: jax.Array, batch: iw.Task, params: nets.Params) -> jax.Array:
    del key
    return iw.nll(batch, params) / batch.num_examples


def sweep(
    config: Any,
    dataset: data.Dataset,
    target_sets: int,
    net: nets.Network | None = None,
    num_matvecs: int = 0,
) -> Stage:
    """The stage of `measures.sweep_rows`.

    Args:
      config: of the experiment, a `TrainingConfig` with `betas` and `num_seeds`.
      dataset: inputs, test set.
      target_sets: T.
      net: the network; None for that of the config.
      num_matvecs: products of the Fisher information of each member.
    """
    net = net or network(config, dataset.num_classes)
    options = sweep_options(config, dataset.num_classes)
    inputs, labels = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    task = iw.Task(net.apply_fn, iw.Categorical(), inputs, labels)
    code, prior = starts.initial_code(config, net, inputs[:2])(jax.random.key(0))
    return codes(
        task,
        code,
        prior,
        estimator=options["estimator"],
        optimizer=options["optimizer"],
        num_draws=config.num_draws,
        num_betas=len(config.betas),
        batch=min(config.batch_size, task.num_examples),
        steps=config.num_steps,
        networks=target_sets * len(config.betas) * config.num_seeds,
        abreast=(options["member_batch"] or target_sets * len(config.betas)) * config.num_seeds,
        # Accuracies under noise, on training and test examples.
        looks=config.num_draws * (1 + len(dataset.test_targets) / task.num_examples),
        num_matvecs=num_matvecs if config.code != "log_normal" else 0,
    )


def codes(
    task: iw.Task,
    code: iw.Code,
    prior: Any,
    *,
    estimator: Any,
    num_draws: int,
    num_betas: int,
    looks: float = 0.0,
    num_rounds: int = NUM_ROUNDS,
    **numbers: Any,
) -> Stage:
    """A stage of `iw.sweep`: codes that are minimised, exchanged along β and evaluated.

    Args:
      task: the network and its examples.
      code: what one member starts from.
      prior: its prior.
      estimator: of the expected loss in a step.
      num_draws: of the evaluation.
      num_betas: B; a single one exchanges nothing.
      looks: beyond those of the sweep.
      num_rounds: of the sweep.
      **numbers: the other attributes.
    """
    units = code.in_units_of(prior)

    def loss(key: jax.Array, batch: iw.Task, variables: Any) -> jax.Array:
        own, own_prior = decode(*variables, prior)
        return estimator(key, batch, own) + own.kl(own_prior)

    passes = num_draws
    if num_betas > 1:
        passes += num_draws + (1 - EXCHANGE_FROM) * num_rounds * EXCHANGE_DRAWS
    variables = units, getattr(prior, "log_scale", None)
    return Stage(task, code.mean, loss, variables, looks=looks + passes, shared=True, **numbers)


# --------------------------------------------------------------------------------- estimating


def estimate(stages: Sequence[Stage]) -> str:
    """What stages will take, in a line; measures for about a second a shape."""
    known: dict[Any, tuple[Unit, float]] = {}
    flops, seconds = 0.0, 0.0
    for stage in stages:
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), stage.variables)
        shape = str(shapes), stage.batch, stage.at_once, stage.num_matvecs
        if shape not in known:
            known[shape] = unit(stage), measured_rate(stage)
        own, rate = stage.flops(known[shape][0]), known[shape][1]
        flops, seconds = flops + own, seconds + own / rate
    networks = sum(stage.networks for stage in stages)
    many = "networks" if networks > 1 else "network"
    return (
        f"{networks:,} {many} of {_range([s.weights for s in stages])} weights, "
        f"{_range([s.steps for s in stages])} steps of {_range([s.batch for s in stages])} of "
        f"{_range([s.task.num_examples for s in stages])} examples: "
        f"{'at most' if any(s.at_most for s in stages) else 'about'} {_short(flops)} FLOP, "
        f"{in_words(seconds)} on this device (measured: {_short(flops / seconds)} FLOP/s), "
        f"{machine.in_bytes(max(s.state_bytes for s in stages))} of states"
    )


def unit(stage: Stage) -> Unit:
    """FLOPs of one network's step, look and, where it is to be measured, curvature product."""
    few = _first(stage.task, FEW)
    look, product = _flops(lambda p: iw.nll(few, p), stage.params), 0.0
    if stage.num_matvecs:  # not in chunks: XLA counts the body of a loop once
        product = _flops(iw.ggn(few, stage.params), stage.params)
    count = few.num_examples
    return Unit(step_flops(stage, stage.batch), look / count, product / count)


def step_flops(stage: Stage, batch: int) -> float:
    """FLOPs of one gradient of one network."""
    examples = _first(stage.task, batch)
    return _flops(jax.grad(lambda v: stage.loss(jax.random.key(0), examples, v)), stage.variables)


def measured_rate(stage: Stage) -> float:
    """FLOP/s of optimiser steps: a small one first, then what of a whole one takes a moment."""
    whole = step_flops(stage, stage.batch)
    example = whole / stage.batch

    def portion(allowed: float) -> tuple[int, int]:
        networks = min(max(int(allowed / whole), 1), stage.at_once)
        return networks, min(max(int(allowed / example), 1), stage.batch)

    first = portion(FIRST)
    rate = _rate(stage, *first)
    second = portion(rate * SECONDS)
    # A little more would tell little more, and compiles again.
    return rate if math.prod(second) < 4 * math.prod(first) else _rate(stage, *second)


def _rate(stage: Stage, networks: int, batch: int) -> float:
    """FLOP/s of steps of so many networks on so many examples."""
    own = stage.variables, stage.optimizer.init(stage.variables)
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (networks, *jnp.shape(x))), own)

    @jax.jit
    def steps(task: iw.Task, state: Any, number: int) -> Any:
        def step(i: jax.Array, state: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(0), i)
            # Other examples each time, or XLA would take what is made of them out of the loop.
            drawn = jax.random.randint(key, (batch,), 0, task.num_examples)

            def one(place: jax.Array, variables: Any, own: Any) -> Any:
                examples = take(task, (drawn + place) % task.num_examples)
                gradient = jax.grad(lambda v: stage.loss(key, examples, v))(variables)
                updates, own = stage.optimizer.update(gradient, own, variables)
                return optax.apply_updates(variables, updates), own

            axes = (None if stage.shared else 0, 0, 0)
            places = jnp.zeros((), int) if stage.shared else jnp.arange(networks)
            return jax.vmap(one, axes)(places, *state)

        return jax.lax.fori_loop(0, number, step, state)

    def seconds(number: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(steps(task, state, number))
        return time.perf_counter() - start

    task = _first(stage.task, 2 * batch)
    seconds(1)  # compiles
    number, taken = 1, seconds(1)
    while taken < SECONDS:
        number *= math.ceil(1.2 * SECONDS / taken)
        taken = seconds(number)
    return networks * number * step_flops(stage, batch) / taken


def _first(task: iw.Task, number: int) -> iw.Task:
    return take(task, np.arange(min(number, task.num_examples)))


def _flops(function: Callable[[Any], Any], argument: Any) -> float:
    lowered = jax.jit(function).lower(argument)
    # Only XLA's CPU backend knows it of what is not compiled yet.
    return (lowered.cost_analysis() or lowered.compile().cost_analysis())["flops"]


def _range(values: Sequence[int]) -> str:
    """One value, or the smallest and largest."""
    ends = dict.fromkeys((min(values), max(values)))
    return " to ".join(f"{v:,}" if v < 1e5 else _short(v) for v in ends)


def _short(value: float) -> str:
    """Two digits: 3.1e16."""
    return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


def in_words(seconds: float) -> str:
    """A time in its largest unit, two digits."""
    for unit, size in UNITS.items():
        if seconds >= 1.5 * size:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"
    return f"{seconds:.2g} seconds"

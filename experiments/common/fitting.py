"""SGD on many networks at once, each until it has fitted its own training set.

Networks that share all shapes are laid out as seeds by cells and `vmap`ped twice: a seed has its
examples, its start and its order of them, a cell its labels, its number of examples and its rate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common.context import Context
from iw_jax import nets, trees
from iw_jax.task import take

MOMENTUM, ROUND = 0.9, 10  # of SGD; steps between two looks at the training loss


class Sets(NamedTuple):
    """Data of S seeds and C cells (noise, N, learning rate) that share all shapes.

    Attributes:
      inputs: (S, N, ...); NumPy, like the rest.
      labels: (S, C, N), corrupted.
      test_inputs: (S, M, ...).
      test_labels: (S, M), true.
      numbers: (C,) examples that count, the first ones.
      rates: (C,) learning rates.
    """

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    numbers: np.ndarray
    rates: np.ndarray


def fit(
    network: nets.Network,
    sets: Sets,
    context: Context,
    *,
    batch: int,
    loss: float,
    num_steps: int,
    seed: int,
    stage: str,
) -> tuple[nets.Params, nets.Params, np.ndarray, np.ndarray]:
    """Trains every network until its training loss is at most `loss`, then leaves it alone.

    Args:
      network: of all.
      sets: data.
      context: progress and resume.
      batch: examples a step, drawn with replacement.
      loss: nats a label, looked at every ROUND steps.
      num_steps: steps allowed.
      seed: of starts and draws.
      stage: name of the bar and of the checkpoints.

    Returns:
      Initial weights (S, ...), weights (S, C, ...), steps (S, C), whether fitted (S, C); NumPy.
    """
    shape = sets.labels.shape[:2]
    keys = jax.random.split(jax.random.key(seed), shape[0])
    example = jnp.asarray(sets.inputs[0, :1])
    initial = jax.device_get(jax.jit(jax.vmap(lambda key: network.init(key, example)))(keys))
    params = jax.tree.map(lambda w: np.repeat(w[:, None], shape[1], axis=1), initial)
    momentum = optax.sgd(1.0, MOMENTUM).init(params)
    begin = params, momentum, np.zeros(shape, np.int32), np.zeros(shape, bool)

    def step(i: int, state: Any) -> Any:
        if state[-1].all():
            return state
        draws = np.random.default_rng((seed, i)).random((shape[0], ROUND, batch), np.float32)
        return _round(network.apply_fn, state, sets, draws, loss)

    state = context.iterate(step, begin, -(-num_steps // ROUND), stage)
    return initial, *jax.device_get((state[0], state[2], state[3]))


@partial(jax.jit, static_argnums=0)
def _round(apply_fn: Callable, state: Any, sets: Sets, draws: jax.Array, target: float) -> Any:
    """ROUND steps of all networks that have not fitted; (S, ROUND, batch) draws in [0, 1)."""

    def member(state, inputs, labels, number, rate, draws):
        params, momentum, steps, fitted = state
        task = iw.Task(apply_fn, iw.Categorical(), inputs, labels)
        sgd = optax.sgd(rate, MOMENTUM)

        def step(carry, draw):
            params, momentum = carry
            chosen = jnp.minimum(draw * number, number - 1).astype(int)
            slope = jax.grad(lambda p: iw.nll(take(task, chosen, 1 / len(draw)), p))(params)
            updates, momentum = sgd.update(slope, momentum)
            return (optax.apply_updates(params, updates), momentum), None

        after, _ = jax.lax.scan(step, (params, momentum), draws)
        weights = 1.0 * (jnp.arange(len(labels)) < number)
        loss = iw.nll(trees.replace(task, weights=weights), after[0]) / number
        new = *after, steps + ROUND, loss <= target
        return jax.tree.map(lambda old, new: jnp.where(fitted, old, new), state, new)

    by_cell = jax.vmap(member, in_axes=(0, None, 0, 0, 0, None))
    by_seed = jax.vmap(by_cell, in_axes=(0, 0, 0, None, None, 0))
    return by_seed(state, sets.inputs, sets.labels, sets.numbers, sets.rates, draws)

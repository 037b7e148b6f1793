"""Epochs of training for networks side by side, whatever their loss: minibatches are shared.

Networks are laid out as seeds by members. A seed has its minibatches, in an order of its own, and
its key in every step; members share both, and differ in a setting (a price, a kind of noise).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.common import config as common
from iw_jax import data

# (params, key, batch, setting) -> what a step differentiates
Loss = Callable[[Any, jax.Array, Any, Any], jax.Array]


def load(config: Any, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels; at least a batch of it.

    Args:
      config: with `dataset`, `num_examples` (0 for all), `batch_size` and `seed`.
      data_dir: where prepared sets are.

    Raises:
      ValueError: for fewer examples than a batch.
    """
    number = config.num_examples or None
    dataset = data.load(config.dataset, data_dir=data_dir, num_examples=number, seed=config.seed)
    count, batch = len(dataset.train_targets), config.batch_size
    common.require(batch <= count, "batch_size", f"at most {count}, the examples", batch)
    return dataset


@partial(jax.jit, static_argnames=("loss", "optimizer", "batch_size"))
def train_epoch(
    loss: Loss,
    keys: jax.Array,
    settings: Any,
    examples: Any,
    state: Any,
    *,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    own: Any = None,
    rows: jax.Array | None = None,
    sizes: jax.Array | None = None,
) -> Any:
    """An epoch of all networks: a seed at a time, its M members side by side.

    Args:
      loss: mean over a batch; static, define it once. Of seeds with examples of their own, it is
        given (shared, own).
      keys: (S,), of this epoch.
      settings: leaves (M, ...).
      examples: leaves (N, ...); what is left behind the last whole batch is left out.
      state: parameters and those of the optimiser, leaves (S, M, ...).
      optimizer: of the loss.
      batch_size: examples a step.
      own: what only one seed knows of the examples, leaves (S, N, ...).
      rows: (S, N), the examples that a seed has, its own in the first places.
      sizes: (S,), how many these are. An epoch goes round them from a random place, so that in its
        whole batches none comes more than once oftener than another.
    """
    count = len(jax.tree.leaves(examples)[0])
    steps = count // batch_size

    def train(at: Any) -> Any:
        key, start, extra, places, size = at
        ordering, beginning, stepping = jax.random.split(key, 3)
        if places is None:
            order = jax.random.permutation(ordering, count)[: steps * batch_size]
        else:
            first = jax.random.randint(beginning, (), 0, size)
            order = (first + jax.random.permutation(ordering, steps * batch_size)) % size
            order = places[order]

        def step(state: Any, each: tuple[jax.Array, jax.Array]) -> Any:
            number, chosen = each
            own_key = jax.random.fold_in(stepping, number)
            given = examples if extra is None else (examples, extra)
            batch = jax.tree.map(lambda leaf: leaf[chosen], given)

            def member(params: Any, moving: Any, setting: Any) -> Any:
                gradient = jax.grad(loss)(params, own_key, batch, setting)
                updates, moving = optimizer.update(gradient, moving, params)
                return optax.apply_updates(params, updates), moving

            return jax.vmap(member)(*state, settings), None

        batches = order.reshape(steps, batch_size)
        return jax.lax.scan(step, start, (jnp.arange(steps), batches))[0]

    return jax.lax.map(train, (keys, state, own, rows, sizes))


def averaging(decay: float) -> optax.GradientTransformation:
    """Last in a chain: its state is the moving average of the weights, `averaged(moving)`.

    Over the last 1/(1 - decay) steps or so, and over all steps while there are fewer.
    """

    def init(params: Any) -> Any:
        return jnp.zeros(()), params

    def update(updates: Any, state: Any, params: Any) -> Any:
        number, average = state
        share = jnp.maximum(1 - decay, 1 / (number + 1))
        stepped = optax.apply_updates(params, updates)
        return updates, (number + 1, optax.incremental_update(stepped, average, share))

    return optax.GradientTransformation(init, update)


def averaged(moving: Any) -> Any:
    """The averaged weights, from the state of a chain that ends with `averaging`."""
    return moving[-1][1]

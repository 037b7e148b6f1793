"""The members of a sweep: what each of them is, and how they are laid out.

Cells (target sets x betas, betas fastest) by seeds: arrays of members have leading axes (C, S).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from iw_jax import parallel, trees
from iw_jax.codes import Code
from iw_jax.parallel import SWEEP
from iw_jax.task import Task
from iw_jax.trees import PyTree
from iw_jax.weights.lagrangian import LossEstimator


@trees.record
class Sweep:
    """What is minimised, how, and for which members. Build it with `make_sweep`.

    Axes: C = T * B cells (target sets x betas, betas fastest), S seeds.

    Attributes:
      task: network, likelihood, shared inputs.
      betas: (C,), price of a nat for each cell.
      targets: (C, S, N, ...).
      weights: (C, S, N), example weights.
      prior: the prior of every seed, leaves with leading axis S.
      optimizer: optax transformation; it sees the gradient of C_β/N.
      estimator: of E_Q[L_D], one call a step.
      num_steps: optimiser steps.
      num_rounds: rounds the steps are divided into.
      batch_size: examples a step; None for all.
      num_betas: B.
      member_batch: cells vmapped at a time, on each device; None for all.
      learn_prior: whether the prior's scales are minimised over too (empirical Bayes).
      exchange: whether codes change hands along β.
      mesh: the devices that members and examples are dealt out over; None for one.
      over_seeds: whether seeds are dealt out, and not cells.
      num_fill: betas at the end that are the last one again, there to divide evenly.
    """

    task: Task
    betas: Any
    targets: Any
    weights: Any
    prior: Any
    optimizer: optax.GradientTransformation = trees.static()
    estimator: LossEstimator = trees.static()
    num_steps: int = trees.static()
    num_rounds: int = trees.static()
    batch_size: int | None = trees.static()
    num_betas: int = trees.static()
    member_batch: int | None = trees.static()
    learn_prior: bool = trees.static()
    exchange: bool = trees.static()
    mesh: Mesh | None = trees.static()
    over_seeds: bool = trees.static()
    num_fill: int = trees.static()

    @property
    def dealt(self) -> tuple[str | None, str | None]:
        """The axis of the mesh that cells and seeds are dealt out over."""
        return (None, SWEEP) if self.over_seeds else (SWEEP, None)

    @property
    def round_length(self) -> int:
        """Steps a round (the last one may be shorter)."""
        return -(-self.num_steps // self.num_rounds)


@trees.record
class Member:
    """One (targets, β, seed) in training.

    Attributes:
      code: Q in units of its prior.
      log_scale: of the prior, in the prior's structure; None where the prior has none.
      opt_state: the optimiser's.
    """

    code: Any
    log_scale: Any
    opt_state: Any


@trees.record
class SweepState:
    """All that a sweep needs to go on; arrays only, so that it can be saved and restored.

    Attributes:
      step: (), steps done.
      keys: (S,), one random key a seed.
      members: `Member`, leaves with leading axes (C, S).
      history: (num_rounds, 2, C, S): mean sampled loss and KL of every round, nats.
    """

    step: jax.Array
    keys: jax.Array
    members: Member
    history: jax.Array


@jax.jit
def initial_state(problem: Sweep, keys: jax.Array, codes: Code) -> SweepState:
    """Members at codes with leading axes (C or 1, S); compiled, since it is many small pieces."""

    def member(code, prior):
        log_scale = getattr(prior, "log_scale", None)
        code = code.in_units_of(prior)
        return Member(code, log_scale, problem.optimizer.init((code, log_scale)))

    cells, seeds = problem.betas.size, keys.size
    codes = jax.tree.map(lambda x: jnp.broadcast_to(x, (cells, *x.shape[1:])), codes)
    members = jax.vmap(lambda own: jax.vmap(member)(own, problem.prior))(codes)
    history = jnp.full((problem.num_rounds, 2, cells, seeds), jnp.nan, problem.betas.dtype)
    return hold_state(problem, SweepState(jnp.zeros((), jnp.int32), keys, members, history))


def hold_state(problem: Sweep, state: SweepState) -> SweepState:
    """Inside a compiled program: keeps members dealt out over the mesh, all else everywhere."""
    mesh = problem.mesh
    if mesh is None:
        return state

    def hold(x: jax.Array) -> jax.Array:
        spec = PartitionSpec(*problem.dealt, *parallel.of_weights(mesh, x.shape[2:]))
        return parallel.hold(mesh, x, spec)

    step, keys, history = parallel.hold(mesh, (state.step, state.keys, state.history))
    return SweepState(step, keys, jax.tree.map(hold, state.members), history)


def decode(member_code: Code, log_scale: PyTree, prior: Any) -> tuple[Code, Any]:
    """The code in weights, and the prior with the member's own scales."""
    if log_scale is not None:
        prior = trees.replace(prior, log_scale=log_scale)
    return member_code.from_units_of(prior), prior


def map_cells(problem: Sweep, function: Callable, *arguments: PyTree) -> PyTree:
    """vmap over cells (leading axis), in batches of `member_batch` where memory asks for it.

    Where cells are dealt out, so many of each part at a time: a batch that no part has all of would
    be brought to all of them.
    """
    if problem.member_batch is None:
        return jax.vmap(function)(*arguments)
    mesh = None if problem.over_seeds else problem.mesh
    parts = 1 if mesh is None else mesh.shape[SWEEP]

    def split(x: jax.Array) -> jax.Array:
        apart = x.reshape(parts, -1, *x.shape[1:])
        return parallel.hold(mesh, apart, PartitionSpec(SWEEP)).swapaxes(0, 1)

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    results = jax.lax.map(
        lambda own: jax.vmap(function)(*own),
        jax.tree.map(split, arguments),
        batch_size=problem.member_batch,
    )
    return jax.tree.map(join, results)

"""Members of a sweep in arrays (C, S, ...), cells (target sets x betas, betas fastest) by seeds.

And over devices: cells, or seeds where those divide evenly, over the axis `sweep` of a mesh.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from iw_jax import checks, parallel, trees
from iw_jax.codes import Code
from iw_jax.weights.members import Sweep, SweepState, hold_state


def over_members(name: str, given: Any, own: Any, seeds: int) -> np.ndarray:
    """`given`, of shape (T, S, N, ...) or (T, N, ...), or the task's own, as (T, S, N, ...)."""
    own = np.asarray(own)
    if given is None:
        return np.broadcast_to(own, (1, seeds, *own.shape))
    given = np.asarray(given)
    if given.ndim == own.ndim + 1 and given.shape[1:] == own.shape:
        return np.broadcast_to(given[:, None], (given.shape[0], seeds, *own.shape))
    if given.ndim == own.ndim + 2 and given.shape[1:] == (seeds, *own.shape):
        return given
    raise ValueError(
        f"{name} must have shape (T, {', '.join(map(str, own.shape))}) or "
        f"(T, {', '.join(map(str, (seeds, *own.shape)))}), got {given.shape}"
    )


def over_cells(array: np.ndarray, target_sets: int, num_betas: int) -> jax.Array:
    """(T or 1, S, N, ...) -> (C, S, N, ...), betas fastest."""
    full = np.broadcast_to(array, (target_sets, *array.shape[1:]))
    return jnp.asarray(np.repeat(full, num_betas, axis=0))


def over_all(codes: Any, first: Code, target_sets: int, num_betas: int, fill: int) -> Code:
    """`codes`, leaves (T, B, S, ...), as (C, S, ...); else the first code of every seed, (1, S)."""
    if codes is None:
        return jax.tree.map(lambda x: x[None], first)
    over = target_sets, num_betas - fill
    expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*over, *x.shape), x.dtype), first)
    checks.same_structure("codes", codes, "the code of init, one for each member", expected)
    known = np.minimum(np.arange(num_betas), num_betas - fill - 1)  # the last one again, to fill
    return jax.tree.map(lambda x: jnp.reshape(x[:, known], (-1, *x.shape[2:])), codes)


def deal(mesh: Mesh | None, target_sets: int, num_betas: int, seeds: int) -> tuple[bool, int]:
    """Whether seeds are dealt out and not cells, and how many betas are missing for either."""
    parts = 1 if mesh is None else mesh.shape[parallel.SWEEP]
    if seeds % parts == 0:  # codes change hands along β, between cells: then nothing has to move
        return parts > 1, 0
    return False, next(i for i in range(parts) if target_sets * (num_betas + i) % parts == 0)


def without_fill(problem: Sweep, state: SweepState) -> SweepState:
    """The state as it is on any number of devices: without what fills up the betas."""
    return state if problem.num_fill == 0 else _unfilled(problem, state)


def with_fill(problem: Sweep, state: SweepState) -> SweepState:
    """The state with members that fill up the betas: the last one of each curve again."""
    return state if problem.num_fill == 0 else _filled(problem, state)


@jax.jit
def _unfilled(problem: Sweep, state: SweepState) -> SweepState:
    known = np.arange(problem.num_betas - problem.num_fill)
    return parallel.hold(problem.mesh, _taken(state, problem.num_betas, known))


@jax.jit
def _filled(problem: Sweep, state: SweepState) -> SweepState:
    there = problem.num_betas - problem.num_fill
    known = np.minimum(np.arange(problem.num_betas), there - 1)
    return hold_state(problem, _taken(state, there, known))


def _taken(state: SweepState, num_betas: int, known: np.ndarray) -> SweepState:
    """Of each curve, which has so many betas, the members at some places."""

    def take(x: jax.Array, axis: int) -> jax.Array:
        curves = x.reshape(*x.shape[:axis], -1, num_betas, *x.shape[axis + 1 :])
        chosen = jnp.take(curves, known, axis + 1)
        return chosen.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])

    members = jax.tree.map(lambda x: take(x, 0), state.members)
    return SweepState(state.step, state.keys, members, take(state.history, 2))


def place(problem: Sweep, mesh: Mesh) -> Sweep:
    """The problem on its mesh: members over `sweep`; examples over `data` where a step takes all.

    Minibatches are drawn from all examples, which every device then holds; a step deals them out.
    """
    own = functools.partial(parallel.put, mesh)
    task, examples = problem.task, PartitionSpec(parallel.DATA)
    if problem.batch_size is None:  # sums over examples are left to the compiler: no task.mesh
        task = trees.replace(parallel.spread(task, mesh), mesh=None)
    else:
        task, examples = own(task), PartitionSpec()
    missing = task.num_padding
    targets = parallel.pad(problem.targets, missing, axis=2)
    weights = np.pad(problem.weights, ((0, 0), (0, 0), (0, missing)))  # masked
    of_members = PartitionSpec(*problem.dealt, *examples)
    return trees.replace(
        problem,
        task=task,
        betas=own(problem.betas),
        targets=own(targets, of_members),
        weights=own(weights, of_members),
        prior=own(problem.prior),
    )

r"""Annealing from the prior P to the Gibbs code Q_t ∝ P e^(-t L), t = 1/β from 0 upwards.

Chains of Hamiltonian Monte Carlo climb one ladder of inverse temperatures, a transition on each
rung, in units of the prior: u = (w - m)/λ, P = N(0, I). A pilot run finds the ladder and the step
sizes; they are fixed before the run that counts, whose weights are then unbiased (Neal,
physics/9803008).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from iw_jax import checks, trees
from iw_jax.codes.gaussian import units
from iw_jax.task import Task, nll
from iw_jax.trees import PyTree

# The pilot: transitions on a rung, how far apart rungs are in standard deviations of L, how many.
_MOVES, _STRIDE, _MOST = 4, 1.5, 1000
_ACCEPTANCE, _LONGEST = 0.8, math.pi / 2  # a quarter of the prior's period
_AT_ONCE = 20  # rungs a compiled step


@trees.record
class Potential:
    """L of weights in units of their prior.

    Attributes:
      task: the task.
      mean: of the prior.
      scale: of the prior, a number or an array for each tensor.
      batch_size: examples a chunk.
    """

    task: Task
    mean: PyTree
    scale: PyTree
    batch_size: int | None = trees.static()

    @staticmethod
    def of(task: Task, params: PyTree, prior: Any, batch_size: int | None) -> "Potential":
        """L in units of a Gaussian prior over weights of the shapes of `params`."""
        mean, log_scale = units(prior, params)
        return Potential(task, mean, jax.tree.map(jnp.exp, log_scale), batch_size)

    def __call__(self, position: jax.Array) -> jax.Array:
        """L(m + λ u), nats."""
        return nll(self.task, self.weights(position), batch_size=self.batch_size)

    def weights(self, position: jax.Array) -> PyTree:
        """m + λ u, in the structure of the weights."""
        _, unravel = ravel_pytree(self.mean)
        return jax.tree.map(lambda m, s, u: m + s * u, self.mean, self.scale, unravel(position))

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Positions of draws from the prior, (count, n)."""
        flat, _ = ravel_pytree(self.mean)
        return jax.random.normal(key, (count, flat.size), flat.dtype)


@trees.record
class Ladder:
    """Rungs from the prior to the smallest β, fixed before the chains that climb them are drawn.

    Attributes:
      inverse: (K,) inverse temperatures, never falling, 0 left out.
      step_size: (K,) of the leapfrog integrator.
      held: (B,) the last of the rungs that stay at 1/β, for each β.
      num_held: how many those are.
      num_leapfrog: leapfrog steps a transition.
      cost: gradients of L that the pilot took.
    """

    inverse: Any
    step_size: Any
    held: Any
    cost: Any
    num_held: int = trees.static()
    num_leapfrog: int = trees.static()

    def turned(self) -> "Ladder":
        """The way down: transitions that leave Q at the top first."""
        return trees.replace(self, inverse=self.inverse[::-1], step_size=self.step_size[::-1])


@trees.record
class Climb:
    """Chains on a ladder.

    Attributes:
      key: of the transitions; each folds in its rung.
      positions: (M, n) where the chains are.
      rung: transitions done.
      loss: (K + 1, M) L before each transition and after the last, nats; nan where not yet known.
      acceptance: (K,) mean over chains.
    """

    key: jax.Array
    positions: jax.Array
    rung: Any
    loss: Any
    acceptance: Any


def pilot(
    key: jax.Array,
    potential: Potential,
    betas: np.ndarray,
    *,
    num_chains: int,
    num_temperatures: int,
    num_held: int,
    num_leapfrog: int,
) -> Ladder:
    """A ladder whose rungs are equally far apart in thermodynamic length, ∫ sd_t(L) dt.

    That makes the left minus the right thermodynamic sum, Σ Δt² Var(L), as small as so many rungs
    can make it (Crooks, 0706.0559); and L hardly moves between rungs, which chains can follow.

    Args:
      key: random key.
      potential: L in units of the prior.
      betas: (B,).
      num_chains: M.
      num_temperatures: rungs, those at the betas aside.
      num_held: rungs at each of the betas.
      num_leapfrog: leapfrog steps a transition.

    Raises:
      ValueError: for counts out of range, or a loss that is not finite at draws from the prior.
      RuntimeError: where L spreads so much that no ladder of reasonable length reaches the top.
    """
    checks.at_least("num_chains", num_chains, 4)
    checks.at_least("num_temperatures", num_temperatures, 1)
    checks.at_least("num_held", num_held, 4)
    checks.at_least("num_leapfrog", num_leapfrog, 1)
    first, key = jax.random.split(key)
    positions = potential.draw(first, num_chains)
    longest, top = _LONGEST / num_leapfrog, float(1 / betas.min())
    inverse, size = 0.0, longest / 2
    seen: list[tuple[float, float, float]] = []
    while len(seen) < _MOST:
        losses = []
        for _ in range(_MOVES):
            key, own = jax.random.split(key)
            at = jnp.array([inverse, size], positions.dtype)
            positions, loss, accepted = _transition(own, positions, *at, potential, num_leapfrog)
            losses.append(np.asarray(loss, np.float64))
            size = min(size * math.exp(float(accepted) - _ACCEPTANCE), longest)
        if not np.isfinite(losses).all():
            raise ValueError(
                "the loss must be finite at draws from the prior, got NaN or inf at inverse "
                f"temperature {inverse:.3g}; take a narrower prior"
            )
        # The first are of chains that have not yet moved at this t.
        spread = float(np.std(losses[1:]))
        seen.append((inverse, size, spread))
        if inverse >= top:
            break
        inverse = top if spread * (top - inverse) <= _STRIDE else inverse + _STRIDE / spread
    else:
        raise RuntimeError(
            f"the loss spreads so much between chains that {_MOST} rungs do not reach beta = "
            f"{1 / top:.3g} (they ended at {1 / inverse:.3g}): chains sit in places of different "
            "loss and do not change. Take larger betas, or a narrower prior"
        )
    t, sizes, spreads = np.array(seen).T
    length = np.concatenate([[0.0], np.cumsum(np.diff(t) * spreads[:-1])])
    climbing = np.interp(np.linspace(0, length[-1], num_temperatures + 1)[1:], length, t)
    rungs = np.concatenate([climbing, np.repeat(1 / betas, num_held)])
    rungs = np.sort(np.concatenate([rungs, np.full(-len(rungs) % _AT_ONCE, top)]))
    rungs = rungs.astype(positions.dtype).astype(np.float64)  # as the chains know them
    step_size = np.interp(rungs, t, np.minimum.accumulate(sizes))
    tops = (1 / betas).astype(positions.dtype)
    held = np.searchsorted(rungs, tops, side="right") - 1
    cost = len(seen) * _MOVES * num_chains * (num_leapfrog + 1)
    return Ladder(rungs, step_size, held, cost, num_held, num_leapfrog)


def start(key: jax.Array, potential: Potential, ladder: Ladder, num_chains: int) -> Climb:
    """Chains at draws from the prior."""
    first, key = jax.random.split(key)
    return place(key, potential.draw(first, num_chains), ladder)


def place(key: jax.Array, positions: jax.Array, ladder: Ladder) -> Climb:
    """Chains at given positions (M, n), before the first rung."""
    rungs, chains = len(ladder.inverse), len(positions)
    unknown = np.full((rungs + 1, chains), np.nan)
    return Climb(key, positions, 0, unknown, np.full(rungs, np.nan))


def step(climb: Climb, potential: Potential, ladder: Ladder) -> Climb:
    """The next few rungs. Pure: the state of a run that was stopped goes on to the same numbers."""
    rungs = slice(int(climb.rung), int(climb.rung) + _AT_ONCE)
    positions, losses, accepted, last = _rungs(
        climb.key,
        climb.positions,
        jnp.arange(rungs.start, rungs.stop),
        jnp.asarray(ladder.inverse[rungs], climb.positions.dtype),
        jnp.asarray(ladder.step_size[rungs], climb.positions.dtype),
        potential,
        ladder.num_leapfrog,
    )
    if not np.isfinite(losses).all():
        raise ValueError(
            "the loss must be finite wherever the chains go, got NaN or inf at inverse temperature "
            f"{ladder.inverse[rungs][~np.isfinite(losses).all(1)][0]:.3g}; take a narrower prior"
        )
    loss, acceptance = np.array(climb.loss), np.array(climb.acceptance)
    loss[rungs], loss[rungs.stop], acceptance[rungs] = losses, last, accepted
    return Climb(climb.key, positions, rungs.stop, loss, acceptance)


def climb(
    begin: Climb,
    potential: Potential,
    ladder: Ladder,
    callback: Callable[[Climb], None] | None = None,
) -> Climb:
    """All rungs; `callback` sees the state after each few."""
    state = begin
    while state.rung < len(ladder.inverse):
        state = step(state, potential, ladder)
        if callback is not None:
            callback(state)
    return state


@partial(jax.jit, static_argnames="num_leapfrog")
def _rungs(
    key: jax.Array,
    positions: jax.Array,
    numbers: jax.Array,
    inverse: jax.Array,
    step_size: jax.Array,
    potential: Potential,
    num_leapfrog: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    def rung(positions: jax.Array, at: tuple) -> tuple[jax.Array, tuple]:
        number, t, size = at
        own = jax.random.fold_in(key, number)
        positions, loss, accepted = _transition(own, positions, t, size, potential, num_leapfrog)
        return positions, (loss, accepted)

    positions, seen = jax.lax.scan(rung, positions, (numbers, inverse, step_size))
    return positions, *seen, jax.vmap(potential)(positions)


@partial(jax.jit, static_argnames="num_leapfrog")
def _transition(
    key: jax.Array,
    positions: jax.Array,
    inverse: jax.Array,
    step_size: jax.Array,
    potential: Potential,
    num_leapfrog: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One HMC transition of every chain; also L where they were, and the mean acceptance."""
    from blackjax.mcmc import hmc  # in the `gibbs` extra

    kernel = hmc.build_kernel()

    def log_density(u: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum(u**2) - inverse * potential(u)

    def one(key: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        loss, slope = jax.value_and_grad(potential)(u)
        state = hmc.HMCState(u, -0.5 * jnp.sum(u**2) - inverse * loss, -u - inverse * slope)
        jitter, own = jax.random.split(key)  # no trajectory length fits a period of every mode
        size = step_size * jax.random.uniform(jitter, (), u.dtype, 0.8, 1.2)
        mass = jnp.ones_like(u)
        state, told = kernel(own, state, log_density, size, mass, num_leapfrog)
        return state.position, loss, told.acceptance_rate

    positions, loss, accepted = jax.vmap(one)(jax.random.split(key, len(positions)), positions)
    return positions, loss, jnp.mean(accepted)

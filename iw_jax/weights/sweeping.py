"""Minimising the Information Lagrangian for every (targets, β, seed) in one compiled program.

The members of a sweep are laid out as cells (targets x β) by seeds. All cells of a seed share its
inputs, minibatches and weight noise: noise is drawn once a seed, and differences along β lose most
of theirs (common random numbers). Seeds are independent.

Two choices make the optimum easy to reach. The optimiser steps on codes in units of their prior,
(w - m)/λ, where all coordinates are of order one and a learned λ moves a whole layer at once. And
after a round of steps every β looks at the codes of the others on its curve and takes over the one
with the lowest C_β: where the curve has two branches (memorise or not), this finds the lower one
that upward and downward annealing would find.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from iw_jax import checks, parallel, trees
from iw_jax.codes import Code, IsotropicGaussian
from iw_jax.task import Task
from iw_jax.weights import lagrangian, layout
from iw_jax.weights.exchange import along_beta, evaluate, exchange_codes
from iw_jax.weights.lagrangian import Lagrangian, LossEstimator
from iw_jax.weights.members import Sweep, SweepState, decode, hold_state, initial_state, map_cells
from iw_jax.weights.training import minibatches, train

# Codes change hands from this fraction of the steps on. Before, the smallest β, which fits fastest,
# would hand its long code to all others, and they would shorten it only slowly.
EXCHANGE_FROM = 0.5
# Weight draws behind each of these comparisons; paired, so few are enough.
EXCHANGE_DRAWS = 8


class Diverged(FloatingPointError):
    """A loss became NaN or infinite. `state` holds the sweep as it was before that round."""

    def __init__(self, message: str, state: "SweepState") -> None:
        super().__init__(message)
        self.state = state


@trees.record
class SweepResult:
    """The minimised codes and what they cost. Axes: T target sets, B betas, S seeds.

    Attributes:
      lagrangian: C_β, E_Q[L_D] and KL as Estimates of shape (T, B, S), nats; loss and KL on all N.
      code: Q, leaves (T, B, S, ...).
      prior: P, leaves (T, B, S, ...).
      betas: (B,).
      loss_draws: (num_draws, T, B, S), nats; draws are shared by all cells of a seed, so that
        differences between cells have smaller errors than `lagrangian.loss.stderr` says.
      history: (num_rounds, 2, T, B, S), sampled loss and KL during training, nats.
    """

    lagrangian: Lagrangian
    code: Any
    prior: Any
    betas: jax.Array
    loss_draws: jax.Array
    history: jax.Array


def make_sweep(
    keys: jax.Array,
    task: Task,
    init: Callable[[jax.Array], tuple[Code, Any]],
    *,
    betas: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    codes: Any = None,
    targets: Any = None,
    weights: Any = None,
    batch_size: int | None = None,
    learn_prior: bool = False,
    estimator: LossEstimator = lagrangian.antithetic_noise,
    member_batch: int | None = None,
    exchange: bool = True,
    num_rounds: int = 20,
    mesh: Mesh | None = None,
) -> tuple[Sweep, SweepState]:
    """Checks the arguments of `sweep` and lays out its members; nothing is trained yet.

    Arguments, errors: see `sweep`.

    Returns:
      The problem and the state it starts from, for `sweep_step` and `sweep_finish`.
    """
    checks.key("keys", keys, shape=None)
    if keys.ndim != 1 or keys.size == 0:
        raise ValueError(f"keys must have shape (number of seeds,), got {keys.shape}")
    checks.positive("betas", betas)
    betas = jnp.asarray(betas, jnp.result_type(float))
    if betas.ndim != 1 or betas.size == 0:
        raise ValueError(f"betas must be a vector of at least one value, got shape {betas.shape}")
    checks.at_least("num_steps", num_steps, 1)
    checks.at_least("num_rounds", num_rounds, 1)
    checks.optional_at_least("batch_size", batch_size, 1)
    checks.optional_at_least("member_batch", member_batch, 1)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax transformation, got {type(optimizer).__name__}"
        )

    if mesh is not None:
        parallel.require_mesh(mesh)
    if task.mesh is not None:
        raise ValueError("task must not be spread: give the whole one, and mesh=, to deal it out")

    round_length = -(-num_steps // min(num_rounds, num_steps))
    seeds, count = keys.size, task.num_examples
    targets = layout.over_members("targets", targets, task.targets, seeds)
    weights = layout.over_members("weights", weights, task.weights, seeds)
    target_sets = max(targets.shape[0], weights.shape[0])
    over_seeds, fill = layout.deal(mesh, target_sets, betas.size, seeds)
    betas = jnp.concatenate([betas, jnp.repeat(betas[-1], fill)])
    cells = target_sets * betas.size

    first, priors = jax.vmap(init)(jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys))
    code, prior = jax.tree.map(lambda x: x[0], (first, priors))
    _check_members(task, code, prior, targets, weights, learn_prior)

    problem = Sweep(
        task=task,
        betas=jnp.tile(betas, target_sets),
        targets=layout.over_cells(targets, target_sets, betas.size),
        weights=layout.over_cells(weights, target_sets, betas.size),
        prior=priors,
        optimizer=optimizer,
        estimator=estimator,
        num_steps=num_steps,
        num_rounds=-(-num_steps // round_length),  # whole rounds, but for the last: none is empty
        batch_size=None if batch_size is None else min(batch_size, count),
        num_betas=betas.size,
        member_batch=None if member_batch is None or member_batch >= cells else member_batch,
        learn_prior=learn_prior,
        exchange=exchange and betas.size - fill > 1,
        mesh=mesh,
        over_seeds=over_seeds,
        num_fill=fill,
    )
    codes = layout.over_all(codes, first, target_sets, betas.size, fill)
    if mesh is not None:
        problem = layout.place(problem, mesh)
        keys, codes = parallel.put(mesh, (keys, codes))
    return problem, initial_state(problem, keys, codes)


def sweep(
    keys: jax.Array,
    task: Task,
    init: Callable[[jax.Array], tuple[Code, Any]],
    *,
    betas: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    codes: Any = None,
    targets: Any = None,
    weights: Any = None,
    batch_size: int | None = None,
    learn_prior: bool = False,
    estimator: LossEstimator = lagrangian.antithetic_noise,
    member_batch: int | None = None,
    exchange: bool = True,
    num_rounds: int = 20,
    num_draws: int = 64,
    callback: Callable[[SweepState], None] | None = None,
    mesh: Mesh | None = None,
) -> SweepResult:
    """Minimises C_β = E_Q[L_D] + β KL(Q‖P) for every (targets, β, seed) in one program.

    Args:
      keys: (S,) typed random keys, one a seed; seeds differ in initial code, minibatches and noise.
      task: network, likelihood and data. All members share its inputs.
      init: key -> (code, prior), pure; the code a seed starts from, and its prior.
      betas: (B,) positive prices of a nat; best in increasing order.
      optimizer: optax transformation. It sees the gradient of C_β/N in units of the prior, so
        Adam with a rate of about 0.02, decayed to 0, suits most networks.
      num_steps: optimiser steps of every member.
      codes: a code with leaves (T, B, S, ...), what every member starts from instead of the code of
        `init`; that of an earlier `SweepResult`, say, or one made of it.
      targets: (T, S, N, ...) or (T, N, ...) instead of the task's (random labels, say).
      weights: (T, S, N) or (T, N) instead of the task's example weights. The inputs are shared, so
        the network still sees masked ones: its outputs and gradients there must be finite.
      batch_size: examples a step, drawn without replacement epoch by epoch; None for all.
      learn_prior: minimise over the prior's scales too (empirical Bayes: one global or one a layer,
        as the prior was built). The KL is then that of the best prior of the family.
      estimator: of E_Q[L_D] in a step: `antithetic_noise` (a pair of draws, the default: after
        the first steps it has the lowest variance x time of those that suit every network, see
        docs/variance.md), `weight_noise` (one draw), `local_noise(...)`.
      member_batch: cells (targets, β) computed at once on each device, for memory; None for all.
      exchange: let every β take over the code of another β of the same targets and seed while it
        has the lower C_β; off to follow one branch of a curve that has two.
      num_rounds: rounds of steps; codes are exchanged and `callback` is called after each.
      num_draws: weight draws of the evaluation on all N examples at the end.
      callback: called with the state after each round.
      mesh: from `iw.make_mesh`, to deal members out over its axis `sweep` and the examples of a
        step over `data`; the numbers stay the same up to the order of sums. None for one device.

    Returns:
      A `SweepResult`.

    Raises:
      ValueError, TypeError: for arguments out of range, members that do not fit the network,
        labels out of range; before anything is compiled.
      Diverged: when a loss becomes NaN or infinite; its `state` is the last good one.
    """
    problem, state = make_sweep(
        keys,
        task,
        init,
        betas=betas,
        optimizer=optimizer,
        num_steps=num_steps,
        codes=codes,
        targets=targets,
        weights=weights,
        batch_size=batch_size,
        learn_prior=learn_prior,
        estimator=estimator,
        member_batch=member_batch,
        exchange=exchange,
        num_rounds=num_rounds,
        mesh=mesh,
    )
    for _ in range(problem.num_rounds):
        state = sweep_step(problem, state)
        if callback is not None:
            callback(state)
    return sweep_finish(problem, state, num_draws=num_draws)


def sweep_step(problem: Sweep, state: SweepState) -> SweepState:
    """One round of optimiser steps for all members, then the exchange along β.

    Args:
      problem: from `make_sweep`.
      state: from `make_sweep` or an earlier round (possibly saved and restored).

    Raises:
      Diverged: when a loss became NaN or infinite; names the step and the member.
    """
    new, first_bad = _round(problem, state)
    worst = int(jnp.min(first_bad))
    if worst <= problem.num_steps:
        cell, seed = (int(i) for i in jnp.argwhere(first_bad == worst)[0])
        raise Diverged(
            f"the loss became NaN or infinite at step {worst} of {problem.num_steps}, for "
            f"beta = {float(problem.betas[cell]):.4g}, target set {cell // problem.num_betas}, "
            f"seed {seed}; lower the learning rate or the initial scale of the code",
            state,
        )
    return new


def sweep_finish(problem: Sweep, state: SweepState, *, num_draws: int = 64) -> SweepResult:
    """Evaluates every member on all examples with fresh weight draws, after a last exchange.

    Args:
      problem: from `make_sweep`.
      state: after the last round (or earlier, for a look at unfinished members).
      num_draws: weight draws, shared by the cells of a seed.
    """
    checks.at_least("num_draws", num_draws, 2)
    return _finish(problem, state, num_draws)


@jax.jit
def _round(problem: Sweep, state: SweepState) -> tuple[SweepState, jax.Array]:
    """One round; also the first step (from 1) with a bad loss, beyond num_steps if none: (C, S)."""
    round_keys = jax.vmap(lambda k: jax.random.fold_in(k, 1 + state.step))(state.keys)
    batch_keys, noise_keys, exchange_keys = (
        jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(round_keys) for i in range(3)
    )
    length = jnp.minimum(problem.round_length, problem.num_steps - state.step)
    batches = None
    if problem.batch_size is not None:
        batches = jax.vmap(functools.partial(minibatches, problem, problem.batch_size))(batch_keys)

    # Keys and batches carry no cell axis, so noise and inputs are computed once a seed.
    def cell(members, targets, weights, beta):
        seed = functools.partial(train, problem, beta, length)
        return jax.vmap(seed)(members, problem.prior, targets, weights, noise_keys, batches)

    members, (loss, kl, first_bad) = map_cells(
        problem, cell, state.members, problem.targets, problem.weights, problem.betas
    )
    index = state.step // problem.round_length
    history = state.history.at[index].set(jnp.stack([loss, kl]) / length)
    step = state.step + length
    if problem.exchange:
        members = jax.lax.cond(
            step >= EXCHANGE_FROM * problem.num_steps,
            functools.partial(exchange_codes, problem, exchange_keys, EXCHANGE_DRAWS),
            lambda unchanged: unchanged,
            members,
        )
    new = hold_state(problem, SweepState(step, state.keys, members, history))
    return new, parallel.hold(problem.mesh, state.step + first_bad)


@functools.partial(jax.jit, static_argnums=2)
def _finish(problem: Sweep, state: SweepState, num_draws: int) -> SweepResult:
    # 0 made the initial codes, 1 + step the rounds; what comes here comes after all of them.
    fold = lambda i: jax.vmap(lambda k: jax.random.fold_in(k, problem.num_steps + i))(state.keys)  # noqa: E731
    members = state.members
    if problem.exchange:  # once more, as sharply as the evaluation sees; with other draws than it
        members = exchange_codes(problem, fold(2), num_draws, members)
    draws, kl = evaluate(problem, fold(1), members, num_draws)
    decode_all = jax.vmap(jax.vmap(decode), in_axes=(0, 0, None))
    code, prior = decode_all(members.code, members.log_scale, problem.prior)

    draws, kl = along_beta(problem, draws, 1), along_beta(problem, kl, 0)
    history = along_beta(problem, state.history, 2)
    code, prior = (
        jax.tree.map(lambda x: along_beta(problem, x, 0), tree) for tree in (code, prior)
    )
    betas = problem.betas[: problem.num_betas - problem.num_fill]
    draws, history = draws[:, :, : betas.size], history[:, :, :, : betas.size]
    kl, code, prior = jax.tree.map(lambda x: x[:, : betas.size], (kl, code, prior))
    result = SweepResult(
        lagrangian=Lagrangian.of(draws, kl, betas[:, None]),
        code=code,
        prior=prior,
        betas=betas,
        loss_draws=draws,
        history=history,
    )
    return parallel.hold(problem.mesh, result)  # whole on every process


@jax.jit
def _kl_in_units(code: Code, prior: Any) -> jax.Array:
    """KL(Q‖P); a pair without a closed form says so, and a code that cannot take P's units."""
    units = code.in_units_of(prior)
    return units.from_units_of(prior).kl(prior)


def _check_members(
    task_: Task, code: Code, prior: Any, targets: np.ndarray, weights: np.ndarray, learn_prior: bool
) -> None:
    if {targets.shape[0], weights.shape[0]} - {1, max(targets.shape[0], weights.shape[0])}:
        raise ValueError(
            "targets and weights must have the same number of target sets T, got "
            f"{targets.shape[0]} and {weights.shape[0]}"
        )
    if learn_prior and not isinstance(prior, IsotropicGaussian):
        raise TypeError(
            "learn_prior needs an IsotropicGaussian prior (one scale, or one a layer), got "
            f"{type(prior).__name__}"
        )
    checks.finite("prior", prior)
    checks.finite("KL(code || prior)", _kl_in_units(code, prior))
    outputs_shape = lagrangian.check_code(task_, code)
    for labels in targets.reshape(-1, *targets.shape[2:]):
        task_.likelihood.check(outputs_shape, labels)
    checks.finite("weights", weights)
    if np.any(weights < 0) or np.any(weights.sum(-1) == 0):
        raise ValueError("weights must not be negative, nor all 0 for a member, got some that are")

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
import optax

from iw_jax import checks, task, trees
from iw_jax.codes import Code, IsotropicGaussian
from iw_jax.task import Task
from iw_jax.trees import PyTree
from iw_jax.weights import lagrangian
from iw_jax.weights.lagrangian import Lagrangian, LossEstimator

# Codes change hands until this fraction of the steps; what follows settles every code on its β.
EXCHANGE_UNTIL = 0.95
# Weight draws that a comparison of codes rests on; paired, so few are enough.
EXCHANGE_DRAWS = 4


class Diverged(FloatingPointError):
    """A loss became NaN or infinite. `state` holds the sweep as it was before that round."""

    def __init__(self, message: str, state: "SweepState") -> None:
        super().__init__(message)
        self.state = state


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
      member_batch: cells vmapped at a time; None for all.
      learn_prior: whether the prior's scales are minimised over too (empirical Bayes).
      exchange: whether codes change hands along β.
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
    targets: Any = None,
    weights: Any = None,
    batch_size: int | None = None,
    learn_prior: bool = False,
    estimator: LossEstimator = lagrangian.weight_noise,
    member_batch: int | None = None,
    exchange: bool = True,
    num_rounds: int = 20,
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

    round_length = -(-num_steps // min(num_rounds, num_steps))
    seeds, count = keys.size, task.num_examples
    targets = _over_members("targets", targets, task.targets, seeds)
    weights = _over_members("weights", weights, task.weights, seeds)
    target_sets = max(targets.shape[0], weights.shape[0])
    cells = target_sets * betas.size

    codes, priors = jax.vmap(init)(jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys))
    code, prior = jax.tree.map(lambda x: x[0], (codes, priors))
    _check_members(task, code, prior, targets, weights, learn_prior)

    problem = Sweep(
        task=task,
        betas=jnp.tile(betas, target_sets),
        targets=_over_cells(targets, target_sets, betas.size),
        weights=_over_cells(weights, target_sets, betas.size),
        prior=priors,
        optimizer=optimizer,
        estimator=estimator,
        num_steps=num_steps,
        num_rounds=-(-num_steps // round_length),  # whole rounds, but for the last: none is empty
        batch_size=None if batch_size is None else min(batch_size, count),
        num_betas=betas.size,
        member_batch=None if member_batch is None or member_batch >= cells else member_batch,
        learn_prior=learn_prior,
        exchange=exchange and betas.size > 1,
    )
    return problem, _initial_state(problem, keys, codes)


def sweep(
    keys: jax.Array,
    task: Task,
    init: Callable[[jax.Array], tuple[Code, Any]],
    *,
    betas: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    targets: Any = None,
    weights: Any = None,
    batch_size: int | None = None,
    learn_prior: bool = False,
    estimator: LossEstimator = lagrangian.weight_noise,
    member_batch: int | None = None,
    exchange: bool = True,
    num_rounds: int = 20,
    num_draws: int = 64,
    callback: Callable[[SweepState], None] | None = None,
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
      targets: (T, S, N, ...) or (T, N, ...) instead of the task's (random labels, say).
      weights: (T, S, N) or (T, N) instead of the task's example weights.
      batch_size: examples a step, drawn without replacement epoch by epoch; None for all.
      learn_prior: minimise over the prior's scales too (empirical Bayes: one global or one a layer,
        as the prior was built). The KL is then that of the best prior of the family.
      estimator: of E_Q[L_D] in a step: `weight_noise` (one draw, the default: docs/variance.md has
        the measurement), `antithetic_noise`, `local_noise(...)`.
      member_batch: cells (targets, β) computed at once, for memory; None for all.
      exchange: let every β take over the code of another β of the same targets and seed while it
        has the lower C_β; off to follow one branch of a curve that has two.
      num_rounds: rounds of steps; codes are exchanged and `callback` is called after each.
      num_draws: weight draws of the evaluation on all N examples at the end.
      callback: called with the state after each round.

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
        targets=targets,
        weights=weights,
        batch_size=batch_size,
        learn_prior=learn_prior,
        estimator=estimator,
        member_batch=member_batch,
        exchange=exchange,
        num_rounds=num_rounds,
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
    """Evaluates every member on all examples with fresh weight draws.

    Args:
      problem: from `make_sweep`.
      state: after the last round (or earlier, for a look at unfinished members).
      num_draws: weight draws, shared by the cells of a seed.
    """
    checks.at_least("num_draws", num_draws, 2)
    return _finish(problem, state, num_draws)


# ---------------------------------------------------------------------------------- layout


def _over_members(name: str, given: Any, own: Any, seeds: int) -> jax.Array:
    """`given`, of shape (T, S, N, ...) or (T, N, ...), or the task's own, as (T, S, N, ...)."""
    own = jnp.asarray(own)
    if given is None:
        return jnp.broadcast_to(own, (1, seeds, *own.shape))
    given = jnp.asarray(given)
    if given.ndim == own.ndim + 1 and given.shape[1:] == own.shape:
        return jnp.broadcast_to(given[:, None], (given.shape[0], seeds, *own.shape))
    if given.ndim == own.ndim + 2 and given.shape[1:] == (seeds, *own.shape):
        return given
    raise ValueError(
        f"{name} must have shape (T, {', '.join(map(str, own.shape))}) or "
        f"(T, {', '.join(map(str, (seeds, *own.shape)))}), got {given.shape}"
    )


def _over_cells(array: jax.Array, target_sets: int, num_betas: int) -> jax.Array:
    """(T or 1, S, N, ...) -> (C, S, N, ...), betas fastest."""
    full = jnp.broadcast_to(array, (target_sets, *array.shape[1:]))
    return jnp.repeat(full, num_betas, axis=0)


def _check_members(
    task_: Task, code: Code, prior: Any, targets: jax.Array, weights: jax.Array, learn_prior: bool
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
    code.kl(prior)  # a pair without a closed form says so
    code.in_units_of(prior)  # so does a code that cannot follow its prior's scales
    outputs_shape = lagrangian.check_code(task_, code)
    for labels in targets.reshape(-1, *targets.shape[2:]):
        task_.likelihood.check(outputs_shape, labels)
    checks.finite("weights", weights)
    if jnp.any(weights < 0) or jnp.any(weights.sum(-1) == 0):
        raise ValueError("weights must not be negative, nor all 0 for a member, got some that are")


def _initial_state(problem: Sweep, keys: jax.Array, codes: Code) -> SweepState:
    def member(code, prior):
        log_scale = getattr(prior, "log_scale", None)
        code = code.in_units_of(prior)
        return Member(code, log_scale, problem.optimizer.init((code, log_scale)))

    cells, seeds = problem.betas.size, keys.size
    one_cell = jax.vmap(member)(codes, problem.prior)
    members = jax.tree.map(lambda x: jnp.repeat(x[None], cells, axis=0), one_cell)
    history = jnp.full((problem.num_rounds, 2, cells, seeds), jnp.nan)
    return SweepState(jnp.zeros((), jnp.int32), keys, members, history)


def _decode(member_code: Code, log_scale: PyTree, prior: Any) -> tuple[Code, Any]:
    """The code in weights, and the prior with the member's own scales."""
    if log_scale is not None:
        prior = trees.replace(prior, log_scale=log_scale)
    return member_code.from_units_of(prior), prior


def _map_cells(problem: Sweep, function: Callable, *arguments: PyTree) -> PyTree:
    """vmap over cells (leading axis), in batches of `member_batch` where memory asks for it."""
    if problem.member_batch is None:
        return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda a: function(*a), arguments, batch_size=problem.member_batch)


# --------------------------------------------------------------------------------- training


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
        batches = jax.vmap(functools.partial(_batches, problem, problem.batch_size))(batch_keys)

    # Keys and batches carry no cell axis, so noise and inputs are computed once a seed.
    def cell(members, targets, weights, beta):
        train = functools.partial(_train, problem, beta, length)
        return jax.vmap(train)(members, problem.prior, targets, weights, noise_keys, batches)

    members, (loss, kl, first_bad) = _map_cells(
        problem, cell, state.members, problem.targets, problem.weights, problem.betas
    )
    index = state.step // problem.round_length
    history = state.history.at[index].set(jnp.stack([loss, kl]) / length)
    step = state.step + length
    if problem.exchange:
        members = jax.lax.cond(
            step <= EXCHANGE_UNTIL * problem.num_steps,
            functools.partial(_exchange, problem, exchange_keys),
            lambda unchanged: unchanged,
            members,
        )
    return SweepState(step, state.keys, members, history), state.step + first_bad


def _batches(problem: Sweep, batch_size: int, key: jax.Array) -> jax.Array:
    """Indices of the round's minibatches: (round_length, batch_size), whole epochs in a row."""
    count, needed = problem.task.num_examples, problem.round_length * batch_size
    keys = jax.random.split(key, -(-needed // count))
    order = jax.lax.map(lambda k: jax.random.permutation(k, count), keys)
    return order.reshape(-1)[:needed].reshape(problem.round_length, batch_size)


def _train(problem: Sweep, beta, length, member, prior, targets, weights, key, batches):
    """`length` optimiser steps of one member on C_β/N."""
    data = trees.replace(problem.task, targets=targets, weights=weights)

    def objective(variables, step_key, batch):
        member_code, log_scale = variables
        code, own_prior = _decode(member_code, log_scale, prior)
        loss = problem.estimator(step_key, batch, code)
        kl = code.kl(own_prior)
        return (loss + beta * kl) / data.num_examples, (loss, kl)

    def step(i, carry):
        variables, opt_state, sums, first_bad = carry
        batch = data
        if batches is not None:
            batch = task.take(data, batches[i], data.num_examples / batches.shape[1])
        step_key = jax.random.fold_in(key, i)
        gradient, (loss, kl) = jax.grad(objective, has_aux=True)(variables, step_key, batch)
        if not problem.learn_prior:
            gradient = gradient[0], jax.tree.map(jnp.zeros_like, gradient[1])
        updates, opt_state = problem.optimizer.update(gradient, opt_state, variables)
        if not problem.learn_prior:  # decay and the like must not reach a fixed prior either
            updates = updates[0], jax.tree.map(jnp.zeros_like, updates[1])
        bad = ~jnp.isfinite(loss + kl)
        first_bad = jnp.where(bad, jnp.minimum(first_bad, i + 1), first_bad)
        sums = sums[0] + loss, sums[1] + kl
        return optax.apply_updates(variables, updates), opt_state, sums, first_bad

    start = (member.code, member.log_scale), member.opt_state
    zero = jnp.zeros((), problem.betas.dtype)
    # Beyond every step of the run, so that min() finds the first bad one.
    never = jnp.asarray(2 * problem.num_steps, jnp.int32)
    variables, opt_state, (loss, kl), first_bad = jax.lax.fori_loop(
        0, length, step, (*start, (zero, zero), never)
    )
    # A bad gradient shows in the next loss; after the last step of the round, here.
    first_bad = jnp.where(trees.all_finite(variables), first_bad, jnp.minimum(first_bad, length))
    code, log_scale = variables
    return Member(code, log_scale, opt_state), (loss, kl, first_bad)


# --------------------------------------------------------------------- exchange, evaluation


def _evaluate(problem: Sweep, keys: jax.Array, members: Member, num_draws: int):
    """Loss draws (num_draws, C, S) and KL (C, S) of all members; draws shared along cells."""

    def one(member, prior, targets, weights, key):
        data = trees.replace(problem.task, targets=targets, weights=weights)
        code, own_prior = _decode(member.code, member.log_scale, prior)
        draws = lagrangian.loss_draws(
            key, data, code, num_samples=num_draws, batch_size=problem.batch_size
        )
        return draws, code.kl(own_prior)

    def cell(members, targets, weights):
        return jax.vmap(one)(members, problem.prior, targets, weights, keys)

    draws, kl = _map_cells(problem, cell, members, problem.targets, problem.weights)
    return jnp.moveaxis(draws, -1, 0), kl


def _exchange(problem: Sweep, keys: jax.Array, members: Member) -> Member:
    """Every β takes over the code of the β on its curve that has the lowest C_β for it."""
    draws, kl = _evaluate(problem, keys, members, EXCHANGE_DRAWS)
    curves = lambda x: x.reshape(*x.shape[:-2], -1, problem.num_betas, x.shape[-1])  # noqa: E731
    draws, kl = curves(draws), curves(kl)  # (draws, T, B, S), (T, B, S)
    betas = problem.betas[: problem.num_betas]
    # Cost of the code of β_j at the price β_i: axes (draws, T, i, j, S).
    cost = draws[:, :, None] + betas[:, None, None] * kl[None, :, None]
    own = jnp.einsum("dtiis->dtis", cost)[:, :, :, None]
    gain = own - cost
    mean, stderr = gain.mean(0), gain.std(0, ddof=1) / jnp.sqrt(EXCHANGE_DRAWS)
    clear = jnp.where(mean > 2 * stderr, mean, 0.0)  # 0 on the diagonal: nobody better, keep
    best = jnp.argmax(clear, axis=2)  # (T, B, S)
    source = jnp.where(clear.max(axis=2) > 0, best, jnp.arange(problem.num_betas)[:, None])

    def gather(leaf):
        split = curves_of_leaf(leaf)
        index = source.reshape(source.shape + (1,) * (split.ndim - 3))
        return jnp.take_along_axis(split, index, axis=1).reshape(leaf.shape)

    def curves_of_leaf(leaf):
        return leaf.reshape(-1, problem.num_betas, *leaf.shape[1:])

    return jax.tree.map(gather, members)


@functools.partial(jax.jit, static_argnums=2)
def _finish(problem: Sweep, state: SweepState, num_draws: int) -> SweepResult:
    # 0 made the initial codes, 1 + step the rounds; the evaluation comes after all of them.
    keys = jax.vmap(lambda k: jax.random.fold_in(k, problem.num_steps + 1))(state.keys)
    draws, kl = _evaluate(problem, keys, state.members, num_draws)
    decode = jax.vmap(jax.vmap(_decode), in_axes=(0, 0, None))
    code, prior = decode(state.members.code, state.members.log_scale, problem.prior)

    def axes(x, leading=0):
        shape = x.shape
        split = (-1, problem.num_betas)
        return x.reshape(*shape[:leading], *split, *shape[leading + 1 :])

    draws, kl = axes(draws, leading=1), axes(kl)
    betas = problem.betas[: problem.num_betas]
    return SweepResult(
        lagrangian=Lagrangian.of(draws, kl, betas[:, None]),
        code=jax.tree.map(axes, code),
        prior=jax.tree.map(axes, prior),
        betas=betas,
        loss_draws=draws,
        history=axes(state.history, leading=2),
    )

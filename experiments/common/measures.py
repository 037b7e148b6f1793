"""Running a sweep and measuring its members: the rows of an experiment's table."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common import starts, tables
from experiments.common.config import network, sweep_options
from experiments.common.context import Context
from iw_jax import data, nets, trees
from iw_jax.task import sum_over_examples

CHUNK = 2000  # examples an evaluation looks at together, at least; more costs memory, not time


@functools.partial(jax.jit, static_argnames=("num_draws", "batch_size"))
def accuracies(
    keys: jax.Array,
    code: Any,
    train: iw.Task,
    targets: jax.Array,
    weights: jax.Array,
    test: iw.Task,
    *,
    num_draws: int,
    batch_size: int,
) -> dict[str, jax.Array]:
    """Accuracy under weight noise (mean over draws) and at the mean weights, of every member.

    Args:
      keys: (S,) one a seed.
      code: leaves (T, B, S, ...).
      train: training inputs and network.
      targets: (T, S, N) training labels.
      weights: (T, S, N); training examples of weight 0 do not count.
      test: test inputs and labels.
      num_draws: weight draws.
      batch_size: examples a chunk, for memory.

    Returns:
      (T, B, S) each, between 0 and 1, by the name of the table's column.
    """

    def accuracy(task, params):
        def hits(chunk, params):
            right = jnp.argmax(chunk.apply_fn(params, chunk.inputs), -1) == chunk.targets
            return jnp.sum(chunk.weights * right)

        total = sum_over_examples(hits, task, params, batch_size=batch_size)
        return total / task.weights.sum()

    def member(code, labels, weights, key):
        own = trees.replace(train, targets=labels, weights=weights)
        both = lambda params: (accuracy(own, params), accuracy(test, params))  # noqa: E731
        draws = jax.random.split(key, num_draws)
        train_draws, test_draws = jax.lax.map(lambda k: both(iw.sample(k, code)), draws)
        train_mean, test_mean = both(code.mean)
        return {
            "train_accuracy_noisy": train_draws.mean(),
            "train_accuracy_mean": train_mean,
            "test_accuracy_noisy": test_draws.mean(),
            "test_accuracy_mean": test_mean,
        }

    def cell(arguments):
        return jax.vmap(member)(*arguments, keys)

    sets, betas = jax.tree.leaves(code)[0].shape[:2]
    cells = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), code)
    repeat = functools.partial(jnp.repeat, repeats=betas, axis=0)
    results = jax.lax.map(cell, (cells, repeat(targets), repeat(weights)))
    return jax.tree.map(lambda x: x.reshape(sets, betas, -1), results)


def cost_columns(
    result: iw.SweepResult, betas: Sequence[float], numbers: Sequence[int]
) -> Callable[[tuple], dict[str, Any]]:
    """(target set, β, seed) -> what every table says of a member's Lagrangian.

    Args:
      result: of the sweep.
      betas: (B,) as the config has them (the sweep's own are rounded to float32).
      numbers: (T,) examples of each target set.
    """
    cost = jax.tree.map(np.asarray, result.lagrangian)
    paired = step_stderr(result.loss_draws)

    def columns(at: tuple[int, int, int]) -> dict[str, Any]:
        number = int(numbers[at[0]])
        return {
            "beta": float(betas[at[1]]),
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
                tolerance=np.inf,  # means of codes, no minima
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
    stderr = tables.stderr(steps, axis=0)
    return np.concatenate([np.zeros_like(draws[0, :, :1]), stderr], axis=1)


def tasks_of(dataset: data.Dataset, net: nets.Network) -> tuple[iw.Task, iw.Task]:
    """The classification task of a data set, training and test examples."""
    pairs = (
        (dataset.train_inputs, dataset.train_targets),
        (dataset.test_inputs, dataset.test_targets),
    )
    train, test = (
        iw.Task(net.apply_fn, iw.Categorical(), jnp.asarray(x), jnp.asarray(y)) for x, y in pairs
    )
    return train, test


def sweep_members(
    config: Any,
    dataset: data.Dataset,
    context: Context,
    targets: jax.Array,
    weights: jax.Array | None = None,
    net: nets.Network | None = None,
    stage: str = "training",
) -> iw.SweepResult:
    """The code of every (target set, β, seed).

    Args:
      config: of the experiment.
      dataset: inputs, test set.
      context: progress and resume.
      targets: (T, S, N) labels.
      weights: (T, S, N) example weights; None for all ones.
      net: the network; None for that of the config.
      stage: name of the bar and of the checkpoints; another one for each sweep of a run.
    """
    net = net or network(config, dataset.num_classes)
    train, _ = tasks_of(dataset, net)
    key_seeds, _, _ = _keys(config)
    return context.sweep(
        jax.random.split(key_seeds, config.num_seeds),
        train,
        starts.initial_code(config, net, train.inputs[:2]),
        betas=np.asarray(config.betas),
        targets=targets,
        weights=jnp.ones(targets.shape) if weights is None else weights,
        stage=stage,
        **sweep_options(config, dataset.num_classes),
    )


def member_rows(
    config: Any,
    dataset: data.Dataset,
    context: Context,
    result: iw.SweepResult,
    targets: jax.Array,
    sets: Sequence[Mapping[str, Any]],
    weights: jax.Array | None = None,
    net: nets.Network | None = None,
    num_matvecs: int = 0,
) -> list[dict[str, Any]]:
    """What is measured of every member of a sweep: one row each.

    Args:
      config: of the experiment.
      dataset: inputs, test set.
      context: progress and resume.
      result: of `sweep_members`.
      targets: (T, S, N) labels.
      sets: (T,) the columns that tell the target sets apart.
      weights: (T, S, N) example weights; None for all ones.
      net: the network; None for that of the config.
      num_matvecs: products of the Fisher information of each member; 0 for none.

    Returns:
      Rows in the order of (target set, β, seed).
    """
    train, test = tasks_of(dataset, net or network(config, dataset.num_classes))
    weights = jnp.ones(targets.shape) if weights is None else weights
    _, key_accuracy, key_fisher = _keys(config)
    hits = accuracies(
        jax.random.split(key_accuracy, config.num_seeds),
        result.code,
        train,
        targets,
        weights,
        test,
        num_draws=config.num_draws,
        batch_size=max(config.batch_size, CHUNK),
    )
    hits = {name: np.asarray(values) for name, values in hits.items()}
    fisher = None
    if num_matvecs and config.code != "log_normal":  # the Fisher code is Gaussian, as its prior
        fisher = fisher_of_members(
            key_fisher, train, targets, result, num_matvecs, max(config.batch_size, CHUNK), context
        )
    costs = cost_columns(result, config.betas, np.asarray(weights[:, 0] > 0).sum(-1))
    rows = []
    for at in np.ndindex(*targets.shape[:1], len(config.betas), config.num_seeds):
        row = {**sets[at[0]], "num_classes": dataset.num_classes, **costs(at)}
        row |= {name: float(values[at]) for name, values in hits.items()}
        if num_matvecs:
            nats, lower, upper = fisher[at] if fisher else (float("nan"),) * 3
            row |= {"fisher_nats": nats, "fisher_lower_nats": lower, "fisher_upper_nats": upper}
        rows.append(row)
    return rows


def sweep_rows(
    config: Any,
    dataset: data.Dataset,
    context: Context,
    targets: jax.Array,
    weights: jax.Array | None,
    sets: Sequence[Mapping[str, Any]],
    num_matvecs: int = 0,
    net: nets.Network | None = None,
    stage: str = "training",
) -> list[dict[str, Any]]:
    """`sweep_members`, then `member_rows`; arguments as there."""
    result = sweep_members(config, dataset, context, targets, weights, net, stage)
    return member_rows(
        config, dataset, context, result, targets, sets, weights, net, num_matvecs=num_matvecs
    )


def _keys(config: Any) -> tuple[jax.Array, ...]:
    """Of the seeds of a sweep, of the accuracies, of the Fisher probes."""
    return tuple(jax.random.split(jax.random.key(config.seed), 3))

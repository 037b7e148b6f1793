"""One minimum of the Information Lagrangian: a sweep with a single member."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from iw_jax import checks, trees
from iw_jax.codes import Code
from iw_jax.task import Task
from iw_jax.weights import lagrangian
from iw_jax.weights.lagrangian import Lagrangian, LossEstimator
from iw_jax.weights.members import SweepState
from iw_jax.weights.sweeping import sweep


@trees.record
class Minimum:
    """A code that minimises C_β, and what it costs.

    Attributes:
      lagrangian: C_β, E_Q[L_D] and KL(Q‖P) on all examples, as Estimates in nats.
      code: Q.
      prior: P, with its learned scales where they were learned.
      beta: the price it holds for.
      history: (rounds, 2): sampled loss and KL of every round of training, nats.
    """

    lagrangian: Lagrangian
    code: Any
    prior: Any
    beta: Any
    history: jax.Array


def minimize(
    key: jax.Array,
    task: Task,
    code: Code,
    prior: Any,
    *,
    beta: float = 1.0,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    batch_size: int | None = None,
    learn_prior: bool = False,
    estimator: LossEstimator = lagrangian.antithetic_noise,
    num_rounds: int = 20,
    num_draws: int = 64,
    callback: Callable[[SweepState], None] | None = None,
) -> Minimum:
    """Minimises C_β = E_Q[L_D] + β KL(Q‖P) over the code (and, if asked, the prior's scales).

    Args:
      key: random key of minibatches and weight noise.
      task: network, likelihood and data.
      code: where the search starts.
      prior: P; what `learn_prior` does not change stays fixed.
      beta: price of a nat; positive, 1 is the negative ELBO of the summed loss.
      optimizer: optax transformation; it sees the gradient of C_β/N in units of the prior.
      num_steps: optimiser steps.
      batch_size: examples a step; None for all.
      learn_prior: minimise over the prior's scales too (empirical Bayes).
      estimator: of E_Q[L_D] in a step; see `sweep`.
      num_rounds: rounds of steps between calls of `callback`.
      num_draws: weight draws of the evaluation at the end, on all examples.
      callback: called with the `SweepState` after each round.

    Returns:
      A `Minimum`; its `lagrangian.kl` is the information in the weights for (P, family of Q, β).

    Nothing compiles again for another beta, key or code of the same shapes.

    Raises:
      ValueError: for arguments out of range, a code that does not fit the network, labels out of
        range; before anything is compiled.
      TypeError: for a key, prior, optimizer or labels of the wrong type.
      Diverged: when a loss becomes NaN or infinite; its `state` is the last good one.
    """
    checks.key("key", key)
    result = sweep(
        key[None],
        task,
        lambda _: (code, prior),
        betas=[beta],
        optimizer=optimizer,
        num_steps=num_steps,
        batch_size=batch_size,
        learn_prior=learn_prior,
        estimator=estimator,
        num_rounds=num_rounds,
        num_draws=num_draws,
        callback=callback,
    )
    everything = result.lagrangian, result.code, result.prior
    cost, best, own_prior = jax.tree.map(
        lambda x: x[0, 0, 0] if jnp.ndim(x) else x,  # the count of draws has no axes
        everything,
    )
    return Minimum(cost, best, own_prior, beta=beta, history=result.history[:, :, 0, 0, 0])

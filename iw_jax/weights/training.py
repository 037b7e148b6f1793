"""Optimiser steps of one member of a sweep."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from iw_jax import parallel, task, trees
from iw_jax.weights.members import Member, Sweep, decode


def minibatches(problem: Sweep, batch_size: int, key: jax.Array) -> jax.Array:
    """Indices of the round's minibatches: (round_length, batch_size), whole epochs in a row."""
    count, needed = problem.task.num_examples, problem.round_length * batch_size
    keys = jax.random.split(key, -(-needed // count))
    order = jax.lax.map(lambda k: jax.random.permutation(k, count), keys)
    return order.reshape(-1)[:needed].reshape(problem.round_length, batch_size)


def train(problem: Sweep, beta, length, member, prior, targets, weights, key, batches):
    """`length` optimiser steps of one member on C_β/N."""
    data = trees.replace(problem.task, targets=targets, weights=weights)

    def objective(variables, step_key, batch):
        member_code, log_scale = variables
        code, own_prior = decode(member_code, log_scale, prior)
        loss = problem.estimator(step_key, batch, code)
        kl = code.kl(own_prior)
        return (loss + beta * kl) / data.num_examples, (loss, kl)

    def step(i, carry):
        variables, opt_state, sums, first_bad = carry
        batch = data
        if batches is not None:
            batch = task.take(data, batches[i], data.num_examples / batches.shape[1])
            batch = parallel.hold(problem.mesh, batch, PartitionSpec(task.DATA))
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

"""Comparing the members of a sweep: their loss and KL, and codes that change hands along β."""

import jax
import jax.numpy as jnp

from iw_jax import trees
from iw_jax.weights import lagrangian
from iw_jax.weights.members import Member, Sweep, decode, map_cells

# By how many standard errors of the paired difference a code must be ahead to be taken over. With
# fewer, neighbours on a fine grid would swap codes by luck and spoil what is already a minimum.
STANDARD_ERRORS = 3.0


def evaluate(problem: Sweep, keys: jax.Array, members: Member, num_draws: int):
    """Loss draws (num_draws, C, S) and KL (C, S) of all members; draws shared along cells."""

    def one(member, prior, targets, weights, key):
        data = trees.replace(problem.task, targets=targets, weights=weights)
        code, own_prior = decode(member.code, member.log_scale, prior)
        draws = lagrangian.loss_draws(
            key, data, code, num_samples=num_draws, batch_size=problem.batch_size
        )
        return draws, code.kl(own_prior)

    def cell(members, targets, weights):
        return jax.vmap(one)(members, problem.prior, targets, weights, keys)

    draws, kl = map_cells(problem, cell, members, problem.targets, problem.weights)
    return jnp.moveaxis(draws, -1, 0), kl


def exchange_codes(problem: Sweep, keys: jax.Array, num_draws: int, members: Member) -> Member:
    """Every β takes over the code of the β on its curve that has the lowest C_β for it."""
    draws, kl = evaluate(problem, keys, members, num_draws)
    draws, kl = along_beta(problem, draws, 1), along_beta(problem, kl, 0)
    betas = problem.betas[: problem.num_betas]
    # Cost of the code of β_j at the price β_i: axes (draws, T, i, j, S).
    cost = draws[:, :, None] + betas[:, None, None] * kl[None, :, None]
    own = jnp.einsum("dtiis->dtis", cost)[:, :, :, None]
    gain = own - cost
    mean, stderr = gain.mean(0), gain.std(0, ddof=1) / jnp.sqrt(num_draws)
    clear = jnp.where(mean > STANDARD_ERRORS * stderr, mean, 0.0)  # 0 on the diagonal: keep
    best = jnp.argmax(clear, axis=2)  # (T, B, S)
    source = jnp.where(clear.max(axis=2) > 0, best, jnp.arange(problem.num_betas)[:, None])

    def gather(leaf):
        on_curves = leaf.reshape(-1, problem.num_betas, *leaf.shape[1:])
        index = source.reshape(source.shape + (1,) * (on_curves.ndim - 3))
        return jnp.take_along_axis(on_curves, index, axis=1).reshape(leaf.shape)

    return jax.tree.map(gather, members)


def along_beta(problem: Sweep, array: jax.Array, axis: int) -> jax.Array:
    """Splits the axis of cells, C, into target sets and betas: (T, B)."""
    shape = array.shape
    return array.reshape(*shape[:axis], -1, problem.num_betas, *shape[axis + 1 :])

"""What is asked of many trained networks at once: losses, noise that they bear, variational nats.

Seeds by cells, as in `fitting`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common.fitting import Sets
from iw_jax import nets
from iw_jax.normals import standard_normal
from iw_jax.task import take

SIGMAS = np.geomspace(0.01, 1.0, 17)  # weight noise of the PAC-Bayes measures
BATCH, RATE = 40, 0.06  # of the variational code; Adam's first rate, in units of the prior


@partial(jax.jit, static_argnums=0)
def evaluate(apply_fn: Callable, params: nets.Params, sets: Sets) -> dict[str, jax.Array]:
    """Losses and margins of every example, (S, C, N) for training, (S, C, M) for the test."""

    def member(params, inputs, labels, test_inputs, test_labels):
        train, test = (apply_fn(params, x) for x in (inputs, test_inputs))
        own = jax.nn.one_hot(labels, train.shape[-1]) > 0
        others = jnp.where(own, -jnp.inf, train).max(-1)
        surprise = -jax.nn.log_softmax(test)
        return {
            "loss": iw.Categorical().nll(train, labels),
            "margin": jnp.where(own, train, -jnp.inf).max(-1) - others,
            "test_wrong": 1.0 * (test.argmax(-1) != test_labels),
            "test_loss": iw.Categorical().nll(test, test_labels),
            "test_loss_uniform": surprise.mean(-1),
        }

    by_cell = jax.vmap(member, in_axes=(0, None, 0, None, None))
    return jax.vmap(by_cell)(params, sets.inputs, sets.labels, sets.test_inputs, sets.test_labels)


@partial(jax.jit, static_argnums=(0, 4))
def noisy_errors(
    apply_fn: Callable, key: jax.Array, params: nets.Params, sets: Sets, num_draws: int
) -> jax.Array:
    """Training error under N(w, σ² I), (SIGMAS, S, C); all networks and σ share the draws."""

    def error(params, inputs, labels, number):
        wrong = apply_fn(params, inputs).argmax(-1) != labels
        return jnp.sum(wrong & (jnp.arange(len(labels)) < number)) / number

    by_cell = jax.vmap(error, in_axes=(0, None, 0, 0))
    errors = jax.vmap(by_cell, in_axes=(0, 0, 0, None))
    one = jax.tree.map(lambda w: w[0, 0], params)

    def draw(chosen):
        sigma, key = chosen
        noise = standard_normal(key, one)
        moved = jax.tree.map(lambda w, e: w + sigma * e, params, noise)
        return errors(moved, sets.inputs, sets.labels, sets.numbers)

    keys = jax.random.split(key, num_draws)
    at_sigma = lambda s: jax.lax.map(lambda k: draw((s, k)), keys).mean(0)  # noqa: E731
    return jax.lax.map(at_sigma, jnp.asarray(SIGMAS, jnp.float32))


@partial(jax.jit, static_argnums=(0, 5))
def variational_nats(
    apply_fn: Callable,
    key: jax.Array,
    params: nets.Params,
    initial: nets.Params,
    sets: Sets,
    num_steps: int,
    scale: float,
    beta: float,
) -> jax.Array:
    """KL(Q‖P) of the diagonal Gaussian Q that Adam finds from N(w, (λ/4)² I): (S, C), nats.

    P = N(w0, λ² I). All networks share their draws; the optimiser works in units of P.
    """
    adam = optax.adam(optax.cosine_decay_schedule(RATE, num_steps))
    keys = jax.random.split(key, num_steps)

    def member(params, first, inputs, labels, number):
        task = iw.Task(apply_fn, iw.Categorical(), inputs, labels)
        prior = iw.IsotropicGaussian(scale, mean=first)
        narrow = jax.tree.map(lambda w: jnp.full_like(w, 0.25) * scale, params)
        code = iw.DiagonalGaussian(params, narrow).in_units_of(prior)

        def step(carry, key):
            code, state = carry
            noise, draw = jax.random.split(key)
            chosen = jax.random.uniform(draw, (BATCH,)) * number
            batch = take(task, jnp.minimum(chosen, number - 1).astype(int), number / BATCH)

            def cost(code):
                own = code.from_units_of(prior)
                return iw.antithetic_noise(noise, batch, own) + beta * own.kl(prior)

            updates, state = adam.update(jax.grad(cost)(code), state)
            return (optax.apply_updates(code, updates), state), None

        (code, _), _ = jax.lax.scan(step, (code, adam.init(code)), keys)
        return code.from_units_of(prior).kl(prior)

    by_cell = jax.vmap(member, in_axes=(0, None, None, 0, 0))
    by_seed = jax.vmap(by_cell, in_axes=(0, 0, 0, 0, None))
    return by_seed(params, initial, sets.inputs, sets.labels, sets.numbers)


def tolerated(errors: np.ndarray, level: float) -> float:
    """σ at which the training error under noise passes a level; linear in log σ.

    Args:
      errors: at SIGMAS; what sampling makes fall is held up.
      level: error.
    """
    rising = np.maximum.accumulate(errors) + 1e-9 * np.arange(len(errors))
    return float(np.exp(np.interp(level, rising, np.log(SIGMAS))))

"""The Information Lagrangian C_β = E_Q[L_D] + β KL(Q‖P), and estimators of its first term."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from iw_jax import checks, task, trees
from iw_jax.codes import Code, DiagonalGaussian, IsotropicGaussian
from iw_jax.estimates import Estimate
from iw_jax.task import Task
from iw_jax.trees import PyTree

# An estimator of E_Q[L_D]: (key, task, code) -> scalar nats, unbiased, differentiable in the code.
LossEstimator = Callable[[jax.Array, Task, Code], jax.Array]


@trees.record
class Lagrangian:
    """C_β and its two terms, in nats.

    Attributes:
      value: E_Q[L_D] + β KL(Q‖P).
      loss: E_Q[L_D], the summed loss under weight noise.
      kl: KL(Q‖P), exact.
    """

    value: Estimate
    loss: Estimate
    kl: Estimate

    @staticmethod
    def of(loss_draws: jax.Array, kl: jax.Array, beta: Any) -> "Lagrangian":
        """From draws of the loss (leading axis) and the exact KL."""
        return Lagrangian(
            value=Estimate.mean_of(loss_draws + beta * kl),
            loss=Estimate.mean_of(loss_draws),
            kl=Estimate.exact(kl),
        )


def information_lagrangian(
    key: jax.Array,
    task: Task,
    code: Code,
    prior: Any,
    *,
    beta: Any = 1.0,
    num_samples: int = 8,
    batch_size: int | None = None,
) -> Lagrangian:
    """C_β(Q) = E_Q[L_D] + β KL(Q‖P) on the whole data set.

    Args:
      key: random key of the weight draws.
      task: network, likelihood and data.
      code: Q, the post-distribution over the weights.
      prior: P, the pre-distribution.
      beta: price of a nat of weights in nats of summed loss; positive, 1 is the negative ELBO.
      num_samples: weight draws; each sees all N examples.
      batch_size: examples a chunk, for memory only; None for all at once.

    Returns:
      A `Lagrangian`: `value`, `loss` and `kl` as Estimates, in nats.

    Raises:
      ValueError: for a beta that is not positive and finite, num_samples < 1, a code that does not
        fit the network, labels out of range.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Def. 2.1, with the summed loss (there the
      mean: its β is this one divided by N).
    """
    checks.key("key", key)
    checks.positive("beta", beta)
    if jnp.shape(beta) != ():
        raise ValueError(f"beta must be one number, got shape {jnp.shape(beta)}; vmap over several")
    check_code(task, code)
    draws = loss_draws(key, task, code, num_samples=num_samples, batch_size=batch_size)
    return Lagrangian.of(draws, code.kl(prior), beta)


def loss_draws(
    key: jax.Array, task: Task, code: Code, *, num_samples: int, batch_size: int | None = None
) -> jax.Array:
    """L_D at independent draws of the weights: (num_samples,), nats."""
    checks.at_least("num_samples", num_samples, 1)
    estimator = functools.partial(weight_noise, batch_size=batch_size)
    return jax.lax.map(lambda k: estimator(k, task, code), jax.random.split(key, num_samples))


def weight_noise(
    key: jax.Array, task: Task, code: Code, *, batch_size: int | None = None
) -> jax.Array:
    """L_D at one reparameterised draw of the weights: the plain estimate of E_Q[L_D]; nats."""
    return _nll(task, code.weights(code.noise(key)), batch_size)


def antithetic_noise(key: jax.Array, task: Task, code: Code) -> jax.Array:
    """The mean of L_D at a draw and at its mirror image: odd orders in the noise cancel; nats."""
    noise = code.noise(key)
    mirrored = jax.tree.map(jnp.negative, noise)
    pair = _nll(task, code.weights(noise), None), _nll(task, code.weights(mirrored), None)
    return 0.5 * (pair[0] + pair[1])


@functools.cache  # the same network gives the same function, so that nothing compiles twice
def local_noise(local_apply_fn: Callable[..., jax.Array]) -> LossEstimator:
    """The local reparameterisation trick: own activation noise for every example.

    Args:
      local_apply_fn: (key, mean, scale, inputs) -> outputs, the network with pre-activations drawn
        from the law that weights N(mean, scale²) give them (`iw_jax.nets.mlp_local`).

    Returns:
      A `LossEstimator` for codes with independent Gaussian weights; TypeError for others.

    References:
      Kingma, Salimans & Welling, arXiv:1506.02557.
    """

    def estimator(key: jax.Array, task: Task, code: Code) -> jax.Array:
        if not isinstance(code, IsotropicGaussian | DiagonalGaussian):
            raise TypeError(
                "local_noise needs a code with independent Gaussian weights (DiagonalGaussian or "
                f"IsotropicGaussian), got {type(code).__name__}"
            )
        log_scale = code.full_log_scale(code.mean)
        scale = jax.tree.map(
            lambda m, s: jnp.broadcast_to(jnp.exp(s), m.shape), code.mean, log_scale
        )
        network = trees.replace(
            task, apply_fn=lambda mean, inputs: local_apply_fn(key, mean, scale, inputs)
        )
        return _nll(network, code.mean, None)

    return estimator


def check_code(where: Task, code: Code) -> tuple[int, ...]:
    """As `check_task`, for a code: before anything is compiled, and the outputs' shape back."""
    checks.finite("code", code)
    return task.check_task(where, code.mean)


def _nll(where: Task, params: PyTree, batch_size: int | None) -> jax.Array:
    return task.nll(where, params, batch_size=batch_size)

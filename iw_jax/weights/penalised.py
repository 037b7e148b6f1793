r"""L + β/2 (w - m)'Λ^-1 (w - m), whose minimum is the best mean of a Gaussian code under a prior.

In units of the prior, u = Λ^-½ (w - m), its gradient is g = Λ^½ ∇L + β u and its curvature H̃ =
Λ^½ H Λ^½ + β. A Newton step from w moves the code N(w, Σ), Σ^-1 = H̃/β in those units, by

    off = ½ g' H̃^-1 g / β      nats
"""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from iw_jax.codes.gaussian import IsotropicGaussian
from iw_jax.convolutions import with_fast_convolutions
from iw_jax.task import Task, nll, sum_over_examples
from iw_jax.trees import PyTree


@partial(jax.jit, static_argnames="batch_size")
def loss_and_pulls(
    task: Task, params: PyTree, prior: IsotropicGaussian, batch_size: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """L, Λ^½ ∇L (n,) and u (n,): data pull at the weights, and β u the prior. g is their sum."""

    def summed(task: Task, params: PyTree) -> tuple[jax.Array, PyTree]:
        # The gradient of each chunk, not of the sum: memory does not grow with N.
        own = jax.value_and_grad(nll, argnums=1)
        return sum_over_examples(own, task, params, batch_size=batch_size)

    loss, slopes = with_fast_convolutions(summed)(task, params)
    scales = jax.tree.map(jnp.exp, prior.full_log_scale(params))
    moved = jax.tree.map(lambda w, m, s: (w - m) / s, params, prior.full_mean(params), scales)
    flat = [ravel_pytree(x)[0] for x in (jax.tree.map(jnp.multiply, slopes, scales), moved)]
    return loss, *flat


def require_minimum(smallest: float, beta: float) -> None:
    """Raises unless the smallest eigenvalue of H̃ is positive."""
    if not smallest > 0:
        raise ValueError(
            "the curvature H + βΛ^-1 must be positive definite at params, got the eigenvalue "
            f"{smallest:.3g} (in units of the prior, β = {beta:g}): they are no minimum of the "
            "penalised loss. Train on, take a narrower prior or a larger beta, or curvature=iw.ggn"
        )


def require_tolerance(tolerance: float) -> None:
    """Raises unless it is positive; inf stands for no warning."""
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")


def warn(off: float, gradient_norm: float, tolerance: float, consequence: str) -> None:
    """Warns the caller's caller where the code is more nats off than `tolerance`."""
    if off > tolerance:
        warnings.warn(
            f"params are {off:.3g} nats away from a minimum (gradient norm {gradient_norm:.3g} in "
            f"units of the prior), beyond {tolerance:.3g}: {consequence}; train on, with the "
            "prior's penalty, or allow more (tolerance)",
            stacklevel=3,
        )

"""Variational information in the weights: the KL of the code of a family that minimises C_β."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.codes import Code
from iw_jax.estimates import Estimate
from iw_jax.task import Task
from iw_jax.weights.lagrangian import Lagrangian
from iw_jax.weights.sweeping import sweep


@trees.record
class VariationalInformation:
    """KL(Q*‖P) of the codes that minimise C_β, and their parts; of the shape of `beta`.

    Attributes:
      nats: the information in the weights, KL(Q*‖P); exact for the codes that were found, which
        need not be the minimum itself.
      lagrangian: C_β, E_Q*[L_D] and the KL; nats.
      tensors: what each tensor of the weights contributes, by name; nats. They sum to `nats`.
      code: Q*, leaves with the axes of `beta` in front.
      prior: P, with its learned scales where they were learned; likewise.
      beta: price of a nat; 1 is the ELBO of the summed loss.
    """

    nats: Estimate
    lagrangian: Lagrangian
    tensors: dict[str, jax.Array]
    code: Any
    prior: Any
    beta: Any


def variational_iw(
    key: jax.Array, task: Task, code: Code, prior: Any, *, beta: Any = 1.0, **settings: Any
) -> VariationalInformation:
    """Information in the weights of the Q in a family that minimises E_Q[L] + β KL(Q‖P); nats.

    All of `beta` are minimised in one compiled program, and take over each other's codes where
    these are better (see `sweep`).

    Args:
      key: a typed random key, of minibatches and weight noise.
      task: the task.
      code: where the search starts; it says the family.
      prior: P, centred anywhere: at 0, at the initial or at pretrained weights.
      beta: positive, scalar or vector; the price of a nat, for the summed loss.
      **settings: `optimizer` and `num_steps`, and what else `sweep` takes: `learn_prior=True` for
        the empirical-Bayes optimum of the prior's scales (one, or one a layer), `batch_size`, ...

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind, as `sweep`.
      Diverged: when a loss becomes NaN or infinite.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Def. 2.1, with the summed loss.
    """
    checks.key("key", key)
    checks.positive("beta", beta)
    found = sweep(key[None], task, lambda _: (code, prior), betas=np.atleast_1d(beta), **settings)
    own = (0, 0 if np.ndim(beta) == 0 else slice(None), 0)  # targets, betas, seeds
    lagrangian, code, prior = jax.tree.map(
        lambda x: x[own] if jnp.ndim(x) else x,  # the count of draws has no axes
        (found.lagrangian, found.code, found.prior),
    )
    by_tensor = _by_tensor if np.ndim(beta) == 0 else jax.vmap(_by_tensor)
    return VariationalInformation(
        nats=lagrangian.kl,
        lagrangian=lagrangian,
        tensors=by_tensor(code, prior),
        code=code,
        prior=prior,
        beta=beta,
    )


def _by_tensor(code: Code, prior: Any) -> dict[str, jax.Array]:
    return trees.by_name(code.kl_by_tensor(prior))

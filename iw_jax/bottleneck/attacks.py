"""How robust a bottleneck is: inputs moved where its loss rises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.bottleneck.variational import VariationalBottleneck, predictive
from iw_jax.trees import PyTree


def fast_gradient_sign(
    key: jax.Array,
    model: VariationalBottleneck,
    params: PyTree,
    inputs: jax.Array,
    targets: Any,
    *,
    epsilon: Any,
    low: Any = -jnp.inf,
    high: Any = jnp.inf,
    num_samples: int = 12,
) -> jax.Array:
    """x + epsilon sign(d loss/dx), kept within [low, high]; of the shape of `inputs`.

    The loss is -log of the predictions averaged over draws of z: the attack knows the network and
    that it is noisy, and does not know the noise that its victim will draw.

    Args:
      key: random key.
      model: with `Categorical` likelihood.
      params: whatever it reads.
      inputs: x, (N, ...).
      targets: y, integers (N,).
      epsilon: how far every coordinate is moved, at least 0; units of the inputs.
      low: least value of a coordinate.
      high: largest value of a coordinate.
      num_samples: draws of z for each example.

    Raises:
      ValueError: for epsilon below 0 or not finite, and as `predictive`.

    References:
      Goodfellow, Shlens & Szegedy, arXiv:1412.6572; Alemi et al., arXiv:1612.00410, Sec. 4.2.
    """
    checks.key("key", key)
    if trees.is_concrete(epsilon) and not (np.all(np.isfinite(epsilon)) and np.min(epsilon) >= 0):
        raise ValueError(f"epsilon must be at least 0 and finite, got {epsilon}")

    def loss(x: jax.Array) -> jax.Array:
        log_q = predictive(key, model, params, x, num_samples=num_samples)
        return -jnp.take_along_axis(log_q, jnp.asarray(targets)[:, None], axis=1).sum()

    slope = jax.grad(loss)(jnp.asarray(inputs))
    return jnp.clip(inputs + epsilon * jnp.sign(slope), low, high)

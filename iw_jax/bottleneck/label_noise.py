"""p_noise(y|x): what is assumed about how labels go wrong, as the dual bottleneck needs it.

A model is a confusion matrix, rows p(y'|y), all of them positive: the dual bottleneck takes the log
of every entry, so that p = 0 would be an infinite price. A trained network's log-softmax (N, K) is
a noise model as it is.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.bottleneck.variational import SUM_TO_ONE


def label_smoothing(num_classes: int, amount: float) -> jax.Array:
    """(1 - amount) δ(y', y) + amount/K: (K, K), rows sum to one.

    Args:
      num_classes: K.
      amount: between 0 and 1; 0.02 in arXiv:2006.04641.
    """
    checks.at_least("num_classes", num_classes, 2)
    checks.between("amount", amount, 0.0, 1.0)
    return (1 - amount) * jnp.eye(num_classes) + amount / num_classes


def gaussian_label_noise(num_classes: int, scale: float) -> jax.Array:
    """p(y'|y) ∝ N(one_hot(y'); one_hot(y), scale² I): (K, K), rows sum to one.

    One-hot labels are all √2 apart, so that this is `label_smoothing` with
    amount = K e/(1 + (K - 1) e), e = exp(-1/scale²).

    Args:
      num_classes: K.
      scale: standard deviation, in units of the one-hot label; positive.
    """
    checks.at_least("num_classes", num_classes, 2)
    checks.positive("scale", scale)
    return jax.nn.softmax(jnp.eye(num_classes) / jnp.square(scale), axis=-1)


def log_label_noise(confusion: Any, targets: Any) -> jax.Array:
    """log p_noise(y'|y_i), (N, K), from a confusion matrix; nats.

    Args:
      confusion: p(y'|y), (K, K), row y; positive, rows sum to one. Counts: add one to each, then
        divide by the sums.
      targets: y, integers (N,) in 0 .. K-1.

    Raises:
      ValueError: for a matrix that is not square, entries that are not positive, rows that do not
        sum to one.
    """
    confusion = jnp.asarray(confusion, float)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion must be (K, K), got {confusion.shape}")
    checks.positive("confusion", confusion)
    if trees.is_concrete(confusion):
        sums = np.asarray(confusion, float).sum(1)
        if np.any(np.abs(sums - 1) > SUM_TO_ONE):
            worst = int(np.argmax(np.abs(sums - 1)))
            raise ValueError(
                f"confusion rows must sum to one, got {sums[worst]:.6g} in row {worst}"
            )
    return jnp.log(confusion)[jnp.asarray(targets)]

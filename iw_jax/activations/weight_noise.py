"""Activations of a network whose weights carry the noise of a code."""

from collections.abc import Callable
from typing import Any

import jax

from iw_jax import checks
from iw_jax.codes import Code
from iw_jax.trees import PyTree

_AT_ONCE = 16  # draws of all weights held at the same time


def noisy_activations(
    key: jax.Array, code: Code, layer_fn: Callable[[PyTree, Any], jax.Array], inputs: jax.Array
) -> jax.Array:
    """z ~ p(z|x): activations under weights that are drawn from the code anew for every input.

    Information in z is then information in spite of the weight noise. (One draw for all inputs
    would be a network that whoever reads z can get to know.) The noise does not depend on the
    code, so that under a `vmap` over codes all of them see the same.

    Args:
      key: a typed random key.
      code: Q, of the weights.
      layer_fn: (params, inputs (X, ...)) -> activations (X, ...), pure.
      inputs: (X, ...).

    Returns:
      (X, ...), one draw for each input.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Def. 3.1, there with Q = N(w*, β F^-1).
    """
    checks.key("key", key)

    def one(at: tuple[jax.Array, jax.Array]) -> jax.Array:
        own, x = at
        return layer_fn(code.weights(code.noise(own)), x[None])[0]

    keys = jax.random.split(key, len(inputs))
    return jax.lax.map(one, (keys, inputs), batch_size=min(_AT_ONCE, len(inputs)))

"""The noise of a network that is linear around its calm activations."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iw_jax.trees import PyTree

_AT_ONCE = 64  # inputs whose Jacobians are held at the same time


def linearised_spread(
    layers: Sequence[Callable[[PyTree, jax.Array], jax.Array]],
    params: PyTree,
    inputs: jax.Array,
    rows: jax.Array,
) -> list[jax.Array]:
    """½ log det(C_l/σ²) for some of the inputs, (P,) for every layer; nats.

    C_1 = σ² I and C_{l+1} = J C_l J' + σ² I, J the Jacobian of the layer at the activations that
    the network has without noise. What it adds to the entropy of the noise is h(T_l|x) if the
    layers are linear as far as the noise reaches. It does not depend on σ.

    Args:
      layers: f_l(params, t), (N, ...) to (N, ...).
      params: their weights.
      inputs: x, (N, ...).
      rows: which of them, (P,).
    """
    dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def of_one(row: jax.Array) -> list[jax.Array]:
        t: Any = inputs[row]
        covariance = None
        spreads = []
        for layer in layers:
            flat = lambda z, layer=layer, shape=t.shape: layer(params, z.reshape(1, *shape)).ravel()  # noqa: E731
            if covariance is None:
                size = jax.eval_shape(flat, t.ravel()).shape[0]
                covariance = jnp.eye(size)
            else:
                J = jax.jacfwd(flat)(t.ravel())
                covariance = dot(dot(J, covariance), J.T) + jnp.eye(len(J))
            spreads.append(0.5 * jnp.linalg.slogdet(covariance)[1])
            t = layer(params, t[None])[0]
        return spreads

    return jax.lax.map(of_one, rows, batch_size=min(_AT_ONCE, len(rows)))

"""The codes that a sweep starts from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import iw_jax as iw
from experiments.common.config import TrainingConfig
from iw_jax import nets

RANK = 8  # shared directions of the low_rank code


def initial_code(
    config: TrainingConfig, net: nets.Network, inputs: jax.Array
) -> Callable[[jax.Array], tuple[iw.Code, Any]]:
    """key -> (code, prior): weights at their initialisation with little noise, and the prior.

    The prior starts at N(0, λ_l²) with λ_l the root mean square of the layer's initial kernel.

    Args:
      config: family of the code, kind of prior, first noise.
      net: the network.
      inputs: a few examples.
    """

    @jax.jit  # one small program instead of some thirty
    def init(key: jax.Array) -> tuple[iw.Code, Any]:
        key_weights, key_factor = jax.random.split(key)
        params = net.init(key_weights, inputs)
        if config.code == "log_normal":
            location = _away_from_zero(key_factor, params)
            return iw.LogNormalNoise(location, config.initial_noise), iw.LogUniform()
        scales = _layer_scales(params)
        if config.prior == "global":
            scales = _rms(params)
        prior = iw.IsotropicGaussian(scales)
        noise = jax.tree.map(lambda s: config.initial_noise * s, scales)
        if config.code == "isotropic":
            return iw.IsotropicGaussian(noise, mean=params), prior
        if config.code == "diagonal":
            return iw.DiagonalGaussian(params, noise), prior
        full = jax.tree.broadcast(noise, params)
        shape = lambda w: jax.ShapeDtypeStruct((RANK, *w.shape), w.dtype)  # noqa: E731
        directions = optax.tree.random_like(key_factor, jax.tree.map(shape, params))
        factor = jax.tree.map(lambda u, s: 0.1 * s * u, directions, full)
        return iw.LowRankGaussian(params, noise, factor), prior

    return init


def _rms(params: Any) -> jax.Array:
    squares = jax.tree.map(lambda w: jnp.sum(w**2), params)
    return jnp.sqrt(optax.tree.sum(squares) / optax.tree.size(params))


def _layer_scales(params: Any) -> Any:
    """One scale for each node that holds tensors: the root mean square of its kernel."""
    if any(hasattr(child, "shape") for child in params.values()):
        # Biases and gains start at 0 or 1, which says nothing about the size they will need.
        return _rms(params.get("kernel", params))
    return {name: _layer_scales(child) for name, child in params.items()}


def _away_from_zero(key: jax.Array, params: Any) -> Any:
    """Biases start at 0, where a magnitude known to a relative precision has no gradient."""
    size = 0.01 * _rms(params)
    signs = optax.tree.random_like(key, params, jax.random.rademacher, jnp.float32)
    return jax.tree.map(lambda w, sign: jnp.where(w == 0, sign * size, w), params, signs)

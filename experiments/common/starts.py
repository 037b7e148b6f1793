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
        key_weights, key_code = jax.random.split(key)
        params = net.init(key_weights, inputs)
        scales = _layer_scales(params) if config.prior != "global" else _rms(params)
        code = code_around(config.code, key_code, params, scales, config.initial_noise)
        return code, iw.LogUniform() if config.code == "log_normal" else iw.IsotropicGaussian(
            scales
        )

    return init


def code_around(family: str, key: jax.Array, params: Any, scales: Any, noise: float) -> iw.Code:
    """A code of a family around weights, with little noise.

    Args:
      family: isotropic, diagonal, low_rank or log_normal.
      key: of what is drawn for the code itself.
      params: weights.
      scales: the prior's, one or a pytree prefix of the weights.
      noise: standard deviation of the code, in units of `scales` (log_normal: of log|w|).
    """
    if family == "log_normal":
        return iw.LogNormalNoise(_away_from_zero(key, params), noise)
    widths = jax.tree.map(lambda s: noise * s, scales)
    if family == "isotropic":
        return iw.IsotropicGaussian(widths, mean=params)
    return widened(family, key, iw.DiagonalGaussian(params, widths))


def widened(family: str, key: jax.Array, code: iw.Code) -> iw.Code:
    """A Gaussian code as one of a larger family.

    New directions start at a hundredth of the code's own scales: little, but not 0, where by
    symmetry no gradient would move them.

    Args:
      family: diagonal or low_rank.
      key: of the directions.
      code: isotropic or diagonal.
    """
    diagonal = iw.DiagonalGaussian(code.mean, code.scale)
    if family == "diagonal":
        return diagonal
    shape = jax.tree.map(lambda w: jax.ShapeDtypeStruct((RANK, *w.shape), w.dtype), diagonal.mean)
    directions = optax.tree.random_like(key, shape)
    factor = jax.tree.map(lambda u, s: 0.01 * s * u, directions, diagonal.scale)
    return iw.LowRankGaussian(diagonal.mean, diagonal.scale, factor)


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

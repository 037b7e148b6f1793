"""Problems whose Fisher information is known, networks that estimate θ, and their layers."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import iw_jax as iw
from experiments.common import checks
from iw_jax import nets

BLOCKS = 20  # of samples, behind each standard error

MIXING = np.float32(np.random.default_rng(2509).normal(size=(10, 10)) / 10)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A law of samples with a parameter θ.

    Attributes:
      size: coordinates of a sample.
      information: I(θ) of a sample, the same for all θ.
      linear: what a linear readout finds of it.
      reach: θ of the training samples lie from -reach to reach.
      delta: the information at θ is measured between θ - δ and θ + δ.
    """

    size: int
    information: float
    linear: float
    reach: float
    delta: float


def _linear() -> float:
    """J of x = exp(M u), u ~ N(θ 1, I): m'(exp(M M') - 1)⁻¹ m, m = M 1, entry by entry."""
    M = np.float64(MIXING)
    return float(M.sum(1) @ np.linalg.solve(np.expm1(M @ M.T), M.sum(1)))


PROBLEMS = {
    "lognormal": Problem(10, 10.0, _linear(), 7.0, 0.1),
    "gaussian": Problem(256, 256.0, 256.0, 1.0, 0.03),
}


def lognormal(key: jax.Array, theta: Any, number: int) -> jax.Array:
    """exp(M u), u ~ N(θ 1, I)."""
    u = theta + jax.random.normal(key, (number, len(MIXING)))
    return jnp.exp(jnp.matmul(u, MIXING.T, precision=jax.lax.Precision.HIGHEST))


def gaussian(key: jax.Array, theta: Any, number: int) -> jax.Array:
    """16 x 16 pixels N(θ, 1)."""
    return theta + jax.random.normal(key, (number, 256))


SAMPLERS = {"lognormal": lognormal, "gaussian": gaussian}


@cache  # static arguments are known by identity
def network(widths: tuple[int, ...]) -> nets.Network:
    """One output: the estimate of θ/reach."""
    return nets.mlp(1, widths=widths)


@cache
def layers(depth: int) -> tuple[Any, ...]:
    """f_l(params, t) of every layer, the output among them; as `iw.fisher_flow`."""

    def layer(i: int, params: nets.Params, t: jax.Array) -> jax.Array:
        z = t @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        return jax.nn.relu(z) if i < depth else z

    return tuple(partial(layer, i) for i in range(depth + 1))


@cache
def linear_layers(depth: int) -> tuple[Any, ...]:
    """The same without ReLU and biases."""

    def layer(i: int, params: nets.Params, t: jax.Array) -> jax.Array:
        return t @ params[f"Dense_{i}"]["kernel"]

    return tuple(partial(layer, i) for i in range(depth + 1))


def values(found: iw.FisherFlow, layer: int) -> dict[str, float]:
    """The columns of a layer's information."""
    values = {
        f"{name}{end}": float(getattr(getattr(found, name), part)[layer])
        for name in ("information", "linear")
        for end, part in (("", "value"), ("_stderr", "stderr"))
    }
    return values | {"converged": int(found.information.converged[layer])}


def allowance(comparisons: int) -> float:
    """Standard errors that an estimate may be off, one-sided, in none of them."""
    return float(stats.t.isf(checks.FALSE_ALARM / comparisons, BLOCKS - 1))

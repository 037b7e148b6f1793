"""A sharp and a flat minimum joined by a barrier: the loss, the noise, mean times from one to the
other (exact, and those of Eyring and Kramers).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

from experiments.common import passage

BEND, TILT, STIFFNESS = 0.4, 0.25, 8.0
VALLEYS = (1.5, 2.5, 4.0)  # sqrt(det H_sharp/det H_flat) in two dimensions
STARTS = {"sharp": -1.0, "flat": 1.0}  # where φ is


class Landscape(NamedTuple):
    """Parameters of the loss and of the noise.

    Attributes:
      bend: of φ; its slope falls from 1 + bend far left to 1 - bend far right.
      tilt: loss of the flat minimum; that of the sharp one is 0.
      widening: how the valley's stiffness falls, STIFFNESS e^(-widening φ).
      shaped: whether the noise is that of the Fisher information φ'² instead of isotropic.
    """

    bend: Any = 0.0
    tilt: Any = 0.0
    widening: Any = 0.0
    shaped: Any = 0.0


LANDSCAPES = {
    "isotropic": Landscape(bend=BEND),
    "tilted": Landscape(bend=BEND, tilt=TILT),
    "shaped": Landscape(bend=BEND, shaped=1.0),
} | {f"valley {root:g}": Landscape(widening=float(np.log(root))) for root in VALLEYS}


def output(x: jax.Array, bend: Any) -> jax.Array:
    """φ(x), what the model makes of its weight; φ(0) = 0, φ'(0) = 1."""
    return x - bend * (jnp.sqrt(x**2 + 1) - 1)


def weight(phi: Any, bend: Any) -> Any:
    """The x with φ(x) = phi."""
    c = phi - bend
    return (c + bend * np.sqrt(c**2 + 1 - bend**2)) / (1 - bend**2)


def loss(position: jax.Array, world: Landscape) -> jax.Array:
    """Minima at φ = -1 (sharp) and 1 (flat), at the bottom of a valley if there are more weights.

    Args:
      position: (d,), x and the coordinates across the valley.
      world: parameters.
    """
    phi = output(position[0], world.bend)
    well = (1 - phi**2) ** 2 + world.tilt * (2 + 3 * phi - phi**3) / 4
    stiffness = STIFFNESS * jnp.exp(-world.widening * phi)
    return well + stiffness / 2 * jnp.sum(position[1:] ** 2)


@jax.jit
def noise(x: jax.Array, temperature: Any, world: Landscape) -> jax.Array:
    """D(x) in dX = -∇L dt + sqrt(2D) dW (Itô): T, or T φ'², which is T on the barrier."""
    slope = 1 - world.bend * x / jnp.sqrt(x**2 + 1)
    return temperature * (1 + world.shaped * (slope**2 - 1))


def on_axis(x: jax.Array, dimension: int) -> jax.Array:
    """The position (d,) at the bottom of the valley."""
    return jnp.zeros(dimension).at[0].set(x)


@partial(jax.jit, static_argnums=2)
@partial(jax.vmap, in_axes=(0, None, None))
@jax.grad
def slope(x: jax.Array, world: Landscape, dimension: int) -> jax.Array:
    """dL/dx along the bottom of the valley, (X,)."""
    return loss(on_axis(x, dimension), world)


@jax.jit
def plane(x: jax.Array, y: jax.Array, world: Landscape) -> jax.Array:
    """L on a grid of two dimensions, (X, Y), from x (X, 1) and y (Y,)."""
    at = jnp.vectorize(lambda x, y: loss(jnp.array([x, y]), world), signature="(),()->()")
    return at(x, y)


@partial(jax.jit, static_argnums=2)
def curvatures(x: jax.Array, world: Landscape, dimension: int) -> jax.Array:
    """Eigenvalues of the Hessian at the bottom of the valley, (d,), ascending."""
    return jnp.linalg.eigvalsh(jax.hessian(loss)(on_axis(x, dimension), world))


def exact(world: Landscape, dimension: int, temperature: float, start: str) -> dict[str, float]:
    """Mean time to the other minimum: exact, and that of Eyring and Kramers.

    The latter for small T: 2π/|λ_1| sqrt(|det H_saddle|/det H) e^(ΔL/T). Where the noise has a
    shape, ΔL/T is ∫ L'/D dx, and sqrt(D_saddle/D) joins the determinants.
    """
    phi = STARTS[start]
    here, there, far = (float(weight(y, world.bend)) for y in (phi, -phi, 2.0 * phi))
    saddle = float(weight(3 * world.tilt / 16, world.bend))
    with jax.enable_x64(True):
        drift = lambda x: -np.asarray(slope(x, world, dimension))  # noqa: E731
        spread = lambda x: np.asarray(noise(x, temperature, world))  # noqa: E731
        if dimension == 1:
            mean = passage.mean_passage_time(drift, spread, here, there, far)
        else:
            potential = lambda x, y: np.asarray(plane(x, y, world))  # noqa: E731
            width = 6 * np.sqrt(temperature / STIFFNESS * np.exp(world.widening))
            mean = passage.mean_passage_time_2d(
                potential, temperature, here, there, far, width, cells=40
            )
        way = np.linspace(here, saddle, passage.POINTS)
        barrier = -integrate.simpson(drift(way) / spread(way), x=way)
        ends = [np.asarray(curvatures(x, world, dimension)) for x in (here, saddle)]
        D_here, D_saddle = spread(np.array([here, saddle]))
    determinants = np.abs(ends[1]).prod() / ends[0].prod()
    return {
        "exact": mean,
        "kramers": float(
            2 * np.pi / -ends[1][0] * np.sqrt(determinants * D_saddle / D_here) * np.exp(barrier)
        ),
        "log_determinant": float(np.log(ends[0]).sum()),
        "stiffest": float(ends[0].max()),
    }

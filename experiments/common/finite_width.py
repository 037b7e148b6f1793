"""Real networks of finite width, in NTK parametrisation, under gradient flow: what theory leaves.

Flow is an ordinary differential equation, solved by the classical Runge-Kutta method. The tangent
kernel of a narrow network grows while it trains, so that no λ_max known beforehand bounds its step:
steps are halved until no output of any member changes by more than a tolerance.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import wide

Params = list[tuple[jax.Array, jax.Array]]
PHI = {"relu": jax.nn.relu, "erf": jax.scipy.special.erf, "identity": lambda u: u}
STEP = 0.5  # in units of 1/λ_max, of the first attempt
TOLERANCE = 1e-2  # of every output; of an error of fourth order, 1/15 is left
HALVINGS = 10
# How far along the last slope each slope is taken, and its weight in the mean.
STAGES = ((0, 1 / 6), (1 / 2, 1 / 3), (1 / 2, 1 / 3), (1, 1 / 6))


def init(key: jax.Array, sizes: tuple[int, ...]) -> Params:
    """Weights and biases of every layer, all N(0, 1)."""
    keys = jax.random.split(key, (len(sizes) - 1, 2))
    return [
        (jax.random.normal(k[0], (n, m)), jax.random.normal(k[1], (m,)))
        for k, (n, m) in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def apply(network: wide.Network, params: Params, inputs: jax.Array) -> jax.Array:
    """Outputs (N,) of one network of this architecture, with one output."""
    hidden = network.weight_std, network.bias_std
    u = inputs
    for layer, (w, b) in enumerate(params):
        last = layer == len(params) - 1
        weights, biases = (network.readout_weight_std, network.readout_bias_std) if last else hidden
        u = PHI[network.activation](u) if layer else u
        u = weights / np.sqrt(len(w)) * u @ w + biases * b
    return u[:, 0]


def outputs(
    key: jax.Array,
    network: wide.Network,
    width: int,
    data: tuple[Any, Any, Any],
    times: np.ndarray,
    steepest: float,
    members: int,
) -> np.ndarray:
    """Outputs at test inputs of an ensemble at increasing times: (members, T, M).

    Args:
      key: random key.
      network: architecture and standard deviations, scalars.
      width: of every hidden layer.
      data: training inputs (N, d), targets (N,), test inputs (M, d).
      times: t of flow on half the summed squared error, (T,).
      steepest: λ_max of the infinitely wide network, which sets the steps of the first attempt.
      members: how many networks.

    Raises:
      ArithmeticError: where outputs still change after ten halvings of the steps.
    """
    lengths = np.diff(times, prepend=0.0)
    counts = np.maximum(np.ceil(lengths * steepest / STEP), 1).astype(int)
    # Units of a layer that fill the processor: on CPUs a batch of small products is slow.
    units = 256 if jax.default_backend() == "cpu" else 2**16
    most = int(np.clip(units // width, 1, members))
    abreast = max(n for n in range(1, most + 1) if members % n == 0)  # a rest would compile anew
    sizes = (data[0].shape[1], *[width] * network.depth, 1)
    arrays = [jnp.asarray(a, jnp.float32) for a in data]

    def solved(counts: np.ndarray) -> np.ndarray:
        steps, keys = jnp.asarray(lengths / counts, jnp.float32), jax.random.split(key, members)
        return np.asarray(_outputs(sizes, abreast, network, keys, *arrays, steps, counts))

    found = solved(counts)
    for _ in range(HALVINGS):
        counts, coarser = 2 * counts, found
        found = solved(counts)
        if np.all(np.abs(found - coarser) < TOLERANCE):
            return found
    raise ArithmeticError(
        f"outputs of networks of width {width} still change by more than {TOLERANCE:g} with steps "
        f"of {STEP / 2**HALVINGS:.2g}/λ_max"
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(
    sizes: tuple[int, ...],
    abreast: int,
    network: wide.Network,
    keys: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    others: jax.Array,
    steps: jax.Array,
    counts: jax.Array,
) -> jax.Array:
    def loss(params: Params) -> jax.Array:
        return jnp.sum((apply(network, params, inputs) - targets) ** 2) / 2

    def velocity(params: Params) -> Params:
        return jax.tree.map(jnp.negative, jax.grad(loss)(params))

    def along(params: Params, direction: Params, step: jax.Array) -> Params:
        return jax.tree.map(lambda w, d: w + step * d, params, direction)

    def runge_kutta(params: Params, step: jax.Array) -> Params:
        def stage(so_far: tuple[Params, Params], at: jax.Array) -> tuple[Any, None]:
            slope, mean = so_far
            slope = velocity(along(params, slope, at[0] * step))
            return (slope, along(mean, slope, at[1])), None

        nothing = jax.tree.map(jnp.zeros_like, params)
        (_, mean), _ = jax.lax.scan(stage, (nothing, nothing), jnp.array(STAGES))
        return along(params, mean, step)

    def member(key: jax.Array) -> jax.Array:
        def until(params: Params, stretch: tuple[jax.Array, jax.Array]) -> tuple[Params, jax.Array]:
            step, count = stretch
            params = jax.lax.fori_loop(0, count, lambda _, p: runge_kutta(p, step), params)
            return params, apply(network, params, others)

        return jax.lax.scan(until, init(key, sizes), (steps, counts))[1]

    return jax.lax.map(member, keys, batch_size=abreast)

"""Gaussian noise in the structure of the weights: half of a variational step's cost, done fast."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax.trees import PyTree

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def standard_normal(key: jax.Array, like: PyTree) -> PyTree:
    """Independent N(0, 1) entries, in the structure, shapes and dtypes of `like`.

    One draw, cut into leaves: a generator for every leaf (`optax.tree.random_like`) takes ten times
    as long to compile for a network of four tensors.
    """
    leaves, treedef = jax.tree.flatten(like)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    dtype = jnp.result_type(jnp.float32, *leaves)  # in bfloat16 there are 128 different draws
    flat = _normal(key, sum(sizes), dtype)
    ends = list(itertools.accumulate(sizes))
    parts = [
        flat[end - size : end].reshape(leaf.shape).astype(leaf.dtype)
        for leaf, size, end in zip(leaves, sizes, ends, strict=True)
    ]
    return jax.tree.unflatten(treedef, parts)


def _normal(key: jax.Array, size: int, dtype: Any) -> jax.Array:
    """The numbers of `jax.random.normal`, √2 erf⁻¹(u), kept in memory by a loop over two halves.

    Elementwise, XLA would fuse it into all that reads the noise and compute it again in each place
    (`benchmarks/variational_step.py`: a tenth of a step). A loop is a boundary to fusion.
    """
    low = np.nextafter(np.asarray(-1, dtype), np.asarray(0, dtype))
    root2 = np.asarray(np.sqrt(2), dtype)
    even = size + size % 2
    if dtype == jnp.float32 and jax.random.key_impl(key) == "threefry2x32":
        bits = _threefry_bits(key, even)
        mantissa = (bits >> 9) | np.uint32(0x3F800000)
        fraction = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1  # in [0, 1)
        uniform = jnp.maximum(low, fraction * (1 - low) + low)
    else:
        uniform = jax.random.uniform(key, (even,), dtype, low, 1)
    halves = jax.lax.map(lambda u: root2 * jax.lax.erf_inv(u), uniform.reshape(2, -1))
    return halves.reshape(-1)[:size]


def _threefry_bits(key: jax.Array, size: int) -> jax.Array:
    """The numbers of `jax.random.bits(key, (size,))`, four times as fast on CPUs.

    Those of JAX's default, the partitionable generator (`jax_threefry_partitionable`).

    There JAX keeps the 20 rounds rolled up in a loop that writes all its state after every four;
    written out they are one fused pass (`benchmarks/variational_step.py`: a fifth of a step).

    References:
      Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011): Threefry-2x32-20.
    """
    if size >= 2**32:
        raise ValueError(f"at most 2**32 - 1 numbers can be drawn at once, got {size}")
    first, second = jax.random.key_data(key)
    schedule = (first, second, first ^ second ^ _PARITY)
    x, y = jnp.full((size,), first), jnp.arange(size, dtype=jnp.uint32) + second
    for i in range(5):
        for r in _ROTATIONS[i % 2]:
            x = x + y
            y = x ^ ((y << r) | (y >> (32 - r)))
        x = x + schedule[(i + 1) % 3]
        y = y + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return x ^ y

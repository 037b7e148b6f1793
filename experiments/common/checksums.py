"""A number for each array that a damaged bit changes, wherever the array lies."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def sums(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Sum of the bits of each array, read as whole numbers of at most 32 of them, modulo 2**32.

    Whole numbers add up to the same in any order, so the devices an array is spread over do not
    matter, and each of them reads its own part only.

    Args:
      arrays: of NumPy or JAX, real, by name.
    """
    on_devices = {name: x for name, x in arrays.items() if isinstance(x, jax.Array)}
    found = {name: _on_host(x) for name, x in arrays.items() if name not in on_devices}
    found |= jax.device_get(_on_devices(on_devices))
    return {name: int(found[name]) for name in arrays}


@jax.jit  # one program for all: several at once, each with sums over devices, may block each other
def _on_devices(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: _of_bits(x).sum(dtype=jnp.uint32) for name, x in arrays.items()}


def _of_bits(x: jax.Array) -> jax.Array:
    if x.dtype == bool:
        return x
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}"))


def _on_host(x: np.ndarray) -> np.uint32:
    kind = f"uint{8 * min(x.dtype.itemsize, 4)}"
    return np.ascontiguousarray(x).reshape(-1).view(kind).sum(dtype=np.uint32)

"""A guard against releases of XLA that compute wrong numbers on CPUs.

jaxlib 0.10.2 and its neighbours miscompile a broadcast fused with a sum (jax issue 39103): a block
of curvature products came out wrong in most of its rows, silently. Importing `iw_jax` switches the
faulty fusion off for those releases; `require_sound` makes sure that it worked.
"""

import functools
import importlib.metadata
import os

import jax
import jax.numpy as jnp
import numpy as np

# The flag is known to these releases only; others would refuse to start with it.
_FAULTY_RELEASES = ("0.10.2", "0.11.0")
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"


# XLA reads its flags when it first compiles, so this must happen on import.
if importlib.metadata.version("jaxlib") in _FAULTY_RELEASES and _FLAG not in (
    _flags := os.environ.get("XLA_FLAGS", "")
):
    os.environ["XLA_FLAGS"] = f"{_flags} {_FLAG}=-reduce".strip()


@functools.cache  # one small compilation a process
def require_sound() -> None:
    """Raises RuntimeError if the compiler gets a broadcast fused with a sum wrong."""
    if jax.default_backend() != "cpu":
        return
    p = np.arange(20_000, dtype=np.float32).reshape(2000, 10) % 7
    u = np.arange(100_000, dtype=np.float32).reshape(5, 2000, 10) % 11
    expected = u - (p * u).sum(-1, keepdims=True)  # small integers: exact in float32
    with jax.ensure_compile_time_eval():  # the caller may itself be under jit
        compiled = jax.jit(lambda p, u: u - jnp.sum(p * u, -1, keepdims=True))(p, u)
    if not np.array_equal(compiled, expected):
        raise RuntimeError(
            "the XLA compiler of this jaxlib "
            f"({importlib.metadata.version('jaxlib')}) computes wrong sums on this machine (jax "
            "issue 39103), so no result could be trusted; import iw_jax before the first JAX "
            f"computation, or set XLA_FLAGS={_FLAG}=-reduce, or install another jaxlib"
        )

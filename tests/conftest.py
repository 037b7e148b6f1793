"""Float64 for every test: closed forms are met to many digits. Keys are made from explicit ints.

Most of the time would go into compiling. So LLVM optimises little and XLA takes its quicker way to
fuse, in one piece each, since both cores have a worker (JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the
programs as users run them), and compiled programs are kept under .pytest_cache, by contents:
workers, subprocesses and the next run share them. NumPy's linear algebra keeps to one thread: the
workers' threads would wait for each other.
"""

import importlib.metadata
import os
from pathlib import Path

_PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if (
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
    and importlib.metadata.version("jaxlib") == "0.10.2"  # later ones need not know the flags
):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402  (reads the environment)
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)  # arrays are on the first unless a test spreads them


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Drops compiled programs after a file that leaves many.

    Each is some memory mappings, of which Linux gives a process 65,530: with those of all files a
    worker crashes.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > 30_000:
        jax.clear_caches()

"""Seconds and memory to the same error of log det(I + cA): the GGN of a trained CNN.

    python -m benchmarks.equal_error --data-dir DIR    # MNIST; digits without

iw_jax spends 240 products, for all c. The error of matfree's 12 probes of depth 20 falls with the
root of their number: it is given as many as make the RMS errors equal by accuracy.csv (of
`benchmarks.log_determinant`, which must have run), and its time is that of 12 times as many. So
only where sampling is its larger error; beyond, no number of probes is enough. Both get the same
jitted product, matfree one probe at a time; each has a process of its own, for its peak memory.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time

from benchmarks import _paired
from benchmarks import log_determinant as accuracy

BUDGET, DEPTH, GRID = 240, 20, (1.0, 10.0, 100.0, 1000.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--method", choices=("iw_jax", "matfree"), help="only this, as JSON")
    options = parser.parse_args()
    if options.method:
        print(json.dumps(measure(options.method, options.data_dir)))
        return
    spent = {method: _in_a_process(method, options.data_dir) for method in ("iw_jax", "matfree")}
    ours, theirs = spent["iw_jax"], spent["matfree"]
    print(
        f"{ours['size']:,} weights; peak memory {ours['mebibytes']:.0f} MiB, of matfree "
        f"{theirs['mebibytes']:.0f} MiB, of which {ours['before']:.0f} MiB before the first run"
    )
    rows = []
    for c in GRID:
        times = (_error(c, f"matfree, depth {DEPTH}") / _error(c, "iw_jax")) ** 2
        rows.append(
            (
                f"{c:.0e}",
                f"{_error(c, 'iw_jax'):.2g}",
                BUDGET,
                round(BUDGET * times),
                f"{ours['seconds']:.3g}",
                f"{theirs['seconds'] * times:.3g}",
                f"{theirs['seconds'] * times / ours['seconds']:.3g}",
            )
        )
    header = ("c", "error", "products", "matfree's", "seconds", "matfree's", "ratio")
    _paired.print_table(header, rows)


def _in_a_process(method: str, data_dir: str | None) -> dict[str, float]:
    words = ["--method", method, *(["--data-dir", data_dir] if data_dir else [])]
    command = [sys.executable, "-m", "benchmarks.equal_error", *words]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def measure(method: str, data_dir: str | None) -> dict[str, float]:
    """Median seconds of three runs of 240 products, and the largest memory of the process."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from matfree import decomp, funm, stochtrace

    from iw_jax.curvature import spectral_measure

    A = accuracy.cnn_ggn(data_dir)
    keys = jax.random.split(jax.random.key(0), 4)
    product = jax.jit(lambda v, A: A.flat_block(v[None])[0])
    jax.block_until_ready(product(jnp.ones(A.size, A.dtype), A))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def ours(key: jax.Array, A: accuracy.Operator) -> jax.Array:
        spectrum = spectral_measure(A, key=key, num_matvecs=BUDGET)
        return spectrum.logdet(accuracy.GRID / spectrum.largest).value

    @jax.jit
    def theirs(key: jax.Array, A: accuracy.Operator) -> jax.Array:
        tridiagonal = decomp.tridiag_sym(DEPTH, reortho="full")
        sampler = stochtrace.sampler_sphere(jnp.zeros(A.size, A.dtype), num=1)
        f = funm.dense_funm_sym_eigh(lambda x: jnp.log1p(jnp.maximum(x, 0)))
        integrand = funm.monte_carlo_funm_sym(f, tridiagonal)
        estimate = stochtrace.estimator_monte_carlo_mean_and_sem(integrand, sampler)
        probes = jax.random.split(key, BUDGET // DEPTH)
        return jax.lax.map(lambda k: estimate(lambda v: product(v, A), k)[0], probes).mean()

    run, seconds = ours if method == "iw_jax" else theirs, []
    for key in keys:
        start = time.perf_counter()
        jax.block_until_ready(run(key, A))
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": float(np.median(seconds[1:])),
        "mebibytes": peak,
        "before": before,
        "size": A.size,
    }


def _error(c: float, method: str) -> float:
    with (accuracy.RESULTS / "accuracy.csv").open() as file:
        for row in csv.DictReader(file):
            cell = row["operator"], int(row["budget"]), row["method"], row["quantity"]
            if cell == ("cnn", BUDGET, method, "logdet") and float(row["c"]) == c:
                return float(row["rms_relative_error"])
    raise SystemExit("accuracy.csv has no rows of the CNN: run benchmarks.log_determinant first")


if __name__ == "__main__":
    main()

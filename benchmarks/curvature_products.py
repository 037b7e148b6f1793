"""Curvature products: time of one and of a block of 16, against laplax, curvlinops and PyHessian.

    python -m benchmarks.curvature_products

The same network, weights and vectors for all, float32, products of the GGN (PyHessian: Hessian) of
the summed cross-entropy, checked against each other before the clock starts:

* mlp: 64-24-10 tanh, the 1,437 digits, 1,810 weights;
* cnn: two 3x3 convolutions (16, 32 channels) with max pools, dense 64, 105,866 weights, 500 random
  images of 28 x 28, in chunks of 100 for iw_jax.

Needs a CPU build of torch (2.13 or newer), and

    pip install -e '.[bench]' linear_operator einconv unfoldNd
    pip install --no-deps curvlinops-for-pytorch backpack-for-pytorch pyhessian

(with its dependencies curvlinops brings torchvision and CUDA along; it needs neither here). torch
has two threads, as XLA, which wait passively: GNU OpenMP's spinning threads would slow it down 25
times on a machine where anything else runs. Every column is a median over interleaved repetitions;
ratios are medians of paired ratios.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from benchmarks import _networks, _paired
from iw_jax import data, nets

try:
    from benchmarks import _peers
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}; what this benchmark needs: python -m pydoc {__spec__.name}"
    ) from None

BLOCK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()
    for name in options.networks:
        task, params, module, batch_size = NETWORKS[name]()
        rows = []
        times = _paired.interleaved(
            programs(task, params, module, batch_size), repetitions=options.repetitions
        )
        for program, seconds in times.items():
            library = program.split(",")[0]
            compared = [
                _paired.ratio(seconds, times[reference]) if reference in times else float("nan")
                for reference in (
                    "jax, gradient",
                    f"{library}, one",
                    f"iw_jax, {program.split(', ')[1]}",
                )
            ]
            milliseconds = 1e3 * float(np.median(seconds))
            rows.append((program, f"{milliseconds:.2f}", *(f"{r:.2f}" for r in compared)))
        print(f"\n{name}, {len(jax.flatten_util.ravel_pytree(params)[0]):,} weights")
        _paired.print_table(("", "ms", "/ gradient", "/ one", "/ iw_jax"), rows)


def programs(
    task: iw.Task, params: Any, module: Any, batch_size: int | None
) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; every product has been compared with that of iw_jax."""
    A = iw.ggn(task, params, batch_size=batch_size)
    H = iw.hessian(task, params, batch_size=batch_size)
    V = jax.random.normal(jax.random.key(1), (BLOCK, A.size), A.dtype)
    columns, labels = _peers.to_torch(V, params), _peers.torch_data(task)
    block = jax.jit(lambda A, V: A.flat_block(V))
    gradient = jax.jit(jax.grad(lambda p, task: iw.nll(task, p, batch_size=batch_size)))
    laplax = _peers.laplax_ggn(task, params)
    curvlinops = _peers.curvlinops_ggn(module, labels)
    pyhessian = _peers.pyhessian_hvp(module, labels)
    expected, hessian = np.asarray(block(A, V)), np.asarray(block(H, V))
    for received, reference in (
        (laplax(V), expected),
        (_peers.from_torch(curvlinops(columns), params), expected),
        (_peers.from_torch(pyhessian(columns), params), hessian),
    ):
        error = np.abs(np.asarray(received) - reference).max() / np.abs(reference).max()
        assert error < 1e-3, error
    return {
        "jax, gradient": lambda: gradient(params, task),
        "torch, gradient": _peers.torch_gradient(module, labels),
        "iw_jax, one": lambda: block(A, V[:1]),
        "laplax, one": lambda: laplax(V[0]),
        "curvlinops, one": lambda: curvlinops(columns[:, 0]),
        "iw_jax, block": lambda: block(A, V),
        "laplax, block": lambda: laplax(V),
        "curvlinops, block": lambda: curvlinops(columns),
        "iw_jax, Hessian": lambda: block(H, V[:1]),
        "PyHessian, Hessian": lambda: pyhessian(columns[:, 0]),
    }


def _mlp() -> tuple[iw.Task, Any, Any, int | None]:
    digits, network = data.load("digits"), nets.mlp(10, widths=(24,), activation="tanh")
    inputs, targets = jnp.asarray(digits.train_inputs), jnp.asarray(digits.train_targets)
    params = network.init(jax.random.key(0), inputs[:1])
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    return task, params, _peers.torch_mlp(params), None


def _cnn() -> tuple[iw.Task, Any, Any, int | None]:
    key, other = jax.random.split(jax.random.key(0))
    network = _networks.cnn()
    inputs = jax.random.normal(key, (500, 28, 28, 1))
    targets = jax.random.randint(other, (500,), 0, 10)
    params = network.init(jax.random.key(0), inputs[:1])
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    return task, params, _peers.torch_cnn(params), 100


NETWORKS = {"mlp": _mlp, "cnn": _cnn}

if __name__ == "__main__":
    main()

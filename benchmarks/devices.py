"""What a mesh costs on one device, and what a second device gains: a sweep and curvature products.

    python -m benchmarks.devices

Each case is a process of its own that keeps to its cores; they take turns, and ratios are medians
of paired ratios.

* sweep: `iw.sweep_step`, 16 betas x 2 seeds, digits, mlp 64-100-10, 50 steps of 200 examples;
* products: a block of 16 GGN products, mlp 64-500-10, the 1,437 digits. With members apart
  both devices do all of it, and get in each other's way.

2 shared CPU cores, 11 repetitions, 2026-11-22:

    sweep                                     ms  times as fast as the first
    one core, no mesh                        992                        1.00
    one core, mesh of one device             968                        1.01
    two cores, no mesh                       726                        1.41
    two cores, two devices, members apart    495                        2.00
    two cores, two devices, examples apart   750                        1.33

    products                                  ms  times as fast as the first
    one core, no mesh                         65                        1.00
    one core, mesh of one device              65                        1.00
    two cores, no mesh                        54                        1.15
    two cores, two devices, members apart     86                        0.78
    two cores, two devices, examples apart    43                        1.57
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from benchmarks import _paired
from iw_jax import data, nets

# name: cores, devices, parts of the members, parts of the examples (0: no mesh)
CASES = {
    "one core, no mesh": (1, 1, 0, 0),
    "one core, mesh of one device": (1, 1, 1, 1),
    "two cores, no mesh": (2, 1, 0, 0),
    "two cores, two devices, members apart": (2, 2, 2, 1),
    "two cores, two devices, examples apart": (2, 2, 1, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--case", help="be the process of this case of this work, and stop")
    parser.add_argument("--work", choices=list(WORKS))
    options = parser.parse_args()
    if options.case:
        answer(options.case, options.work)
        return
    for work in WORKS:
        seconds = measured(work, options.repetitions)
        first = seconds["one core, no mesh"]
        rows = [
            (name, f"{1000 * np.median(each):.0f}", f"{_paired.ratio(first, each):.2f}")
            for name, each in seconds.items()
        ]
        _paired.print_table((work, "ms", "times as fast as the first"), rows)
        print()


def measured(work: str, repetitions: int) -> dict[str, np.ndarray]:
    """Seconds of every case, (repetitions,), in turn."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.devices", "--case", name, "--work", work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in CASES
    }

    def ask(process: Any) -> float:
        process.stdin.write("go\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    rounds = [[ask(process) for process in processes.values()] for _ in range(2 + repetitions)]
    for process in processes.values():
        process.communicate("")
    return dict(zip(processes, np.array(rounds)[2:].T, strict=True))  # the first two compile


def answer(case: str, work: str) -> None:
    """Runs the work once for every line that comes in; says how long it took."""
    cores, devices, sweep, data = CASES[case]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    jax.config.update("jax_num_cpu_devices", devices)
    program = WORKS[work](iw.make_mesh(sweep=sweep, data=data) if data else None)
    for _ in sys.stdin:
        began = time.perf_counter()
        jax.block_until_ready(program())
        print(time.perf_counter() - began, flush=True)


def sweep_round(mesh: Any) -> Callable[[], Any]:
    """A round of a sweep."""
    task, _ = digits(100)
    problem, state = iw.make_sweep(
        jax.random.split(jax.random.key(0), 2),
        task,
        lambda key: (
            iw.DiagonalGaussian(nets.mlp(10, widths=(100,)).init(key, task.inputs[:2]), 0.01),
            iw.IsotropicGaussian(scale=0.1),
        ),
        betas=np.geomspace(1e-3, 10, 16),
        optimizer=optax.adam(0.02),
        num_steps=100,
        num_rounds=2,  # the first of them, which exchanges no codes
        batch_size=200,
        mesh=mesh,
    )
    return lambda: iw.sweep_step(problem, state)


def products(mesh: Any) -> Callable[[], Any]:
    """A block of curvature products."""
    task, params = digits(500)
    A = iw.ggn(task if mesh is None else iw.spread(task, mesh), params)
    V = jax.random.normal(jax.random.key(0), (16, A.size))
    return lambda: A.flat_block(V)


def digits(width: int) -> tuple[Any, Any]:
    """The task, and weights of a network so wide."""
    dataset, network = data.load("digits"), nets.mlp(10, widths=(width,))
    inputs = jnp.asarray(dataset.train_inputs)
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, jnp.asarray(dataset.train_targets))
    return task, network.init(jax.random.key(0), inputs[:2])


WORKS = {"sweep": sweep_round, "products": products}

if __name__ == "__main__":
    main()

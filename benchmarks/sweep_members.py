"""A sweep of 24 members in one program against a loop over members, and against 24 processes.

    python -m benchmarks.sweep_members

Digits, MLP 64-100-10, batch 200, 12 betas for real and for random labels, 600 steps:

* one program: `iw.sweep_step` over all 24 members, with and without the exchange along β;
* loop: one compiled program of a single member, run 24 times (compiled once, then timed);
* processes: a Python process a member, which imports, compiles and runs; three are measured, one
  after another, and the mean is multiplied by 24. The sweep beside it is a fresh process too.

Measured with --steps 200 on 2 CPU cores, busy with other work (load 6), 2026-11-21; medians of 2
interleaved repetitions; only two member processes (25 and 31 s, mostly import and compilation):

    compiled                       s     speed / loop
    loop over members              7.6   1.00
    one program                    4.1   1.87
    one program, exchange          7.3   1.04

    with import and compilation    s     speed / processes
    24 processes (2, scaled)       678   1.00
    one process, one program       34    19.8
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax

import iw_jax as iw
from benchmarks import _paired
from iw_jax import data, nets

BETAS = tuple(float(b) for b in np.geomspace(1e-3, 10, 12))
BATCH_SIZE, NUM_ROUNDS = 200, 20
PRIOR_SCALE, CODE_SCALE = 0.1, 0.01
OPTIMIZER = optax.adam(0.02)
MEASURED_PROCESSES = 3

Program = Callable[[], jax.Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--process", choices=("member", "sweep"), help="run this once, and stop")
    args = parser.parse_args()
    if args.process == "member":
        jax.block_until_ready(training(labels()[:1], BETAS[:1], args.steps, exchange=True)())
        return
    if args.process == "sweep":
        jax.block_until_ready(training(labels(), BETAS, args.steps, exchange=True)())
        return

    programs = {
        "loop over members": loop(args.steps),
        "one program": training(labels(), BETAS, args.steps, exchange=False),
        "one program, exchange": training(labels(), BETAS, args.steps, exchange=True),
    }
    seconds = _paired.interleaved(programs, repetitions=args.repetitions, warm_ups=1)
    reference = seconds["loop over members"]
    rows = [
        (name, f"{np.median(each):.1f}", f"{1 / _paired.ratio(each, reference):.2f}")
        for name, each in seconds.items()
    ]
    _paired.print_table(("compiled", "s", "speed / loop"), rows)
    print()

    members = [process("member", args.steps) for _ in range(MEASURED_PROCESSES)]
    scaled, sweep = 2 * len(BETAS) * float(np.mean(members)), process("sweep", args.steps)
    rows = [
        ("24 processes (3 measured, scaled)", f"{scaled:.1f}", "1.00"),
        ("one process, one program", f"{sweep:.1f}", f"{scaled / sweep:.2f}"),
    ]
    _paired.print_table(("with import and compilation", "s", "speed / processes"), rows)


def labels() -> np.ndarray:
    """Real and random labels: (2, N)."""
    real = data.load("digits").train_targets
    return np.stack([real, data.random_labels(0, len(real), 10)])


def training(
    targets: np.ndarray, betas: Sequence[float], num_steps: int, *, exchange: bool
) -> Program:
    """All rounds of a sweep, from its initial state."""
    dataset, net = data.load("digits"), nets.mlp(10, widths=(100,))
    inputs = dataset.train_inputs
    task = iw.Task(net.apply_fn, iw.Categorical(), inputs, dataset.train_targets)

    def init(key):
        code = iw.DiagonalGaussian(net.init(key, task.inputs[:2]), CODE_SCALE)
        return code, iw.IsotropicGaussian(PRIOR_SCALE)

    problem, start = iw.make_sweep(
        jax.random.split(jax.random.key(0), 1),
        task,
        init,
        betas=betas,
        optimizer=OPTIMIZER,
        num_steps=num_steps,
        targets=targets,
        batch_size=BATCH_SIZE,
        exchange=exchange,
        num_rounds=NUM_ROUNDS,
    )

    def run():
        state = start
        for _ in range(problem.num_rounds):
            state = iw.sweep_step(problem, state)
        return state.history

    return run


def loop(num_steps: int) -> Program:
    """One member after the other; all share one compiled program."""
    members = [
        training(targets[None], [beta], num_steps, exchange=False)
        for targets in labels()
        for beta in BETAS
    ]
    return lambda: [member() for member in members]


def process(kind: str, num_steps: int) -> float:
    """Seconds of a fresh Python process."""
    command = [sys.executable, "-m", "benchmarks.sweep_members", "--process", kind]
    start = time.perf_counter()
    subprocess.run([*command, "--steps", str(num_steps)], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

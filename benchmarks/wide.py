"""Infinitely wide ensembles: how long kernels, the eigenproblem, moments and measures take.

    python -m benchmarks.wide

A grid of weight variances, two hidden layers (erf), 1,000 digits whose parity is learned, 50 times
and 360 test digits: all that `experiments.wide` measures.

2 free CPU cores, 2026-11-22: seconds are those of waiting, CPU seconds those of both cores.

                            s  CPU s
    kernels               1.3    1.4
    eigendecomposition    2.1    3.8
    training inputs      11.9   22.7
    test inputs           5.3   10.4
    losses                4.3    5.3
    I(X;Z|D)              5.8    5.8
    alignment             0.8    1.6
    I(Θ;D)                0.3    0.6
    I(Z;D|X)              0.0    0.0
    all                  31.9   51.5
"""

import argparse
import time

import numpy as np

from benchmarks import _paired
from iw_jax import data, wide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-examples", type=int, default=1000)
    parser.add_argument("--num-times", type=int, default=50)
    parser.add_argument("--num-variances", type=int, default=10)
    options = parser.parse_args()
    digits = data.load("digits", num_examples=options.num_examples)
    times = np.geomspace(1e-5, 1e3, options.num_times)
    spent: dict[str, list[tuple[float, float]]] = {}

    def timed(name, function, *arguments):
        wall, cpu = time.perf_counter(), time.process_time()
        found = function(*arguments)
        spent.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))
        return found

    inputs, others = digits.train_inputs, digits.test_inputs
    parity, labels = 2.0 * (digits.train_targets % 2) - 1, digits.test_targets % 2
    for variance in np.geomspace(0.25, 8, options.num_variances):
        network = wide.Network(2, "erf", np.sqrt(variance))
        within = timed("kernels", wide.kernels, network, inputs)
        across = timed("kernels", wide.kernels, network, others, inputs)
        prior = wide.prior_variance(network, others)
        ensemble = timed("eigendecomposition", wide.ensemble, within, parity)
        timed("training inputs", ensemble.at_training, times)
        moments = timed("test inputs", ensemble.at, times, across, prior)
        timed("losses", wide.class_losses, moments, labels, np.array([-1.0, 1.0]))
        timed("I(X;Z|D)", wide.contrastive_integrals, moments)
        along = timed("alignment", wide.alignment, network, inputs)
        timed("I(Θ;D)", wide.weight_information, ensemble, times, along)
        timed("I(Z;D|X)", wide.data_information, moments, prior)
    rows = [
        [name, *(f"{sum(each):.1f}" for each in zip(*taken, strict=True))]
        for name, taken in spent.items()
    ]
    totals = np.sum([np.sum(taken, 0) for taken in spent.values()], 0)
    _paired.print_table(
        ["", "s", "CPU s"], [*rows, ["all", f"{totals[0]:.1f}", f"{totals[1]:.1f}"]]
    )


if __name__ == "__main__":
    main()

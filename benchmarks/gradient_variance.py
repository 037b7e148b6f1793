"""How noisy the gradient of C_β/N is, for each estimator of E_Q[L_D], and what a step costs.

    python -m benchmarks.gradient_variance

Digits, MLP 64-100-10, batches of 200, DiagonalGaussian code, prior of one learned scale a layer. At
the initial code and after training at three β the trace of the covariance of the gradient, with
respect to the code in units of its prior (what the optimiser steps on), is split into

* noise: E over batches of the variance given the batch, which the estimator decides;
* minibatch: the variance of the mean given the batch, the same for every estimator.

Time a step: rounds of `iw.sweep_step` for a single member, and for 24 members (12 β, 2 label
kinds). Writes the table and a figure to docs/results/variance/; docs/variance.md explains them.

Measured on 2 CPU cores shared with other work, 2026-11-21, jaxlib 0.10.2; one seed; 7 interleaved
repetitions. ms a step: alone and in the sweep; variance = noise + minibatch:

    point               estimator         noise     minibatch  ms    ms, 24  var*ms   var*ms, 24
    initial (β = 1)     weight_noise      0.00405   0.00996    1.41  15.1    0.0197   0.211
                        antithetic_noise  0.000132             1.91  23.1    0.0193   0.233
                        local_noise       0.000324             2.79  25.6    0.0286   0.263
    trained, β = 0.01   weight_noise      0.000456  0.000005   1.41  15.1    0.00065  0.0069
                        antithetic_noise  0.000168             1.91  23.1    0.00033  0.0040
                        local_noise       0.000309             2.79  25.6    0.00087  0.0080
    trained, β = 0.1    weight_noise      0.0125    0.000606   1.41  15.1    0.0185   0.198
                        antithetic_noise  0.00427              1.91  23.1    0.0093   0.113
                        local_noise       0.00363              2.79  25.6    0.0118   0.108
    trained, β = 2      weight_noise      0.161     0.00285    1.41  15.1    0.230    2.46
                        antithetic_noise  0.0734               1.91  23.1    0.146    1.76
                        local_noise       0.00721              2.79  25.6    0.028    0.257
"""

import argparse
import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import iw_jax as iw
from benchmarks import _paired
from iw_jax import data, nets
from iw_jax.task import take
from iw_jax.weights.lagrangian import LossEstimator

FOLDER = Path(__file__).parents[1] / "docs" / "results" / "variance"
ESTIMATORS = {
    "weight_noise": iw.weight_noise,
    "antithetic_noise": iw.antithetic_noise,
    "local_noise": iw.local_noise(nets.mlp_local(10, widths=(100,))),
}
NET = nets.mlp(10, widths=(100,))
BATCH_SIZE, NUM_BATCHES, DRAWS = 200, 24, 16
LEARNING_RATE, TRAINING_STEPS = 0.02, 1000
DECAYED_ADAM = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, TRAINING_STEPS))
TRAINED_BETAS = (0.01, 0.1, 2.0)
SWEEP_BETAS = tuple(float(b) for b in np.geomspace(1e-3, 10, 12))
TIMED_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9, help="of the timing")
    args = parser.parse_args()
    task = digits()
    times = step_times(task, args.repetitions)
    points = [("initial", 1.0, *initial(jax.random.key(0)))]
    for beta in TRAINED_BETAS:
        points.append((f"trained, β = {beta:g}", beta, *trained(task, beta)))
    rows = [
        row
        for name, beta, code, prior in points
        for row in variances(task, name, beta, code, prior, times)
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "variance.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    _paired.print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    figure(rows)


def digits() -> iw.Task:
    dataset = data.load("digits")
    return iw.Task(
        NET.apply_fn, iw.Categorical(), jnp.asarray(dataset.train_inputs), dataset.train_targets
    )


def initial(key: jax.Array) -> tuple[iw.DiagonalGaussian, iw.IsotropicGaussian]:
    """Weights at their initialisation, noise of a tenth of the prior's scale."""
    params = NET.init(key, jnp.zeros((2, 64)))
    scales = {name: jnp.std(layer["kernel"]) for name, layer in params.items()}
    noise = {name: 0.1 * scale for name, scale in scales.items()}
    return iw.DiagonalGaussian(params, noise), iw.IsotropicGaussian(scales)


def trained(task: iw.Task, beta: float) -> tuple[Any, Any]:
    minimum = iw.minimize(
        jax.random.key(1),
        task,
        *initial(jax.random.key(0)),
        beta=beta,
        optimizer=DECAYED_ADAM,
        num_steps=TRAINING_STEPS,
        batch_size=BATCH_SIZE,
        learn_prior=True,
        num_draws=2,
    )
    return minimum.code, minimum.prior


def variances(
    task: iw.Task, name: str, beta: float, code: Any, prior: Any, times: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row an estimator, at one point of training."""
    parts = {e: jax.device_get(split(ESTIMATORS[e], task, beta, code, prior)) for e in ESTIMATORS}
    minibatch = parts["local_noise"][2]  # the same for all, and least blurred by this one's noise
    rows = []
    for estimator, (noise, stderr, _) in parts.items():
        alone, sweep = times[estimator]
        figures = {
            "noise_variance": noise,
            "noise_variance_stderr": stderr,
            "minibatch_variance": minibatch,
            "step_ms": alone,
            "sweep_of_24_step_ms": sweep,
            "noise_variance_x_step_ms": noise * alone,
            "variance_x_step_ms": (noise + minibatch) * alone,
            "variance_x_sweep_step_ms": (noise + minibatch) * sweep,
        }
        rounded = {key: f"{float(value):.3g}" for key, value in figures.items()}
        rows.append({"point": name, "beta": beta, "estimator": estimator, **rounded})
    return rows


@functools.partial(jax.jit, static_argnums=0)
def split(
    estimator: LossEstimator, task: iw.Task, beta: jax.Array, code: Any, prior: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Noise variance, its standard error over batches, and minibatch variance (traces)."""
    units = code.in_units_of(prior)

    def gradient(key, batch):
        def objective(units):
            own = units.from_units_of(prior)
            return (estimator(key, batch, own) + beta * own.kl(prior)) / task.num_examples

        return ravel_pytree(jax.grad(objective)(units))[0]

    def of_batch(key):
        key_batch, key_noise = jax.random.split(key)
        indices = jax.random.permutation(key_batch, task.num_examples)[:BATCH_SIZE]
        batch = take(task, indices, task.num_examples / BATCH_SIZE)
        draws = jax.lax.map(lambda k: gradient(k, batch), jax.random.split(key_noise, DRAWS))
        return draws.mean(0), jnp.sum(draws.var(0, ddof=1))

    keys = jax.random.split(jax.random.key(2), NUM_BATCHES)  # the same batches for all estimators
    means, noise = jax.lax.map(of_batch, keys)
    minibatch = jnp.sum(means.var(0, ddof=1)) - noise.mean() / DRAWS
    return noise.mean(), noise.std(ddof=1) / jnp.sqrt(NUM_BATCHES), minibatch


def step_times(task: iw.Task, repetitions: int) -> dict[str, tuple[float, float]]:
    """Milliseconds a step: of a single member, and of a sweep of 24."""
    random = data.random_labels(0, task.num_examples, 10)
    both = np.stack([np.asarray(task.targets), random])
    programs = {}
    for name, estimator in ESTIMATORS.items():
        programs[name, "alone"] = round_of(task, estimator, both[:1], SWEEP_BETAS[:1])
        programs[name, "sweep"] = round_of(task, estimator, both, SWEEP_BETAS)
    seconds = _paired.interleaved(programs, repetitions=repetitions)
    # Paired with weight noise, so that a slow spell of the machine does not favour anyone.
    times = {}
    for name in ESTIMATORS:
        times[name] = tuple(
            1e3
            * float(np.median(seconds["weight_noise", where]))
            * _paired.ratio(seconds[name, where], seconds["weight_noise", where])
            / TIMED_STEPS
            for where in ("alone", "sweep")
        )
    return times


def round_of(task: iw.Task, estimator: LossEstimator, targets: Any, betas: Sequence[float]):
    problem, state = iw.make_sweep(
        jax.random.split(jax.random.key(3), 1),
        task,
        initial,
        betas=betas,
        optimizer=optax.adam(LEARNING_RATE),
        num_steps=20 * TIMED_STEPS,
        num_rounds=20,
        targets=targets,
        batch_size=BATCH_SIZE,
        learn_prior=True,
        estimator=estimator,
        exchange=False,
    )
    return lambda: iw.sweep_step(problem, state).history


def figure(rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    styles = {  # Okabe & Ito; told apart in grey by marker
        "weight_noise": {"color": "#0072B2", "marker": "o"},
        "antithetic_noise": {"color": "#D55E00", "marker": "s"},
        "local_noise": {"color": "#009E73", "marker": "^"},
    }
    points = list(dict.fromkeys(row["point"] for row in rows))
    panels = {
        "noise_variance": "variance of the gradient",
        "variance_x_step_ms": "all variance × ms a step, one member",
        "variance_x_sweep_step_ms": "all variance × ms a step, sweep of 24",
    }
    fig, axes = plt.subplots(1, 3, figsize=(11, 4), constrained_layout=True)
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        for name, style in styles.items():
            values = [float(row[column]) for row in rows if row["estimator"] == name]
            axis.plot(points, values, linestyle="none", label=name, markersize=7, **style)
        axis.set(yscale="log", title=label)
        axis.title.set_fontsize(10)
        axis.tick_params(axis="x", rotation=20)
        axis.margins(x=0.15)
        axis.grid(color="#e6e6e6", linewidth=0.6)
    batch = [float(row["minibatch_variance"]) for row in rows if row["estimator"] == "local_noise"]
    axes[0].plot(points, batch, "k_", markersize=18, label="minibatch")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, frameon=False, loc="outside lower center", ncols=4)
    fig.savefig(FOLDER / "variance.png", dpi=150)
    plt.close(fig)


if __name__ == "__main__":
    main()

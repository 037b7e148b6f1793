"""log det(I + cA) at equal products: the spectral measure against matfree's Lanczos quadrature.

    python -m benchmarks.log_determinant    # all of it: hours on 2 cores
    python -m benchmarks.log_determinant --seeds 40 --operators digits --methods measure

Writes docs/results/log_determinant/accuracy.csv and accuracy.png, prints the table and what came of
the bounds that we set ourselves (see `_bounds`). Operators:

* digits: GGN (summed loss) of a trained 64-24-10 tanh MLP, 1,437 digits; n = 1,810, exact value
  from the dense matrix, all methods on the dense matrix itself;
* cnn: GGN of a trained small CNN on 300 MNIST images (digits without --data-dir), n = 105,866,
  exact eigenvalues from the Gram matrix;
* outliers: 10 outliers over a log-uniform bulk of eight decades, n = 1,800, Haar eigenvectors;
* power law: j^-1.5, n = 1,800, Haar eigenvectors.

Eigenvalues are divided by the largest, so that c is c * largest. All methods start from vectors
whose law does not change under rotations (matfree with its sphere sampler), so for the CNN, whose
eigenvectors would fill the memory, the diagonal matrix of its eigenvalues stands for it: the error
has the same law. Rows are over `--seeds` seeds; "c known", which grows by what it sees at one c,
and "Nyström", which preconditions for one c, give log det only, over `--adaptive-seeds`.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from matfree import decomp, funm, stochtrace  # noqa: E402

import iw_jax as iw  # noqa: E402
from benchmarks import _bounds, _networks, _paired  # noqa: E402
from iw_jax import data, nets  # noqa: E402
from iw_jax.curvature import (  # noqa: E402
    Operator,
    eigenvalues,
    gram_measure,
    logdet,
    nystrom_logdet,
    spectral_measure,
)

RESULTS = Path("docs/results/log_determinant")
GRID = 10.0 ** np.arange(0, 8)  # of c * largest eigenvalue
BUDGETS = (240, 480)
DEPTHS = (20, 40, 80)
METHODS = ("matfree", "measure", "known", "nystrom")
QUANTITIES = {
    "logdet": np.log1p,
    "effective_dimension": lambda s: s / (1 + s),
    "information": lambda s: (np.log1p(s) - s / (1 + s)) / 2,
}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--adaptive-seeds", type=int, default=100)
    parser.add_argument("--operators", nargs="*", default=list(OPERATORS), choices=list(OPERATORS))
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--data-dir", default=None)
    options = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), max(options.seeds, options.adaptive_seeds))
    many, few = keys[: options.seeds], keys[: options.adaptive_seeds]
    for name in options.operators:
        matrix, spectrum = OPERATORS[name](options.data_dir)
        rows = list(measure(name, matrix, spectrum, options.methods, many, few))
        write(rows)
        show(rows)
    _bounds.report(RESULTS / "accuracy.csv")


def measure(
    name: str,
    matrix: jax.Array,
    spectrum: np.ndarray,
    methods: Sequence[str],
    many: jax.Array,
    few: jax.Array,
) -> Iterator[Row]:
    """Errors, coverage and half-widths of every method, budget and c, over many keys or few."""
    exact = {q: f(GRID[:, None] * spectrum).sum(-1) for q, f in QUANTITIES.items()}
    above = (GRID[:, None] * spectrum > 1).sum(-1)
    product = _matrix_product if matrix.ndim == 2 else _diagonal_product
    A = Operator(product, matrix, like=jnp.zeros(len(matrix)))
    for budget in BUDGETS:
        common = {"operator": name, "budget": budget}

        def cells(method: str, quantity: str, runs: Any, common: Row = common) -> Iterator[Row]:
            truth = exact[quantity]
            lower, upper = runs.interval()
            squares = (np.asarray(runs.value) - truth) ** 2
            rms = np.sqrt(np.mean(squares, axis=0))
            spread = np.std(squares, axis=0) / np.sqrt(len(squares)) / (2 * rms**2)
            held = np.mean((lower <= truth) & (truth <= upper), axis=0)
            half = np.median((upper - lower) / 2, axis=0)
            for i, c in enumerate(GRID):
                yield common | {
                    "method": method,
                    "quantity": quantity,
                    "c": c,
                    "eigenvalues_above_1/c": int(above[i]),
                    "seeds": len(lower),
                    "rms_relative_error": rms[i] / truth[i],
                    "stderr_of_log_rms": spread[i],
                    "coverage": held[i],
                    "half_width_over_rms": half[i] / rms[i],
                }

        if "matfree" in methods:
            for depth in DEPTHS:
                runs = _matfree(matrix, many, depth, budget // depth)
                yield from cells(f"matfree, depth {depth}", "logdet", runs)
        if "measure" in methods:
            measured = _fixed(A, many, budget)
            for quantity in QUANTITIES:
                yield from cells("iw_jax", quantity, measured[quantity])
        if "known" in methods:
            yield from cells("iw_jax, c known", "logdet", _known(A, few, budget))
        if "nystrom" in methods:
            yield from cells("iw_jax, Nyström", "logdet", _nystrom(A, few, budget))


@partial(jax.jit, static_argnames=("depth", "probes"))
def _matfree(matrix: jax.Array, keys: jax.Array, depth: int, probes: int) -> iw.Estimate:
    """matfree's SLQ with full reorthogonalisation; its standard error as it comes."""
    product = _matrix_product if matrix.ndim == 2 else _diagonal_product
    tridiagonal = decomp.tridiag_sym(depth, reortho="full")
    sampler = stochtrace.sampler_sphere(jnp.zeros(len(matrix)), num=probes)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def at(c: jax.Array) -> tuple[jax.Array, jax.Array]:  # c does not enter Lanczos itself
            f = funm.dense_funm_sym_eigh(lambda x: jnp.log1p(c * jnp.maximum(x, 0)))
            integrand = funm.monte_carlo_funm_sym(f, tridiagonal)
            estimate = stochtrace.estimator_monte_carlo_mean_and_sem(integrand, sampler)
            return estimate(lambda v: product(v, matrix), key)

        return jax.vmap(at)(jnp.asarray(GRID))

    values, errors = jax.lax.map(one, keys, batch_size=None if matrix.ndim == 1 else 8)
    free = jnp.full_like(values, jnp.inf)
    return iw.Estimate(values, errors, free, values, values, depth * probes, free > 0)


@partial(jax.jit, static_argnames="budget")
def _fixed(A: Operator, keys: jax.Array, budget: int) -> dict[str, iw.Estimate]:
    """One measure a seed, by the plan that does not know c, for all c."""

    def one(key: jax.Array) -> dict[str, iw.Estimate]:
        spectrum = spectral_measure(A, key=key, num_matvecs=budget)
        return {quantity: getattr(spectrum, quantity)(GRID) for quantity in QUANTITIES}

    return jax.lax.map(one, keys, batch_size=None if A.size > 1e4 else 8)


def _known(A: Operator, keys: jax.Array, budget: int) -> iw.Estimate:
    """`logdet` by itself for every c, which grows by what it sees."""
    runs = [
        [logdet(A, c=c, key=key, num_matvecs=budget, method="krylov") for c in GRID] for key in keys
    ]
    return jax.tree.map(
        lambda *x: np.stack(x).reshape(len(keys), len(GRID)), *[e for run in runs for e in run]
    )


@partial(jax.jit, static_argnames="budget")
def _nystrom(A: Operator, keys: jax.Array, budget: int) -> iw.Estimate:
    """A Nyström sketch as preconditioner, for every c by itself."""

    def one(cell: tuple[jax.Array, jax.Array]) -> iw.Estimate:
        return nystrom_logdet(A, key=cell[0], c=cell[1], num_matvecs=budget)

    cells = jnp.repeat(keys, len(GRID)), jnp.tile(jnp.asarray(GRID), len(keys))
    runs = jax.lax.map(one, cells)
    return jax.tree.map(lambda x: x.reshape(len(keys), len(GRID)), runs)


def _matrix_product(v: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, v, precision=jax.lax.Precision.HIGHEST)


def _diagonal_product(v: jax.Array, diagonal: jax.Array) -> jax.Array:
    return diagonal * v


# Operators: the matrix (n, n) or its diagonal form (n,), and the exact eigenvalues; largest 1.


def _digits(_: str | None) -> tuple[jax.Array, np.ndarray]:
    task, params = _trained(nets.mlp(10, widths=(24,), activation="tanh"), data.load("digits"))
    A = iw.ggn(task, params)
    G, spectrum = iw.curvature.to_dense(A), eigenvalues(A)
    return G / spectrum[-1], np.maximum(spectrum, 0) / spectrum[-1]


def cnn_ggn(data_dir: str | None) -> Operator:
    """The GGN of the trained CNN itself, in float32."""
    name = "mnist" if data_dir else "digits"
    few = data.load(name, data_dir=data_dir, num_examples=300)
    task, params = _trained(_networks.cnn(), few)
    return iw.ggn(task, params, batch_size=100)


def _cnn(data_dir: str | None) -> tuple[jax.Array, np.ndarray]:
    A = cnn_ggn(data_dir)
    nodes = gram_measure(A).gauss.nodes
    spectrum = np.zeros(A.size)
    spectrum[: len(nodes)] = np.sort(nodes)[::-1]
    return jnp.asarray(spectrum / spectrum[0]), spectrum / spectrum[0]


def _trained(network: nets.Network, examples: data.Dataset) -> tuple[iw.Task, nets.Params]:
    """The network after 300 Adam steps on all examples, from a fixed key."""
    inputs, targets = jnp.asarray(examples.train_inputs), jnp.asarray(examples.train_targets)
    params = network.init(jax.random.key(0), inputs[:1])
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params: nets.Params, state: Any) -> tuple[nets.Params, Any]:
        gradient = jax.grad(lambda p: iw.nll(task, p) / task.num_examples)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(300):
        params, state = step(params, state)
    return task, params


def _haar(spectrum: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    spectrum = np.sort(spectrum) / spectrum.max()
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(len(spectrum),) * 2))
    q = q * np.sign(np.diag(r))
    return jnp.asarray((q * spectrum) @ q.T), spectrum


def _outliers(_: str | None) -> tuple[jax.Array, np.ndarray]:
    return _haar(np.concatenate([np.logspace(3, 5, 10), np.logspace(-6, 2, 1790)]))


def _power_law(_: str | None) -> tuple[jax.Array, np.ndarray]:
    return _haar(np.arange(1.0, 1801) ** -1.5)


OPERATORS: dict[str, Callable[[str | None], tuple[jax.Array, np.ndarray]]] = {
    "digits": _digits,
    "outliers": _outliers,
    "power law": _power_law,
    "cnn": _cnn,
}


def write(rows: list[Row]) -> None:
    """The rows take the place of older ones of their operator and methods; redraws the figure."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "accuracy.csv"
    renewed = {(row["operator"], row["method"]) for row in rows}
    others = []
    if path.exists():
        with path.open() as file:
            others = [
                row
                for row in csv.DictReader(file)
                if (row["operator"], row["method"]) not in renewed
            ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in (*others, *rows):
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    draw(path)


def show(rows: list[Row]) -> None:
    """Errors by c, a line for each method; then the coverage of our intervals."""
    header = ("operator", "products", "method", *(f"{c:.0e}" for c in GRID))
    for column in ("rms_relative_error", "coverage", "half_width_over_rms"):
        print(f"\n{column}, by c * largest eigenvalue")
        lines: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            ours = row["method"].startswith("iw_jax")
            if ours if column != "rms_relative_error" else row["quantity"] == "logdet":
                at = row["operator"], str(row["budget"]), f"{row['method']}, {row['quantity']}"
                lines.setdefault(at, []).append(f"{row[column]:.2g}")
        _paired.print_table(header, [(*at, *cells) for at, cells in lines.items()])
    above = [r["eigenvalues_above_1/c"] for r in rows[: len(GRID)]]
    print("\neigenvalues above 1/c:", *above)


def draw(path: Path) -> None:
    """RMS relative error of log det over c, a panel for each operator and budget."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "logdet"]
    names = [name for name in OPERATORS if any(row["operator"] == name for row in rows)]
    figure, axes = plt.subplots(
        len(BUDGETS), len(names), figsize=(3.1 * len(names), 5.4), sharex=True, squeeze=False
    )
    for line, budget in zip(axes, BUDGETS, strict=True):
        for axis, name in zip(line, names, strict=True):
            for method, (colour, style, width) in STYLES.items():
                chosen = [
                    (float(row["c"]), float(row["rms_relative_error"]))
                    for row in rows
                    if (row["operator"], row["method"]) == (name, method)
                    and int(row["budget"]) == budget
                ]
                if chosen:
                    x, y = zip(*chosen, strict=True)
                    axis.loglog(x, y, color=colour, ls=style, lw=width, label=method)
            axis.grid(alpha=0.3)
            axis.set_title(f"{name}, {budget} products", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("c × largest eigenvalue")
    for axis in axes[:, 0]:
        axis.set_ylabel("RMS relative error\nof log det(I + cA)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    columns = min(len(names) + 1, len(labels))
    figure.legend(handles, labels, loc="lower center", ncol=columns, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.05 * -(-len(labels) // columns), 1, 1))
    figure.savefig(path.with_suffix(".png"), dpi=150)
    plt.close(figure)


STYLES = {
    "matfree, depth 20": ("#999999", "-", 1.5),
    "matfree, depth 40": ("#E69F00", "--", 1.5),
    "matfree, depth 80": ("#CC79A7", ":", 1.8),
    "iw_jax": ("#0072B2", "-", 2.2),
    "iw_jax, c known": ("#009E73", "-.", 2.2),
    "iw_jax, Nyström": ("#D55E00", "--", 1.2),
}

if __name__ == "__main__":
    main()

"""The curvature of a trained network: its spectrum, and the information in its weights along beta.

One set of curvature products, of head and probes, gives the spectral density, the effective
dimension and the Fisher information in the weights for every β, each with its interval. A killed
run goes on from the products that it has.

Default: digits, about a minute on 2 CPU cores.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import checks, cost, style
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets
from iw_jax.curvature import basis_bytes, trace
from iw_jax.task import take

DECADES, POINTS, WIDTH = 9, 181, 0.1  # of the density: below the largest eigenvalue; in decades
AGAIN = 20  # one product in so many goes into an independent estimate of the trace


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      network: mlp, small_alexnet, all_cnn or resnet18.
      widths: hidden units of the mlp.
      num_steps: Adam steps of the training.
      batch_size: examples a step, and in a chunk of a curvature product.
      learning_rate: Adam's first; decays to 0 along a cosine.
      prior_scale: standard deviation λ of the prior P = N(initial weights, λ² I).
      betas: prices of a nat, in nats of summed loss; increasing.
      num_matvecs: curvature products allowed; the basis takes as many vectors of the weights' size.
      rtol: stop when the 95 % half-width of the volume is this part of it, for every β.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    network: str = "mlp"
    widths: tuple[int, ...] = (100,)
    num_steps: int = 1000
    batch_size: int = 200
    learning_rate: float = 0.003
    prior_scale: float = 0.1
    betas: tuple[float, ...] = tuple(float(f"{b:.2g}") for b in np.geomspace(1e-3, 1e2, 26))
    num_matvecs: int = 480
    rtol: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)


PRESETS = {
    "quick": Config(
        num_examples=200,
        widths=(20,),
        num_steps=100,
        betas=(0.1, 1.0, 10.0),
        rtol=0.1,
        num_matvecs=150,
    ),
    "default": Config(),
    "paper": Config(
        dataset="cifar10", network="resnet18", num_steps=20_000, batch_size=250, rtol=0.05
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels."""
    return common.load(config, data_dir, config.num_examples)


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    network = common.network(config, dataset.num_classes)
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    return [
        cost.training(
            task,
            network.init(jax.random.key(0), inputs[:1]),
            common.optimizer(config.learning_rate, config.num_steps),
            batch=min(config.batch_size, task.num_examples),
            steps=config.num_steps,
            networks=1,
            num_matvecs=config.num_matvecs,
            spectra=1 + 1 / AGAIN,
            at_most=True,
        )
    ]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (quantity, x): x is β, or an eigenvalue for the density."""
    network = common.network(config, dataset.num_classes)
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    start, order, probes, others = jax.random.split(jax.random.key(config.seed), 4)
    initial = network.init(start, inputs[:1])
    params = train(config, task, initial, order, context)
    task = task if context.mesh is None else iw.spread(task, context.mesh)
    operator = iw.ggn(task, params, batch_size=config.batch_size)
    gibibytes = basis_bytes(operator, config.num_matvecs) / 2**30
    if gibibytes > 1:
        print(f"the basis of {config.num_matvecs} products takes {gibibytes:.1f} GiB")
    prior = iw.IsotropicGaussian(scale=config.prior_scale, mean=initial)
    measured = context.measured(
        lambda **resume: iw.fisher_iw(
            task,
            params,
            prior,
            beta=np.asarray(config.betas),
            key=probes,
            num_matvecs=config.num_matvecs,
            tolerance=np.inf,  # trained without the penalty
            rtol=config.rtol,
            batch_size=config.batch_size,
            **resume,
        ),
        config.num_matvecs,
    )
    spent = int(measured.measure.cost)
    again = trace(operator, key=others, num_matvecs=max(spent // AGAIN, 4), method="hutchinson")
    common_columns = {
        "num_weights": operator.size,
        "products": spent,
        "deflated": int(measured.measure.rank),
        "ended_by": measured.measure.ended,
        "loss_nats": float(measured.loss),
    }
    parts = {
        "information": measured.nats,
        "volume": measured.volume,
        "effective_dimension": measured.effective_dimension,
        "lagrangian": measured.lagrangian,
    }
    rows = [
        row
        for name, estimate in parts.items()
        for row in _rows(name, config.betas, estimate, common_columns)
    ]
    for name, estimate in (("trace", measured.measure.trace()), ("trace_again", again)):
        rows += _rows(name, [0.0], estimate, common_columns)
    grid = float(measured.measure.largest) * np.logspace(-DECADES, 1, POINTS)
    density = measured.measure.log_density(grid, WIDTH)
    return rows + _rows("eigenvalues_per_decade", grid, density, common_columns)


def train(
    config: Config, task: iw.Task, params: nets.Params, key: jax.Array, context: Context
) -> nets.Params:
    """The weights after Adam on minibatches, drawn with replacement."""
    optimizer = common.optimizer(config.learning_rate, config.num_steps)
    count = min(config.batch_size, task.num_examples)

    @jax.jit
    def update(i: jax.Array, params: nets.Params, state: Any) -> tuple[nets.Params, Any]:
        chosen = jax.random.randint(jax.random.fold_in(key, i), (count,), 0, task.num_examples)
        loss = lambda p: iw.nll(take(task, chosen, 1 / count), p)  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    begin = params, optimizer.init(params)
    return context.iterate(lambda i, s: update(i, *s), begin, config.num_steps, "training")[0]


def _rows(quantity: str, x: Any, estimate: iw.Estimate, columns: dict[str, Any]) -> Rows:
    lower, upper = estimate.interval()
    cells = zip(*map(np.atleast_1d, (x, estimate.value, lower, upper)), strict=True)
    return [
        {
            "quantity": quantity,
            "x": float(at),
            "value": float(value),
            "lower": float(low),
            "upper": float(high),
            **columns,
        }
        for at, value, low, high in cells
    ]


# ------------------------------------------------------------------------ what the table says


def curve(rows: Rows, quantity: str) -> dict[str, np.ndarray]:
    """x, value, lower and upper of one quantity, along x."""
    chosen = sorted((r for r in rows if r["quantity"] == quantity), key=lambda r: r["x"])
    return {name: np.array([r[name] for r in chosen]) for name in ("x", "value", "lower", "upper")}


def width(rows: Rows, quantity: str) -> float:
    """The largest half-width of a quantity's 95 % intervals, over its value."""
    c = curve(rows, quantity)
    return float(np.max((c["upper"] - c["lower"]) / 2 / c["value"]))


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """What was spent, what ended it, and the nats at β = 1 or the middle of the grid."""
    nats, at = curve(rows, "information"), 1.0
    if at not in nats["x"]:
        at = float(nats["x"][len(nats["x"]) // 2])
    i = int(np.flatnonzero(nats["x"] == at)[0])
    first = rows[0]
    return {
        "num_weights": int(first["num_weights"]),
        "products": int(first["products"]),
        "deflated": int(first["deflated"]),
        "ended_by": first["ended_by"],
        f"information_nats_at_beta_{at:g}": [
            float(nats[k][i]) for k in ("lower", "value", "upper")
        ],
        "largest_half_width_of_volume": width(rows, "volume"),
        "rtol": config.rtol,
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether other probes find the same trace, and the width of the interval."""
    traces = [curve(rows, name) for name in ("trace", "trace_again")]
    lower, upper = (np.array([t[end][0] for t in traces]) for end in ("lower", "upper"))
    wide = width(rows, "volume")
    return [
        checks.Check(
            "independent probes find the same trace",
            bool(lower.max() <= upper.min()),
            " and ".join(f"[{a:.5g}, {b:.5g}]" for a, b in zip(lower, upper, strict=True))
            + ", 95 %; a gap between them means an interval that is too narrow: report it",
        ),
        checks.Check(
            "the interval of the volume is as narrow as asked",
            wide <= config.rtol * (1 + 1e-9) or rows[0]["ended_by"] == "exact",
            f"half-width {100 * wide:.2g} % at most, asked for {100 * config.rtol:g} %; "
            "allow more products (--num-matvecs) where it is wider",
        ),
    ]


def table(rows: Rows) -> str:
    """Nats, volume and γ along β, with their intervals."""
    parts = [curve(rows, name) for name in ("information", "volume", "effective_dimension")]
    lines = [
        "     beta   information in the weights [95 %]     volume [95 %]   effective dimension"
    ]
    for i in range(0, len(parts[0]["x"]), max(len(parts[0]["x"]) // 8, 1)):
        cells = (f"{c['value'][i]:9.5g} [{c['lower'][i]:.5g}, {c['upper'][i]:.5g}]" for c in parts)
        lines.append(f"{parts[0]['x'][i]:9.3g}   " + "   ".join(cells))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """The spectral density; and nats, volume and effective dimension along β."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    density = curve(rows, "eigenvalues_per_decade")
    left.plot(density["x"], density["value"], color=style.BLUE)
    low = np.maximum(density["lower"], 1e-9)
    left.fill_between(density["x"], low, density["upper"], color=style.BLUE, alpha=0.25, lw=0)
    left.set(xscale="log", yscale="log", xlabel="eigenvalue of the GGN  (nats per squared weight)")
    left.set_ylim(0.1, 2 * max(density["value"].max(), 10))
    left.set_ylabel("eigenvalues per decade")
    seen = density["x"][density["upper"] > 0.1]
    left.set_xlim(seen.min() / 2, seen.max() * 2)
    for beta in (config.betas[0], config.betas[-1]):
        left.axvline(beta / config.prior_scale**2, color=style.GREY, ls=":", lw=1)
    left.set_title("dotted: β/λ² at the ends of the β-grid", fontsize=9)
    looks = {
        "information": (style.BLUE, "-", "information in the weights"),
        "volume": (style.ORANGE, "--", "its volume part"),
        "effective_dimension": (style.GREEN, "-.", "effective dimension γ"),
    }
    for name, (colour, line, label) in looks.items():
        c = curve(rows, name)
        right.plot(c["x"], c["value"], color=colour, ls=line, label=label)
        right.fill_between(c["x"], c["lower"], c["upper"], color=colour, alpha=0.25, lw=0)
    right.set(xscale="log", yscale="log", xlabel="β", ylabel="nats; for γ, weights")
    right.legend()
    first = rows[0]
    figure.suptitle(
        f"{config.dataset}, {config.network}, {int(first['num_weights']):,} weights; "
        f"{int(first['products'])} products, {int(first['deflated'])} directions deflated; "
        "bands: 95 %",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.curvature")

"""One weight with many equal minima: small batches move where runs end, not what they know.

A weight θ models x ~ N(φ(θ), 1) by a zigzag φ, steep near 0 and shallow far out; each of its
straight pieces holds one minimum of the same loss. SGD with small batches is thrown out of the
steep ones, so that the Fisher information falls, and with it the "Shannon information" that
compares single runs. The information about the data, with the runs of a data set averaged first,
hardly moves: which minimum the seed reaches says nothing of the data. Beside it, Langevin noise.

Default: about two minutes on 2 CPU cores. Paper: Achille, Paolini & Soatto
(arXiv:1905.12213), Fig. 3.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common import checks, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

PIECES, GROWTH, END = 10, 1.4, 1.5  # a side; ratio of neighbouring widths; largest |θ|
NOISES = {"sgd": "batch size", "langevin": "temperature T"}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
      batches: batch sizes of SGD; increasing.
      temperatures: of Langevin noise, for the mean loss; increasing.
      num_sets: data sets.
      num_runs: runs on each of them.
      num_examples: x in a data set, N.
      num_steps: steps of a run.
      learning_rate: of the mean loss (1/N) Σ (x - φ(θ))².
      seed: root of all randomness.
    """

    batches: tuple[int, ...] = (1, 4, 16, 64, 100)
    temperatures: tuple[float, ...] = (0.01, 0.04, 0.16)
    num_sets: int = 48
    num_runs: int = 64
    num_examples: int = 100
    num_steps: int = 20_000
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        if not all(1 <= b <= self.num_examples for b in self.batches):
            raise ValueError(
                f"batches must be between 1 and num_examples = {self.num_examples}, got "
                f"{self.batches}"
            )
        common.at_least(self, num_sets=2, num_runs=2)


PRESETS = {
    "quick": Config(
        batches=(1, 100), temperatures=(0.04,), num_sets=24, num_runs=24, num_steps=4000
    ),
    "default": Config(),
    "paper": Config(num_sets=300, num_runs=12),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """x ~ N(μ, 1) with μ ~ U[-0.8, 0.8], a data set a row; there are no targets."""
    del data_dir
    rng = np.random.default_rng(config.seed)
    centre = rng.uniform(-0.8, 0.8, size=(config.num_sets, 1))
    x = np.float32(centre + rng.normal(size=(config.num_sets, config.num_examples)))
    none = np.zeros(len(x), np.int32)
    return data.Dataset("zigzag", x, none, x[:0], none[:0], num_classes=2)


# -------------------------------------------------------------------------------- the zigzag


def kinks() -> np.ndarray:
    """Where φ turns, (2 PIECES + 1,), increasing; φ = (-1)^j at the j-th from the middle."""
    widths = GROWTH ** np.arange(PIECES)
    right = END * np.cumsum(widths) / widths.sum()
    return np.concatenate([-right[::-1], [0.0], right])


def heights() -> np.ndarray:
    """φ at the kinks."""
    return (-1.0) ** np.abs(np.arange(2 * PIECES + 1) - PIECES)


def slopes() -> np.ndarray:
    """φ' on every piece, (2 PIECES,)."""
    return np.diff(heights()) / np.diff(kinks())


@partial(jax.jit, static_argnames=("num_steps",))
def descend(
    key: jax.Array,
    start: jax.Array,
    mean: jax.Array,
    noise: jax.Array,
    rate: float,
    langevin: bool,
    num_steps: int,
) -> jax.Array:
    """Pieces in which θ ends, of all runs at once.

    Args:
      key: random key.
      start: θ, (..., sets, runs).
      mean: of every data set, (sets, 1).
      noise: standard deviation of a batch's mean (SGD), or sqrt(2T/rate) (Langevin), (sets, 1).
      rate: learning rate.
      langevin: whether the noise is added to the gradient instead of multiplied by the slope.
      num_steps: steps.
    """
    places, levels, slope = jnp.asarray(kinks()), jnp.asarray(heights()), jnp.asarray(slopes())

    def step(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        piece = jnp.clip(jnp.searchsorted(places, theta) - 1, 0, 2 * PIECES - 1)
        value = levels[piece] + slope[piece] * (theta - places[piece])
        drawn = noise * jax.random.normal(key, theta.shape)
        factor = 2 * slope[piece]
        gradient = factor * (value - mean) - jnp.where(langevin, drawn, factor * drawn)
        theta = theta - rate * gradient
        over = jnp.abs(theta) - END  # reflecting ends
        return jnp.where(over > 0, jnp.sign(theta) * (END - over), theta), None

    theta, _ = jax.lax.scan(step, start, jax.random.split(key, num_steps))
    return jnp.clip(jnp.searchsorted(places, theta) - 1, 0, 2 * PIECES - 1)


# ----------------------------------------------------------------------------------- the run


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each kind and strength of noise."""
    x = np.asarray(dataset.train_inputs, np.float64)
    mean = np.clip(x.mean(1, keepdims=True), -0.999, 0.999)
    shape = config.num_sets, config.num_runs
    starting, stepping = jax.random.split(jax.random.key(config.seed))
    start = jax.random.uniform(starting, shape, minval=-0.5, maxval=0.5)
    rows = []
    for number, (kind, strength) in enumerate(
        context.track(
            [("sgd", b) for b in config.batches] + [("langevin", t) for t in config.temperatures],
            "descents",
        )
    ):
        if kind == "sgd":
            left = (config.num_examples - strength) / (strength * (config.num_examples - 1))
            noise = np.sqrt(x.var(1, keepdims=True) * left)
        else:
            noise = np.full((config.num_sets, 1), np.sqrt(2 * strength / config.learning_rate))
        pieces = descend(
            jax.random.fold_in(stepping, number),
            start,
            jnp.asarray(mean),
            jnp.asarray(noise),
            config.learning_rate,
            kind == "langevin",
            config.num_steps,
        )
        measured = _measure(config, mean, np.asarray(pieces))
        rows.append({"noise": kind, "strength": float(strength), **measured})
    return rows


def _measure(config: Config, mean: np.ndarray, pieces: np.ndarray) -> dict[str, float]:
    """Fisher and Shannon information of the codes N(θ*, 1/(N φ'²)) around the minima reached."""
    slope = slopes()[pieces]
    minimum = kinks()[pieces] + (mean - heights()[pieces]) / slope
    scale = 1 / (np.sqrt(config.num_examples) * np.abs(slope))
    with jax.enable_x64(True):
        codes = iw.DiagonalGaussian(jnp.array(minimum)[..., None], jnp.array(scale)[..., None])
        shannon = iw.shannon_iw(codes)
    share = np.bincount(pieces.ravel(), minlength=2 * PIECES) / pieces.size
    log_fisher = np.log(config.num_examples * slope**2)
    return {
        "log_fisher": float(log_fisher.mean()),
        "log_fisher_stderr": float(log_fisher.mean(1).std(ddof=1) / np.sqrt(config.num_sets)),
        "naive_nats": float(shannon.naive.value),
        "naive_lower_nats": float(shannon.naive.bracket_lower),
        "naive_upper_nats": float(shannon.naive.bracket_upper),
        "shannon_nats": float(shannon.nats.value),
        "shannon_lower_nats": float(shannon.nats.interval()[0]),
        "shannon_upper_nats": float(shannon.nats.interval()[1]),
        "seed_nats": float(shannon.seed.value),
        "piece_entropy_nats": float(-np.sum(share[share > 0] * np.log(share[share > 0]))),
        "ceiling_nats": float(shannon.ceiling),
        "binds": int(shannon.binds),
        "outer_share": float(np.mean(np.abs(minimum) > 0.5)),
    }


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, noise: str, name: str) -> np.ndarray:
    """One column of a kind of noise, strength increasing."""
    return tables.grid(rows, name, axes=("strength",), noise=noise)


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """What falls from the largest batch to the smallest."""
    names = ("log_fisher", "naive_nats", "shannon_nats", "piece_entropy_nats")
    sgd = {name: column(rows, "sgd", name) for name in names}
    return {"batches": [config.batches[-1], config.batches[0]]} | {
        f"{name}_from_largest_to_smallest_batch": [
            tables.rounded(values[-1]),
            tables.rounded(values[0]),
        ]
        for name, values in sgd.items()
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether the naive number falls with the batch, and I(θ; D) does not follow it."""
    fisher, naive, shannon = (
        column(rows, "sgd", name) for name in ("log_fisher", "naive_nats", "shannon_nats")
    )
    fall, own = naive[-1] - naive[0], abs(shannon[-1] - shannon[0])
    low, high = (column(rows, "sgd", f"shannon_{end}_nats") for end in ("lower", "upper"))
    return [
        checks.Check(
            "smaller batches end where the Fisher information is lower",
            bool(fisher[0] < fisher[-1]),
            f"log F {fisher[-1]:.2f} with all examples, {fisher[0]:.2f} with {config.batches[0]}",
        ),
        checks.Check(
            "the naive number is above the information about the data, everywhere",
            all(row["naive_upper_nats"] >= row["shannon_lower_nats"] for row in rows),
            "ok",
        ),
        checks.Check(
            "the information about the data moves less than the naive number",
            bool(own < abs(fall)),
            f"{own:.2f} against {abs(fall):.2f} nats from the largest batch to the smallest; "
            f"intervals [{low[0]:.2f}, {high[0]:.2f}] and [{low[-1]:.2f}, {high[-1]:.2f}]",
        ),
        checks.Check(
            "log M does not bind",
            not any(row["binds"] for row in rows),
            f"ceiling {rows[0]['ceiling_nats']:.2f} nats; more data sets (--num-sets) raise it",
        ),
    ]


def table(rows: Rows) -> str:
    """One line for each noise."""
    lines = [
        f"{'noise':<9} {'strength':>8} {'E log F':>8} {'H(piece)':>9} {'I(θ;D,seed)':>12} "
        f"{'I(θ;D)':>8} {'95 % and bracket':>18} {'|θ|>.5':>7}   (nats)"
    ]
    for row in rows:
        interval = f"[{row['shannon_lower_nats']:.2f}, {row['shannon_upper_nats']:.2f}]"
        lines.append(
            f"{row['noise']:<9} {row['strength']:8.3g} {row['log_fisher']:8.2f} "
            f"{row['piece_entropy_nats']:9.2f} {row['naive_nats']:12.2f} "
            f"{row['shannon_nats']:8.2f} {interval:>18} {row['outer_share']:7.2f}"
        )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """The zigzag and its loss; then Fisher and Shannon against batch size and temperature."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), width_ratios=(1.3, 1, 1))
    theta = np.linspace(-END, END, 6001)
    phi = np.interp(theta, kinks(), heights())
    axes[0].plot(theta, phi, color=style.GREY, linewidth=1, label="φ(θ)")
    axes[0].plot(
        theta, (phi - 0.3) ** 2, color=style.BLUE, linewidth=1, label="loss, mean of x 0.3"
    )
    axes[0].set(
        xlabel="θ", ylim=(-1.1, 2.4), title="every piece holds one minimum of the same loss"
    )
    axes[0].title.set_fontsize(10)
    axes[0].legend(loc="upper left", fontsize=8)
    series = (
        ("naive", "I(θ; D, seed): runs compared (naive)", style.ORANGE, "s", "--"),
        ("shannon", "I(θ; D): runs of a data set averaged", style.BLUE, "o", "-"),
    )
    for axis, (noise, label) in zip(axes[1:], NOISES.items(), strict=True):
        strength = column(rows, noise, "strength")
        for name, said, colour, marker, dash in series:
            value, low, high = (
                column(rows, noise, f"{name}_{end}nats") for end in ("", "lower_", "upper_")
            )
            look = {"color": colour, "marker": marker, "linestyle": dash}
            axis.plot(strength, value, label=said, **look)
            axis.fill_between(strength, low, high, color=colour, alpha=0.2, linewidth=0)
        fisher = column(rows, noise, "log_fisher") / 2
        axis.plot(strength, fisher, "^:", color="black", label="½ E log F(θ*)")
        axis.set(xscale="log", xlabel=label, ylabel="nats")
        axis.set_ylim(bottom=0)
        axis.set_title("SGD" if noise == "sgd" else "Langevin", fontsize=10)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=3, fontsize=9)
    figure.suptitle(f"{config.num_sets} data sets, {config.num_runs} runs each", fontsize=10)
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.zigzag")

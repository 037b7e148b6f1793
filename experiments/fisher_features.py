"""Known Fisher informations, found by random features: of inputs, and in untrained networks.

The information of a layer is measured as the linear Fisher information of the layer and random
features of it, which bounds it from below. How many features are needed? Three laws whose
information is known: log-normal vectors, of which a linear readout finds nine tenths; Gaussian
images, of which it finds all; the variance of one number, of which it finds nothing, and features
without biases 0.876 = 1/(π - 2), however many there are. And untrained networks: linear layers
keep what the projection formula says, ReLU layers less.

Default: 3 x 150,000 samples, a minute on 2 CPU cores. Paper: Weimar et al. (arXiv:2509.02407).
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common import checks, style, tables
from experiments.common import config as common
from experiments.common import fisher_problems as fisher
from experiments.common.context import Context
from experiments.common.fisher_problems import PROBLEMS, SAMPLERS, Problem, layers, network
from experiments.common.tables import Rows
from iw_jax import data

VARIANCE = Problem(1, 0.5, 0.0, np.inf, 0.1)  # N(0, θ) at θ = 1, only measured


def variance(key: jax.Array, theta: Any, number: int) -> jax.Array:
    """One number N(0, θ)."""
    return jnp.sqrt(theta) * jax.random.normal(key, (number, 1))


def leaky(t: jax.Array) -> jax.Array:
    """The paper's function of random features."""
    return jnp.where(t > 0, t, 0.7 * t)


# What features are made of: their function, and whether there are biases.
FEATURES = {"softplus": (jax.nn.softplus, True), "paper": (leaky, False)}
INPUTS = {
    "lognormal": PROBLEMS["lognormal"],
    "gaussian": PROBLEMS["gaussian"],
    "variance": VARIANCE,
}
NEEDLESS = ("gaussian", "paper")  # nothing is left to be found
PAIRS = [pair for pair in itertools.product(INPUTS, FEATURES) if pair != NEEDLESS]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      num_samples: T, at θ - δ and at θ + δ.
      num_features: random ones added to the log-normal input, at most; the others need few.
      num_repeats: independent repeats.
      widths: of the hidden layers of the untrained networks.
      seed: root of all randomness.
    """

    num_samples: int = 150_000
    num_features: int = 800
    num_repeats: int = 3
    widths: tuple[int, ...] = (150, 100, 50, 25)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        common.at_least(self, num_features=8, num_repeats=1)
        widest = max(256 + 32, self.num_features + 10, *(w + 32 for w in self.widths)) + 3
        common.require(
            self.num_samples >= widest,
            "num_samples",
            f"at least {widest}, the most features + 3",
            self.num_samples,
        )


PRESETS = {
    "quick": Config(num_samples=4000, num_features=80, num_repeats=1, widths=(8,)),
    "default": Config(),
    "paper": Config(num_samples=1_000_000, num_features=1600, num_repeats=5),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """Nothing but a place for the seed: all samples are made as they are needed."""
    del data_dir
    x = np.full((2, 1), config.seed, np.float32)
    classes = np.arange(2, dtype=np.int32)
    return data.Dataset("made as needed", x, classes, x[:0], classes[:0], num_classes=2)


COLUMNS = (
    *("kind", "problem", "features", "seed", "layer", "units", "num_features", "exact"),
    *("information", "information_stderr", "linear", "linear_stderr", "converged"),
)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each input, kind, repeat and number of features; for each untrained layer."""
    del dataset
    ledger = context.ledger("information")
    rows: list[dict[str, Any]] = []
    cells = [(*pair, repeat) for pair in PAIRS for repeat in range(config.num_repeats)]
    for name, kind, repeat in context.track(cells, "inputs"):
        make = lambda n=name, k=kind, r=repeat: _input(config, n, k, r, context)  # noqa: E731
        rows += ledger.get(f"{name} {kind} {repeat}", make)
    for kind in context.track(("linear", "relu"), "layers"):
        rows += ledger.get(kind, lambda k=kind: _random(config, k, context))
    return [dict.fromkeys(COLUMNS, "") | row for row in rows]


def _input(
    config: Config, name: str, kind: str, repeat: int, context: Context
) -> list[dict[str, Any]]:
    """The information of the input of a problem, at every number of random features."""
    problem, most = INPUTS[name], config.num_features
    added = (0, 16, 32) if name == "gaussian" else (0, most // 8, most // 4, most // 2, most)
    added = (0, 4, 8, 16, 32) if name == "variance" else added
    activation, biases = FEATURES[kind]
    found = iw.fisher_flow(
        jax.random.fold_in(jax.random.key(config.seed), repeat + 1),
        (),
        (),
        {**SAMPLERS, "variance": variance}[name],
        1.0 if name == "variance" else 0.0,
        problem.delta,
        num_samples=config.num_samples,
        num_features=added,
        activation=activation,
        biases=biases,
        mesh=context.mesh,
    )
    about = {"kind": "input", "problem": name, "features": kind, "seed": repeat, "layer": 0}
    about |= {"units": problem.size, "exact": problem.information}
    return [
        about
        | {"num_features": count, "converged": int(found.information.converged[0])}
        | {
            "information": float(found.path.value[0, i]),
            "information_stderr": float(found.path.stderr[0, i]),
        }
        for i, count in enumerate(added)
    ]


def _random(config: Config, kind: str, context: Context) -> list[dict[str, Any]]:
    """The information of every layer of an untrained network that sees Gaussian images.

    Of linear layers W h it is known: 1'W'(W W')⁺W 1, W the product so far.
    """
    problem, depth = PROBLEMS["gaussian"], len(config.widths)
    params = network(config.widths).init(jax.random.key(config.seed), jnp.zeros((1, problem.size)))
    found = iw.fisher_flow(
        jax.random.key(config.seed),
        fisher.linear_layers(depth) if kind == "linear" else layers(depth),
        params,
        fisher.gaussian,
        0.0,
        problem.delta,
        num_samples=config.num_samples,
        num_features=(0, 16, 32),
        mesh=context.mesh,
    )
    rows: list[dict[str, Any]] = []
    product = np.eye(problem.size)
    for i, units in enumerate([problem.size, *config.widths, 1]):
        if i:
            product = product @ np.float64(params[f"Dense_{i - 1}"]["kernel"])
        signal = product.sum(0)
        exact = float(signal @ np.linalg.pinv(product.T @ product) @ signal)
        row = {"kind": "random", "problem": kind, "layer": i, "units": units, "num_features": 32}
        row |= {"exact": exact} if kind == "linear" else {}
        rows.append(row | fisher.values(found, i))
    return rows


# ------------------------------------------------------------------------ what the table says


def inputs(
    rows: Rows, name: str, kind: str = "softplus"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of features, information of the input and its standard error, mean of repeats."""
    count, value, stderr = (
        tables.grid(
            rows, column, axes=("num_features", "seed"), kind="input", problem=name, features=kind
        )
        for column in ("num_features", "information", "information_stderr")
    )
    return count[:, 0], value.mean(1), np.sqrt((stderr**2).sum(1)) / value.shape[1]


def untrained(rows: Rows, kind: str) -> dict[str, np.ndarray]:
    """Columns of the layers of a random network, (L + 1,) each."""
    own = [row for row in rows if row["kind"] == "random" and row["problem"] == kind]
    names = ("layer", "information", "information_stderr", "linear", "linear_stderr", "exact")
    return {name: tables.column(own, name) for name in names}


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """What is found of each input, linearly and at last, and in the layers of random networks."""
    del config
    result: dict[str, Any] = {}
    for name, kind in PAIRS:
        count, value, stderr = inputs(rows, name, kind)
        own = {"kind": "input", "problem": name, "features": kind, "num_features": count[-1]}
        result[f"{name}_{kind}"] = {
            "exact": INPUTS[name].information,
            "found": [tables.rounded(value[-1]), tables.rounded(stderr[-1])],
            "by_repeat": [
                tables.rounded(v) for v in tables.grid(rows, "information", ("seed",), **own)
            ],
            "linear_exact": tables.rounded(INPUTS[name].linear),
            "linear": [tables.rounded(value[0]), tables.rounded(stderr[0])],
        }
    for kind in ("linear", "relu"):
        own = untrained(rows, kind)
        result[f"untrained_{kind}"] = [tables.rounded(v) for v in own["information"]]
    exact = untrained(rows, "linear")["exact"]
    return result | {"projection_formula": [tables.rounded(v) for v in exact]}


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether known informations are found."""
    return [
        *(_check_input(rows, name) for name in PROBLEMS),
        _check_variance(rows, config),
        _check_projection(rows),
    ]


def _check_input(rows: Rows, name: str) -> checks.Check:
    exact = PROBLEMS[name].information
    count, value, stderr = inputs(rows, name)
    allowed = max(0.03 * exact, fisher.allowance(8) * stderr[-1])
    return checks.Check(
        f"{name}: the input's information is {exact:g}, to 3 % or the standard error's allowance",
        bool(abs(value[-1] - exact) < allowed),
        f"{value[-1]:.4g} ± {stderr[-1]:.2g} with {count[-1]:g} random features "
        f"({value[-1] / exact - 1:+.1%}); linear {value[0]:.4g} ± {stderr[0]:.2g}, exact "
        f"{PROBLEMS[name].linear:.4g}",
    )


def _check_projection(rows: Rows) -> checks.Check:
    own = [row for row in rows if row["kind"] == "random" and row["problem"] == "linear"]
    value, stderr, exact = (
        tables.column(own, name) for name in ("linear", "linear_stderr", "exact")
    )
    # Noise of 1 % on every unit, by which singular covariances are kept regular, hides a little.
    off = np.maximum(np.abs(value - exact) - 0.01 * exact, 0) / stderr
    relu = [row for row in rows if row["kind"] == "random" and row["problem"] == "relu"]
    found, spread = (tables.column(relu, f"information{end}") for end in ("", "_stderr"))
    # ReLU sees the first projection, and after that only what the layer before has left.
    before = np.array([exact[1], *found[1:-1]])
    over = (found[1:] - before) / np.hypot(spread[1:], [0.0, *spread[1:-1]])
    t = fisher.allowance(2 * len(own))
    return checks.Check(
        "random linear layers keep the projection of the signal; the first ReLU layer has no more, "
        "and each later one no more than the one before",
        bool(off.max() < t and over.max() < t),
        "linear "
        + ", ".join(f"{v:.3g} ({e:.3g})" for v, e in zip(value, exact, strict=True))
        + "; ReLU "
        + ", ".join(f"{row['information']:.3g}" for row in relu),
    )


def _check_variance(rows: Rows, config: Config) -> checks.Check:
    """What features without biases find of a variance is I/(π - 2), however many there are.

    Both kinds see the same samples. Where one finds I and the other ρ² I, ρ² = 1/(π - 2), noises of
    their slopes are correlated by ρ, and the relative variance of the ratio is 1/ρ² - 1 = π - 3 of
    that of I; to which comes what needless features add by chance.
    """
    (count, with_biases, some), (_, without, few) = (inputs(rows, "variance", k) for k in FEATURES)
    whole, t = VARIANCE.information, fisher.allowance(4)
    limit, ratio = 1 / (np.pi - 2), without[-1] / with_biases[-1]
    chance = np.sqrt(2 * count[-1] / config.num_repeats) * 2
    chance /= config.num_samples * (2 * VARIANCE.delta) ** 2
    stderr = limit * np.hypot(np.sqrt(np.pi - 3) * some[-1], chance) / with_biases[-1]
    # δ = 0.1 is 1 % of θ², which moves J by as much.
    stuck = np.all(np.abs(without[1:] - limit * whole) < t * few[1:] + 0.01 * whole)
    nearly = abs(ratio - limit) < t * stderr + 0.01
    return checks.Check(
        "of a variance, the paper's features find I/(π - 2), and as much of what features with "
        "biases find in the same samples",
        bool(stuck and nearly),
        f"in units of I: {without[-1] / whole:.3f} ± {few[-1] / whole:.3f}, "
        f"{with_biases[-1] / whole:.3f} ± {some[-1] / whole:.3f}; ratio {ratio:.4f} ± "
        f"{stderr:.4f} ({limit:.4f})",
    )


def table(rows: Rows) -> str:
    """What is found by so many features, and what layers have."""
    lines = [f"{'input':>10} {'features':>9} {'number':>7} {'found':>18} {'exact':>8}   (1/θ²)"]
    for name, kind in PAIRS:
        for count, value, stderr in zip(*inputs(rows, name, kind), strict=True):
            exact = INPUTS[name].information
            lines.append(
                f"{name:>10} {kind:>9} {count:7.0f} {value:9.4g} ± {stderr:6.2g} {exact:8g}"
            )
    for kind in ("linear", "relu"):
        own = untrained(rows, kind)
        values = zip(own["information"], own["information_stderr"], strict=True)
        lines.append(f"untrained, {kind}: " + ", ".join(f"{v:.3g} ± {e:.2g}" for v, e in values))
    return "\n".join(lines)


# -------------------------------------------------------------------------------------- figure


def plot(rows: Rows, config: Config) -> Any:
    """What random features find of inputs; the layers of untrained networks."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.1))
    _draw_inputs(axes[0], rows)
    _draw_random(axes[1], rows)
    figure.suptitle(
        f"{config.num_repeats} x {config.num_samples:,} samples at θ - δ and θ + δ; 95 % intervals",
        fontsize=10,
    )
    return figure


def _draw_random(axis: Any, rows: Rows) -> None:
    looks = {"linear": (style.BLUE, "o", "linear layers"), "relu": (style.ORANGE, "s", "ReLU")}
    for kind, (colour, marker, said) in looks.items():
        own = [row for row in rows if row["kind"] == "random" and row["problem"] == kind]
        depth, value, stderr = (
            tables.column(own, name) for name in ("layer", "information", "information_stderr")
        )
        if kind == "linear":
            axis.plot(depth, tables.column(own, "exact"), color="black", linestyle=":", linewidth=1,
                      label="projection formula")  # fmt: skip
        look = {"color": colour, "marker": marker, "capsize": 3, "linestyle": "--", "label": said}
        axis.errorbar(depth, value, 1.96 * stderr, **look)
    axis.set(xlabel="layer (0 is the input)", ylabel="Fisher information (1/θ²)", xticks=depth)
    axis.set(ylim=(0, None))
    axis.set_title("untrained, Gaussian images", fontsize=10)
    axis.legend(fontsize=8)


def _draw_inputs(axis: Any, rows: Rows) -> None:
    looks = {
        "lognormal": (style.BLUE, "o"),
        "gaussian": (style.ORANGE, "s"),
        "variance": (style.GREEN, "^"),
    }
    for (name, (colour, marker)), kind in itertools.product(looks.items(), FEATURES):
        if (name, kind) == NEEDLESS:
            continue
        count, value, stderr = inputs(rows, name, kind)
        exact = INPUTS[name].information
        axis.errorbar(
            count, value / exact, 1.96 * stderr / exact, color=colour, marker=marker, capsize=3,
            linestyle="-" if kind == "softplus" else ":",
            label=f"{name}, {exact:g}" if kind == "softplus" else f"{name}, paper's features",
        )  # fmt: skip
    axis.axhline(1.0, color="black", linestyle=":", linewidth=1)
    axis.axhline(1 / (np.pi - 2), color=style.GREEN, linestyle=":", linewidth=1)
    axis.annotate("1/(π - 2)", (0.02, 1 / (np.pi - 2)), xycoords=("axes fraction", "data"),
                  va="bottom", fontsize=8)  # fmt: skip
    axis.set(xlabel="random features added", ylabel="information found / exact")
    axis.set_xscale("symlog", linthresh=4)
    axis.set(xlim=(-0.5, 1.3 * count_of(rows)), ylim=(0.6, 1.05))
    axis.set_title("of inputs, by random features", fontsize=10)
    axis.legend(fontsize=8, loc="lower right")


def count_of(rows: Rows) -> int:
    """The most features that were added to an input."""
    return max(row["num_features"] for row in rows if row["kind"] == "input")


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.fisher_features")

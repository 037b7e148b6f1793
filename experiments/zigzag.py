"""One weight with many equal minima: small batches move where runs end, hardly what they know.

A weight θ models x ~ N(φ(θ), 1) by a zigzag φ, steep near 0 and shallow far out; each of its
straight pieces holds one minimum of the same loss. SGD with small batches is thrown out of the
steep ones, so that the Fisher information falls, and with it the "Shannon information" that
compares single runs. The information about the data, with the runs of a data set averaged first,
does not: where in its piece a run ends tells as much of the data whatever the piece, and which
piece it is adds little, the more the smaller the batch. All entropies are integrals over θ. Beside
it, Langevin noise.

Default: about a minute and a half on 2 CPU cores. Paper: Achille, Paolini & Soatto
(arXiv:1905.12213), Fig. 3.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import iw_jax as iw
from experiments.common import checks, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

PIECES, GROWTH, END = 10, 1.4, 1.5  # a side; ratio of neighbouring widths; largest |θ|
NOISES = {"sgd": "batch size", "langevin": "temperature T"}
STARTS = {"sgd": 0.5, "langevin": END}  # largest |θ| of the uniform start
BRACKETED = 64  # runs of a data set, at most, that `iw.shannon_iw` is shown
NUM_SHUFFLES = 40


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
    num_runs: int = 256
    num_examples: int = 100
    num_steps: int = 20_000
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        common.at_least(self, num_sets=2, num_runs=2, num_examples=2)
        rising = list(self.batches) == sorted(set(self.batches)) and len(self.batches) >= 2
        if not (rising and all(1 <= b <= self.num_examples for b in self.batches)):
            raise ValueError(
                "batches must be at least two, increasing and between 1 and num_examples = "
                f"{self.num_examples}, got {self.batches}"
            )
        rising = list(self.temperatures) == sorted(set(self.temperatures)) != []
        if not (rising and all(0 < t < np.inf for t in self.temperatures)):
            raise ValueError(
                "temperatures must be at least one, positive, finite and increasing, got "
                f"{self.temperatures}"
            )
        if self.learning_rate * slopes().max() ** 2 >= 1:
            raise ValueError(
                f"learning_rate must be below {1 / slopes().max() ** 2:.3g}, from where steps in "
                f"the steepest piece grow, got {self.learning_rate}"
            )


PRESETS = {
    "quick": Config(
        batches=(1, 100), temperatures=(0.04,), num_sets=24, num_runs=24, num_steps=4000
    ),
    "default": Config(),
    "paper": Config(num_sets=300),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """x ~ N(μ, 1) with μ ~ U[-0.8, 0.8], a data set a row; there are no targets."""
    del data_dir
    rng = np.random.default_rng(config.seed)
    centre = rng.uniform(-0.8, 0.8, size=(config.num_sets, 1))
    x = np.float32(centre + rng.normal(size=(config.num_sets, config.num_examples)))
    none = np.zeros(len(x), np.int32)
    return data.Dataset("zigzag", x, none, x[:0], none[:0], num_classes=2)


# ----------------------------------------------------------------------------------- descent


def pieces_of(theta: Any) -> Any:
    """Numbers of the pieces that θ lies in."""
    return jnp.clip(jnp.searchsorted(jnp.asarray(kinks()), theta) - 1, 0, 2 * PIECES - 1)


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
      start: θ, (sets, runs).
      mean: of every data set, (sets, 1).
      noise: standard deviation of a batch's mean (SGD), or sqrt(2T/rate) (Langevin), (sets, 1).
      rate: learning rate.
      langevin: whether the noise is added to the gradient instead of multiplied by the slope.
      num_steps: steps.
    """
    # φ is even: to the right it is 1 plus a hinge at every kink.
    hinges = jnp.asarray(kinks()[PIECES:-1])
    bends = jnp.asarray(np.diff(slopes()[PIECES:], prepend=0.0))

    def step(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        past = jnp.abs(theta)[..., None] - hinges
        value = 1 + (bends * jnp.maximum(past, 0)).sum(-1)
        factor = 2 * jnp.sign(theta) * (bends * (past > 0)).sum(-1)
        drawn = noise * jax.random.normal(key, theta.shape)
        gradient = factor * (value - mean) - jnp.where(langevin, drawn, factor * drawn)
        theta = theta - rate * gradient
        over = jnp.abs(theta) - END  # reflecting ends
        return jnp.where(over > 0, jnp.sign(theta) * (END - over), theta), None

    theta, _ = jax.lax.scan(step, start, jax.random.split(key, num_steps))
    return pieces_of(theta)


# ------------------------------------------------------------------------------ the integrals


class Codes(NamedTuple):
    """N(θ*, 1/(N φ'²)) around the minimum in every piece, for every data set.

    Attributes:
      minima: θ*, (sets, pieces).
      scales: standard deviations, (pieces,).
      densities: (sets, pieces, nodes) at the nodes of a quadrature over θ.
      weights: of the nodes.
    """

    minima: np.ndarray
    scales: np.ndarray
    densities: np.ndarray
    weights: np.ndarray


def codes_of(mean: np.ndarray, num_examples: int) -> Codes:
    """The codes of data sets with these means, (sets, 1)."""
    minima = kinks()[:-1] + (mean - heights()[:-1]) / slopes()
    scales = 1 / (np.sqrt(num_examples) * np.abs(slopes()))
    # Gauss-Legendre on every piece, which is 2 sqrt(N) standard deviations wide, and beyond.
    end = END + 10 * scales[-1]
    edges = np.concatenate([[-end], kinks(), [end]])
    nodes, weights = special.roots_legendre(24 + int(4 * np.sqrt(num_examples)))
    half = np.diff(edges)[:, None] / 2
    theta = (edges[:-1, None] + half * (nodes + 1)).ravel()
    away = (theta - minima[..., None]) / scales[:, None]
    densities = np.exp(-0.5 * away**2) / (np.sqrt(2 * np.pi) * scales[:, None])
    return Codes(minima, scales, densities, (half * weights).ravel())


def information(shares: np.ndarray, codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """I(θ; D, seed) and I(θ; D): the KL to the mixture of every data set, (sets,) nats each.

    Args:
      shares: of the pieces in the runs of every data set, (sets, pieces).
      codes: around their minima.
    """
    density = np.einsum("mk,mkg->mg", shares, codes.densities)
    mixture = density.mean(0) + np.finfo(float).tiny  # where it underflows, density nearly does
    cross = -special.xlogy(density, mixture) @ codes.weights
    single = shares @ (0.5 * np.log(2 * np.pi * np.e) + np.log(codes.scales))
    return cross - single, cross - special.entr(density) @ codes.weights


def shares_of(pieces: np.ndarray) -> np.ndarray:
    """How often each piece is in each row: (sets, pieces)."""
    return np.stack([np.bincount(row, minlength=2 * PIECES) for row in pieces]) / pieces.shape[1]


def by_data_set(pieces: np.ndarray, codes: Codes, seed: int) -> dict[str, np.ndarray]:
    """What every data set adds to the informations, (sets,) nats each.

    I(θ; D) is that of the position within a piece, which φ maps to N(mean of x, 1/N) whatever the
    piece, and what the piece adds. Of R runs the latter is too large by about (pieces - 1)/(2R),
    as it is where the pieces are dealt out anew among the data sets.

    Args:
      pieces: in which the runs end, (sets, runs).
      codes: around the minima.
      seed: of the shuffles.

    Returns:
      `naive_nats`, I(θ; D, seed); `plug_in_nats`, I(θ; D) of these runs; `position_nats`, I(θ; D)
      where every data set has the pooled shares; `piece_nats`, plug-in less its mean over shuffles;
      `shannon_nats`, position and piece.
    """
    shares, rng = shares_of(pieces), np.random.default_rng(seed)
    naive, plug_in = information(shares, codes)
    _, position = information(np.broadcast_to(shares.mean(0), shares.shape), codes)
    shuffled = (rng.permuted(pieces.ravel()).reshape(pieces.shape) for _ in range(NUM_SHUFFLES))
    piece = plug_in - np.mean([information(shares_of(p), codes)[1] for p in shuffled], axis=0)
    return {
        "naive_nats": naive,
        "plug_in_nats": plug_in,
        "position_nats": position,
        "piece_nats": piece,
        "shannon_nats": position + piece,
    }


# ----------------------------------------------------------------------------------- the run


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each kind and strength of noise."""
    x = np.asarray(dataset.train_inputs, np.float64)
    mean = np.clip(x.mean(1, keepdims=True), -0.999, 0.999)
    codes = codes_of(mean, config.num_examples)
    log_fisher = -2 * np.log(codes.scales)
    starting, stepping = jax.random.split(jax.random.key(config.seed))
    start = jax.random.uniform(starting, (config.num_sets, config.num_runs), minval=-1.0)
    cells = [("sgd", float(b)) for b in config.batches]
    cells += [("langevin", t) for t in config.temperatures]
    found, rows = {}, []
    for number, (kind, strength) in enumerate(context.track(cells, "descents")):
        if kind == "sgd":
            left = (config.num_examples - strength) / (strength * (config.num_examples - 1))
            noise = np.sqrt(x.var(1, keepdims=True) * left)
        else:
            noise = np.full((config.num_sets, 1), np.sqrt(2 * strength / config.learning_rate))
        pieces = np.asarray(
            descend(
                jax.random.fold_in(stepping, number),
                STARTS[kind] * start,
                jnp.asarray(mean),
                jnp.asarray(noise),
                config.learning_rate,
                kind == "langevin",
                config.num_steps,
            )
        )
        found[kind, strength] = by_data_set(pieces, codes, config.seed) | {
            "log_fisher": log_fisher[pieces].mean(1)
        }
        rows.append({"noise": kind, "strength": strength, **_measure(pieces, codes)})
    least = {"sgd": float(config.batches[-1]), "langevin": config.temperatures[0]}
    for row in rows:
        own, quiet = found[row["noise"], row["strength"]], found[row["noise"], least[row["noise"]]]
        for name, values in own.items():
            for what, each in (("", values), ("_change", values - quiet[name])):
                row[f"{name}{what}"] = float(each.mean())
                row[f"{name}{what}_stderr"] = float(tables.stderr(each))
    return rows


def _measure(pieces: np.ndarray, codes: Codes) -> dict[str, float]:
    """What `iw.shannon_iw` makes of some of the runs, and where all of them end."""
    some = pieces[:, :BRACKETED]
    with jax.enable_x64(True):
        means = jnp.asarray(np.take_along_axis(codes.minima, some, 1))[..., None]
        scales = jnp.asarray(codes.scales[some])[..., None]
        shannon = iw.shannon_iw(iw.DiagonalGaussian(means, scales))
    share = shares_of(pieces).mean(0)
    sides = share[PIECES:] + share[:PIECES][::-1]
    return {
        "naive_lower_nats": float(shannon.naive.bracket_lower),
        "naive_upper_nats": float(shannon.naive.bracket_upper),
        "shannon_lower_nats": float(shannon.nats.bracket_lower),
        "shannon_upper_nats": float(shannon.nats.bracket_upper),
        "adapted_nats": float(shannon.adapted.value),
        "adapted_nats_stderr": float(shannon.adapted.stderr),
        "ceiling_nats": float(shannon.ceiling),
        "binds": int(shannon.binds),
        "piece_entropy_nats": float(special.entr(share).sum()),
    } | {f"share_{i + 1}": float(part) for i, part in enumerate(sides)}


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, noise: str, name: str) -> np.ndarray:
    """One column of a kind of noise, strength increasing."""
    return tables.grid(rows, name, axes=("strength",), noise=noise)


def change(rows: Rows, name: str) -> tuple[float, float]:
    """From the largest batch to the smallest, paired by data set, and its standard error."""
    return tuple(column(rows, "sgd", f"{name}_change{end}")[0] for end in ("", "_stderr"))


def uniform_log_fisher(config: Config) -> float:
    """E log F of a weight that is anywhere with equal probability."""
    return float(np.diff(kinks()) @ np.log(config.num_examples * slopes() ** 2) / (2 * END))


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """What changes from the largest batch to the smallest, with standard errors over data sets."""
    names = ("log_fisher", "naive_nats", "shannon_nats", "piece_nats", "piece_entropy_nats")
    result: dict[str, Any] = {"batches": [config.batches[-1], config.batches[0]]}
    for name in names:
        values = column(rows, "sgd", name)[[-1, 0]]
        result[f"{name}_from_largest_to_smallest_batch"] = [tables.rounded(v) for v in values]
        if name != "piece_entropy_nats":
            result[f"{name}_change"] = [tables.rounded(v) for v in change(rows, name)]
    return result | {
        "log_fisher_of_uniform_weight": tables.rounded(uniform_log_fisher(config)),
        "log_fisher_under_langevin_noise": [
            tables.rounded(v) for v in column(rows, "langevin", "log_fisher")
        ],
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether the naive number falls with the batch, and I(θ; D) does not follow it."""
    fisher, _ = change(rows, "log_fisher")
    fall, fall_error = change(rows, "naive_nats")
    own, own_error = change(rows, "shannon_nats")
    outside = [
        f"{name} at {row['noise']} {row['strength']:g}"
        for row in rows
        for name in ("naive", "shannon")
        if not row[f"{name}_lower_nats"] <= row[f"{name}_nats"] <= row[f"{name}_upper_nats"]
    ]
    kept = np.abs(column(rows, "langevin", "log_fisher") - uniform_log_fisher(config)).max()
    return [
        checks.Check(
            "smaller batches end where the Fisher information is lower",
            bool(fisher < 0),
            f"E log F moves by {fisher:.2f} from the largest batch to the smallest",
        ),
        checks.Check(
            "the information about the data moves less than the naive number",
            bool(abs(own) + 2 * own_error < abs(fall) - 2 * fall_error),
            f"{own:.3f} ± {own_error:.3f} against {fall:.2f} ± {fall_error:.2f} nats from the "
            "largest batch to the smallest",
        ),
        checks.Check(
            f"iw.shannon_iw brackets the integrals over all runs with {BRACKETED} of each data set",
            not outside,
            "; ".join(outside) or f"both informations, {len(rows)} kinds of noise",
        ),
        checks.Check(
            "isotropic noise prefers no piece, SGD does",
            bool(kept < abs(fisher)),
            f"E log F is at most {kept:.2f} from that of a uniform weight at any temperature",
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
        f"{'I(θ;D)':>12} {'by the piece':>15} {'iw.shannon_iw':>14} {'Gaussian':>9}   (nats)"
    ]
    for row in rows:
        shannon = f"{row['shannon_nats']:.2f} ± {row['shannon_nats_stderr']:.2f}"
        piece = f"{row['piece_nats']:.3f} ± {row['piece_nats_stderr']:.3f}"
        interval = f"[{row['shannon_lower_nats']:.2f}, {row['shannon_upper_nats']:.2f}]"
        lines.append(
            f"{row['noise']:<9} {row['strength']:8.3g} {row['log_fisher']:8.2f} "
            f"{row['piece_entropy_nats']:9.2f} {row['naive_nats']:12.2f} {shannon:>12} "
            f"{piece:>15} {interval:>14} {row['adapted_nats']:9.2f}"
        )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """The zigzag, its loss and where runs end; the informations by batch size and temperature."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["zigzag", "sgd", "langevin"], ["ends", "sgd", "langevin"]],
        figsize=(12, 5.2),
        width_ratios=(1.4, 1, 1),
    )
    right = kinks()[PIECES:]
    theta = np.interp(np.linspace(0, PIECES, 100 * PIECES + 1), np.arange(PIECES + 1), right)
    phi = np.interp(theta, kinks(), heights())
    axis = axes["zigzag"]
    axis.plot(theta, phi, color=style.GREY, linewidth=1, label="φ(θ)")
    axis.plot(theta, (phi - 0.3) ** 2, color=style.BLUE, linewidth=1, label="loss, mean of x 0.3")
    axis.set(ylim=(-1.1, 2.6), xlabel="|θ|")
    axis.set_title("every piece holds one minimum of the same loss", fontsize=10)
    axis.legend(loc="upper left", ncols=2, fontsize=8)
    axis = axes["ends"]
    for noise, last, said, colour, dash in (
        ("sgd", -1, f"SGD, batches of {config.batches[-1]}", style.GREEN, "--"),
        ("sgd", 0, f"SGD, batches of {config.batches[0]}", style.ORANGE, "-"),
        ("langevin", -1, f"Langevin, T = {config.temperatures[-1]:g}", style.PURPLE, "-."),
    ):
        share = [column(rows, noise, f"share_{i + 1}")[last] for i in range(PIECES)]
        axis.stairs(share, right, label=said, color=colour, linestyle=dash, linewidth=1.5)
    wide = np.diff(right) / END
    axis.stairs(wide, right, label="in proportion to width", color="black", linestyle=":")
    axis.set(xlabel="|θ*|", ylabel="share of runs", title="the piece in which runs end")
    axis.title.set_fontsize(10)
    axis.legend(loc="upper left", fontsize=8)
    for axis in (axes["zigzag"], axes["ends"]):
        axis.set_xscale("symlog", linthresh=0.05)
        axis.set_xlim(0, END)
        axis.set_xticks([0, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5], minor=False)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:g}")
    series = (
        ("adapted", "KL to the best Gaussian prior", style.GREEN, "D", "-."),
        ("naive", "I(θ; D, seed): runs compared (naive)", style.ORANGE, "s", "--"),
        ("shannon", "I(θ; D): runs of a data set averaged", style.BLUE, "o", "-"),
    )
    for noise, label in NOISES.items():
        axis, strength = axes[noise], column(rows, noise, "strength")
        half = column(rows, noise, "log_fisher") / 2
        axis.plot(strength, half, "^:", color="black", label="½ E log F(θ*)")
        for name, said, colour, marker, dash in series:
            value, error = (column(rows, noise, f"{name}_nats{end}") for end in ("", "_stderr"))
            look = {"color": colour, "marker": marker, "linestyle": dash}
            axis.errorbar(strength, value, 2 * error, label=said, capsize=2, **look)
            if name != "adapted":
                ends = (column(rows, noise, f"{name}_{end}_nats") for end in ("lower", "upper"))
                axis.fill_between(strength, *ends, color=colour, alpha=0.15, linewidth=0)
        axis.set(xscale="log", xlabel=label, ylabel="nats")
        axis.set_ylim(0, 6)
        axis.set_title("SGD" if noise == "sgd" else "Langevin, uniform start", fontsize=10)
    handles, labels = axes["sgd"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=9)
    figure.suptitle(
        f"{config.num_sets} data sets, {config.num_runs} runs each; bars: two standard errors; "
        f"bands: iw.shannon_iw, shown {min(BRACKETED, config.num_runs)} of the runs",
        fontsize=10,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.zigzag")

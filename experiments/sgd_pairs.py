"""Two data sets that differ in one example: how far apart SGD ends, in the metric of the Fisher.

The same network is trained twice, from the same start and with the same minibatches but for one
example that is replaced; this for many examples and several seeds. The difference Δ of the end
points is measured in the Fisher metric, Δ'(F/β)Δ, beside what influence functions predict, beside a
random direction of the same length, and beside the end points of different seeds.

Default: about a minute on 2 CPU cores. Paper: Achille, Paolini & Soatto (arXiv:1905.12213),
Fig. 2, which shows one pair.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

import iw_jax as iw
from experiments.common import checks, descent, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets
from iw_jax.task import take

STOPS = 120  # of a path, for the picture
SQUARES = {
    "fisher_square": "replaced example",
    "random_square": "random direction, same length",
    "seeds": "other seed, same data",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: points (in the plane, two classes), digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples.
      network: mlp (tanh), small_alexnet, all_cnn or resnet18; small, since F is made dense.
      widths: hidden units of the mlp.
      num_seeds: starts and orders of the minibatches.
      num_pairs: examples that are replaced, one at a time, for every seed.
      num_steps: SGD steps.
      batch_size: examples a step.
      learning_rate: of the mean loss, at the first step; falls to 0 along a cosine.
      prior_scale: λ of the penalty β/2 |w - w0|²/λ², without which there would be no minimum.
      beta: price of a nat, in nats of summed loss.
      seed: root of all randomness.
    """

    dataset: str = "points"
    num_examples: int = 200
    network: str = "mlp"
    widths: tuple[int, ...] = (16, 16)
    num_seeds: int = 6
    num_pairs: int = 16
    num_steps: int = 12_000
    batch_size: int = 20
    learning_rate: float = 0.2
    prior_scale: float = 1.0
    beta: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self, common.WITH_POINTS)
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be positive and finite, got {self.beta}")
        if self.num_seeds < 2 or self.num_pairs < 2:
            raise ValueError(
                "num_seeds and num_pairs must be at least 2, got "
                f"{self.num_seeds} and {self.num_pairs}"
            )


PRESETS = {
    "quick": Config(num_examples=60, widths=(8,), num_seeds=2, num_pairs=8, num_steps=3000),
    "default": Config(),
    "paper": Config(
        dataset="digits", widths=(32,), num_examples=1000, num_seeds=20, num_pairs=50,
        num_steps=100_000, batch_size=50,
    ),
}  # fmt: skip


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels; the last examples are those that replace others."""
    return common.load(config, data_dir, config.num_examples + config.num_pairs)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """A row for each pair, pair of seeds, and point of two paths and their ellipse.

    The paths are those of the pair of the first seed that ends farthest apart.
    """
    network = common.network(config, dataset.num_classes, "tanh")
    present = np.ones(dataset.num_classes, bool)
    task = descent.pool(network, dataset.train_inputs, dataset.train_targets, present)
    count, runs = config.num_examples, config.num_pairs + 1
    removed = np.random.default_rng(config.seed).integers(
        count, size=(config.num_seeds, config.num_pairs)
    )
    examples = np.tile(np.arange(count), (config.num_seeds, runs, 1))
    for seed, pair in np.ndindex(*removed.shape):
        examples[seed, pair + 1, removed[seed, pair]] = count + pair
    members = _families(config, network, task, examples)
    stops = np.unique(np.geomspace(1, config.num_steps, STOPS).round().astype(int)).tolist()
    pull = config.beta / (config.prior_scale**2 * count)
    history = descent.path(
        context,
        task,
        members,
        stops,
        micro=config.batch_size,
        rate=config.learning_rate,
        horizon=float(config.num_steps),
        pull=pull,
    )
    flat = jax.vmap(jax.vmap(lambda w: ravel_pytree(w)[0]))
    paths = np.asarray(flat(history), np.float64).reshape(len(stops), *examples.shape[:2], -1)
    starts = np.asarray(jax.vmap(lambda w: ravel_pytree(w)[0])(members.start), np.float64)
    ends, starts = paths[-1], starts[::runs]

    rows: list[dict[str, Any]] = []
    fishers = []
    for seed in context.track(range(config.num_seeds), "curvature"):
        params = jax.tree.map(lambda w, at=seed * runs: w[-1, at], history)
        roots, slopes = (np.asarray(x, np.float64) for x in _rows(task, params))
        curvature = np.einsum("ikn,ikm->nm", roots[:count], roots[:count])
        fishers.append(curvature)
        penalty = config.beta / config.prior_scale**2 * np.eye(len(curvature))
        rest = slopes[:count].sum(0) + penalty @ (ends[seed, 0] - starts[seed])
        off = rest @ np.linalg.solve(curvature + penalty, rest) / config.beta
        for pair, old in enumerate(removed[seed]):
            new = count + pair
            bent = curvature + penalty + roots[new].T @ roots[new] - roots[old].T @ roots[old]
            predicted = np.linalg.solve(bent, slopes[old] - slopes[new])
            moved = ends[seed, pair + 1] - ends[seed, 0]
            rows.append(
                {
                    "kind": "pair",
                    "seed": seed,
                    "other": pair,
                    **_squares(config, curvature, moved),
                    "predicted_square": float(predicted @ curvature @ predicted / config.beta),
                    "cosine": _cosine(curvature, moved, predicted),
                    "off_minimum_square": float(off),
                }
            )
    rows += [
        {
            "kind": "seeds",
            "seed": a,
            "other": b,
            **_squares(config, fishers[a], ends[b, 0] - ends[a, 0]),
        }
        for a, b in itertools.permutations(range(config.num_seeds), 2)
    ]
    shown = int(np.argmax([row["fisher_square"] for row in rows[: config.num_pairs]]))
    penalty = config.beta / config.prior_scale**2 * np.eye(len(fishers[0]))
    rows += _picture(paths[:, 0, [0, shown + 1]], (fishers[0] + penalty) / config.beta, stops)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows]


def _families(
    config: Config, network: nets.Network, task: iw.Task, examples: np.ndarray
) -> descent.Family:
    """All runs as members; those of one seed start and draw alike."""
    seeds, runs, count = examples.shape
    key = jax.random.key(config.seed)
    alone = descent.family(key, network, task.inputs["x"], examples[:, 0], count)
    owner = jnp.repeat(jnp.arange(seeds), runs)
    params, keys = jax.tree.map(lambda w: w[owner], (alone.params, alone.keys))
    return descent.Family(
        params, params, keys, jnp.asarray(examples.reshape(-1, count)), alone.count
    )


@jax.jit
def _rows(task: iw.Task, params: nets.Params) -> tuple[jax.Array, jax.Array]:
    """Of every example of the pool: Φ_i (K, n) with F_i = Φ_i'Φ_i, and the gradient (n,)."""
    every = jnp.arange(task.num_examples)
    operator = iw.ggn(task, params)
    slope = lambda i: ravel_pytree(jax.grad(lambda p: iw.nll(take(task, i[None]), p))(params))[0]  # noqa: E731
    roots = operator.flat_rows(every).reshape(task.num_examples, -1, operator.size)
    return roots, jax.lax.map(slope, every, batch_size=descent.CHUNK)


def _squares(config: Config, curvature: np.ndarray, moved: np.ndarray) -> dict[str, float]:
    """Length of a difference, its square in the Fisher metric, and that of a random direction."""
    square = moved @ moved
    return {
        "distance": float(np.sqrt(square)),
        "fisher_square": float(moved @ curvature @ moved / config.beta),
        "random_square": float(square * np.trace(curvature) / (len(curvature) * config.beta)),
    }


def _cosine(curvature: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two directions in the Fisher metric."""
    return float(a @ curvature @ b / np.sqrt((a @ curvature @ a) * (b @ curvature @ b)))


def _picture(paths: np.ndarray, precision: np.ndarray, stops: list[int]) -> Rows:
    """Two paths (T, 2, n), and the ellipse x'Σ*^-1 x = 1 around the end of the first, in a plane.

    The plane holds the stiffest direction of the curvature and the difference of the end points.
    """
    end = paths[-1, 0]
    stiff = np.linalg.eigh(precision)[1][:, -1]
    difference = paths[-1, 1] - end
    difference = difference - stiff * (stiff @ difference)
    plane = np.stack([difference / np.linalg.norm(difference), stiff], axis=1)
    places = (paths - end) @ plane
    rows = [
        {"kind": "path", "other": which, "step": step, "u": float(u), "v": float(v)}
        for which in (0, 1)
        for step, (u, v) in zip(stops, places[:, which], strict=True)
    ]
    values, axes = np.linalg.eigh(plane.T @ precision @ plane)
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    around = (axes @ (circle / np.sqrt(values)[:, None])).T
    return rows + [
        {"kind": "ellipse", "step": i, "u": float(u), "v": float(v)}
        for i, (u, v) in enumerate(around)
    ]


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, kind: str, name: str, axes: tuple[str, ...] = ("seed", "other")) -> Any:
    """One column of a kind of rows, (seeds, pairs); nan for a seed with itself."""
    return tables.grid(rows, name, axes=axes, kind=kind)


def log_ratio(rows: Rows, name: str) -> list[float | None]:
    """Mean of log(fisher_square / name) over pairs, and its standard error over seeds."""
    each = np.log(column(rows, "pair", "fisher_square") / column(rows, "pair", name)).mean(1)
    return tables.mean_and_stderr(each)


def quartiles(values: np.ndarray) -> list[float | None]:
    """25, 50 and 75 % of the known ones."""
    return [tables.rounded(v) for v in np.nanpercentile(values, (25, 50, 75))]


def rank_correlation(rows: Rows) -> float:
    """Spearman's, between what was predicted and what was measured."""
    pair = [column(rows, "pair", n).ravel() for n in ("predicted_square", "fisher_square")]
    return float(stats.spearmanr(*pair).statistic)


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Squares in the Fisher metric, beside what was predicted and what chance would give."""
    own, predicted = (column(rows, "pair", n) for n in ("fisher_square", "predicted_square"))
    ratio = np.exp(np.abs(np.log(own / predicted)))
    return {
        "pairs": int(own.size),
        "pairs_a_seed": config.num_pairs,
        "fisher_square_quartiles": quartiles(own),
        "predicted_square_quartiles": quartiles(predicted),
        "inside_the_ellipse": tables.rounded(np.mean(own < 1)),
        "other_seed_square_quartiles": quartiles(column(rows, "seeds", "fisher_square")),
        "other_seed_over_random_direction": tables.rounded(
            np.nanmedian(
                column(rows, "seeds", "fisher_square") / column(rows, "seeds", "random_square")
            )
        ),
        "log_ratio_to_prediction": log_ratio(rows, "predicted_square"),
        "log_ratio_to_random_direction": log_ratio(rows, "random_square"),
        "within_a_factor_2_of_prediction": tables.rounded(np.mean(ratio < 2)),
        "rank_correlation_with_prediction": tables.rounded(rank_correlation(rows)),
        "cosine_quartiles": quartiles(column(rows, "pair", "cosine")),
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether SGD ended at minima, and end points move as influence says."""
    agreed = rank_correlation(rows)
    off, own = (column(rows, "pair", n) for n in ("off_minimum_square", "fisher_square"))
    seeds = np.nanmedian(column(rows, "seeds", "fisher_square"))
    return [
        checks.Check(
            "SGD ends near a minimum",
            bool(off.max() < 1),
            f"a Newton step would move it by {off.max():.2g} at most, in the metric of the code "
            f"(1 is a standard deviation); take more than {config.num_steps} steps (--num-steps)",
        ),
        checks.Check(
            "influence ranks the pairs as SGD does (Spearman at least 0.5)",
            agreed >= 0.5,
            f"{agreed:.3f} over {own.size} pairs",
        ),
        checks.Check(
            "one example moves the end less than another seed does",
            bool(np.median(own) < seeds),
            f"medians {np.median(own):.3g} and {seeds:.3g} in the Fisher metric",
        ),
    ]


def table(rows: Rows) -> str:
    """One line a seed."""
    names = ("distance", "fisher_square", "predicted_square", "random_square", "cosine")
    lines = [f"{'seed':>4} " + " ".join(f"{n:>17}" for n in names) + "   (medians over pairs)"]
    medians = [np.median(column(rows, "pair", n), axis=1) for n in names]
    for seed, values in enumerate(zip(*medians, strict=True)):
        lines.append(f"{seed:4d} " + " ".join(f"{v:17.4g}" for v in values))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Two paths and the ellipse; measured against predicted; the distributions."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9))
    ellipse = (column(rows, "ellipse", n, ("step",)) for n in "uv")
    axes[0].fill(*ellipse, color=style.GREY, alpha=0.25, linewidth=0, label="one sd of the code")
    looks = ((0, style.BLUE, "-", "o", "D"), (1, style.ORANGE, "--", "s", "one example replaced"))
    for which, colour, dash, marker, label in looks:
        u, v = (column(rows, "path", n, ("other", "step"))[which] for n in "uv")
        axes[0].plot(u, v, dash, color=colour, label=label, linewidth=1)
        axes[0].plot(u[-1], v[-1], marker, color=colour, markersize=6, zorder=3)
    axes[0].set(xlabel="along the difference of the ends", ylabel="stiffest direction")
    axes[0].set_title("two paths of SGD and their ends, the largest difference", fontsize=10)
    axes[0].legend(fontsize=8)
    own, predicted = (column(rows, "pair", n) for n in ("fisher_square", "predicted_square"))
    axes[1].loglog(predicted, own, "o", color=style.BLUE, markersize=3)
    ends = np.array([min(own.min(), predicted.min()), max(own.max(), predicted.max())])
    axes[1].loglog(ends, ends, ":", color=style.GREY, label="equal")
    axes[1].set(xlabel="predicted by influence", ylabel="measured")
    axes[1].set_title(f"Δ'(F/β)Δ of {own.size} pairs", fontsize=10)
    axes[1].legend(fontsize=8)
    random = column(rows, "pair", "random_square")
    seeds = column(rows, "seeds", "fisher_square")
    series = zip(
        SQUARES.values(),
        (own, random, seeds[np.isfinite(seeds)]),
        ((style.BLUE, "-"), (style.GREY, ":"), (style.ORANGE, "--")),
        strict=True,
    )
    for label, values, (colour, dash) in series:
        ordered = np.sort(values, axis=None)
        part = np.arange(1, ordered.size + 1) / ordered.size
        axes[2].step(ordered, part, where="post", color=colour, linestyle=dash, label=label)
    axes[2].axvline(1, color=style.GREY, linewidth=0.8)
    axes[2].set(xscale="log", xlabel="Δ'(F/β)Δ", ylabel="part of the pairs below", ylim=(0, 1.35))
    axes[2].set_yticks([0, 0.5, 1])
    axes[2].legend(fontsize=8, loc="upper left")
    axes[2].set_title("against other differences", fontsize=10)
    figure.suptitle(
        f"{config.dataset}, {config.num_examples} examples; {config.num_seeds} seeds with "
        f"{config.num_pairs} pairs each; λ = {config.prior_scale:g}, β = {config.beta:g}",
        fontsize=10,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.sgd_pairs")

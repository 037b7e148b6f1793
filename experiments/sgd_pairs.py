"""Two data sets that differ in one example: how far apart SGD ends, in the metric of the Fisher.

The same network is trained twice, from the same start and with the same minibatches but for one
example that is replaced; this for many examples and several seeds. The difference Δ of the end
points is measured in the Fisher metric, Δ'(F/β)Δ, beside what influence functions predict, beside
random directions of the same length, and beside what another change does while the data stay as
they are: other minibatches, or another start.

Default: about a minute on 2 CPU cores. Paper: Achille, Paolini & Soatto (arXiv:1905.12213),
Fig. 2, which shows one pair.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

import iw_jax as iw
from experiments.common import checks, cost, descent, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets
from iw_jax.task import take

STOPS = 60  # of a path, for the picture
KINDS = {
    "pair": ("one example replaced", style.BLUE, "-", "s"),
    "order": ("other minibatches", style.GREEN, "-.", "D"),
    "start": ("other start", style.ORANGE, "--", "^"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: points (in the plane, two classes), digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples.
      network: mlp (tanh), small_alexnet, all_cnn or resnet18; small, since F is made dense.
      widths: hidden units of the mlp.
      num_seeds: starts, and as many sequences of minibatches.
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
        if self.num_examples < 1:
            raise ValueError(f"num_examples must be at least 1, got {self.num_examples}")
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


class Run(NamedTuple):
    """One training.

    Attributes:
      start: seed of the first weights.
      order: seed of the minibatches.
      pair: which example replaces another; none on D itself.
    """

    start: int
    order: int
    pair: int | None = None


class Around(NamedTuple):
    """The loss around a point, float64.

    Attributes:
      metric: (n, n), F/β of the data set.
      roots: (pool, K, n), Φ_i of every example, F_i = Φ_i'Φ_i.
      slopes: (pool, n), the gradients g_i.
    """

    metric: np.ndarray
    roots: np.ndarray
    slopes: np.ndarray


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    network = common.network(config, dataset.num_classes, "tanh")
    task = descent.pool(network, dataset)
    return [
        cost.descent(
            network,
            task,
            config,
            networks=config.num_seeds * (config.num_seeds + config.num_pairs),
        )
    ]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """A row for each difference of two ends, and for each point of three paths and an ellipse.

    The paths are those of the pair of the first seed that ends farthest apart, and one with other
    minibatches.
    """
    network = common.network(config, dataset.num_classes, "tanh")
    task = descent.pool(network, dataset)
    shape = config.num_seeds, config.num_pairs
    removed = np.random.default_rng(config.seed).integers(config.num_examples, size=shape)
    seeds = range(config.num_seeds)
    runs = [Run(*two) for two in itertools.product(seeds, seeds)]
    runs += [Run(seed, seed, pair) for seed, pair in np.ndindex(*shape)]
    members = _members(config, network, task, runs, removed)
    stops = np.unique(np.geomspace(1, config.num_steps, STOPS).round().astype(int)).tolist()
    history = descent.path(
        context,
        task,
        members,
        stops,
        micro=config.batch_size,
        rate=config.learning_rate,
        horizon=float(config.num_steps),
        pull=config.beta / (config.prior_scale**2 * config.num_examples),
    )
    flat = jax.vmap(lambda w: ravel_pytree(w)[0])
    every = np.concatenate([flat(members.start)[None], jax.vmap(flat)(history)]).astype(np.float64)
    paths = {each: every[:, i] for i, each in enumerate(runs)}  # (1 + stops, n)

    rows: list[dict[str, Any]] = []
    for seed in context.track(seeds, "curvature"):
        place = runs.index(Run(seed, seed))
        around = _around(config, task, jax.tree.map(lambda w, i=place: w[-1, i], history))
        found = _differences(config, seed, paths, around, removed[seed])
        if seed == 0:
            shown = int(np.argmax([row["fisher_square"] for row in found[: config.num_pairs]]))
            three = [paths[each][1:] for each in (Run(0, 0), Run(0, 0, shown), Run(0, 1))]
            picture = _picture(np.stack(three, axis=1), around.metric, stops)
        rows += found
    rows += picture
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows]


def _members(
    config: Config, network: nets.Network, task: iw.Task, runs: list[Run], removed: np.ndarray
) -> descent.Family:
    """All runs; `removed` (seeds, pairs) are the examples that others replace."""
    count = config.num_examples
    examples = np.tile(np.arange(count), (len(runs), 1))
    for own, (seed, _, pair) in zip(examples, runs, strict=True):
        if pair is not None:
            own[removed[seed, pair]] = count + pair
    members = descent.family(jax.random.key(config.seed), network, task, examples, count)
    starts, orders = (jnp.array([each[i] for each in runs]) for i in range(2))
    params = jax.tree.map(lambda w: w[starts], members.params)
    keys = members.keys[orders]
    return dataclasses.replace(members, params=params, start=params, keys=keys)


def _around(config: Config, task: iw.Task, params: nets.Params) -> Around:
    roots, slopes = (np.asarray(x, np.float64) for x in _roots_and_slopes(task, params))
    own = roots[: config.num_examples]
    return Around(np.einsum("ikn,ikm->nm", own, own) / config.beta, roots, slopes)


@jax.jit
def _roots_and_slopes(task: iw.Task, params: nets.Params) -> tuple[jax.Array, jax.Array]:
    """Φ_i (K, n) and g_i (n,) of every example of the pool."""
    every = jnp.arange(task.num_examples)
    operator = iw.ggn(task, params)
    slope = lambda i: ravel_pytree(jax.grad(lambda p: iw.nll(take(task, i[None]), p))(params))[0]  # noqa: E731
    roots = operator.flat_rows(every).reshape(task.num_examples, -1, operator.size)
    return roots, jax.lax.map(slope, every, batch_size=descent.CHUNK)


def _differences(
    config: Config, seed: int, paths: dict[Run, np.ndarray], around: Around, removed: np.ndarray
) -> list[dict[str, Any]]:
    """From the end of a seed on D to the ends of the runs that differ from it in one thing.

    Args:
      config: of the run.
      seed: of start and minibatches.
      paths: of every run, from its start to its end.
      around: that end.
      removed: (pairs,), the examples of D that others replace.
    """
    metric, roots, slopes = around
    start, end = paths[Run(seed, seed)][[0, -1]]
    pull = 1 / config.prior_scale**2
    precision = metric + pull * np.eye(len(metric))  # Σ*^-1 of the code
    slope = slopes[: config.num_examples].sum(0) / config.beta + pull * (end - start)
    off = np.linalg.solve(precision, slope)
    rng = np.random.default_rng((config.seed, seed))

    def row(kind: str, other: int, there: Run) -> dict[str, Any]:
        moved = paths[there][-1] - end
        drawn = rng.normal(size=len(moved))
        drawn *= np.linalg.norm(moved) / np.linalg.norm(drawn)
        squares = {"fisher_square": moved @ metric @ moved, "random_square": drawn @ metric @ drawn}
        distance = np.linalg.norm(moved)
        return {"kind": kind, "seed": seed, "other": other, "distance": distance, **squares}

    rows = []
    for pair, old in enumerate(removed):
        new, there = config.num_examples + pair, Run(seed, seed, pair)
        bend = roots[new].T @ roots[new] - roots[old].T @ roots[old]
        predicted = np.linalg.solve(
            precision + bend / config.beta, (slopes[old] - slopes[new]) / config.beta
        )
        told = {
            "predicted_square": predicted @ metric @ predicted,
            "cosine": _cosine(metric, paths[there][-1] - end, predicted),
            "off_minimum_square": off @ metric @ off,
        }
        rows.append(row("pair", pair, there) | told)
    for other in range(config.num_seeds):
        if other != seed:
            rows.append(row("order", other, Run(seed, other)))
            rows.append(row("start", other, Run(other, seed)))
    return rows


def _cosine(metric: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two directions."""
    return a @ metric @ b / np.sqrt((a @ metric @ a) * (b @ metric @ b))


def _picture(paths: np.ndarray, metric: np.ndarray, stops: list[int]) -> Rows:
    """Three paths (T, 3, n), and the ellipse x'(F/β)x = 1 around the end of the first, in a plane.

    The plane holds the stiffest direction of the metric and the difference of the first two ends.
    """
    end = paths[-1, 0]
    stiff = np.linalg.eigh(metric)[1][:, -1]
    difference = paths[-1, 1] - end
    difference = difference - stiff * (stiff @ difference)
    plane = np.stack([difference / np.linalg.norm(difference), stiff], axis=1)
    places = (paths - end) @ plane
    rows = [
        {"kind": "path", "other": which, "step": step, "u": float(u), "v": float(v)}
        for which in range(paths.shape[1])
        for step, (u, v) in zip(stops, places[:, which], strict=True)
    ]
    values, axes = np.linalg.eigh(plane.T @ metric @ plane)
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


def log_ratio(rows: Rows, kind: str, name: str) -> list[float | None]:
    """Mean of log(fisher_square / name), and its standard error over seeds."""
    ratio = np.log(column(rows, kind, "fisher_square") / column(rows, kind, name))
    return tables.mean_and_stderr(np.nanmean(ratio, axis=1))


def quartiles(values: np.ndarray) -> list[float | None]:
    """25, 50 and 75 % of the known ones."""
    return [tables.rounded(v) for v in np.nanpercentile(values, (25, 50, 75))]


def rank_correlation(rows: Rows) -> float:
    """Spearman's, between what was predicted and what was measured."""
    pair = [column(rows, "pair", n).ravel() for n in ("predicted_square", "fisher_square")]
    return float(stats.spearmanr(*pair).statistic)


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Squares in the Fisher metric, beside what was predicted and what chance would give."""
    squares = {kind: column(rows, kind, "fisher_square") for kind in KINDS}
    own, predicted = squares["pair"], column(rows, "pair", "predicted_square")
    ratio = np.exp(np.abs(np.log(own / predicted)))
    return {
        "pairs_a_seed": config.num_pairs,
        "fisher_square_quartiles": {kind: quartiles(v) for kind, v in squares.items()},
        "inside_the_ellipse": {
            kind: tables.rounded(np.mean(v[np.isfinite(v)] < 1)) for kind, v in squares.items()
        },
        "log_ratio_to_random_direction": {
            kind: log_ratio(rows, kind, "random_square") for kind in KINDS
        },
        "off_minimum_square_quartiles": quartiles(column(rows, "pair", "off_minimum_square")[:, 0]),
        "predicted_square_quartiles": quartiles(predicted),
        "log_ratio_to_prediction": log_ratio(rows, "pair", "predicted_square"),
        "within_a_factor_2_of_prediction": tables.rounded(np.mean(ratio < 2)),
        "rank_correlation_with_prediction": tables.rounded(rank_correlation(rows)),
        "cosine_quartiles": quartiles(column(rows, "pair", "cosine")),
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether SGD ended at minima, and end points move as influence says."""
    agreed = rank_correlation(rows)
    off, own = (column(rows, "pair", n) for n in ("off_minimum_square", "fisher_square"))
    starts = np.nanmedian(column(rows, "start", "fisher_square"))
    return [
        checks.Check(
            "SGD ends near a minimum",
            bool(off.max() < 1),
            f"a Newton step would move it by {off.max():.2g} at most, in the metric of the Fisher "
            f"(1 is a standard deviation); take more than {config.num_steps} steps (--num-steps)",
        ),
        checks.Check(
            "influence ranks the pairs as SGD does (Spearman at least 0.5)",
            agreed >= 0.5,
            f"{agreed:.3f} over {own.size} pairs",
        ),
        checks.Check(
            "one example moves the end less than another start does",
            bool(np.median(own) < starts),
            f"medians {np.median(own):.3g} and {starts:.3g} in the Fisher metric",
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
    """Three paths and the ellipse; measured against predicted; the distributions."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9))
    ellipse = (column(rows, "ellipse", n, ("step",)) for n in "uv")
    axes[0].fill(*ellipse, color=style.GREY, alpha=0.25, linewidth=0, label="Δ'(F/β)Δ < 1")
    looks = [("data D", style.GREY, ":", "o"), KINDS["pair"], KINDS["order"]]
    for which, (label, colour, dash, marker) in enumerate(looks):
        u, v = (column(rows, "path", n, ("other", "step"))[which] for n in "uv")
        axes[0].plot(u, v, dash, color=colour, label=label, linewidth=1)
        axes[0].plot(u[-1], v[-1], marker, color=colour, markersize=6, zorder=3)
    axes[0].set(xlabel="along the difference of the ends", ylabel="stiffest direction")
    axes[0].set_title("paths of SGD and their ends, the largest difference", fontsize=10)
    axes[0].legend(fontsize=8)
    own, predicted = (column(rows, "pair", n) for n in ("fisher_square", "predicted_square"))
    axes[1].loglog(predicted, own, "o", color=style.BLUE, markersize=3)
    ends = np.array([min(own.min(), predicted.min()), max(own.max(), predicted.max())])
    axes[1].loglog(ends, ends, ":", color=style.GREY, label="equal")
    axes[1].set(xlabel="predicted by influence", ylabel="measured")
    axes[1].set_title(f"Δ'(F/β)Δ of {own.size} pairs", fontsize=10)
    axes[1].legend(fontsize=8)
    series = [(column(rows, kind, "fisher_square"), *look[:3]) for kind, look in KINDS.items()]
    random = column(rows, "pair", "random_square")
    series.insert(1, (random, "random direction, as long", style.GREY, ":"))
    for values, label, colour, dash in series:
        known = values[np.isfinite(values)]
        axes[2].ecdf(known, color=colour, linestyle=dash, label=label)
    axes[2].axvline(1, color=style.GREY, linewidth=0.8)
    axes[2].set(xscale="log", xlabel="Δ'(F/β)Δ", ylabel="part of the differences below")
    axes[2].set(ylim=(0, 1.45), yticks=[0, 0.5, 1])
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

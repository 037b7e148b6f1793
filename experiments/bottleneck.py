"""The information bottleneck and its dual: where clusters split, and what they know.

Xh is as short a description of X as possible that keeps what X says about Y: min I(X;Xh) + β E D.
IB takes D(p(y|x) ‖ p(y|xh)), dualIB the other way round. As β rises the clusters xh split one by
one; the first split has a closed form for both, from a singular value. Three kinds of problem: that
of the dualIB paper (five x, two labels), random joints, and images, X a cell of the space of their
first principal components. Every path is annealed down and up in β, so that hysteresis shows: the
way down ends where the trivial solution becomes the best one, the way up begins where that loses
stability; both are located and compared to the β that theory gives. And the stability of the
trivial solution is measured by perturbing it.

Default: a minute on 2 CPU cores. Papers: Tishby, Pereira & Bialek (physics/0004057); Piran,
Shwartz-Ziv & Tishby (arXiv:2006.04641), Figs. 1 and 2.
"""

import dataclasses
import itertools
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
from iw_jax.bottleneck import discrete, sources

METHODS = ("IB", "dualIB")
STATISTIC, MULTIPLIERS = np.linspace(-1, 0.6, 5), np.array([-1.0, 1.0])  # A(x), λ(y) of the paper
NEAR = 2e-3  # of β: as far as ends of paths are located
CLOSER = 16  # β in the place of two between which several clusters merge
DEVIATION, ITERATIONS = 1e-6, 100  # of the perturbed trivial solution


@dataclasses.dataclass(frozen=True)
class Config:
    """Which problems, and how finely they are annealed.

    Attributes:
      dataset: images and labels of the real joint.
      num_components: principal components that are quantised.
      num_bins: cells along each, equally filled.
      floor: share of labels that are taken as drawn anew, in the real joint: dualIB has no zeros.
      num_betas: β of a path of the paper's problem, and of the real one.
      num_joints: random joints, half of them 6 x 3, half 6 x 4.
      num_joint_betas: β of a path of theirs.
      seed: of the random joints and perturbations.
    """

    dataset: str = "digits"
    num_components: int = 3
    num_bins: int = 4
    floor: float = 0.02
    num_betas: int = 60
    num_joints: int = 10
    num_joint_betas: int = 17
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.at_least(
            self, num_components=1, num_bins=2, num_betas=10, num_joints=1, num_joint_betas=8
        )
        common.require(0 < self.floor < 1, "floor", "between 0 and 1", self.floor)


PRESETS = {
    "quick": Config(num_components=2, num_bins=3, num_betas=16, num_joints=1, num_joint_betas=16),
    "default": Config(),
    "paper": Config(dataset="mnist", num_bins=6, num_betas=1000, num_joint_betas=200),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The images."""
    return data.load(config.dataset, data_dir=data_dir)


# ---------------------------------------------------------------------------------- problems


def toy() -> np.ndarray:
    """p(x, y) of 2006.04641: p(y|x) ∝ exp(-λ(y) A(x)), p(x) = 1/5."""
    scores = np.exp(-STATISTIC[:, None] * MULTIPLIERS)
    return scores / scores.sum(1, keepdims=True) / len(STATISTIC)


def random_joint(seed: int, number: int) -> np.ndarray:
    """p(x) and the rows p(y|x) uniform on their simplices; 6 x 3 and 6 x 4 in turn."""
    rng = np.random.default_rng((seed, number))
    rows = rng.dirichlet(np.ones(3 + number % 2), size=6)
    return rows * rng.dirichlet(np.ones(6))[:, None]


def cells(images: np.ndarray, components: int, bins: int) -> np.ndarray:
    """The cell of each image, (N,): quantiles of its first principal components."""
    flat = np.float64(images).reshape(len(images), -1)
    flat = flat - flat.mean(0)
    _, axes = np.linalg.eigh(flat.T @ flat)
    places = flat @ axes[:, ::-1][:, :components]
    edges = np.quantile(places, np.arange(1, bins) / bins, axis=0)
    digits = (places[:, None] >= edges).sum(1)
    return np.ravel_multi_index(tuple(digits.T), (bins,) * components)


def real_joint(config: Config, dataset: data.Dataset, labels: np.ndarray) -> np.ndarray:
    """p(cell, label), by counting, cells without images left out; no floor yet."""
    cell = cells(dataset.train_inputs, config.num_components, config.num_bins)
    counts = np.zeros((config.num_bins**config.num_components, dataset.num_classes))
    np.add.at(counts, (cell, labels), 1)
    return counts[counts.sum(1) > 0] / len(labels)


def information(joint: np.ndarray) -> float:
    """I(X;Y), nats."""
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    held = joint > 0
    return float((joint[held] * np.log(joint[held] / product[held])).sum())


# ------------------------------------------------------------------------------- measurements


@jax.jit
def stable_up_to(source: sources.Source, noise: jax.Array, dual: bool) -> jax.Array:
    """β at which a small deviation of two equal halves of X neither grows nor dies, by halving."""

    def growth(beta: jax.Array) -> jax.Array:
        lean = DEVIATION * noise[:, None] * jnp.array([1, -1])
        _, marginal, back = discrete.posterior_of(source, 0.5 + lean)
        middle = sources.decoder(source, jnp.exp(source.log_p_x)[None], dual)
        first = sources.decoder(source, back, dual) - middle

        def further(deviation: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            deviation = deviation * DEVIATION / jnp.abs(deviation).max()
            z = jnp.concatenate([marginal[:, None], middle + deviation], 1)
            after = discrete.iterate(source, z, beta, dual).next[:, 1:] - middle
            return after, jnp.abs(after).max() / DEVIATION

        return jax.lax.scan(further, first, length=ITERATIONS)[1][-1]

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = jnp.sqrt(low * high)
        grows = growth(middle) > 1
        return jnp.where(grows, low, middle), jnp.where(grows, middle, high)

    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.array(1e-3), jnp.array(1e5)))
    return jnp.sqrt(low * high)


def measured_critical_beta(joint: np.ndarray, dual: bool, seed: int) -> float:
    """As `stable_up_to`, in float64."""
    noise = np.random.default_rng((seed, 1)).normal(size=len(joint))
    with sources.widest(joint) as finish:
        source = sources.checked(joint, dual)
        return float(finish(stable_up_to(source, jnp.asarray(noise), dual)))


def grid(config: Config, problem: str, learnable: float, critical: float, dual: bool) -> np.ndarray:
    """β of a problem's paths, falling; for IB none below 1."""
    if problem == "toy":
        betas = 2 ** np.linspace(6, 1, config.num_betas)
    elif problem == "real":
        betas = np.geomspace(60 * critical, 0.9 * learnable, config.num_betas)
    else:
        betas = np.geomspace(8 * critical, 0.9 * learnable, config.num_joint_betas)
    return betas if dual else np.unique(np.maximum(betas, 1))[::-1]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each problem, method, way and β."""
    labels = dataset.train_targets
    counted = real_joint(config, dataset, labels)
    shuffled = np.random.default_rng(config.seed).permutation(labels)
    known = {
        "toy": toy(),
        **{f"random {i + 1}": random_joint(config.seed, i) for i in range(config.num_joints)},
        "real": iw.bottleneck.with_floor(counted, config.floor),
    }
    sampled = {  # what the counts say, and what they say of labels that have nothing to do with x
        "counted_nats": information(counted),
        "shuffled_nats": information(real_joint(config, dataset, shuffled)),
        "num_examples": len(labels),
    }
    ledger = context.ledger("paths")
    rows: list[dict[str, Any]] = []
    for problem, method in context.track(list(itertools.product(known, METHODS)), "annealing"):
        extra = sampled if problem == "real" else dict.fromkeys(sampled, "")
        make = partial(_paths, config, problem, known[problem], method, extra)
        rows += ledger.get(f"{problem}, {method}", make)
    return rows


def _paths(config: Config, problem: str, joint: np.ndarray, method: str, extra: dict) -> Rows:
    dual = method == "dualIB"
    critical = float(iw.bottleneck.first_critical_beta(joint, dual=dual))
    measured = measured_critical_beta(joint, dual, config.seed)
    learnable = float(iw.bottleneck.learnable_beta(joint, dual=dual))
    betas = grid(config, problem, learnable, critical, dual)
    # All clusters' places are shown in the diagram of the toy problem only.
    places = len(STATISTIC) if problem == "toy" else 0
    rows = []
    for way in ("down", "up"):
        path = iw.bottleneck.anneal(joint, betas[:: 1 if way == "down" else -1], dual=dual)
        # All bifurcations are in the diagram of the toy problem; of the others, that from one.
        splits = iw.bottleneck.bifurcations(joint, path if problem == "toy" else last(joint, path))
        for i, beta in enumerate(path.beta):
            told = iw.bottleneck.error_exponent(joint, np.exp(path.log_encoder[i]))
            row = {"problem": problem, "method": method, "way": way, "beta": float(beta)}
            row |= {
                "rate_nats": float(path.rate[i]),
                "relevance_nats": float(path.relevance[i]),
                "distortion_nats": float(path.distortion[i]),
                "exponent_nats": float(told.nats),
                "clusters": int(path.num_clusters[i]),
                "growth": float(path.growth[i].max()),
                "steps": int(path.steps[i]),
                "residual": float(path.residual[i]),
                "information_nats": information(joint),
                "critical_beta": critical,
                "learnable_beta": learnable,
                "measured_critical_beta": measured,
                "bifurcations": " ".join(f"{b.beta:.6g}" for b in splits),
            }
            row |= {f"cluster_{t + 1}": "" for t in range(len(STATISTIC))}
            for t in range(places):
                if path.log_marginal[i, t] > np.log(discrete.NEGLIGIBLE):
                    row[f"cluster_{t + 1}"] = float(np.exp(path.log_decoder[i, t, 1]))
            rows.append(row | extra)
    return rows


def last(joint: np.ndarray, path: iw.bottleneck.Solution) -> iw.bottleneck.Solution:
    """Two solutions between which there comes to be one cluster, or no longer one; and no more."""
    i = _change(path)
    while path.num_clusters[i] > 2 and path.beta[i] / path.beta[i + 1] > 1 + NEAR:
        # Several merge here: in smaller steps, and further, since clusters last longer in these.
        end = path.beta[i + 1] ** 2 / path.beta[i]
        betas = np.geomspace(path.beta[i], end if path.dual else max(end, 1), 2 * CLOSER)
        path = iw.bottleneck.anneal(joint, betas, dual=path.dual, start=path.encoder[i])
        i = _change(path)
    return jax.tree.map(lambda leaf: leaf[i : i + 2], path)


def _change(path: iw.bottleneck.Solution) -> int:
    return int(np.flatnonzero(np.diff(path.num_clusters == 1))[0])


# ------------------------------------------------------------------------ what the table says


def problems(rows: Rows) -> list[str]:
    """In the order of the table."""
    return list(dict.fromkeys(row["problem"] for row in rows))


def path(rows: Rows, problem: str, method: str, way: str) -> Rows:
    """The rows of one path, β rising."""
    where = {"problem": problem, "method": method, "way": way}
    own = [row for row in rows if all(row[k] == v for k, v in where.items())]
    return sorted(own, key=lambda row: row["beta"])


def paths(rows: Rows) -> list[tuple[tuple[str, str, str], Rows]]:
    """All of them, with problem, method and way."""
    names = itertools.product(problems(rows), METHODS, ("down", "up"))
    return [(name, path(rows, *name)) for name in names]


def bifurcations(rows: Rows) -> list[float]:
    """Those located on a path, β falling."""
    return sorted(map(float, str(rows[0]["bifurcations"]).split()), reverse=True)


def near_bifurcation(row: Any, rows: Rows) -> bool:
    """Whether β is within 1 % of where the path's clusters change, as far as that is known."""
    places = [*map(float, str(row["bifurcations"]).split()), row["critical_beta"]]
    own = path(rows, row["problem"], row["method"], row["way"])
    for a, b in itertools.pairwise(own):
        if a["clusters"] != b["clusters"] and row in (a, b) and b["beta"] < 1.02 * a["beta"]:
            places.append(row["beta"])
    return any(abs(row["beta"] / place - 1) < 0.01 for place in places)


def hysteresis(rows: Rows, problem: str, method: str) -> tuple[float, float]:
    """β/β_c where the way down becomes trivial and where the way up stops being so."""
    down, up = (path(rows, problem, method, way) for way in ("down", "up"))
    critical = down[0]["critical_beta"]
    return bifurcations(down)[-1] / critical, bifurcations(up)[-1] / critical


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Critical β, bifurcations, hysteresis, and what sampling does to the real joint."""
    del config
    result: dict[str, Any] = {}
    for problem, method in itertools.product(("toy", "real"), METHODS):
        down = path(rows, problem, method, "down")
        result[f"{problem}_{method}"] = {
            "critical_beta": tables.rounded(down[0]["critical_beta"]),
            "measured": tables.rounded(down[0]["measured_critical_beta"]),
            "learnable_beta": tables.rounded(down[0]["learnable_beta"]),
            "clusters": [down[-1]["clusters"], down[0]["clusters"]],
        }
        if problem == "toy":
            for way in ("down", "up"):
                found = bifurcations(path(rows, problem, method, way))
                result[f"toy_{method}"][f"bifurcations_{way}"] = list(map(tables.rounded, found))
    early = {method: {p: hysteresis(rows, p, method) for p in problems(rows)} for method in METHODS}
    result["paths_down_to_and_up_from_beta_over_critical"] = {
        method: {p: list(map(tables.rounded, ends)) for p, ends in found.items()}
        for method, found in early.items()
    }
    real = path(rows, "real", "IB", "down")[0]
    result["real_joint_nats"] = {
        "with_floor": tables.rounded(real["information_nats"]),
        "counted": tables.rounded(real["counted_nats"]),
        "with_shuffled_labels": tables.rounded(real["shuffled_nats"]),
    }
    near = [row["residual"] for row in rows if near_bifurcation(row, rows)]
    far = [row["residual"] for row in rows if not near_bifurcation(row, rows)]
    return result | {
        "largest_residual": tables.rounded(max(far)),
        "largest_residual_within_1_percent_of_a_bifurcation": tables.rounded(max(near, default=0)),
        "iterations": int(sum(row["steps"] for row in rows)),
        "most_iterations": int(max(row["steps"] for row in rows)),
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The closed forms, the equations, monotone curves, and what the paper says of its problem."""
    del config
    return [
        _check_stability(rows),
        _check_hysteresis(rows),
        _check_residuals(rows),
        *_check_curves(rows),
        _check_plane(rows),
        _check_exponents(rows),
        *_check_toy(rows),
    ]


def _check_stability(rows: Rows) -> checks.Check:
    found = {
        (row["problem"], row["method"]): row["measured_critical_beta"] / row["critical_beta"] - 1
        for row in rows
    }
    worst = max(found, key=lambda name: abs(found[name]))
    return checks.Check(
        "perturbations of the trivial solution begin to grow at the closed-form critical β",
        bool(abs(found[worst]) < 0.01),
        f"of {len(found)} the furthest is {found[worst]:+.1e} of it away ({', '.join(worst)})",
    )


def _check_hysteresis(rows: Rows) -> checks.Check:
    """β_0 <= the end of a falling path <= β_c; a rising one leaves at β_c.

    A cluster that fades changes by less than the tolerance while it still has a weight: ends that
    are located may lie a little below β_0.
    """
    names = list(itertools.product(problems(rows), METHODS))
    ends = np.array([hysteresis(rows, *name) for name in names])
    firsts = [path(rows, *name, "down")[0] for name in names]
    least = np.array([row["learnable_beta"] / row["critical_beta"] for row in firsts])
    down, up = ends.T
    above, below = (down / least - 1).clip(0), (1 - down / least).clip(0)
    return checks.Check(
        "rising paths leave the trivial solution at β_c, falling ones come to it from β_c to β_0",
        bool(abs(up - 1).max() < NEAR and below.max() < NEAR and down.max() < 1 + NEAR),
        f"rising ones leave {abs(up - 1).max():.1e} of β_c away at most; of {len(names)} falling "
        f"ones {np.sum(above < NEAR)} end at β_0, {below.max():.1e} below it at most",
    )


def _check_residuals(rows: Rows) -> checks.Check:
    far = [row for row in rows if not near_bifurcation(row, rows)]
    worst = max(far, key=lambda row: row["residual"])
    rest = max((row["residual"] for row in rows if near_bifurcation(row, rows)), default=0.0)
    return checks.Check(
        "the self-consistent equations hold to 1e-10",
        bool(worst["residual"] <= 1e-10),
        f"largest residual {worst['residual']:.1e} ({worst['problem']}, {worst['method']}, β = "
        f"{worst['beta']:.4g}); within 1 % of bifurcations {rest:.1e}",
    )


def _check_curves(rows: Rows) -> list[checks.Check]:
    """Along every path, β rising."""
    falls = {"rate_nats": 0.0, "relevance_nats": 0.0}
    over = 0.0
    for _, own in paths(rows):
        for name in falls:
            falls[name] = max(falls[name], float(-np.diff(tables.column(own, name)).min()))
        rate, relevance, whole = (
            tables.column(own, f"{name}_nats") for name in ("rate", "relevance", "information")
        )
        over = max(over, float((relevance - np.minimum(rate, whole)).max()))
    return [
        checks.Check(
            "I(X;Xh) and I(Y;Xh) rise with β",
            max(falls.values()) < 1e-8,
            f"largest falls {falls['rate_nats']:.1e} and {falls['relevance_nats']:.1e} nats",
        ),
        checks.Check(
            "data processing: I(Y;Xh) is at most I(X;Xh) and I(X;Y)",
            over < 1e-10,
            f"{over:.1e} nats above at most",
        ),
    ]


def _check_plane(rows: Rows) -> checks.Check:
    """IB's F bounds every point of the plane: I(Y;Xh) <= I(X;Y) - (F - I(X;Xh))/β, for every β."""
    above = {}
    for problem in ("toy", "real"):
        ib, dual = (path(rows, problem, method, "down") for method in METHODS)
        beta, rate, relevance = (
            tables.column(ib, name)[:, None] for name in ("beta", "rate_nats", "relevance_nats")
        )
        bound = (relevance + (tables.column(dual, "rate_nats") - rate) / beta).min(0)
        above[problem] = float((tables.column(dual, "relevance_nats") - bound).max())
    return checks.Check(
        "dualIB nowhere above IB in the information plane",
        max(above.values()) < 1e-8,
        "; ".join(f"{problem}: at most {value:.1e} nats above" for problem, value in above.items()),
    )


def _check_exponents(rows: Rows) -> checks.Check:
    """The same for the mean error exponent, with the tangents of dualIB."""
    below = {}
    for problem in ("toy", "real"):
        ib, dual = (path(rows, problem, method, "down") for method in METHODS)
        beta, rate, least = (
            tables.column(dual, name)[:, None] for name in ("beta", "rate_nats", "exponent_nats")
        )
        bound = (least - (tables.column(ib, "rate_nats") - rate) / beta).max(0)
        below[problem] = float((bound - tables.column(ib, "exponent_nats")).max())
    return checks.Check(
        "IB nowhere below dualIB in the mean error exponent",
        max(below.values()) < 1e-8,
        "; ".join(f"{problem}: at most {value:.1e} nats below" for problem, value in below.items()),
    )


def _check_toy(rows: Rows) -> list[checks.Check]:
    down = {method: path(rows, "toy", method, "down") for method in METHODS}
    counts = {m: [row["clusters"] for row in own] for m, own in down.items()}
    critical = {m: own[0]["critical_beta"] for m, own in down.items()}
    return [
        checks.Check(
            "toy problem: from 5 clusters to 1, merging",
            all(c[0] == 1 and c[-1] == 5 and np.all(np.diff(c) >= 0) for c in counts.values()),
            "; ".join(f"{m}: {c[-1]} to {c[0]}" for m, c in counts.items()),
        ),
        checks.Check(
            "toy problem: dualIB splits first",
            critical["dualIB"] < critical["IB"],
            f"β_c = {critical['dualIB']:.4f} and {critical['IB']:.4f}",
        ),
    ]


def table(rows: Rows) -> str:
    """One line for each problem and method."""
    lines = [
        f"{'problem':<10} {'method':<7} {'I(X;Y)':>7} {'β_c':>8} {'measured':>9} {'β_0/β_c':>8} "
        f"{'down to':>8} {'up from':>8} {'clusters':>8} {'iterations':>10} {'residual':>9}   "
        "(the ends of paths in units of β_c)"
    ]
    for problem, method in itertools.product(problems(rows), METHODS):
        own = path(rows, problem, method, "down") + path(rows, problem, method, "up")
        low, high = hysteresis(rows, problem, method)
        first = own[0]
        lines.append(
            f"{problem:<10} {method:<7} {first['information_nats']:7.4f} "
            f"{first['critical_beta']:8.4f} {first['measured_critical_beta']:9.4f} "
            f"{first['learnable_beta'] / first['critical_beta']:8.4f} {low:8.4f} {high:8.4f} "
            f"{max(r['clusters'] for r in own):8d} {sum(r['steps'] for r in own):10d} "
            f"{max(r['residual'] for r in own):9.1e}"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------ figure

LOOKS = {"IB": (style.BLUE, "o", "-"), "dualIB": (style.ORANGE, "s", "--")}


def plot(rows: Rows, config: Config) -> Any:
    """Diagrams and plane of the toy problem; hysteresis; plane and exponent of images."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6))
    for axis, method in zip(axes[0], METHODS, strict=False):
        _draw_bifurcations(axis, rows, method)
    _draw_plane(axes[0, 2], rows, "toy", "toy problem: what clusters know")
    _draw_hysteresis(axes[1, 0], rows)
    name = f"{config.dataset}: {config.num_components} components in {config.num_bins} bins"
    _draw_plane(axes[1, 1], rows, "real", name)
    _draw_exponents(axes[1, 2], rows, config.dataset)
    for axis in axes.ravel():
        axis.title.set_fontsize(10)
    return figure


def _draw_bifurcations(axis: Any, rows: Rows, method: str) -> None:
    own = path(rows, "toy", method, "down")
    beta = np.log2(tables.column(own, "beta"))
    colour, marker, _ = LOOKS[method]
    for t in range(len(STATISTIC)):
        label = "clusters, β falling" if t == 0 else None
        values = tables.column(own, f"cluster_{t + 1}")
        axis.plot(beta, values, color=colour, marker=marker, markersize=2.5, label=label)
    for k, value in enumerate(1 / (1 + np.exp(2 * STATISTIC))):
        label = "p(y=1|x) of the five x" if k == 0 else None
        axis.axhline(value, color=style.GREY, linestyle=":", linewidth=1, label=label)
    critical = np.log2(own[0]["critical_beta"])
    axis.axvline(critical, color="black", linestyle="--", linewidth=1, label="closed-form β_c")
    for k, place in enumerate(bifurcations(own)[:-1]):
        label = "further bifurcations" if k == 0 else None
        axis.axvline(np.log2(place), color=style.GREEN, linestyle="-.", linewidth=1, label=label)
    axis.set(
        xlabel="log2 β", ylabel="p(y = 1 | cluster)", ylim=(0, 0.95), title=f"{method}, toy problem"
    )
    axis.legend(fontsize=7.5, loc="lower left", frameon=True, framealpha=0.95, edgecolor="none")


def _draw_plane(axis: Any, rows: Rows, problem: str, title: str) -> None:
    for method, (colour, marker, dash) in LOOKS.items():
        own = path(rows, problem, method, "down")
        rate, relevance = (tables.column(own, f"{n}_nats") for n in ("rate", "relevance"))
        some = max(1, len(own) // 14)
        axis.plot(
            rate, relevance, color=colour, linestyle=dash, marker=marker, markevery=some,
            label=f"{method} (first split at β = {own[0]['critical_beta']:.3g})",
        )  # fmt: skip
    whole = own[0]["information_nats"]
    axis.axhline(whole, color="black", linestyle=":", linewidth=1)
    axis.text(
        0.02 * axis.get_xlim()[1], whole * 0.99, f"I(X;Y) = {whole:.3g}", va="top", fontsize=8
    )
    if problem == "real":
        null = own[0]["shuffled_nats"]
        axis.axhline(null, color=style.GREY, linestyle="-.", linewidth=1)
        said = f"I(X;Y) of shuffled labels: {null:.2g}, from counting"
        axis.text(axis.get_xlim()[1], null * 1.02, said, ha="right", va="bottom", fontsize=8)
    axis.set(xlabel="I(X;Xh), nats", ylabel="I(Y;Xh), nats", title=title)
    axis.set(xlim=(0, None), ylim=(0, None))
    axis.legend(fontsize=8, loc="center right")


def _draw_hysteresis(axis: Any, rows: Rows) -> None:
    names = [p for p in problems(rows) if p.startswith("random")]
    for shift, (method, (colour, _, _)) in zip((-0.15, 0.15), LOOKS.items(), strict=True):
        at = np.arange(len(names)) + shift
        low, high = np.array([hysteresis(rows, p, method) for p in names]).T
        axis.vlines(at, low, high, color=colour, linewidth=4, alpha=0.35)
        axis.plot(at, low, color=colour, marker="v", linestyle="", label=f"{method}, β falling to")
        axis.plot(at, high, color=colour, marker="^", linestyle="", label=f"{method}, rising from")
        firsts = [path(rows, p, method, "down")[0] for p in names]
        least = [row["learnable_beta"] / row["critical_beta"] for row in firsts]
        said = "in theory: β_0 and β_c" if method == "IB" else None
        for ends in (np.ones(len(names)), least):
            axis.plot(at, ends, color="black", marker="_", markersize=11, linestyle="", label=said)
            said = None
    axis.set_xticks(range(len(names)), [p.split()[1] for p in names])
    axis.set(
        xlabel="random joint", ylabel="β / closed-form β_c",
        title="the first transition: bars are hysteresis", ylim=(0.3, 1.4),
    )  # fmt: skip
    axis.legend(fontsize=7.5, loc="upper center", ncols=2)


def _draw_exponents(axis: Any, rows: Rows, name: str) -> None:
    for method, (colour, marker, dash) in LOOKS.items():
        own = path(rows, "real", method, "down")
        axis.plot(
            tables.column(own, "rate_nats"), tables.column(own, "exponent_nats"), color=colour,
            linestyle=dash, marker=marker, markevery=max(1, len(own) // 14), label=method,
        )  # fmt: skip
    axis.set(
        xlabel="I(X;Xh), nats",
        ylabel="E D(p(y|xh) ‖ p(y|x)), nats a label",
        title=f"{name}: mean error exponent, best decoder of each",
    )
    axis.set(xlim=(0, None), ylim=(0, None))
    axis.legend(fontsize=8)


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.bottleneck")

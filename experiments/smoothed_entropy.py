"""Entropies after smoothing by known noise: how soon samples find them, and what rivals find.

h(P * N_σ) from samples of P, where the noise is known: `iw.smoothed_entropy`, the plug-in estimate
of Goldfeld, Greenewald & Polyanskiy, comes from below. Beside it stand rivals that are shown
samples of S + Z and are not told σ: a kernel density with a fitted width, and nearest neighbours
(Kozachenko & Leonenko). The truth is an integral for a mixture at the corners of a cube, whose
coordinates are independent, and for BPSK over all words of {-1, 1}^d; of a Reed-Muller code the
words are known. A hidden layer of a noisy network has no known truth. Last, how the error of Monte
Carlo, all that is left once samples are given, falls with the draws.

Default: about three minutes on 2 CPU cores. Paper: Goldfeld, Greenewald & Polyanskiy
(arXiv:1810.11589), its simulations and Thms 2, 5.
"""

import dataclasses
import itertools
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import iw_jax as iw
from experiments.common import checks, smoothed_laws, tables
from experiments.common import config as common
from experiments.common import smoothed_panels as panels
from experiments.common.context import Context
from experiments.common.smoothed_laws import RIVALS, Law
from experiments.common.smoothed_panels import (
    cells,
    errors,
    estimates,
    name_of,
    numbers,
    rms,
    select,
)
from experiments.common.tables import Rows
from iw_jax import data
from iw_jax.activations import smoothed

RIVALS_TO = 2**16  # samples at most; their trees are slow in many dimensions
LAYER_SIGMA = 0.2  # of the spiral network


@dataclasses.dataclass(frozen=True)
class Config:
    """What is estimated.

    Attributes:
      dimensions: d of the mixture at the corners of [-1, 1]^d; increasing.
      sigmas: standard deviations σ of the noise there; increasing.
      spread: standard deviation of each of its 2^d components.
      truncated: whether the mixture is cut off at the faces of the cube.
      codes: r and m of Reed-Muller codes RM(r, m), d = 2^m; at most 65,536 words unless r = m.
      code_sigmas: σ of their channel; increasing.
      numbers: samples n, at least two; increasing.
      num_points: draws at which an estimated density is evaluated.
      num_repeats: independent repeats of everything.
      num_centres: samples of the Monte-Carlo study.
      draws: n_MC, evaluation points for each of these, at least two; increasing.
      num_trials: independent Monte-Carlo estimates behind each error.
      num_steps: of Adam for the spiral network.
      seed: root of all randomness.
    """

    dimensions: tuple[int, ...] = (5, 10)
    sigmas: tuple[float, ...] = (0.1, 0.5)
    spread: float = 0.1
    truncated: bool = True
    codes: tuple[tuple[int, int], ...] = ((1, 4), (4, 4))
    code_sigmas: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    numbers: tuple[int, ...] = (256, 1024, 4096, 16384)
    num_points: int = 4096
    num_repeats: int = 4
    num_centres: int = 512
    draws: tuple[int, ...] = (1, 4, 16, 64)
    num_trials: int = 24
    num_steps: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        least = {"num_points": 8, "num_repeats": 2, "num_centres": 2, "num_trials": 3}
        common.at_least(self, **least)
        for name, fewest, smallest in (
            ("dimensions", 1, 1),
            ("sigmas", 1, 0),
            ("code_sigmas", 1, 0),
            ("numbers", 2, 16),
            ("draws", 2, 1),
        ):
            values = getattr(self, name)
            rising = all(a < b for a, b in itertools.pairwise((*values, np.inf)))
            common.require(
                len(values) >= fewest and rising and values[0] >= smallest and values[0] > 0,
                name,
                f"at least {fewest}, positive, finite, increasing and not below {smallest}",
                values,
            )
        common.require(0 < self.spread < 0.3, "spread", "between 0 and 0.3", self.spread)
        known = all(
            0 <= r <= m <= 10 and (r == m or len(smoothed_laws.generator(r, m)) <= 16)
            for r, m in self.codes
        )
        common.require(
            known and self.codes,
            "codes",
            "at least one pair 0 <= r <= m <= 10, with at most 65,536 words unless r = m",
            self.codes,
        )


PRESETS = {
    "quick": Config(
        dimensions=(5,),
        sigmas=(0.5,),
        codes=((1, 2), (2, 2)),
        code_sigmas=(1.0,),
        numbers=(256, 1024),
        num_points=1024,
        num_centres=64,
        draws=(1, 16),
        num_trials=16,
        num_steps=300,
    ),
    "default": Config(),
    "paper": Config(
        dimensions=(5, 10, 15),
        sigmas=(0.01, 0.1, 0.2, 0.5),
        codes=((1, 4), (4, 4), (5, 5)),
        numbers=(256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576),
        num_points=16_384,
        num_repeats=8,
        num_centres=10_000,
        num_trials=48,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """600 points on three arms of a spiral, (600, 2); the other laws are formulas."""
    del data_dir
    x, arm = smoothed_laws.spiral(np.random.default_rng((config.seed, 3)), 600)
    none = np.zeros(0, np.int32)
    return data.Dataset("spiral", np.float32(x), np.int32(arm), np.float32(x[:0]), none, 3)


# ----------------------------------------------------------------------------------- the run

COLUMNS = (
    *("kind", "law", "dimension", "sigma", "num_samples", "num_draws", "estimator", "repeat"),
    *("nats", "stderr_nats", "lower_nats", "upper_nats", "converged", "exact_nats"),
    *("exact_stderr_nats", "rmse_nats", "bound_nats"),
)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each estimate; one for each Monte-Carlo error."""
    ledger = context.ledger("cells")
    laws = [
        ("corners", smoothed_laws.corners(d, config.spread, config.truncated), s)
        for d, s in itertools.product(config.dimensions, config.sigmas)
    ]
    laws += [("layer", spiral_layer(config, dataset, context), LAYER_SIGMA)]
    laws += [
        ("code", smoothed_laws.reed_muller(*code), s)
        for code, s in itertools.product(config.codes, config.code_sigmas)
    ]
    cells = [(i, n) for i in range(len(laws)) for n in config.numbers]
    rows: list[dict[str, Any]] = []
    for i, number in context.track(cells, "estimates"):
        make = lambda i=i, n=number: _estimates(config, *laws[i], n, (config.seed, i, n))  # noqa: E731
        rows += ledger.get(f"{i}, {number}", make)
    errors = [law for law in laws if law[0] == "corners"]
    for i, (_, law, sigma) in enumerate(context.track(errors, "Monte Carlo")):
        make = lambda i=i, law=law, s=sigma: _monte_carlo(config, law, s, (config.seed, i))  # noqa: E731
        rows += ledger.get(f"errors {i}", make)
    return [dict.fromkeys(COLUMNS, "") | row for row in rows]


def spiral_layer(config: Config, dataset: data.Dataset, context: Context) -> Law:
    """The law of S_3, 10 units of a noisy tanh network; its entropy is not known."""
    x, arm = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    key = jax.random.key(config.seed)
    params = smoothed_laws.train(key, x, arm, LAYER_SIGMA, config.num_steps)

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        fresh = jnp.float32(smoothed_laws.spiral(rng, number)[0])
        noise = jax.random.key(int(rng.integers(2**31)))
        return np.asarray(smoothed_laws.forward(params, fresh, noise, LAYER_SIGMA)[0])

    fresh, of = smoothed_laws.spiral(np.random.default_rng((config.seed, 4)), 3000)
    _, logits = smoothed_laws.forward(params, jnp.float32(fresh), key, 0.0)
    context.notes["spiral_accuracy"] = tables.rounded((np.asarray(logits).argmax(1) == of).mean())
    return Law("spiral (tanh 2-8-9-10)", smoothed_laws.HIDDEN[-1], draw, lambda _: (np.nan, np.nan))


def _estimates(
    config: Config, kind: str, law: Law, sigma: float, number: int, seed: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Of one law, σ and n: every estimator in every repeat, on the same samples."""
    exact, exact_stderr = law.entropy(sigma)
    about = {"kind": kind, "law": law.name, "dimension": law.size, "sigma": sigma}
    about |= {"num_samples": number}
    if np.isfinite(exact):
        about |= {"exact_nats": exact, "exact_stderr_nats": exact_stderr}
    rows = []
    for repeat in range(config.num_repeats):
        rng = np.random.default_rng((*seed, repeat))
        samples = law.draw(rng, number)
        key = jax.random.key(int(rng.integers(2**31)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of too few samples: `converged` tells
            found = iw.smoothed_entropy(key, samples, sigma, num_points=config.num_points)
        lower, upper = found.interval()
        rows.append(about | {"estimator": "sp", "repeat": repeat})
        rows[-1] |= {"nats": float(found.value), "stderr_nats": float(found.stderr)}
        rows[-1] |= {"lower_nats": float(lower), "upper_nats": float(upper)}
        rows[-1] |= {"converged": int(found.converged)}
        rows[-1] |= {"bound_nats": smoothed.entropy_risk_bound(number, law.size, sigma)}
        if kind == "code" or number > RIVALS_TO:
            continue
        noisy = samples + sigma * rng.normal(size=samples.shape)
        for name, estimate in RIVALS.items():
            rows.append(about | {"estimator": name, "repeat": repeat})
            rows[-1] |= {"nats": estimate(noisy, rng)}
    return rows


def _monte_carlo(config: Config, law: Law, sigma: float, seed: tuple[int, ...]) -> list[dict]:
    """Spread of `iw.mixture_entropy` of fixed centres, which is unbiased, for every n_MC."""
    rng = np.random.default_rng((*seed, 5))
    centres = law.draw(rng, config.num_centres)
    second = None if config.truncated else float((centres**2).sum(1).mean())
    rows = []
    for draws in config.draws:
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), config.num_trials)
        count = draws * len(centres)
        found = [iw.mixture_entropy(k, centres, sigma, num_points=count).value for k in keys]
        bound = smoothed.monte_carlo_bound(len(centres), draws, law.size, sigma, second)
        row = {"kind": "monte_carlo", "law": law.name, "dimension": law.size, "sigma": sigma}
        row |= {"num_samples": len(centres), "num_draws": draws, "nats": float(np.mean(found))}
        rows.append(row | {"rmse_nats": float(np.std(found, ddof=1)), "bound_nats": bound})
    return rows


# ------------------------------------------------------------------------ what the table says


def slope(rows: Rows, where: dict[str, Any], num_trials: int) -> tuple[float, float]:
    """Of log RMSE against log n_MC, least squares, and its standard error."""
    own = sorted(select(rows, **where), key=lambda row: row["num_draws"])
    x, y = (np.log(tables.column(own, name)) for name in ("num_draws", "rmse_nats"))
    x = x - x.mean()
    return float(x @ y / (x @ x)), float(1 / np.sqrt(2 * (num_trials - 1) * (x @ x)))


def known(rows: Rows) -> Rows:
    """Estimates with known noise, of laws whose entropy is known."""
    return [r for r in select(rows, estimator="sp") if r["exact_nats"] != ""]


def covered(row: Any) -> bool:
    """Whether the interval of an estimate holds the truth."""
    doubt = 2 * row["exact_stderr_nats"]
    return row["lower_nats"] - doubt <= row["exact_nats"] <= row["upper_nats"] + doubt


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """RMSE at the most samples, coverage, the spiral layer, codes, and slopes of Monte Carlo."""
    result: dict[str, Any] = {"num_samples": list(config.numbers), "corners_rmse_nats": {}}
    for cell in cells(rows, "corners"):
        result["corners_rmse_nats"][name_of(cell)] = {
            name: [tables.rounded(v) for v in rms(errors(rows, estimator=name, **cell))]
            for name in panels.LOOKS
        }
    shares = {
        name: tables.rounded(np.mean([covered(row) for row in own])) if own else None
        for name, own in (("converged", select(known(rows), converged=1)), ("all", known(rows)))
    }
    result["intervals_that_hold_the_truth"] = shares
    (layer,) = cells(rows, "layer")
    result["spiral_layer_nats"] = {
        name: [tables.rounded(v) for v in estimates(rows, estimator=name, **layer).mean(1)]
        for name in panels.LOOKS
    }
    result["code_error_nats"] = {
        name_of(cell): [tables.rounded(v) for v in errors(rows, estimator="sp", **cell).mean(1)]
        for cell in cells(rows, "code")
    }
    result["monte_carlo_slopes"] = {
        name_of(cell): [tables.rounded(v) for v in slope(rows, cell, config.num_trials)]
        for cell in cells(rows, "monte_carlo")
    }
    return result


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether intervals hold the truth, bias is from below, rivals are worse, and slopes -1/2."""
    own = select(known(rows), converged=1)
    held, everywhere = (np.mean([covered(row) for row in some]) for some in (own, known(rows)))
    return [
        checks.Check(
            "nine intervals in ten hold the truth where halving the samples shows convergence",
            bool(held >= 0.9),
            f"{held:.1%} of {len(own)}; {everywhere:.1%} of all {len(known(rows))}",
        ),
        _check_from_below(rows, config),
        _check_rivals(rows, config),
        *_check_monte_carlo(rows, config),
    ]


def _check_from_below(rows: Rows, config: Config) -> checks.Check:
    """No mean over repeats lies above the truth, nor falls with more samples, beyond its error."""
    away = []
    for cell in [*cells(rows, "corners"), *cells(rows, "code")]:
        where = cell | {"estimator": "sp"}
        mean = errors(rows, **where).mean(1)
        parts = estimates(rows, "stderr_nats", **where)
        stderr = np.sqrt((parts**2).sum(1)) / config.num_repeats
        truth = estimates(rows, "exact_stderr_nats", **where)[:, 0]
        steps = -np.diff(mean) / np.hypot(stderr[1:], stderr[:-1])
        above = mean / np.hypot(stderr, truth)
        away += [(float(above.max()), f"above, {name_of(cell)}")]
        away += [(float(steps.max()), f"falling, {name_of(cell)}")]
    allowed = float(stats.norm.isf(checks.FALSE_ALARM / (2 * len(away) * len(config.numbers))))
    worst, where_worst = max(away)
    return checks.Check(
        "iw.smoothed_entropy comes from below, and rises with the samples",
        worst < allowed,
        f"at most {worst:.1f} standard errors ({where_worst}), allowed {allowed:.1f}",
    )


def _check_rivals(rows: Rows, config: Config) -> checks.Check:
    """RMSE where d >= 5 and the noise is wider than a component, at the most samples."""
    told, passed = [], True
    for cell in cells(rows, "corners"):
        if cell["dimension"] < 5 or cell["sigma"] <= config.spread:
            continue
        last = numbers(rows, estimator="knn", **cell)[-1]
        at = {name: select(rows, estimator=name, num_samples=last, **cell) for name in panels.LOOKS}
        error = {name: rms(errors(own))[0] for name, own in at.items()}
        passed &= bool(error["sp"] < min(error["kde"], error["knn"]))
        told.append(
            f"{name_of(cell)}, n = {last}: {error['sp']:.3f} against {error['kde']:.3f} (kernels) "
            f"and {error['knn']:.3f} nats (neighbours)"
        )
    return checks.Check(
        "at d >= 5 and σ above the components' spread it is nearer than both rivals",
        passed,
        "; ".join(told) or "no such σ",
    )


def _check_monte_carlo(rows: Rows, config: Config) -> list[checks.Check]:
    """The slope in n_MC, and the bound of Theorem 5."""
    own = cells(rows, "monte_carlo")
    found = {name_of(cell): slope(rows, cell, config.num_trials) for cell in own}
    allowed = float(stats.norm.isf(checks.FALSE_ALARM / 2 / len(found)))
    study = select(rows, kind="monte_carlo")
    used = tables.column(study, "rmse_nats") / tables.column(study, "bound_nats")
    return [
        checks.Check(
            "the Monte-Carlo error falls as n_MC^(-1/2)",
            all(abs(s + 0.5) < allowed * e for s, e in found.values()),
            "; ".join(f"{name}: {s:.3f} ± {e:.3f}" for name, (s, e) in found.items()),
        ),
        checks.Check(
            "and stays below the bound of Theorem 5",
            bool(used.max() < 1),
            f"{used.min():.1%} to {used.max():.1%} of it",
        ),
    ]


def table(rows: Rows) -> str:
    """One line for each law, σ and n: means over repeats and their spread."""
    lines = [
        f"{'law':<22} {'d':>3} {'σ':>5} {'n':>8} {'truth':>9} {'smoothed':>9} {'±':>6} "
        f"{'interval':>18} {'kernels':>9} {'±':>6} {'neighbours':>10} {'±':>6}   (nats)"
    ]
    for cell in [*cells(rows, "corners"), *cells(rows, "layer"), *cells(rows, "code")]:
        for number in numbers(rows, **cell):
            where = cell | {"num_samples": number}
            own = select(rows, estimator="sp", **where)
            ends = [tables.column(own, f"{end}_nats").mean() for end in ("lower", "upper")]
            truth = own[0]["exact_nats"]
            parts = [f"{truth:9.3f}" if truth != "" else f"{'-':>9}"]
            for name, wide in zip(panels.LOOKS, (9, 9, 10), strict=True):
                values = tables.column(select(rows, estimator=name, **where), "nats")
                if len(values):
                    parts.append(f"{values.mean():{wide}.3f} {values.std(ddof=1):6.3f}")
                if name == "sp":
                    parts.append(f"{f'[{ends[0]:.2f}, {ends[1]:.2f}]':>18}")
            lines.append(
                f"{cell['law']:<22} {cell['dimension']:3d} {cell['sigma']:5.3g} {number:8d} "
                + " ".join(parts)
            )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Mixtures and the spiral layer against n; codes against σ and n; error against n_MC."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6))
    shown = sorted({config.dimensions[0], config.dimensions[-1]})
    for axis, size in itertools.zip_longest(axes[0, :2], shown):
        if size is None:
            axis.set_axis_off()
        else:
            panels.draw_corners(axis, rows, size, config)
    panels.draw_layer(axes[0, 2], rows)
    panels.draw_channel(axes[1, 0], rows, config)
    panels.draw_code_error(axes[1, 1], rows, config)
    panels.draw_monte_carlo(axes[1, 2], rows)
    for axis in axes.flat:
        axis.title.set_fontsize(10)
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, label=said)
        for colour, marker, said in panels.LOOKS.values()
    ]
    said = f"mean and standard deviation of {config.num_repeats} repeats"
    figure.legend(handles=handles, loc="outside upper center", ncols=3, title=said)
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.smoothed_entropy")

"""How long noise takes to leave a sharp and a flat minimum, and whether it prefers the flat one.

Two minima of equal loss, one sharp and one flat, joined by a barrier. Under isotropic noise of
temperature T the times to escape from them have the ratio sqrt(det H_sharp/det H_flat) at every T
(Eyring-Kramers): hotter noise does not favour the flat minimum more. Two things would make the
ratio move with T: a difference in loss, and noise that scales with curvature, as that of SGD does.
All four cases are simulated, and every mean time stands beside an exact one.

Default: about three minutes on 2 CPU cores. Paper: Achille, Paolini & Soatto
(arXiv:1905.12213), Prop. 2.8.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.common import checks, landscapes, passage, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.landscapes import LANDSCAPES, STARTS, Landscape
from experiments.common.tables import Rows
from iw_jax import data

STEPS = {"coarse": 0.04, "fine": 0.02}  # step size times the largest curvature of the minimum
NUM_ROUNDS, FORGOTTEN = 20, 4  # rounds; the first ones, until the start is forgotten
DRAWN = 10  # steps whose noise is drawn at once
LEAST_WALKERS = 40  # of a cell, for the jackknife
_LEAST = {"num_escapes": 10, "max_walkers": LEAST_WALKERS, "num_steps": NUM_ROUNDS * DRAWN}
# How far the threshold of a walk in steps lies beyond that of the path: -ζ(1/2)/sqrt(2π).
OVERSHOOT = 0.5826
CASES = {
    "isotropic": ("equal loss, isotropic noise", style.BLUE, "o", "-"),
    "tilted": (f"flat minimum higher by {landscapes.TILT:g}", style.GREEN, "D", "-."),
    "shaped": ("equal loss, noise ∝ Fisher φ'²", style.ORANGE, "s", "--"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is simulated.

    Attributes:
      temperatures: T, barrier heights of 1; increasing. The landscapes of two dimensions take every
        second one.
      num_escapes: to be expected from each minimum, for each landscape, T and step size.
      num_steps: of every walker.
      max_walkers: for each of these; fewer escapes where that is not enough for `num_escapes`.
      seed: root of all randomness.
    """

    temperatures: tuple[float, ...] = (0.2, 0.25, 0.3, 0.4, 0.5)
    num_escapes: int = 1000
    num_steps: int = 100_000
    max_walkers: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        rising = list(self.temperatures) == sorted(set(self.temperatures))
        if not (len(self.temperatures) >= 2 and rising and self.temperatures[0] >= 0.1):
            raise ValueError(
                "temperatures must be at least two, increasing and not below 0.1 (below, nothing "
                f"escapes), got {self.temperatures}"
            )
        common.at_least(self, **_LEAST)


PRESETS = {
    "quick": Config(temperatures=(0.4, 0.6), num_escapes=60, num_steps=4000),
    "default": Config(),
    "paper": Config(
        temperatures=(0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
        num_escapes=20_000,
        num_steps=400_000,
        max_walkers=100_000,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """There are no data: the parameters of the landscapes, one a row."""
    del config, data_dir
    x = np.array(list(LANDSCAPES.values()), np.float32)
    none = np.zeros(len(x), np.int32)
    return data.Dataset("landscapes", x, none, x[:0], none[:0], num_classes=2)


# ----------------------------------------------------------------------------------- the run


class Walkers(NamedTuple):
    """What each walker does, (W,) each.

    Attributes:
      world: landscape of each.
      temperature: T.
      step: step size.
      start: x0, where it begins and after an escape begins again.
      target: x where it has escaped.
    """

    world: Landscape
    temperature: jax.Array
    step: jax.Array
    start: jax.Array
    target: jax.Array


@partial(jax.jit, static_argnames="num_draws")
def walk(
    key: jax.Array, walkers: Walkers, position: jax.Array, escapes: jax.Array, num_draws: int
) -> tuple[jax.Array, jax.Array]:
    """Euler-Maruyama; positions (d, W) and numbers of escapes (W,) after num_draws * DRAWN steps.

    A walk in steps sees a path only now and then and misses that it was beyond the target for a
    moment: the target lies 0.5826 standard deviations of a step nearer (Broadie, Glasserman & Kou
    1997; Gobet 2000), so that the error of the mean time is of first order in the step.
    """
    restart = starting(walkers.start, len(position))
    side = jnp.sign(walkers.target - walkers.start)
    reach = jnp.sqrt(
        2 * landscapes.noise(walkers.target, walkers.temperature, walkers.world) * walkers.step
    )
    target = walkers.target - OVERSHOOT * side * reach
    gradient = jax.vmap(jax.grad(landscapes.loss), in_axes=(1, 0), out_axes=1)

    def one(state: tuple[jax.Array, jax.Array], normal: jax.Array) -> Any:
        position, escapes = state
        D = landscapes.noise(position[0], walkers.temperature, walkers.world)
        kick = jnp.sqrt(2 * D * walkers.step) * normal
        position = position - walkers.step * gradient(position, walkers.world) + kick
        out = side * (position[0] - target) >= 0
        return (jnp.where(out, restart, position), escapes + out), None

    def some(state: tuple[jax.Array, jax.Array], key: jax.Array) -> Any:
        normals = jax.random.normal(key, (DRAWN, *position.shape))
        return jax.lax.scan(one, state, normals)[0], None

    return jax.lax.scan(some, (position, escapes), jax.random.split(key, num_draws))[0]


def starting(x: jax.Array, dimension: int) -> jax.Array:
    """Positions (d, W) at the bottom of the valley, from x (W,)."""
    return jnp.zeros((dimension, len(x)), x.dtype).at[0].set(x)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each landscape, T, minimum and step size."""
    del dataset
    rows = []
    for dimension in context.track((1, 2), "dimensions"):
        cells = context.ledger("exact").get(
            f"{dimension}", lambda dimension=dimension: _cells(config, dimension)
        )
        rows += _simulated(config, cells, dimension, context)
    return rows


def _cells(config: Config, dimension: int) -> list[dict[str, Any]]:
    """What is to be simulated, with the exact times."""
    cells = []
    for name, world in LANDSCAPES.items():
        if name.startswith("valley") != (dimension == 2):
            continue
        for temperature in config.temperatures[dimension - 1 :: dimension]:
            for start in STARTS:
                times = landscapes.exact(world, dimension, temperature, start)
                step = {"landscape": name, "temperature": temperature, "start": start}
                cells += [{**step, "step": size, **times} for size in STEPS]
    return cells


def _simulated(
    config: Config, cells: list[dict[str, Any]], dimension: int, context: Context
) -> list[dict[str, Any]]:
    """All cells of a dimension in one program: as many walkers each as its escapes take."""
    sizes = np.array([STEPS[cell["step"]] / cell["stiffest"] for cell in cells])
    draws = config.num_steps // (NUM_ROUNDS * DRAWN)
    observed = draws * DRAWN * (NUM_ROUNDS - FORGOTTEN) * sizes
    wanted = config.num_escapes * np.array([cell["exact"] for cell in cells]) / observed
    counts = np.clip(np.ceil(wanted).astype(int), LEAST_WALKERS, config.max_walkers)
    owner = np.repeat(np.arange(len(cells)), counts)
    worlds = [LANDSCAPES[cell["landscape"]] for cell in cells]
    phi = np.array([STARTS[cell["start"]] for cell in cells])
    bend = np.array([world.bend for world in worlds])
    every = lambda values: jnp.asarray(np.asarray(values)[owner], jnp.float32)  # noqa: E731
    walkers = Walkers(
        Landscape(*map(every, zip(*worlds, strict=True))),
        every([cell["temperature"] for cell in cells]),
        every(sizes),
        every(landscapes.weight(phi, bend)),
        every(landscapes.weight(-phi, bend)),
    )
    root = jax.random.fold_in(jax.random.key(config.seed), dimension)

    def round_of(i: int, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position, escapes = walk(jax.random.fold_in(root, i), walkers, *state, draws)
        return position, escapes if i >= FORGOTTEN else jnp.zeros_like(escapes)

    state = starting(walkers.start, dimension), jnp.zeros(len(owner), jnp.int32)
    stage = "one weight" if dimension == 1 else "valleys"
    escapes = np.asarray(context.iterate(round_of, state, NUM_ROUNDS, stage)[1])
    rows = []
    for number, cell in enumerate(cells):
        own = escapes[owner == number]
        mean, stderr = passage.mean_spell(own, observed[number])
        rows.append(
            {
                **{name: cell[name] for name in ("landscape", "temperature", "start", "step")},
                "dimension": dimension,
                "step_size": float(sizes[number]),
                "mean_escape": mean,
                "mean_escape_stderr": stderr,
                "mean_escape_exact": cell["exact"],
                "mean_escape_kramers": cell["kramers"],
                "log_det_hessian": cell["log_determinant"],
                "num_walkers": len(own),
                "num_escapes": int(own.sum()),
            }
        )
    return rows


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, landscape: str, start: str, name: str, step: str = "fine") -> np.ndarray:
    """One column of the escapes from one minimum of a landscape, T increasing."""
    return tables.grid(
        rows, name, axes=("temperature",), landscape=landscape, start=start, step=step
    )


def log_ratio(rows: Rows, landscape: str, name: str = "mean_escape") -> np.ndarray:
    """log(τ_flat/τ_sharp), T increasing."""
    flat, sharp = (np.log(column(rows, landscape, start, name)) for start in ("flat", "sharp"))
    return flat - sharp


def exact_log_ratio(rows: Rows, landscape: str) -> np.ndarray:
    """`log_ratio` of the exact times."""
    return log_ratio(rows, landscape, "mean_escape_exact")


def log_ratio_error(rows: Rows, landscape: str) -> np.ndarray:
    """Standard error of `log_ratio`."""
    errors = [
        column(rows, landscape, start, "mean_escape_stderr")
        / column(rows, landscape, start, "mean_escape")
        for start in STARTS
    ]
    return np.hypot(*errors)


def ratios(rows: Rows, landscape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """τ_flat/τ_sharp as simulated, its standard error, and exactly; T increasing."""
    found, exact = (np.exp(f(rows, landscape)) for f in (log_ratio, exact_log_ratio))
    return found, found * log_ratio_error(rows, landscape), exact


def by_determinants(rows: Rows, landscape: str) -> float:
    """½ log(det H_sharp/det H_flat), what Eyring and Kramers say of `log_ratio` at equal loss."""
    sharp, flat = (column(rows, landscape, start, "log_det_hessian")[0] for start in STARTS)
    return (sharp - flat) / 2


def valleys(rows: Rows) -> list[str]:
    """Names of the landscapes of two dimensions."""
    return list(dict.fromkeys(row["landscape"] for row in rows if row["dimension"] == 2))


def step_errors(rows: Rows) -> dict[str, tuple[float, float]]:
    """Mean over all cells of log(τ/τ_exact) for both step sizes, and its standard error."""
    found = {}
    for size in STEPS:
        own = [row for row in rows if row["step"] == size]
        errors = [_relative_error(row) for row in own]
        excess = float(np.mean([_excess(row) for row in own]))
        found[size] = excess, float(np.linalg.norm(errors) / len(own))
    return found


def _excess(row: Any) -> float:
    return float(np.log(row["mean_escape"] / row["mean_escape_exact"]))


def _relative_error(row: Any) -> float:
    return float(row["mean_escape_stderr"] / row["mean_escape"])


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Ratios of escape times where it is coldest and hottest, and what determinants say."""
    summary: dict[str, Any] = {
        "temperatures": [config.temperatures[0], config.temperatures[-1]],
        "step_error": {
            size: [tables.rounded(part) for part in parts]
            for size, parts in step_errors(rows).items()
        },
    }
    for name in (*CASES, *valleys(rows)):
        found, error, exact = ([tables.rounded(x[i]) for i in (0, -1)] for x in ratios(rows, name))
        summary[name] = {
            "flat_over_sharp": found,
            "flat_over_sharp_stderr": error,
            "flat_over_sharp_exact": exact,
            "root_of_determinants": tables.rounded(np.exp(by_determinants(rows, name))),
        }
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether simulated times are the exact ones, and which minima those prefer."""
    del config
    return [*_check_simulation(rows), *_check_preference(rows)]


def _check_simulation(rows: Rows) -> list[checks.Check]:
    """Times and ratios against exact ones; what the step size does."""
    fine, coarse = ([row for row in rows if row["step"] == size] for size in ("fine", "coarse"))
    times = {
        f"{f['landscape']}, {f['start']}, T {f['temperature']:g}": (2 * _excess(f) - _excess(c))
        / np.hypot(2 * _relative_error(f), _relative_error(c))
        for f, c in zip(fine, coarse, strict=True)
    }
    by_ratio, errors = {}, []
    for name in (*CASES, *valleys(rows)):
        T = column(rows, name, "flat", "temperature")
        errors.append(log_ratio_error(rows, name))
        z = (log_ratio(rows, name) - exact_log_ratio(rows, name)) / errors[-1]
        by_ratio |= {f"{name}, T {t:g}": each for t, each in zip(T, z, strict=True)}
    least, most = (f(np.concatenate(errors)) for f in (np.min, np.max))
    fewest = min(row["num_walkers"] for row in rows)
    step, step_error = step_errors(rows)["fine"]
    t = float(stats.norm.isf(checks.FALSE_ALARM / 2))
    return [
        _deviations(
            "mean escape times are the exact ones (two steps, extrapolated)", times, fewest
        ),
        _deviations(
            f"flat/sharp is the exact one (finer step; standard errors {least:.0%} to {most:.0%})",
            by_ratio,
            fewest,
        ),
        checks.Check(
            "the error of the finer step is below 1 %, on average over all cells",
            bool(abs(step) < 0.01 + t * step_error),
            f"{step:+.2%} ± {step_error:.2%}",
        ),
    ]


def _deviations(name: str, z: dict[str, float], fewest: int) -> checks.Check:
    """Whether all deviations, in standard errors over `fewest` walkers or more, are chance."""
    allowed = float(stats.t.isf(checks.FALSE_ALARM / 2 / len(z), fewest - 1))
    where, worst = max(z.items(), key=lambda item: abs(item[1]))
    return checks.Check(
        name,
        bool(abs(worst) < allowed),
        f"largest of {len(z)} deviations {worst:+.1f} standard errors ({where}), allowed "
        f"{allowed:.1f}",
    )


def _check_preference(rows: Rows) -> list[checks.Check]:
    """What the exact ratios say; the simulated ones stand beside them, with larger errors."""
    equal = ["isotropic", *valleys(rows)]
    exact = {name: exact_log_ratio(rows, name) for name in (*CASES, *equal)}
    roots = {name: by_determinants(rows, name) for name in exact}
    half_T = {name: column(rows, name, "flat", "temperature") / 2 for name in equal}
    return [
        checks.Check(
            "equal loss, isotropic noise: flat/sharp is the root of the determinants, to T/2",
            all(np.all(np.abs(exact[n] - roots[n]) < half_T[n]) for n in equal),
            "; ".join(
                f"{n} {np.exp(roots[n]):.2f}, exact {np.exp(exact[n][0]):.3f} to "
                f"{np.exp(exact[n][-1]):.3f}"
                for n in equal
            ),
        ),
        checks.Check(
            "equal loss, isotropic noise: hotter noise favours the flat minimum less, not more",
            all(np.all(np.diff(exact[n]) < 0) for n in equal),
            "; ".join(f"{n} {_ends(rows, n)}" for n in equal),
        ),
        checks.Check(
            "a flat minimum of higher loss is the more favoured the hotter the noise",
            bool(np.all(np.diff(exact["tilted"]) > 0)),
            _ends(rows, "tilted"),
        ),
        checks.Check(
            "noise that scales with curvature favours the flat minimum beyond the determinants",
            bool(np.all(exact["shaped"] > roots["shaped"])),
            f"{np.exp(roots['shaped']):.2f}; {_ends(rows, 'shaped')}",
        ),
    ]


def _ends(rows: Rows, landscape: str) -> str:
    """The ratio where it is coldest and hottest, exact and simulated, in words."""
    found, error, exact = ratios(rows, landscape)
    first, last = (f"{exact[i]:.4g} ({found[i]:.3g} ± {error[i]:.2g})" for i in (0, -1))
    return f"exact (simulated) {first} to {last}"


def table(rows: Rows) -> str:
    """One line for each landscape and T, the finer step."""
    lines = [
        f"{'landscape':<11} {'T':>5} {'τ sharp':>9} {'±':>6} {'exact':>8} {'Kramers':>8} "
        f"{'τ flat':>9} {'±':>6} {'exact':>8} {'Kramers':>8} {'flat/sharp':>10} {'±':>6} "
        f"{'√det':>5}"
    ]
    names = ("mean_escape", "mean_escape_stderr", "mean_escape_exact", "mean_escape_kramers")
    for name in (*CASES, *valleys(rows)):
        ratio, error, _ = ratios(rows, name)
        sides = [[column(rows, name, start, n) for n in names] for start in STARTS]
        for i, temperature in enumerate(column(rows, name, "flat", "temperature")):
            parts = [
                f"{side[0][i]:9.4g} {side[1][i]:6.2g} {side[2][i]:8.4g} {side[3][i]:8.4g}"
                for side in sides
            ]
            lines.append(
                f"{name:<11} {temperature:5.3g} {parts[0]} {parts[1]} {ratio[i]:10.4g} "
                f"{error[i]:6.2g} {np.exp(by_determinants(rows, name)):5.3g}"
            )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Landscapes; escape times; their ratio against T; the ratio in valleys of two dimensions."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.9))
    _draw_landscapes(axes[0, 0])
    _draw_times(axes[0, 1], rows)
    _draw_ratios(axes[1, 0], rows)
    _draw_valleys(axes[1, 1], rows)
    for axis in axes.flat:
        axis.title.set_fontsize(10)
        axis.legend(fontsize=8)
    figure.suptitle(
        f"points: {config.num_escapes} escapes or so each, 95 %; lines: exact", fontsize=10
    )
    return figure


def _draw_landscapes(axis: Any) -> None:
    ends = [float(landscapes.weight(phi, landscapes.BEND)) for phi in (-1.45, 1.45)]
    x = np.linspace(*ends, 400)
    for name in ("isotropic", "tilted"):
        values = landscapes.plane(x[:, None], np.zeros(1), LANDSCAPES[name])
        _, colour, _, dash = CASES[name]
        axis.plot(x, values, color=colour, linestyle=dash, label=f"loss, {name}")
    D = landscapes.noise(x, 1.0, LANDSCAPES["shaped"])
    axis.plot(x, D, color=style.ORANGE, linestyle="--", label="φ'², noise of the Fisher's shape")
    axis.set(
        xlabel="weight x",
        ylabel="loss L (barrier 1); noise D/T",
        ylim=(0, 2.2),
        title="a sharp and a flat minimum",
    )


def _draw_times(axis: Any, rows: Rows) -> None:
    for name, (label, colour, marker, dash) in CASES.items():
        T = column(rows, name, "flat", "temperature")
        for start, face in (("sharp", colour), ("flat", "white")):
            value, error, truth = (
                column(rows, name, start, f"mean_escape{end}") for end in ("", "_stderr", "_exact")
            )
            look = {"color": colour, "marker": marker, "markerfacecolor": face, "linestyle": ""}
            said = label if start == "sharp" else None
            axis.errorbar(1 / T, value, 1.96 * error, label=said, **look)
            axis.plot(1 / T, truth, color=colour, linestyle=dash, linewidth=1)
    axis.set(
        xlabel="1/T (barrier of 1)",
        ylabel="mean escape time τ",
        yscale="log",
        title="from the sharp (filled) and the flat (open) minimum",
    )


def _draw_ratios(axis: Any, rows: Rows) -> None:
    for name, (label, colour, marker, dash) in CASES.items():
        T = column(rows, name, "flat", "temperature")
        value, error, truth = ratios(rows, name)
        look = {"color": colour, "marker": marker, "linestyle": "", "label": label}
        axis.errorbar(T, value, 1.96 * error, **look)
        axis.plot(T, truth, color=colour, linestyle=dash, linewidth=1)
    root = float(np.exp(by_determinants(rows, "isotropic")))
    axis.axhline(root, color="black", linestyle=":", label="√(det H sharp/det H flat)")
    axis.set(
        xlabel="temperature T",
        ylabel="τ flat / τ sharp",
        yscale="log",
        title="how much the flat minimum is preferred",
    )


def _draw_valleys(axis: Any, rows: Rows) -> None:
    names = valleys(rows)
    roots = np.exp([by_determinants(rows, name) for name in names])
    values, errors, truths = np.stack([ratios(rows, name) for name in names], axis=-1)  # (T, names)
    temperatures = column(rows, names[0], "flat", "temperature")
    looks = zip((style.BLUE, style.GREEN, style.ORANGE), ("o", "D", "s"), strict=True)
    for i, (temperature, (colour, marker)) in enumerate(zip(temperatures, looks, strict=False)):
        look = {"color": colour, "marker": marker, "linestyle": "", "label": f"T = {temperature:g}"}
        axis.errorbar(roots, values[i], 1.96 * errors[i], **look)
        axis.plot(roots, truths[i], color=colour, linewidth=1)
    ends = [0.9 * roots.min(), 1.1 * roots.max()]
    axis.plot(ends, ends, ":", color="black", label="Eyring-Kramers")
    axis.set(
        xlabel="√(det H sharp/det H flat)",
        ylabel="τ flat / τ sharp",
        title="two weights: a valley that widens, isotropic noise",
    )


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.escape")

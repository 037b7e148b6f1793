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
from scipy import integrate, stats

from experiments.common import checks, passage, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

BEND, TILT, STIFFNESS = 0.4, 0.25, 8.0
VALLEYS = (1.5, 2.5, 4.0)  # sqrt(det H_sharp/det H_flat) in two dimensions
STARTS = {"sharp": -1.0, "flat": 1.0}  # where φ is
STEPS = {"coarse": 0.04, "fine": 0.02}  # step size times the largest curvature of the minimum
NUM_ROUNDS, FORGOTTEN = 20, 4  # rounds; the first ones, until the start is forgotten
DRAWN = 10  # steps whose noise is drawn at once
LEAST_WALKERS = 40  # of a cell, for the jackknife
_LEAST = {"num_escapes": 10, "max_walkers": LEAST_WALKERS, "num_steps": NUM_ROUNDS * DRAWN}
# How far the threshold of a walk in steps lies beyond that of the path: -ζ(1/2)/sqrt(2π).
OVERSHOOT = 0.5826


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


# ---------------------------------------------------------------------------- the landscapes


class Landscape(NamedTuple):
    """Parameters of the loss and of the noise.

    Attributes:
      bend: of φ; its slope falls from 1 + bend far left to 1 - bend far right.
      tilt: loss of the flat minimum; that of the sharp one is 0.
      widening: how the valley's stiffness falls, STIFFNESS e^(-widening φ).
      shaped: whether the noise is that of the Fisher information φ'² instead of isotropic.
    """

    bend: Any = 0.0
    tilt: Any = 0.0
    widening: Any = 0.0
    shaped: Any = 0.0


LANDSCAPES = {
    "isotropic": Landscape(bend=BEND),
    "tilted": Landscape(bend=BEND, tilt=TILT),
    "shaped": Landscape(bend=BEND, shaped=1.0),
} | {f"valley {root:g}": Landscape(widening=float(np.log(root))) for root in VALLEYS}
CASES = {
    "isotropic": ("equal loss, isotropic noise", style.BLUE, "o", "-"),
    "tilted": (f"flat minimum higher by {TILT:g}", style.GREEN, "D", "-."),
    "shaped": ("equal loss, noise ∝ Fisher φ'²", style.ORANGE, "s", "--"),
}


def output(x: jax.Array, bend: Any) -> jax.Array:
    """φ(x), what the model makes of its weight; φ(0) = 0, φ'(0) = 1."""
    return x - bend * (jnp.sqrt(x**2 + 1) - 1)


def weight(phi: Any, bend: Any) -> Any:
    """The x with φ(x) = phi."""
    c = phi - bend
    return (c + bend * np.sqrt(c**2 + 1 - bend**2)) / (1 - bend**2)


def loss(position: jax.Array, world: Landscape) -> jax.Array:
    """Minima at φ = -1 (sharp) and 1 (flat), at the bottom of a valley if there are more weights.

    Args:
      position: (d,), x and the coordinates across the valley.
      world: parameters.
    """
    phi = output(position[0], world.bend)
    well = (1 - phi**2) ** 2 + world.tilt * (2 + 3 * phi - phi**3) / 4
    stiffness = STIFFNESS * jnp.exp(-world.widening * phi)
    return well + stiffness / 2 * jnp.sum(position[1:] ** 2)


@jax.jit
def noise(x: jax.Array, temperature: Any, world: Landscape) -> jax.Array:
    """D(x) in dX = -∇L dt + sqrt(2D) dW (Itô): T, or T φ'², which is T on the barrier."""
    slope = 1 - world.bend * x / jnp.sqrt(x**2 + 1)
    return temperature * (1 + world.shaped * (slope**2 - 1))


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """There are no data: the parameters of the landscapes, one a row."""
    del config, data_dir
    x = np.array(list(LANDSCAPES.values()), np.float32)
    none = np.zeros(len(x), np.int32)
    return data.Dataset("landscapes", x, none, x[:0], none[:0], num_classes=2)


# ------------------------------------------------------------------------------ exact times


def on_axis(x: jax.Array, dimension: int) -> jax.Array:
    """The position (d,) at the bottom of the valley."""
    return jnp.zeros(dimension).at[0].set(x)


@partial(jax.jit, static_argnums=2)
@partial(jax.vmap, in_axes=(0, None, None))
@jax.grad
def slope(x: jax.Array, world: Landscape, dimension: int) -> jax.Array:
    """dL/dx along the bottom of the valley, (X,)."""
    return loss(on_axis(x, dimension), world)


@jax.jit
def plane(x: jax.Array, y: jax.Array, world: Landscape) -> jax.Array:
    """L on a grid of two dimensions, (X, Y), from x (X, 1) and y (Y,)."""
    at = jnp.vectorize(lambda x, y: loss(jnp.array([x, y]), world), signature="(),()->()")
    return at(x, y)


@partial(jax.jit, static_argnums=2)
def curvatures(x: jax.Array, world: Landscape, dimension: int) -> jax.Array:
    """Eigenvalues of the Hessian at the bottom of the valley, (d,), ascending."""
    return jnp.linalg.eigvalsh(jax.hessian(loss)(on_axis(x, dimension), world))


def exact(world: Landscape, dimension: int, temperature: float, start: str) -> dict[str, float]:
    """Mean time to the other minimum: exact, and that of Eyring and Kramers.

    The latter for small T: 2π/|λ_1| sqrt(|det H_saddle|/det H) e^(ΔL/T). Where the noise has a
    shape, ΔL/T is ∫ L'/D dx, and sqrt(D_saddle/D) joins the determinants.
    """
    phi = STARTS[start]
    here, there, far = (float(weight(y, world.bend)) for y in (phi, -phi, 2.0 * phi))
    saddle = float(weight(3 * world.tilt / 16, world.bend))
    with jax.enable_x64(True):
        drift = lambda x: -np.asarray(slope(x, world, dimension))  # noqa: E731
        spread = lambda x: np.asarray(noise(x, temperature, world))  # noqa: E731
        if dimension == 1:
            mean = passage.mean_passage_time(drift, spread, here, there, far)
        else:
            potential = lambda x, y: np.asarray(plane(x, y, world))  # noqa: E731
            width = 6 * np.sqrt(temperature / STIFFNESS * np.exp(world.widening))
            mean = passage.mean_passage_time_2d(
                potential, temperature, here, there, far, width, cells=40
            )
        way = np.linspace(here, saddle, passage.POINTS)
        barrier = -integrate.simpson(drift(way) / spread(way), x=way)
        ends = [np.asarray(curvatures(x, world, dimension)) for x in (here, saddle)]
        D_here, D_saddle = spread(np.array([here, saddle]))
    determinants = np.abs(ends[1]).prod() / ends[0].prod()
    return {
        "exact": mean,
        "kramers": float(
            2 * np.pi / -ends[1][0] * np.sqrt(determinants * D_saddle / D_here) * np.exp(barrier)
        ),
        "log_determinant": float(np.log(ends[0]).sum()),
        "stiffest": float(ends[0].max()),
    }


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
    reach = jnp.sqrt(2 * noise(walkers.target, walkers.temperature, walkers.world) * walkers.step)
    target = walkers.target - OVERSHOOT * side * reach
    gradient = jax.vmap(jax.grad(loss), in_axes=(1, 0), out_axes=1)

    def one(state: tuple[jax.Array, jax.Array], normal: jax.Array) -> Any:
        position, escapes = state
        D = noise(position[0], walkers.temperature, walkers.world)
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
    for dimension in (1, 2):
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
                times = exact(world, dimension, temperature, start)
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
        every(weight(phi, bend)),
        every(weight(-phi, bend)),
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


def log_ratio_error(rows: Rows, landscape: str) -> np.ndarray:
    """Standard error of `log_ratio`."""
    errors = [
        column(rows, landscape, start, "mean_escape_stderr")
        / column(rows, landscape, start, "mean_escape")
        for start in STARTS
    ]
    return np.hypot(*errors)


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
        measured, exact_ratio = (
            [tables.rounded(np.exp(log_ratio(rows, name, column)[i])) for i in (0, -1)]
            for column in ("mean_escape", "mean_escape_exact")
        )
        summary[name] = {
            "flat_over_sharp": measured,
            "flat_over_sharp_stderr": [
                tables.rounded(m * log_ratio_error(rows, name)[i])
                for i, m in zip((0, -1), measured, strict=True)
            ],
            "flat_over_sharp_exact": exact_ratio,
            "root_of_determinants": tables.rounded(np.exp(by_determinants(rows, name))),
        }
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether times are those of theory, and which noise prefers flat minima."""
    del config
    fine = [row for row in rows if row["step"] == "fine"]
    coarse = [row for row in rows if row["step"] == "coarse"]
    z = [
        (2 * _excess(f) - _excess(c)) / np.hypot(2 * _relative_error(f), _relative_error(c))
        for f, c in zip(fine, coarse, strict=True)
    ]
    fewest = min(row["num_walkers"] for row in rows)
    widest = float(stats.t.isf(checks.FALSE_ALARM / 2 / len(z), fewest - 1))
    worst = fine[int(np.argmax(np.abs(z)))]
    t = float(stats.norm.isf(checks.FALSE_ALARM / 2 / len(fine)))
    equal = ["isotropic", *valleys(rows)]
    excess = {
        name: np.abs(log_ratio(rows, name) - by_determinants(rows, name))
        - t * log_ratio_error(rows, name)
        - column(rows, name, "flat", "temperature") / 2
        for name in equal
    }
    trends = {name: _trend(rows, name, t) for name in equal}
    gain, allowed = _trend(rows, "tilted", t)
    shaped = log_ratio(rows, "shaped") - log_ratio(rows, "isotropic")
    error = np.hypot(log_ratio_error(rows, "shaped"), log_ratio_error(rows, "isotropic"))
    step, step_error = step_errors(rows)["fine"]
    return [
        checks.Check(
            "mean escape times are the exact ones (two step sizes, extrapolated)",
            bool(np.abs(z).max() < widest),
            f"largest of {len(z)} deviations {np.abs(z).max():.1f} standard errors, allowed "
            f"{widest:.1f} ({worst['landscape']}, {worst['start']}, T {worst['temperature']:g})",
        ),
        checks.Check(
            "the error of the finer step is below 1 %, on average over all cells",
            bool(abs(step) < 0.01 + t * step_error),
            f"{step:+.2%} ± {step_error:.2%}",
        ),
        checks.Check(
            "equal loss, isotropic noise: flat/sharp is the root of the determinants, to T/2",
            all(np.all(values <= 0) for values in excess.values()),
            "; ".join(
                f"{name} {np.exp(by_determinants(rows, name)):.2f}, measured "
                + " ".join(f"{r:.2f}" for r in np.exp(log_ratio(rows, name)))
                for name in equal
            ),
        ),
        checks.Check(
            "equal loss, isotropic noise: hotter noise does not favour the flat minimum more",
            all(change <= allowed for change, allowed in trends.values()),
            "change of log(flat/sharp) from coldest to hottest: "
            + ", ".join(f"{name} {c:+.2f} ± {a:.2f}" for name, (c, a) in trends.items()),
        ),
        checks.Check(
            "a flat minimum of higher loss does not lose as T rises",
            gain > -allowed,
            f"log(flat/sharp) changes by {gain:+.2f} ± {allowed:.2f}",
        ),
        checks.Check(
            "noise that scales with curvature favours the flat minimum beyond the determinants",
            bool(np.all(shaped > t * error)),
            "times " + ", ".join(f"{r:.3g}" for r in np.exp(shaped)) + " the isotropic ratio",
        ),
    ]


def _trend(rows: Rows, landscape: str, t: float) -> tuple[float, float]:
    """Change of `log_ratio` from the coldest to the hottest, and t times its standard error."""
    ratio, error = log_ratio(rows, landscape), log_ratio_error(rows, landscape)
    return float(ratio[-1] - ratio[0]), float(t * np.hypot(error[0], error[-1]))


def table(rows: Rows) -> str:
    """One line for each landscape and T, the finer step."""
    lines = [
        f"{'landscape':<11} {'T':>5} {'τ sharp':>9} {'±':>6} {'exact':>8} {'Kramers':>8} "
        f"{'τ flat':>9} {'±':>6} {'exact':>8} {'Kramers':>8} {'flat/sharp':>10} {'±':>6} "
        f"{'√det':>5}"
    ]
    names = ("mean_escape", "mean_escape_stderr", "mean_escape_exact", "mean_escape_kramers")
    for name in (*CASES, *valleys(rows)):
        ratio, error = np.exp(log_ratio(rows, name)), log_ratio_error(rows, name)
        sides = [[column(rows, name, start, n) for n in names] for start in STARTS]
        for i, temperature in enumerate(column(rows, name, "flat", "temperature")):
            parts = [
                f"{side[0][i]:9.4g} {side[1][i]:6.2g} {side[2][i]:8.4g} {side[3][i]:8.4g}"
                for side in sides
            ]
            lines.append(
                f"{name:<11} {temperature:5.3g} {parts[0]} {parts[1]} {ratio[i]:10.4g} "
                f"{ratio[i] * error[i]:6.2g} {np.exp(by_determinants(rows, name)):5.3g}"
            )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Landscapes; escape times; their ratio against T; the ratio in valleys of two dimensions."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.9))
    _draw_landscapes(axes[0, 0])
    for name, (label, colour, marker, dash) in CASES.items():
        T = column(rows, name, "flat", "temperature")
        for start, face in (("sharp", colour), ("flat", "white")):
            value, error, truth = (
                column(rows, name, start, f"mean_escape{end}") for end in ("", "_stderr", "_exact")
            )
            look = {"color": colour, "marker": marker, "markerfacecolor": face, "linestyle": ""}
            axes[0, 1].errorbar(1 / T, value, 1.96 * error, **look)
            axes[0, 1].plot(1 / T, truth, color=colour, linestyle=dash, linewidth=1)
        ratio, error = np.exp(log_ratio(rows, name)), log_ratio_error(rows, name)
        look = {"color": colour, "marker": marker, "linestyle": "", "label": label}
        axes[1, 0].errorbar(T, ratio, 1.96 * error * ratio, **look)
        truth = np.exp(log_ratio(rows, name, "mean_escape_exact"))
        axes[1, 0].plot(T, truth, color=colour, linestyle=dash, linewidth=1)
    root = float(np.exp(by_determinants(rows, "isotropic")))
    axes[1, 0].axhline(root, color="black", linestyle=":", label="√(det H sharp/det H flat)")
    axes[0, 1].set(
        xlabel="1/T (barrier of 1)",
        ylabel="mean escape time τ",
        yscale="log",
        title="from the sharp (filled) and the flat (open) minimum",
    )
    axes[1, 0].set(
        xlabel="temperature T",
        ylabel="τ flat / τ sharp",
        yscale="log",
        title="how much the flat minimum is preferred",
    )
    axes[1, 0].legend(fontsize=8)
    _draw_valleys(axes[1, 1], rows)
    for axis in axes.flat:
        axis.title.set_fontsize(10)
    figure.suptitle(
        f"points: {config.num_escapes} escapes or so each, 95 %; lines: exact", fontsize=10
    )
    return figure


def _draw_landscapes(axis: Any) -> None:
    x = np.linspace(float(weight(-1.45, BEND)), float(weight(1.45, BEND)), 400)
    for name in ("isotropic", "tilted"):
        values = plane(x[:, None], np.zeros(1), LANDSCAPES[name])
        _, colour, _, dash = CASES[name]
        axis.plot(x, values, color=colour, linestyle=dash, label=f"loss, {name}")
    D = noise(x, 1.0, LANDSCAPES["shaped"])
    axis.plot(x, D, color=style.ORANGE, linestyle="--", label="φ'², noise of the Fisher's shape")
    axis.set(xlabel="weight x", ylim=(0, 2.2), title="a sharp and a flat minimum")
    axis.legend(fontsize=8, loc="upper right")


def _draw_valleys(axis: Any, rows: Rows) -> None:
    roots = np.exp([by_determinants(rows, name) for name in valleys(rows)])
    temperatures = column(rows, valleys(rows)[0], "flat", "temperature")
    looks = zip((style.BLUE, style.GREEN, style.ORANGE), ("o", "D", "s"), strict=True)
    for i, (temperature, (colour, marker)) in enumerate(zip(temperatures, looks, strict=False)):
        logs, errors, truths = (
            np.array([part[i] for part in parts])
            for parts in zip(
                *(
                    (
                        log_ratio(rows, name),
                        log_ratio_error(rows, name),
                        log_ratio(rows, name, "mean_escape_exact"),
                    )
                    for name in valleys(rows)
                ),
                strict=True,
            )
        )
        look = {"color": colour, "marker": marker, "linestyle": "", "label": f"T = {temperature:g}"}
        axis.errorbar(roots, np.exp(logs), 1.96 * errors * np.exp(logs), **look)
        axis.plot(roots, np.exp(truths), color=colour, linewidth=1)
    ends = [0.9 * roots.min(), 1.1 * roots.max()]
    axis.plot(ends, ends, ":", color="black", label="Eyring-Kramers")
    axis.set(
        xlabel="√(det H sharp/det H flat)",
        ylabel="τ flat / τ sharp",
        title="two weights: a valley that widens, isotropic noise",
    )
    axis.legend(fontsize=8)


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.escape")

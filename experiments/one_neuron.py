"""One noisy tanh neuron: what it knows of four inputs rises, then falls as their images merge.

T = tanh(wX + b) + Z with X uniform on {-3, -1, 1, 3}, target +1 for 3 and -1 for the others, and Z
~ N(0, σ²). Gradient descent first spreads the four points tanh(wx + b), so that I(X; T) comes to
log 4; then saturation merges two of them at -1, and three: entropies of the weights (1/2, 1/4, 1/4)
and (3/4, 1/4). Compression is geometry; nothing is forgotten by w and b.

I(X; T) is an integral over t; the library's estimates and bounds stand beside it. The noise is in
the training: E (T - y)² = (tanh(wx + b) - y)² + σ², so that descent on the expected loss is
descent without noise, the same for every σ, and exact.

Default: seconds on 2 CPU cores. Paper: Goldfeld et al. (arXiv:1810.05728), the section on
compression in a single neuron.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

import iw_jax as iw
from experiments.common import checks, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data
from iw_jax.activations.mixture import noise_entropy

X = np.array([-3.0, -1.0, 1.0, 3.0])
TARGETS = np.array([-1.0, -1.0, -1.0, 1.0])
START = (1e-3, 0.0)  # w, b
STEEPEST = 2 * np.linalg.eigvalsh(np.mean([[[x * x, x], [x, 1]] for x in X], 0))[-1]  # at w = b = 0
PLATEAUS = {  # nats of what is left to tell apart where so many points are one
    "all apart": float(special.entr([1 / 4] * 4).sum()),
    "two merged": float(special.entr([1 / 2, 1 / 4, 1 / 4]).sum()),
    "three merged": float(special.entr([3 / 4, 1 / 4]).sum()),
}
NEAR = 0.02  # nats from a plateau that count as on it
# The integrand is analytic to ±0.2 σ around the real line where two points within reach of each
# other meet: the trapezoidal rule with a step of 0.01 σ has converged to rounding.
NODES = np.linspace(-9, 9, 1801)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and measured.

    Attributes:
      sigmas: standard deviations σ of the noise, at least two; increasing.
      learning_rate: of the mean squared error.
      num_steps: of gradient descent.
      num_records: steps, evenly spaced in their logarithm, at which I(X; T) is measured.
      num_points: draws for every estimate of the library.
      seed: root of all randomness.
    """

    sigmas: tuple[float, ...] = (0.01, 0.1)
    learning_rate: float = 0.02
    num_steps: int = 10_000_000
    num_records: int = 100
    num_points: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        common.at_least(self, num_records=2, num_points=8)
        rising = all(0 < a < b < np.inf for a, b in itertools.pairwise(self.sigmas))
        common.require(
            len(self.sigmas) >= 2 and rising,
            "sigmas",
            "at least two, positive, finite and increasing",
            self.sigmas,
        )
        limit = 2 / STEEPEST
        common.require(
            self.learning_rate < limit,
            "learning_rate",
            f"below {limit:.3g}, from where the first steps grow",
            self.learning_rate,
        )


PRESETS = {
    "quick": Config(learning_rate=0.1, num_steps=2_000_000, num_records=24, num_points=1024),
    "default": Config(),
    "paper": Config(num_steps=100_000_000, num_records=400, num_points=65_536),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The four inputs, (4, 1), and their classes: 1 for the target +1."""
    del config, data_dir
    x = np.float32(X[:, None])
    classes = np.int32(TARGETS > 0)
    return data.Dataset("four_points", x, classes, x[:0], classes[:0], num_classes=2)


# ----------------------------------------------------------------------------------- descent


def activations(params: jax.Array, x: Any) -> jax.Array:
    """S = tanh(wx + b), without its noise; params are (w, b). Also the layer of the library."""
    return jnp.tanh(params[0] * x + params[1])


def loss(params: jax.Array) -> jax.Array:
    """Mean squared error over the four inputs; that of T is larger by σ², whatever w and b."""
    return jnp.mean((activations(params, X) - TARGETS) ** 2)


@jax.jit
def descend(start: jax.Array, lengths: jax.Array, rate: float) -> jax.Array:
    """w and b after lengths[0], lengths[0] + lengths[1], ... steps of gradient descent: (R, 2)."""
    step = lambda _, params: params - rate * jax.grad(loss)(params)  # noqa: E731

    def further(params: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = jax.lax.fori_loop(0, length, step, params)
        return params, params

    return jax.lax.scan(further, start, lengths)[1]


def recorded(config: Config) -> np.ndarray:
    """The steps at which I(X; T) is measured, increasing from 0."""
    steps = np.geomspace(1, config.num_steps, config.num_records).round().astype(int)
    return np.unique(np.append(0, steps))


# ------------------------------------------------------------------------------- information


def information(points: np.ndarray, sigma: float) -> np.ndarray:
    """I(X; T) of four points with noise, nats: E log N(T; s_X, σ²)/g(T), by the trapezoidal rule.

    Args:
      points: s = tanh(wx + b), (..., 4).
      sigma: σ.
    """
    t = points[..., :, None] + sigma * NODES  # (..., 4, nodes)
    away = (t[..., None] - points[..., None, None, :]) / sigma
    density = special.logsumexp(-0.5 * away**2, axis=-1) - np.log(4)
    weights = stats.norm.pdf(NODES) * (NODES[1] - NODES[0])
    return ((-0.5 * NODES**2 - density) @ weights).mean(-1)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each σ and recorded step."""
    del dataset
    steps = recorded(config)
    with jax.enable_x64(True):  # late steps are smaller than 1e-7
        lengths = jnp.asarray(np.diff(steps, prepend=0))
        params = np.asarray(descend(jnp.array(START), lengths, config.learning_rate))
    points = np.tanh(params[:, :1] * X + params[:, 1:])
    losses = ((points - TARGETS) ** 2).mean(1)
    cells = list(itertools.product(config.sigmas, range(len(steps))))
    exact = {sigma: information(points, sigma) for sigma in config.sigmas}
    rows = []
    for number, (sigma, i) in enumerate(context.track(cells, "measuring")):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        row = {"sigma": sigma, "step": int(steps[i]), "w": params[i, 0], "b": params[i, 1]}
        row |= {f"point_{j + 1}": s for j, s in enumerate(points[i])}
        row |= {"loss": losses[i], "information_nats": exact[sigma][i]}
        rows.append(row | _estimates(key, params[i], points[i], sigma, config.num_points))
    return rows


def _estimates(
    key: jax.Array, params: np.ndarray, points: np.ndarray, sigma: float, num_points: int
) -> dict[str, float]:
    """I(X; T) as the library sees it: from the four centres, from the network, and bounds."""
    mixing, passing = jax.random.split(key)
    noise = float(noise_entropy(1, sigma))
    mixture = iw.mixture_entropy(mixing, points[:, None], sigma, num_points=num_points)
    # A first layer is known given x: no replicas are needed, and the fewest are 4.
    network = iw.noisy_mutual_information(
        passing,
        (activations,),
        jnp.asarray(params, jnp.float32),
        np.float32(X[:, None]),
        sigma=sigma,
        num_probed=num_points // 4,
        num_draws=4,
        num_replicas=4,
        num_points=4,
    ).nats
    lower, upper = iw.mixture_entropy_bounds(points[:, None], sigma)
    return {
        "mixture_nats": float(mixture.value) - noise,
        "mixture_nats_stderr": float(mixture.stderr),
        "network_nats": float(network.value[0]),
        "network_nats_stderr": float(network.stderr[0]),
        "bound_lower_nats": float(lower) - noise,
        "bound_upper_nats": float(upper) - noise,
    }


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, sigma: float, name: str) -> np.ndarray:
    """One column of a σ, step increasing."""
    return tables.grid(rows, name, axes=("step",), sigma=sigma)


def sigmas(rows: Rows) -> list[float]:
    """Those of the table, increasing."""
    return sorted({row["sigma"] for row in rows})


def near(rows: Rows, sigma: float, plateau: str) -> np.ndarray:
    """Steps, of those recorded, at which I(X; T) is within NEAR of a plateau.

    Of one that is left when points merge only those after the maximum: I passes by on its way up.
    """
    nats, step = (column(rows, sigma, name) for name in ("information_nats", "step"))
    falling = np.arange(len(nats)) > nats.argmax()
    there = np.abs(nats - PLATEAUS[plateau]) < NEAR
    return step[there & (falling | (plateau == "all apart"))]


def decades(steps: np.ndarray) -> float:
    """From the first of some steps to the last, as powers of ten; 0 for none or one."""
    return float(np.log10(steps[-1] / max(steps[0], 1))) if len(steps) else 0.0


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """For every σ: the largest I(X; T), the steps spent on the plateaus, and where it ends."""
    del config
    result: dict[str, Any] = {"plateaus": {n: tables.rounded(v) for n, v in PLATEAUS.items()}}
    for sigma in sigmas(rows):
        nats = column(rows, sigma, "information_nats")
        steps = {name: near(rows, sigma, name) for name in PLATEAUS}
        result[f"sigma_{sigma:g}"] = {
            "largest_nats": tables.rounded(nats.max()),
            "at_step": int(column(rows, sigma, "step")[nats.argmax()]),
            "last_nats": tables.rounded(nats[-1]),
            f"steps_within_{NEAR:g}_of": {
                name: [int(s[0]), int(s[-1])] if len(s) else None for name, s in steps.items()
            },
            "decades_there": {name: tables.rounded(decades(s)) for name, s in steps.items()},
        }
    last = max(rows, key=lambda row: row["step"])
    return result | {
        "last_w_b_loss": [tables.rounded(last[name]) for name in ("w", "b", "loss")],
        "largest_error_of_the_library_nats": {
            name: tables.rounded(np.abs(_errors(rows, name)).max()) for name in ROUTES
        },
    }


ROUTES = {
    "mixture": "iw.mixture_entropy, of the four points",
    "network": "iw.noisy_mutual_information, of the network",
}


def _errors(rows: Rows, route: str) -> np.ndarray:
    """Of the library against the integral, nats."""
    return tables.column(rows, f"{route}_nats") - tables.column(rows, "information_nats")


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether the plateaus come in their order, and the library finds what the integral says."""
    quiet, loud = sigmas(rows)[0], sigmas(rows)[-1]
    stays = {name: near(rows, quiet, name) for name in PLATEAUS}
    ends = [end for s in stays.values() for end in (s[[0, -1]] if len(s) else (np.inf, -np.inf))]
    smeared = {s: decades(near(rows, s, "two merged")) for s in (quiet, loud)}
    nats = tables.column(rows, "information_nats")
    capacity = 0.5 * np.log1p(1 / tables.column(rows, "sigma") ** 2)
    over = float((nats - np.minimum(PLATEAUS["all apart"], capacity)).max())
    lower, upper = (tables.column(rows, f"bound_{end}_nats") for end in ("lower", "upper"))
    outside = float(np.maximum(lower - nats, nats - upper).max())
    return [
        checks.Check(
            f"at σ = {quiet:g} I(X;T) comes to log 4, to 1.0397 and to 0.5623, in this order",
            bool(np.all(np.diff(ends) >= 0)),
            "; ".join(
                f"{name}: steps {s[0]:g} to {s[-1]:g}" if len(s) else f"{name}: never (train on)"
                for name, s in stays.items()
            ),
        ),
        checks.Check(
            "more noise smears the plateau of two merged points",
            bool(smeared[loud] < smeared[quiet]),
            f"{smeared[quiet]:.2f} decades of steps within {NEAR:g} nats of it at σ = {quiet:g}, "
            f"{smeared[loud]:.2f} at σ = {loud:g}",
        ),
        checks.Check(
            "I(X;T) is at most H(X) and the capacity ½ log(1 + 1/σ²)",
            over < 1e-9,
            f"{over:.2g} nats above at most",
        ),
        *(_check_route(rows, name, config) for name in ROUTES),
        checks.Check(
            "the bounds by pairwise distances hold",
            outside < 1e-4,  # they are computed in float32
            f"{outside:.2g} nats outside at most; they are up to {(upper - lower).max():.2g} apart",
        ),
    ]


def _check_route(rows: Rows, route: str, config: Config) -> checks.Check:
    """Whether a route of the library agrees with the integral everywhere, within its error.

    Where points are five σ apart it is rare draws that count. With none of them among n the
    standard error is next to nothing, and they may still be as many as 1 - f^(1/n), f the chance of
    a false alarm; each takes log 4 nats at most.
    """
    alarm = checks.FALSE_ALARM / 4 / len(rows)
    t = float(stats.t.isf(alarm, config.num_points // 4 - 1))
    unseen = PLATEAUS["all apart"] * (1 - alarm ** (1 / config.num_points))
    error, stderr = np.abs(_errors(rows, route)), tables.column(rows, f"{route}_nats_stderr")
    used = error / (t * stderr + unseen)
    worst = rows[int(used.argmax())]
    return checks.Check(
        f"{ROUTES[route]}: the integral",
        bool(used.max() < 1),
        f"of {len(rows)} deviations the largest is {used.max():.0%} of its allowance of "
        f"{t:.1f} standard errors + {unseen:.4f} nats (σ = {worst['sigma']:g}, step "
        f"{worst['step']})",
    )


def table(rows: Rows) -> str:
    """One line for each σ and every tenth or so of the steps."""
    lines = [
        f"{'σ':>5} {'step':>9} {'w':>6} {'b':>7} {'tanh(wx + b)':^31} {'I(X;T)':>8} "
        f"{'mixture':>16} {'network':>16} {'bounds':>16}   (nats)"
    ]
    for sigma in sigmas(rows):
        own = [row for row in rows if row["sigma"] == sigma]
        for row in own[:: max(1, len(own) // 12)]:
            at = " ".join(f"{row[f'point_{j + 1}']:7.4f}" for j in range(4))
            found = " ".join(
                f"{row[f'{r}_nats']:7.4f} ± {row[f'{r}_nats_stderr']:6.4f}" for r in ROUTES
            )
            lines.append(
                f"{sigma:5.3g} {row['step']:9d} {row['w']:6.3f} {row['b']:7.3f} {at} "
                f"{row['information_nats']:8.5f} {found} "
                f"[{row['bound_lower_nats']:.4f}, {row['bound_upper_nats']:.4f}]"
            )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """The four points against the step; I(X; T) against the step at the two ends of σ."""
    import matplotlib.pyplot as plt

    del config
    shown = sigmas(rows)[0], sigmas(rows)[-1]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.1), sharex=True)
    _draw_points(axes[0], rows)
    for axis, sigma in zip(axes[1:], shown, strict=True):
        _draw_information(axis, rows, sigma)
    for axis in axes:
        axis.set_xscale("symlog", linthresh=1)  # step 0 is there too
        axis.set(xlabel="step of gradient descent", xlim=(0, None))
        axis.title.set_fontsize(10)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _draw_points(axis: Any, rows: Rows) -> None:
    step = column(rows, sigmas(rows)[0], "step")
    looks = (style.BLUE, "-"), (style.GREEN, "--"), (style.PURPLE, "-."), (style.ORANGE, "-")
    for j, (x, target, (colour, dash)) in enumerate(zip(X, TARGETS, looks, strict=True)):
        s = column(rows, sigmas(rows)[0], f"point_{j + 1}")
        said = f"x = {x:g}, target {target:+g}"
        axis.plot(step, s, color=colour, linestyle=dash, label=said)
    axis.legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.55))
    axis.set(ylabel="tanh(wx + b)", title="the four points: three merge at -1")


def _draw_information(axis: Any, rows: Rows, sigma: float) -> None:
    names = ("step", "information_nats", "bound_lower_nats", "bound_upper_nats")
    step, nats, lower, upper = (column(rows, sigma, name) for name in names)
    axis.fill_between(
        step, lower, upper, color=style.BLUE, alpha=0.15, linewidth=0, label="Kolchinsky & Tracey"
    )
    axis.plot(step, nats, color=style.BLUE, label="I(X;T), integral")
    looks = ("o", style.ORANGE, 0), ("s", style.GREEN, 4)
    for (route, said), (marker, colour, first) in zip(ROUTES.items(), looks, strict=True):
        value, stderr = (column(rows, sigma, f"{route}_nats{end}") for end in ("", "_stderr"))
        some = slice(first * len(step) // 96, None, max(1, len(step) // 12))
        look = {"color": colour, "marker": marker, "markersize": 3.5, "capsize": 2}
        said = said.split(",")[0]
        axis.errorbar(
            step[some], value[some], 1.96 * stderr[some], linestyle="", label=said, **look
        )
    for name, value in PLATEAUS.items():
        axis.axhline(value, color="black", linestyle=":", linewidth=1)
        # Where no curve passes.
        at, side = (3, "left") if name == "three merged" else (step[-1], "right")
        axis.text(at, value + 0.01, f"{name}: {value:.4f}", ha=side, fontsize=8)
    axis.set(ylabel="nats", ylim=(0, 1.5), title=f"σ = {sigma:g}")


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.one_neuron")

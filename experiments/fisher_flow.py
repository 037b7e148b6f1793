"""What each layer of a network tells about the number that it learns to estimate: Fisher flow.

A network is trained to estimate θ from samples of p(x; θ). The Fisher information I_l(θ) of its
layers' activations cannot rise from layer to layer, and no unbiased estimate has a smaller mean
squared error than 1/I_l. Two problems whose input information is known: log-normal vectors (10) and
Gaussian images (256). Networks with many and with few training samples are followed: information of
every layer, and errors beside 1/I. Where the training error falls below 1/I(input) the network has
learned samples by heart, which needs no test set to see.

Default: log-normal, about 3 minutes on 2 CPU cores; --problem gaussian for the images. Paper:
Weimar et al. (arXiv:2509.02407).
"""

import dataclasses
import itertools
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import iw_jax as iw
from experiments.common import checks, cost, style, tables
from experiments.common import config as common
from experiments.common import fisher_problems as fisher
from experiments.common.context import Context
from experiments.common.fisher_problems import PROBLEMS, SAMPLERS, Problem, layers, network
from experiments.common.tables import Rows
from iw_jax import data, nets

CHUNK = 2048  # samples that pass at once where errors are measured


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and measured.

    Attributes:
      problem: lognormal or gaussian.
      num_thetas: values of θ of the training samples, evenly spaced; at least 2.
      numbers: training samples of each θ; networks are trained for each of these.
      widths: of the hidden layers, ReLU.
      num_steps: of Adam.
      batch_size: samples a step.
      learning_rate: Adam's, of the mean squared error of θ/reach.
      weight_decay: added to the gradient, as a multiple of the weights.
      num_seeds: networks for each of `numbers`.
      theta: where the information is measured; inside the grid of θ.
      num_records: steps, evenly spaced in their logarithm, at which networks are looked at.
      num_samples: T, at θ - δ and at θ + δ, for the information of layers.
      num_features: random ones added to each layer, at least three, increasing from 0.
      seed: root of all randomness.
    """

    problem: Literal["lognormal", "gaussian"] = "lognormal"
    num_thetas: int = 21
    numbers: tuple[int, ...] = (50, 4000)
    widths: tuple[int, ...] = (150, 100, 50, 25)
    num_steps: int = 20_000
    batch_size: int = 128
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    num_seeds: int = 4
    theta: float = 0.0
    num_records: int = 10
    num_samples: int = 30_000
    num_features: tuple[int, ...] = (0, 50, 100, 200)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        common.at_least(self, num_thetas=2, num_records=2, num_samples=100)
        common.require(
            self.problem in PROBLEMS, "problem", f"one of {', '.join(PROBLEMS)}", self.problem
        )
        reach = PROBLEMS[self.problem].reach
        common.require(
            abs(self.theta) < reach,
            "theta",
            f"inside the grid from {-reach:g} to {reach:g}, with neighbours on both sides",
            self.theta,
        )
        rising = all(a < b for a, b in itertools.pairwise(self.num_features))
        common.require(
            len(self.num_features) >= 3 and self.num_features[0] == 0 and rising,
            "num_features",
            "at least three, increasing from 0",
            self.num_features,
        )
        widest = max(PROBLEMS[self.problem].size, *self.widths) + self.num_features[-1] + 3
        common.require(
            self.num_samples >= widest,
            "num_samples",
            f"at least {widest}, the features of the widest layer + 3",
            self.num_samples,
        )
        common.require(
            0 <= self.weight_decay < np.inf, "weight_decay", "at least 0", self.weight_decay
        )


PRESETS = {
    "quick": Config(
        num_thetas=11,
        numbers=(50, 500),
        widths=(16,),
        num_steps=1500,
        learning_rate=3e-3,
        num_seeds=1,
        num_records=3,
        num_samples=8000,
        num_features=(0, 16, 32),
    ),
    "default": Config(),
    "paper": Config(
        numbers=(200, 20_000),
        num_steps=65_625,  # 20 epochs of 21 x 20,000 samples
        learning_rate=1e-4,
        num_records=21,
        num_samples=150_000,
        num_features=(0, 100, 200, 400, 800),
        num_seeds=3,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """Samples of every θ of the grid, and as many for testing; targets are places on the grid.

    The first samples of every θ come first, then the second ones, so that the smaller training sets
    are the beginning.
    """
    del data_dir
    rng = np.random.default_rng((config.seed, 0))
    problem, places = PROBLEMS[config.problem], np.arange(config.num_thetas, dtype=np.int32)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        targets = np.tile(places, number)
        u = rng.standard_normal((len(targets), problem.size), np.float32)
        u += np.float32(grid(config))[targets, None]
        return (np.exp(u @ fisher.MIXING.T) if config.problem == "lognormal" else u), targets

    train, test = draw(config.numbers[-1]), draw(1 + 20_000 // config.num_thetas)
    return data.Dataset(config.problem, *train, *test, num_classes=config.num_thetas)


def grid(config: Config) -> np.ndarray:
    """The values of θ of the training samples."""
    reach = PROBLEMS[config.problem].reach
    return np.linspace(-reach, reach, config.num_thetas)


# ------------------------------------------------------------------------------------- training


@cache  # an optimiser is known by identity too
def optimizer(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Adam on the loss + weight_decay/2 |w|²."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))


def stops(config: Config) -> list[int]:
    """Steps at which networks are looked at: 0 first, then evenly in the logarithm."""
    last = np.geomspace(max(config.num_steps // 300, 1), config.num_steps, config.num_records - 1)
    return [0, *sorted({round(s) for s in last})]


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What training will take; see `common.cost`."""
    own = network(config.widths)
    inputs = jnp.asarray(dataset.train_inputs)
    targets = jnp.asarray(grid(config)[dataset.train_targets, None], jnp.float32)
    return [
        cost.training(
            iw.Task(own.apply_fn, iw.GaussianLikelihood(1.0), inputs, targets),
            own.init(jax.random.key(0), inputs[:1]),
            optimizer(config.learning_rate, config.weight_decay),
            batch=config.batch_size,
            steps=config.num_steps,
            networks=len(config.numbers) * config.num_seeds,
        )
    ]


def train(config: Config, dataset: data.Dataset, context: Context) -> nets.Params:
    """Weights at `stops`, leaves (E, numbers * seeds, ...); a seed starts alike for all numbers."""
    own, bounds = network(config.widths), stops(config)
    inputs = jnp.asarray(dataset.train_inputs)
    targets = jnp.asarray(grid(config) / PROBLEMS[config.problem].reach, jnp.float32)[
        dataset.train_targets
    ]
    seeds = jnp.tile(jnp.arange(config.num_seeds), len(config.numbers))
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(config.seed)))(seeds)
    counts = jnp.repeat(jnp.asarray(config.numbers) * config.num_thetas, config.num_seeds)
    params = jax.vmap(lambda key: own.init(key, inputs[:1]))(keys)
    adam = optimizer(config.learning_rate, config.weight_decay)
    history = jax.tree.map(lambda w: jnp.zeros((len(bounds), *w.shape)).at[0].set(w), params)

    def advance(i: int, carry: Any) -> Any:
        state, history = carry
        state = _train(own.apply_fn, adam, config.batch_size, keys, counts, (inputs, targets),
                       state, bounds[i], bounds[i + 1])  # fmt: skip
        return state, jax.tree.map(lambda h, w: h.at[i + 1].set(w), history, state[0])

    start = (params, jax.vmap(adam.init)(params)), history
    return context.iterate(advance, start, len(bounds) - 1, "training")[1]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train(
    apply_fn: Any, adam: Any, batch: int, keys: Any, counts: Any, pool: Any, state: Any,
    first: Any, last: Any,
) -> Any:  # fmt: skip
    """Steps `first` to `last` - 1 of every network, each on the beginning of the pool."""

    def loss(params: nets.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean((apply_fn(params, x)[:, 0] - y) ** 2)

    def one(key: jax.Array, count: jax.Array, state: Any) -> Any:
        def step(i: jax.Array, state: Any) -> Any:
            params, own = state
            rows = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, count)
            slope = jax.grad(loss)(params, pool[0][rows], pool[1][rows])
            updates, own = adam.update(slope, own, params)
            return optax.apply_updates(params, updates), own

        return jax.lax.fori_loop(first, last, step, state)

    return jax.vmap(one)(keys, counts, state)


# ---------------------------------------------------------------------------------- measurement

COLUMNS = (
    *("problem", "number", "seed", "step", "layer", "units", "num_features"),
    *("information", "information_stderr", "linear", "linear_stderr", "converged"),
    *("lost", "lost_stderr"),
    *("train_mse", "test_mse", "mse_at_theta", "mse_at_theta_stderr"),
    *("bias", "bias_stderr", "bias_slope", "bias_slope_stderr"),
)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each repeat of an input's information, and each network, step and layer.

    Informations are in units of 1/θ², errors in units of θ².
    """
    ledger = context.ledger("information")
    rows: list[dict[str, Any]] = []
    history = train(config, dataset, context)
    members = list(itertools.product(config.numbers, range(config.num_seeds)))
    cells = list(itertools.product(range(len(members)), range(len(stops(config)))))
    for member, i in context.track(cells, "layers"):
        number, seed = members[member]
        about = {"number": number, "seed": seed, "step": stops(config)[i]}
        params = jax.tree.map(lambda w, at=(i, member): w[at], history)
        make = lambda p=params, n=number: _layers(config, dataset, p, n, context)  # noqa: E731
        rows += [about | row for row in ledger.get(f"{member} {i}", make)]
    return [dict.fromkeys(COLUMNS, "") | row for row in rows]


def _layers(
    config: Config, dataset: data.Dataset, params: nets.Params, number: int, context: Context
) -> list[dict[str, Any]]:
    """The information of every layer of one network, and its errors."""
    problem = PROBLEMS[config.problem]
    key = jax.random.key(config.seed)  # one for all networks and steps: see `iw.fisher_flow`
    found = iw.fisher_flow(
        key,
        layers(len(config.widths)),
        params,
        SAMPLERS[config.problem],
        config.theta,
        problem.delta,
        num_samples=config.num_samples,
        num_features=config.num_features,
        mesh=context.mesh,
    )
    errors = {
        name: float(value)
        for name, value in _errors(
            network(config.widths).apply_fn, SAMPLERS[config.problem], config.num_samples,
            params, key, config.theta, problem.delta, problem.reach,
        ).items()
    }  # fmt: skip
    squares = _squares(config, dataset, params)
    whole = len(dataset.train_inputs)
    errors["train_mse"] = float(squares[: number * config.num_thetas].mean())
    errors["test_mse"] = float(squares[whole:].mean())
    sizes = [problem.size, *config.widths, 1]
    return [
        {"problem": config.problem, "layer": i, "units": sizes[i]}
        | {"num_features": config.num_features[-1]}
        | fisher.values(found, i)
        | (_lost(found, i) if i else {})
        | errors
        for i in range(len(sizes))
    ]


def _lost(found: iw.FisherFlow, layer: int) -> dict[str, float]:
    """Of what the layer before knows."""
    parts = {"lost": found.lost.value, "lost_stderr": found.lost.stderr}
    return {name: float(part[layer - 1]) for name, part in parts.items()}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _errors(
    apply_fn: Any, sampler: Any, number: int, params: nets.Params, key: jax.Array,
    theta: Any, delta: Any, reach: Any,
) -> dict[str, jax.Array]:  # fmt: skip
    """Mean squared error and bias b at θ, and b' there, with standard errors; of fresh samples."""
    thetas = jnp.array([theta - delta, theta, theta + delta])
    count = -(-number // CHUNK)

    def of_chunk(key: jax.Array) -> jax.Array:
        x = jax.vmap(lambda k, t: sampler(k, t, CHUNK))(jax.random.split(key, 3), thetas)
        return apply_fn(params, x.reshape(-1, x.shape[-1]))[:, 0].reshape(3, CHUNK) * reach

    found = jax.lax.map(of_chunk, jax.random.split(key, count))
    below, at, above = (found[:, i].ravel() - thetas[i] for i in range(3))
    root = at.size**0.5
    return {
        "mse_at_theta": jnp.mean(at**2),
        "mse_at_theta_stderr": jnp.std(at**2) / root,
        "bias": at.mean(),
        "bias_stderr": at.std() / root,
        "bias_slope": (above.mean() - below.mean()) / (2 * delta),
        "bias_slope_stderr": jnp.hypot(above.std(), below.std()) / root / (2 * delta),
    }


def _squares(config: Config, dataset: data.Dataset, params: nets.Params) -> np.ndarray:
    """Squared errors of all training samples, then of all for testing; in units of θ²."""
    x = np.concatenate([dataset.train_inputs, dataset.test_inputs])
    at = np.concatenate([dataset.train_targets, dataset.test_targets])
    found = np.float64(_outputs(network(config.widths).apply_fn, params, x))
    return (found * PROBLEMS[config.problem].reach - grid(config)[at]) ** 2


@partial(jax.jit, static_argnums=0)
def _outputs(apply_fn: Any, params: nets.Params, inputs: jax.Array) -> jax.Array:
    return jax.lax.map(lambda x: apply_fn(params, x[None])[0, 0], inputs, batch_size=CHUNK)


# ------------------------------------------------------------------------ what the table says


def of_layers(rows: Rows, name: str, number: int) -> np.ndarray:
    """A column of the networks with so many samples, (seeds, steps, layers)."""
    return tables.grid(rows, name, axes=("seed", "step", "layer"), number=number)


def numbers(rows: Rows) -> list[int]:
    """Training samples of each θ, increasing."""
    return sorted({row["number"] for row in rows})


def steps(rows: Rows) -> np.ndarray:
    """Those of the table, increasing from 0."""
    return np.array(sorted({row["step"] for row in rows}))


def truth(rows: Rows) -> Problem:
    """The problem that networks are trained on."""
    return PROBLEMS[next(row["problem"] for row in rows)]


def crossing(rows: Rows, number: int) -> dict[str, np.ndarray]:
    """When to stop, for every seed, (S,).

    Attributes:
      train_below_bound: step at which the training MSE is first below 1/I(input); nan if nowhere.
      least_test_mse: step of the smallest test MSE.
      largest_information: step of the largest information of the output.
      test_mse_then: test MSE where the training MSE passes 1/I(input), over the smallest.
    """
    train, test, output = (
        of_layers(rows, name, number)[:, :, -1] for name in ("train_mse", "test_mse", "information")
    )
    below = train < 1 / truth(rows).information
    first, crossed = below.argmax(1), below.any(1)
    step, then = steps(rows), np.take_along_axis(test, first[:, None], 1)[:, 0]
    return {
        "train_below_bound": np.where(crossed, step[first], np.nan),
        "least_test_mse": step[test.argmin(1)],
        "largest_information": step[output.argmax(1)],
        "test_mse_then": np.where(crossed, then / test.min(1), np.nan),
    }


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Informations of inputs and of layers, errors in units of the bound, and where they turn."""
    del config
    result: dict[str, Any] = {}
    bound = 1 / truth(rows).information
    for number in numbers(rows):
        information = of_layers(rows, "information", number).mean(0)
        last = {
            name: of_layers(rows, name, number)[:, :, 0].mean(0)
            for name in ("train_mse", "test_mse", "mse_at_theta", "bias", "bias_slope")
        }
        result[f"samples_{number}"] = {
            "information_of_layers": {
                "untrained": [tables.rounded(v) for v in information[0]],
                "trained": [tables.rounded(v) for v in information[-1]],
            },
            **{
                f"{name}_over_bound": tables.rounded(last[name][-1] / bound)
                for name in ("train_mse", "test_mse", "mse_at_theta")
            },
            "bias_and_its_slope": [tables.rounded(last[n][-1]) for n in ("bias", "bias_slope")],
            "stopping": {k: tables.spread(v) for k, v in crossing(rows, number).items()},
        }
    return result


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Inputs have their known information, no layer has more, and errors obey Cramér-Rao."""
    return [
        _check_ceiling(rows),
        _check_flow(rows),
        _check_bound(rows),
        _check_training(rows, config),
        _check_memory(rows),
    ]


def _check_ceiling(rows: Rows) -> checks.Check:
    own = list(rows)
    value, stderr = (tables.column(own, f"information{end}") for end in ("", "_stderr"))
    exact, t = truth(rows).information, fisher.allowance(len(own))
    over = (value - exact) / stderr
    worst = own[int(over.argmax())]
    return checks.Check(
        f"no layer has more information than the input, {exact:g}",
        bool(over.max() < t),
        f"largest {worst['information']:.4g} ± {worst['information_stderr']:.2g} (layer "
        f"{worst['layer']}, step {worst['step']}): {over.max():.1f} standard errors above, of "
        f"{t:.1f} allowed in {len(own)} comparisons",
    )


def _check_flow(rows: Rows) -> checks.Check:
    """Of the same samples, so that differences are known much better than informations.

    An observation: what random features have not found in the layer before is allowed for nowhere.
    """
    rows = list(rows)
    own = [b for a, b in itertools.pairwise(rows) if b["layer"] and a["converged"]]
    name = "as observed: no layer has more information than one before whose own has converged"
    if not own:
        said = "nothing to compare: none has converged; add random features (--num-features)"
        return checks.Check(name, True, said)
    t = fisher.allowance(len(own))
    lost, stderr = (tables.column(own, f"lost{end}") for end in ("", "_stderr"))
    gained = -lost / stderr
    worst = own[int(gained.argmax())]
    return checks.Check(
        name,
        bool(gained.max() < t),
        f"lost {worst['lost']:.3g} ± {worst['lost_stderr']:.2g} (layer {worst['layer']}, step "
        f"{worst['step']}): {gained.max():.1f} standard errors below zero, of {t:.1f} allowed in "
        f"{len(own)} comparisons; their median is {np.median(stderr):.2g}",
    )


def lowest(row: Any, information: float) -> tuple[float, float]:
    """(1 + b')²/I + b², the least MSE at θ with this bias, and its standard error."""
    gain = 1 + row["bias_slope"]
    stderr = np.hypot(
        2 * gain / information * row["bias_slope_stderr"], 2 * row["bias"] * row["bias_stderr"]
    )
    return gain**2 / information + row["bias"] ** 2, float(stderr)


def _check_bound(rows: Rows) -> checks.Check:
    own = [row for row in rows if row["layer"] == 0]
    found = [lowest(row, truth(rows).information) for row in own]
    allowance = float(stats.norm.isf(checks.FALSE_ALARM / len(own)))
    below = [
        (least - row["mse_at_theta"]) / np.hypot(stderr, row["mse_at_theta_stderr"])
        for row, (least, stderr) in zip(own, found, strict=True)
    ]
    nearest = min(row["mse_at_theta"] / least for row, (least, _) in zip(own, found, strict=True))
    return checks.Check(
        "the MSE at θ is at least (1 + b')²/I + b², I of the input (Cramér-Rao with bias)",
        bool(max(below) < allowance),
        f"{max(below):.1f} standard errors below at most, of {allowance:.1f} allowed; the nearest "
        f"is {nearest:.2f} times the bound",
    )


def _check_training(rows: Rows, config: Config) -> checks.Check:
    output = of_layers(rows, "information", numbers(rows)[-1])[:, :, -1].mean(0)
    part = 0.5 if config.num_steps >= 5000 else 0.25  # networks of `quick` are half trained
    return checks.Check(
        f"training raises the output's information, on average to {part:g} of the input's or more",
        bool(output.max() > part * truth(rows).information),
        f"from {output[0]:.3g} to {output.max():.3g}",
    )


def _check_memory(rows: Rows) -> checks.Check:
    """An observation, no law: over all θ of the grid, one who knows the grid may be below 1/I."""
    bound = 1 / truth(rows).information
    train, test = (tables.column(rows, f"{part}_mse") for part in ("train", "test"))
    below = train < bound
    return checks.Check(
        "as observed: where the training MSE is below 1/I(input), the test MSE is not",
        bool(np.all(test[below] > bound)),
        f"test MSE there at least {test[below].min() / bound:.3g}/I"
        if below.any()
        else "the training MSE is nowhere below 1/I",
    )


def table(rows: Rows) -> str:
    """Information of every layer, averaged over seeds, and errors in units of 1/I(input)."""
    bound = 1 / truth(rows).information
    depth = 1 + max(row["layer"] for row in rows)
    lines = [
        f"{'samples':>8} {'step':>7} "
        + " ".join(f"{f'I_{i}':>7}" for i in range(depth))
        + f" {'train':>8} {'test':>8} {'at θ':>8} {'b':>7} {'b_slope':>7}   (MSE in units of 1/I)"
    ]
    for number in numbers(rows):
        information = of_layers(rows, "information", number).mean(0)
        columns = {
            name: of_layers(rows, name, number)[:, :, 0].mean(0)
            for name in ("train_mse", "test_mse", "mse_at_theta", "bias", "bias_slope")
        }
        for i, step in enumerate(steps(rows)):
            values = " ".join(f"{v:7.2f}" for v in information[i])
            errors = " ".join(f"{columns[name][i] / bound:8.3g}" for name in list(columns)[:3])
            bias = " ".join(f"{columns[name][i]:7.3f}" for name in list(columns)[3:])
            lines.append(f"{number:8d} {step:7d} {values} {errors} {bias}")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------- figure


def plot(rows: Rows, config: Config) -> Any:
    """Information against step and layer; errors against step, with few and with many samples."""
    import matplotlib.pyplot as plt

    many, few = numbers(rows)[-1], numbers(rows)[0]
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.4))
    for row, number in zip(axes, (many, few), strict=True):
        _draw_training(row[0], rows, number)
        _draw_errors(row[1], rows, number)
    _draw_layers(axes[0, 2], rows, many)
    _draw_layers(axes[1, 2], rows, few)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=9
    )
    figure.suptitle(
        f"{config.problem}, {'-'.join(map(str, config.widths))}-1 ReLU, θ = {config.theta:g}, "
        f"{config.num_seeds} of each: mean and range",
        fontsize=10,
    )
    return figure


def _draw_training(axis: Any, rows: Rows, number: int) -> None:
    import matplotlib.pyplot as plt

    value = of_layers(rows, "information", number)
    units = of_layers(rows, "units", number)[0, 0].astype(int)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, value.shape[2]))
    dashes = itertools.cycle(("-", "--", "-.", ":"))
    for layer, (colour, dash) in enumerate(zip(colours, dashes, strict=False)):
        label = "input" if not layer else "output" if layer == len(units) - 1 else f"layer {layer}"
        label = f"{label} ({units[layer]})"
        look = {"color": colour, "linestyle": dash, "label": label, "marker": "o", "markersize": 3}
        style.band(axis, steps(rows), value[:, :, layer].T, **look)
    _bound(axis, truth(rows).information, "I(input), exact")
    axis.set(ylabel="Fisher information (1/θ²)", ylim=(0, 1.15 * truth(rows).information))
    axis.set_title(f"{number:,} samples of each θ", fontsize=10)
    _step_axis(axis, rows)


def _draw_errors(axis: Any, rows: Rows, number: int) -> None:
    step, problem = steps(rows), truth(rows)
    for name, colour, dash, said in (
        ("train_mse", style.BLUE, "-", "training, all θ"),
        ("test_mse", style.ORANGE, "--", "test, all θ"),
        ("mse_at_theta", style.GREEN, "-.", "at θ, fresh samples"),
    ):
        values = of_layers(rows, name, number)[:, :, 0].T
        style.band(axis, step, values, color=colour, linestyle=dash, label=said)
    output = 1 / of_layers(rows, "information", number)[:, :, -1].clip(1e-9).mean(0)
    axis.plot(step, output, color=style.PURPLE, marker="s", linestyle=":", label="1/I(output)")
    own = [r for r in rows if r["number"] == number and r["layer"] == 0]
    least = [
        np.mean([lowest(r, problem.information)[0] for r in own if r["step"] == s]) for s in step
    ]
    axis.plot(step, least, color=style.GREY, marker="^", linewidth=1, label="(1 + b')²/I + b²")
    _bound(axis, 1 / problem.information, "1/I(input)", offset=-11)
    axis.set(yscale="log", ylabel="mean squared error (θ²)")
    axis.set_ylim(0.2 / problem.information, 200 / problem.information)
    axis.set_title(f"{number:,} samples of each θ", fontsize=10)
    axis.legend(fontsize=8)
    _step_axis(axis, rows)


def _draw_layers(axis: Any, rows: Rows, number: int) -> None:
    value, linear = (of_layers(rows, name, number) for name in ("information", "linear"))
    places = np.unique(np.linspace(0, value.shape[1] - 1, 4).round().astype(int))
    looks = itertools.cycle(
        ((style.GREY, "o"), (style.ORANGE, "s"), (style.GREEN, "^"), (style.BLUE, "D"))
    )
    depth = np.arange(value.shape[2])
    for place, (colour, marker) in zip(places, looks, strict=False):
        said = f"step {steps(rows)[place]:,}"
        style.band(axis, depth, value[:, place].T, color=colour, marker=marker, label=said)
        axis.plot(depth, linear[:, place].mean(0), color=colour, linestyle=":", linewidth=1)
    exact = truth(rows).information
    axis.axhline(exact, color="black", linestyle=":", linewidth=1, label="I(input), exact")
    axis.set(xlabel="layer (0 is the input)", ylabel="Fisher information (1/θ²)")
    axis.set(xticks=depth, ylim=(0, 1.15 * truth(rows).information))
    axis.set_title(f"{number:,} samples of each θ; dotted: linear", fontsize=10)
    axis.legend(fontsize=8, loc="best", frameon=True, framealpha=0.95, edgecolor="none")


def _bound(axis: Any, value: float, said: str, offset: int = 7) -> None:
    """A dotted line, with what it is so many points above it."""
    axis.axhline(value, color="black", linestyle=":", linewidth=1)
    axis.annotate(
        said, (0.98, value), (0, offset), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=8,
    )  # fmt: skip


def _step_axis(axis: Any, rows: Rows) -> None:
    first, last = (float(steps(rows)[i]) for i in (1, -1))
    axis.set_xscale("symlog", linthresh=first)  # step 0 is there too
    axis.set_xticks([0, *10.0 ** np.arange(np.ceil(np.log10(first)), np.log10(last))])
    axis.set(xlabel="step of Adam", xlim=(-first / 20, None))


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.fisher_flow")

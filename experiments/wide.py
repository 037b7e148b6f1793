"""Infinitely wide networks as ensembles: what their outputs and weights know while they learn.

All networks that random starts lead to are, in the limit of infinite width, a Gaussian process that
gradient flow on half the summed squared error moves in closed form. So at every time t the nats
that outputs Z hold of the input, I(X; Z|D), and of the target, I(Z; Y), are known, and bounds of
those that Z and the weights hold of the data. Targets are the parity of digits (±1; losses are
those of class probabilities); with --dataset gaussian, X and Y are jointly Gaussian, so that I(X;
Y) and the frontier of the information bottleneck are known too. Real networks are trained beside
the theory, and for targets of a Gaussian law the bound of I(Θ; D) stands beside the exact value.

Default: digits, about 3 minutes on 2 CPU cores. Paper: Shwartz-Ziv & Alemi (arXiv:1911.09189).
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special, stats

from experiments.common import checks, finite_width, gaussian_pair, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import bottleneck, data, wide

DATASETS = (*data.NAMES, "gaussian")
ACTIVATIONS = {"erf": "-", "relu": "--"}
FIRST, LAST = 1e-5, 1e3  # times
FURTHEST = 60  # t λ_max until which networks of finite width are trained
NUM_LAW, NUM_LAW_TEST = 100, 20  # inputs of the Gaussian law, at most
CODES = np.array([-1.0, 1.0])  # targets of even and odd


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10 (parity of the class), or gaussian.
      depth: hidden layers.
      numbers: training examples; increasing. Weight variances are compared at the last.
      weight_std: σ_w of every layer, where numbers are compared and networks trained.
      weight_stds: those that are compared, for erf and for ReLU; increasing.
      bias_std: σ_b of the hidden layers.
      num_test: test inputs, B of the contrastive bounds.
      num_times: between 1e-5 and 1e3, evenly in their logarithm.
      num_draws: of z for every test input, to check the integrals of I(X; Z|D).
      widths: of the hidden layers of real networks; increasing.
      num_members: real networks of each width.
      num_finite: training examples of the real networks.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    depth: int = 2
    numbers: tuple[int, ...] = (20, 100, 500)
    weight_std: float = 1.0
    weight_stds: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4, 2.0)
    bias_std: float = 0.1
    num_test: int = 360
    num_times: int = 33
    num_draws: int = 16
    widths: tuple[int, ...] = (8, 32, 128)
    num_members: int = 200
    num_finite: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self, DATASETS)
        common.at_least(self, depth=1, num_test=2, num_times=4, num_members=4, num_finite=1)
        common.positive(self, "weight_std")
        common.require(
            np.isfinite(self.bias_std) and self.bias_std >= 0,
            "bias_std",
            "finite and at least 0",
            self.bias_std,
        )
        for name in ("weight_stds", "widths"):
            values = getattr(self, name)
            rising = values and all(a < b for a, b in itertools.pairwise((0, *values)))
            common.require(
                rising and np.all(np.isfinite(values)),
                name,
                "at least one, positive, finite and increasing",
                values,
            )


PRESETS = {
    "quick": Config(
        numbers=(20, 60),
        weight_stds=(1.0, 2.0),
        num_test=60,
        num_times=13,
        widths=(32,),
        num_members=40,
        num_finite=8,
    ),
    "default": Config(),
    "paper": Config(
        dataset="mnist",
        numbers=(20, 100, 500, 1000, 2000, 4000),
        weight_stds=(0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8),
        bias_std=0.0,
        num_test=1000,
        num_times=50,
        widths=(64, 256, 1024, 4096),
        num_members=1500,
    ),
}


class Problem(NamedTuple):
    """Inputs, targets and, of test inputs, labels (of Gaussian pairs: None)."""

    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    labels: np.ndarray | None

    @property
    def target_entropy(self) -> float:
        """H(Y) of the test labels, or h(Y) of the law; nats."""
        if self.labels is None:
            return gaussian_pair.TARGET_ENTROPY
        return float(special.entr(np.bincount(self.labels) / len(self.labels)).sum())


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The largest training set that is asked for, and the test inputs."""
    most = max(*config.numbers, config.num_finite)
    if config.dataset == "gaussian":
        allowed = gaussian_pair.NUM_TRAIN, gaussian_pair.NUM_TEST
        common.require(most <= allowed[0], "numbers", f"at most {allowed[0]}", config.numbers)
        common.require(
            config.num_test <= allowed[1], "num_test", f"at most {allowed[1]}", config.num_test
        )
        dataset = gaussian_pair.load(most, config.seed)
        kept = slice(0, config.num_test)
        return dataclasses.replace(
            dataset,
            test_inputs=dataset.test_inputs[kept],
            test_targets=dataset.test_targets[kept],
        )
    return data.load(
        config.dataset,
        data_dir=data_dir,
        num_examples=most,
        num_test_examples=config.num_test,
        seed=config.seed,
    )


def problem(config: Config, dataset: data.Dataset) -> Problem:
    """The targets that are learned."""
    x, other = (
        np.asarray(x, float).reshape(len(x), -1)
        for x in (dataset.train_inputs, dataset.test_inputs)
    )
    if config.dataset == "gaussian":
        y, test = (
            gaussian_pair.targets(x, config.seed, part)
            for x, part in ((x, "train"), (other, "test"))
        )
        return Problem(x, y, other, test, None)
    parity = np.asarray(dataset.test_targets) % 2
    return Problem(x, CODES[np.asarray(dataset.train_targets) % 2], other, CODES[parity], parity)


def times(config: Config) -> np.ndarray:
    """Those at which everything is measured."""
    return np.geomspace(FIRST, LAST, config.num_times)


def network(config: Config, activation: str, weight_std: float) -> wide.Network:
    """The architecture; the readout has no bias."""
    return wide.Network(config.depth, activation, weight_std, config.bias_std)


# ---------------------------------------------------------------------------------- measuring


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each time of every ensemble; of those of finite width; of a Gaussian law."""
    learned = problem(config, dataset)
    base = "erf", config.weight_std
    cells = dict.fromkeys([(*base, number) for number in config.numbers])
    cells |= dict.fromkeys(
        (*pair, config.numbers[-1]) for pair in itertools.product(ACTIVATIONS, config.weight_stds)
    )
    pieces = [(f"{a}-{s:g}-{n}", _infinite, (a, s, n)) for a, s, n in cells]
    pieces += [(f"width-{width}", _finite, (width,)) for width in config.widths]
    pieces += [("law", _law, ())]
    ledger, rows = context.ledger("ensembles"), []
    for name, measure, arguments in context.track(pieces, "ensembles"):
        rows += ledger.get(name, lambda m=measure, a=arguments: m(config, learned, *a))
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column, "") for column in columns} for row in rows]


def _infinite(
    config: Config, learned: Problem, activation: str, weight_std: float, number: int
) -> list[dict[str, Any]]:
    """Everything about one infinitely wide ensemble, a row for each time."""
    own, t = network(config, activation, weight_std), times(config)
    x, y, other = learned.inputs[:number], learned.targets[:number], learned.test_inputs
    ensemble = wide.ensemble(wide.kernels(own, x), y)
    prior = wide.prior_variance(own, other)
    moments = ensemble.at(t, wide.kernels(own, other, x), prior)
    gibbs, bayes = losses(moments, learned.test_targets, learned.labels)
    labels = None if learned.labels is None else np.int32(y > 0)
    train_gibbs, train_bayes = losses(ensemble.at_training(t), y, labels)
    integrals = wide.contrastive_integrals(moments)
    key = jax.random.key(config.seed)
    drawn = wide.contrastive_bounds(key, moments, num_draws=config.num_draws)
    columns = {
        "t": t,
        "train_gibbs_nats": train_gibbs.mean(1),
        "train_bayes_nats": train_bayes.mean(1),
        "test_gibbs_nats": gibbs.mean(1),
        "test_gibbs_stderr_nats": tables.stderr(gibbs, 1),
        "test_bayes_nats": bayes.mean(1),
        "label_information_nats": learned.target_entropy - gibbs.mean(1),
        "input_lower_nats": integrals.lower.value,
        "input_upper_nats": integrals.upper.value,
        "drawn_lower_nats": drawn.lower.value,
        "drawn_lower_stderr_nats": drawn.lower.stderr,
        "drawn_upper_nats": drawn.upper.value,
        "drawn_upper_stderr_nats": drawn.upper.stderr,
        "data_information_nats": wide.data_information(moments, prior).mean(1),
        "weight_information_nats": wide.weight_information(ensemble, t, wide.alignment(own, x)),
        "distance_moved": wide.distance_moved(ensemble, t),
        "fisher_trace": np.full(len(t), wide.fisher_trace(ensemble)),
    }
    where = {"part": "infinite", "activation": activation, "weight_std": weight_std}
    return _rows(where | {"num_examples": number}, columns)


def losses(
    moments: wide.Moments, targets: np.ndarray, labels: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Gibbs and Bayes losses of every example, (T, M): of labels where there are some."""
    if labels is None:
        return wide.gibbs_loss(moments, targets), wide.bayes_loss(moments, targets)
    found = wide.class_losses(moments, labels, CODES)
    return found.gibbs.value, found.bayes.value


def _finite(config: Config, learned: Problem, width: int) -> list[dict[str, Any]]:
    """Real networks of one width beside the theory, a row for each time."""
    own, number = network(config, "erf", config.weight_std), config.num_finite
    x, y, other = learned.inputs[:number], learned.targets[:number], learned.test_inputs
    ensemble = wide.ensemble(wide.kernels(own, x), y)
    steepest = ensemble.eigenvalues[-1]
    t = times(config)[times(config) * steepest <= FURTHEST]
    theory = ensemble.at(t, wide.kernels(own, other, x), wide.prior_variance(own, other))
    key = jax.random.fold_in(jax.random.key(config.seed), width)
    z = finite_width.outputs(
        key, own, width, (x, y, other), t, steepest, config.num_members
    ).astype(float)
    mean, variance = z.mean(0), z.var(0, ddof=1)
    member = wide.Moments(z[..., None], np.zeros_like(z))  # each is an ensemble of its own
    loss = [
        losses(wide.Moments(*pair), learned.test_targets, learned.labels)[0].mean(1)
        for pair in zip(member.mean, member.variance, strict=True)
    ]
    # What of the squared deviation of the mean is not of the number of members.
    excess = ((mean - theory.mean[..., 0]) ** 2 - variance / len(z)).mean(1)
    columns = {
        "t": t,
        "test_gibbs_nats": np.mean(loss, 0),
        "test_gibbs_stderr_nats": tables.stderr(np.array(loss), 0),
        "theory_gibbs_nats": losses(theory, learned.test_targets, learned.labels)[0].mean(1),
        "mean_excess": excess,
        "mean_noise": (variance / len(z)).mean(1),
        "variance_ratio": variance.mean(1) / theory.variance.mean(1),
    }
    where = {"part": "finite", "activation": "erf", "weight_std": config.weight_std}
    return _rows(where | {"num_examples": number, "width": width}, columns)


def _law(config: Config, learned: Problem) -> list[dict[str, Any]]:
    """Nats about targets of a random linear rule and noise, Y|X ~ N(0, c XX'/d + I).

    Only the last layer is trained, so that outputs are linear in the weights.
    """
    own, t = network(config, "erf", config.weight_std), times(config)
    x, other = (
        learned.inputs[: min(config.numbers[-1], NUM_LAW)],
        learned.test_inputs[:NUM_LAW_TEST],
    )
    spread = gaussian_pair.SNR * x @ x.T / x.shape[1] + np.eye(len(x))
    within, across = (wide.kernels(own, a, x).nngp for a in (x, other))
    ensemble = wide.ensemble(wide.Kernels(within, within), np.zeros(len(x)))
    frozen = wide.Kernels(across, across)
    prior = wide.kernels(own, other).nngp
    columns = {
        "t": t,
        "weight_information_nats": wide.mean_weight_information(ensemble, t, spread),
        "exact_nats": wide.target_information(ensemble, t, spread),
        "output_nats": wide.output_information(ensemble, t, frozen, prior, spread),
        "fisher_trace": np.full(len(t), wide.fisher_trace(ensemble)),
    }
    where = {"part": "law", "activation": "erf", "weight_std": config.weight_std}
    return _rows(where | {"num_examples": len(x)}, columns)


def _rows(where: dict[str, Any], columns: dict[str, Any]) -> list[dict[str, Any]]:
    lines = zip(*(np.asarray(values, float).tolist() for values in columns.values()), strict=True)
    return [where | dict(zip(columns, line, strict=True)) for line in lines]


# ------------------------------------------------------------------------ what the table says


def of(rows: Rows, name: str, part: str = "infinite", **where: Any) -> np.ndarray:
    """A column of one ensemble, over time."""
    return tables.grid(rows, name, axes=("t",), part=part, **where)


def sets(rows: Rows, config: Config) -> dict[str, list[dict[str, Any]]]:
    """The ensembles that are compared: of several numbers, and of several weight variances."""
    del rows
    base = {"activation": "erf", "weight_std": config.weight_std}
    found = {"numbers": [base | {"num_examples": n} for n in config.numbers]}
    for activation in ACTIVATIONS:
        found[activation] = [
            {"activation": activation, "weight_std": s, "num_examples": config.numbers[-1]}
            for s in config.weight_stds
        ]
    return found


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Where I(Z; Y) is best, how far it falls after that, and what its best costs."""
    found: dict[str, Any] = {}
    for name, members in sets(rows, config).items():
        axis = "num_examples" if name == "numbers" else "weight_std"
        found[name] = [{axis: where[axis], **_climax(rows, where)} for where in members]
    level = 0.5 * min(each["label_nats"] for each in found["numbers"])
    for name in found:
        # On the way up, how many nats about the target go with so many about the input.
        found[name] = [
            each | {"input_nats_at_common_level": _rate(rows, where, level)}
            for each, where in zip(found[name], sets(rows, config)[name], strict=True)
        ]
    found["common_level_nats"] = tables.rounded(level)
    law = {name: of(rows, name, "law") for name in ("weight_information_nats", "exact_nats")}
    ratio = law["weight_information_nats"] / law["exact_nats"]
    found["weight_bound_over_exact"] = [tables.rounded(r) for r in (ratio.max(), ratio[-1])]
    for width in config.widths:
        excess, noise, variance = (
            of(rows, name, "finite", width=width)
            for name in ("mean_excess", "mean_noise", "variance_ratio")
        )
        found[f"width_{width}"] = {
            "rms_deviation_of_mean": tables.rounded(np.sqrt(max(excess.max(), 0))),
            "of_chance": tables.rounded(np.sqrt(noise.max())),
            "variance_ratio_at_last": tables.rounded(variance[-1]),
        }
    return found


def _climax(rows: Rows, where: dict[str, Any]) -> dict[str, float | None]:
    label, lower, upper, t = (
        of(rows, name, **where)
        for name in ("label_information_nats", "input_lower_nats", "input_upper_nats", "t")
    )
    best = int(label.argmax())
    values = {
        "label_nats": label[best],
        "t": t[best],
        "input_lower_nats": lower[best],
        "input_upper_nats": upper[best],
        "label_nats_lost_after": label[best] - label[-1],
        "input_nats_gained_after": lower[-1] - lower[best],
    }
    return {name: tables.rounded(value) for name, value in values.items()}


def _rate(rows: Rows, where: dict[str, Any], level: float) -> float | None:
    """I(X; Z|D) (lower bound) where I(Z; Y) first comes to a level; None if it never does."""
    label, lower = (
        of(rows, name, **where) for name in ("label_information_nats", "input_lower_nats")
    )
    above = np.flatnonzero(label >= level)
    if not above.size or above[0] == 0:
        return None
    ends = slice(above[0] - 1, above[0] + 1)
    return tables.rounded(np.interp(level, label[ends], lower[ends]))


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Order of losses and bounds, two routes to I(X; Z|D), the frontier, and finite widths."""
    infinite = [row for row in rows if row["part"] == "infinite"]
    column = {name: tables.column(infinite, name) for name in infinite[0] if name.endswith("nats")}
    over = max(
        (column[f"{part}_bayes_nats"] - column[f"{part}_gibbs_nats"]).max()
        for part in ("train", "test")
    )
    crossed = (column["input_lower_nats"] - column["input_upper_nats"]).max()
    above = column["input_lower_nats"].max() - np.log(config.num_test)
    law = {
        name: of(rows, f"{name}_nats", "law") for name in ("weight_information", "exact", "output")
    }
    gaps = law["weight_information"] - law["exact"], law["exact"] - law["output"]
    t, trace = (of(rows, name, "law") for name in ("t", "fisher_trace"))
    slope = np.diff(law["exact"])[-1] / np.diff(t)[-1] / trace[-1]
    found = [
        checks.Check(
            "Bayes loss <= Gibbs loss", bool(over < 1e-9), f"{over:.2g} nats above at most"
        ),
        checks.Check(
            "I(X;Z|D): lower bound <= upper bound, and <= log B",
            bool(max(crossed, above) < 1e-9),
            f"{crossed:.2g} and {above:.2g} nats above at most",
        ),
        _check_draws(column, config),
        checks.Check(
            "I(f(X*);Y|X) <= I(Θ;Y|X) <= bound, for targets of a Gaussian law",
            all(bool(np.all(gap > -1e-9 * law["exact"] - 1e-12)) for gap in gaps),
            f"smallest gaps {gaps[1].min():.3g} and {gaps[0].min():.3g} nats",
        ),
        checks.Check(
            "I(Θ;Y|X) ends up growing by Tr Θ nats a unit of time",
            bool(abs(slope - 1) < 0.02),
            f"{slope:.4f} Tr Θ at t = {t[-1]:g}",
        ),
    ]
    if len(config.widths) > 1:
        found.append(_check_widths(rows, config))
    return found + ([_check_frontier(column)] if config.dataset == "gaussian" else [])


def _check_draws(column: dict[str, np.ndarray], config: Config) -> checks.Check:
    names = ("lower", "upper")
    number = 2 * len(column["input_lower_nats"])
    t = float(stats.t.isf(checks.FALSE_ALARM / number / 2, config.num_draws - 1))
    used = max(
        (
            np.abs(column[f"drawn_{name}_nats"] - column[f"input_{name}_nats"])
            / (t * column[f"drawn_{name}_stderr_nats"] + 1e-9)
        ).max()
        for name in names
    )
    most = max(t * column[f"drawn_{name}_stderr_nats"].max() for name in names)
    return checks.Check(
        "I(X;Z|D): draws agree with the integral",
        bool(used < 1),
        f"largest deviation {used:.0%} of {t:.1f} standard errors, at most {most:.2g} nats; "
        f"{number} comparisons",
    )


def _check_frontier(column: dict[str, np.ndarray]) -> checks.Check:
    """Whether I(Z;Y) is at most what the upper bound of I(X;Z|D) allows; the loss has an error."""
    t = stats.norm.isf(checks.FALSE_ALARM / len(column["input_upper_nats"]))
    best = bottleneck.gaussian_frontier([gaussian_pair.SNR], column["input_upper_nats"])
    over = column["label_information_nats"] - best
    used = (over / (t * column["test_gibbs_stderr_nats"])).max()
    return checks.Check(
        "I(Z;Y) lies below the frontier of the Gaussian bottleneck, and below I(X;Y)",
        bool(used < 1),
        f"{over.max():.3g} nats above at most, {used:.2f} of the allowance for the test set",
    )


def _check_widths(rows: Rows, config: Config) -> checks.Check:
    ends = []
    for width in (config.widths[0], config.widths[-1]):
        excess, noise = (
            of(rows, name, "finite", width=width) for name in ("mean_excess", "mean_noise")
        )
        worst = int(excess.argmax())
        ends.append((excess[worst], noise[worst]))
    (narrow, first), (broad, last) = ends
    return checks.Check(
        "means of wider networks are nearer to the theory",
        bool(broad < narrow),
        f"squared deviation of the mean, chance aside: {narrow:.3g} at width {config.widths[0]}, "
        f"{broad:.3g} at {config.widths[-1]}; chance adds {first:.2g} and {last:.2g}",
    )


def table(rows: Rows) -> str:
    """One line for each ensemble: at its best I(Z; Y), and at the end."""
    lines = [
        f"{'φ':>5} {'σ_w':>5} {'N':>5}   {'t at best':>9} {'I(Z;Y)':>7} {'I(X;Z|D)':>16} "
        f"{'I(Z;D|X)':>8} {'I(Θ;D)':>9}   {'I(Z;Y)':>7} {'I(X;Z|D)':>16} at the end   (nats)"
    ]
    names = ("activation", "weight_std", "num_examples")
    infinite = [row for row in rows if row["part"] == "infinite"]
    for cell in dict.fromkeys(tuple(row[name] for name in names) for row in infinite):
        where = dict(zip(names, cell, strict=True))
        own = [row for row in infinite if all(row[k] == v for k, v in where.items())]
        best = max(own, key=lambda row: row["label_information_nats"])
        lines.append(
            f"{cell[0]:>5} {cell[1]:5.3g} {cell[2]:5}   {best['t']:9.3g} {_in_plane(best)} "
            f"{best['data_information_nats']:8.3f} {best['weight_information_nats']:9.4g}   "
            f"{_in_plane(own[-1])}"
        )
    return "\n".join(lines)


def _in_plane(row: Any) -> str:
    bracket = f"[{row['input_lower_nats']:.3f}, {row['input_upper_nats']:.3f}]"
    return f"{row['label_information_nats']:7.3f} {bracket:>16}"


# ------------------------------------------------------------------------------------- figure


def plot(rows: Rows, config: Config) -> Any:
    """The plane for numbers and variances; everything against time; a law; finite widths."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(17, 8))
    groups = sets(rows, config)
    titles = {
        "numbers": f"erf, σ_w = {config.weight_std:g}; at the stars: N",
        "erf": f"erf, N = {config.numbers[-1]}; at the stars: σ_w",
        "relu": f"ReLU, N = {config.numbers[-1]}; at the stars: σ_w",
    }
    for axis, (name, members) in zip(axes[0], groups.items(), strict=False):
        _draw_plane(axis, rows, config, name, members)
        axis.set_title(titles[name], fontsize=10)
    last = groups["numbers"][-1]
    _draw_losses(axes[0, 3], rows, last)
    _draw_outputs(axes[1, 0], rows, config, last)
    _draw_weights(axes[1, 1], rows, last)
    _draw_law(axes[1, 2], rows)
    _draw_finite(axes[1, 3], rows, config)
    for axis in (axes[0, 3], *axes[1]):
        axis.set(xscale="log", xlabel="time t of gradient flow")
        axis.title.set_fontsize(10)
    return figure


def _draw_plane(
    axis: Any, rows: Rows, config: Config, name: str, members: list[dict[str, Any]]
) -> None:
    """I(Z;Y) against I(X;Z|D), a curve for each ensemble; its best and its end are marked."""
    import matplotlib.pyplot as plt

    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(members)))
    dashes = itertools.cycle(["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))])
    key = "num_examples" if name == "numbers" else "weight_std"
    highest, furthest = 0.0, 0.0
    for where, colour, dash in zip(members, shades, dashes, strict=False):
        label, lower, upper = (
            of(rows, column, **where)
            for column in ("label_information_nats", "input_lower_nats", "input_upper_nats")
        )
        axis.plot(upper, label, color=colour, linewidth=0.8, alpha=0.6)  # the curve lies between
        axis.plot(lower, label, color=colour, linestyle=dash)
        best = label.argmax()
        axis.plot(lower[best], label[best], "*", color=colour, markersize=9)
        below = config.dataset == "gaussian"  # the frontier is above
        mark = {"ha": "center", "va": "top" if below else "bottom", "fontsize": 9, "zorder": 9}
        axis.annotate(
            f"{where[key]:g}",
            (lower[best], label[best]),
            (0, -6 if below else 5),
            textcoords="offset points",
            **mark,
        )
        axis.plot(lower[-1], label[-1], "s", color=colour, markersize=4)
        highest, furthest = max(highest, label.max()), max(furthest, lower.max())
    if config.dataset == "gaussian":
        nats = np.linspace(0, furthest, 200)
        frontier = bottleneck.gaussian_frontier([gaussian_pair.SNR], nats)
        axis.plot(nats, frontier, color="black")
        place = {"transform": axis.transAxes, "va": "top", "fontsize": 8}
        axis.text(0.02, 0.88, "black: Gaussian\nbottleneck", **place)
        axis.axhline(gaussian_pair.NATS, color="black", linestyle=":", linewidth=1)
        axis.text(0, gaussian_pair.NATS, "I(X;Y)", va="bottom", fontsize=8)
        highest = gaussian_pair.NATS
    axis.set(
        xlim=(-0.02 * furthest, 1.15 * furthest),
        xlabel="I(X;Z|D), lower bound; thin: upper (nats)",
        ylabel="I(Z;Y), lower bound (nats)",
        ylim=(-0.15 * highest, 1.15 * highest),
    )


def _draw_losses(axis: Any, rows: Rows, where: dict[str, Any]) -> None:
    looks = itertools.product(
        (("train", style.ORANGE), ("test", style.BLUE)), (("gibbs", "-"), ("bayes", "--"))
    )
    t = of(rows, "t", **where)
    for (part, colour), (kind, dash) in looks:
        loss = of(rows, f"{part}_{kind}_nats", **where)
        axis.plot(t, loss, color=colour, linestyle=dash, label=f"{part}, {kind.title()}")
    axis.set(ylabel="loss (nats per example)", title=f"losses, N = {where['num_examples']}")
    top = of(rows, "test_bayes_nats", **where).max()
    axis.set_ylim(None, 1.6 * top)
    axis.legend(fontsize=8)


def _draw_outputs(axis: Any, rows: Rows, config: Config, where: dict[str, Any]) -> None:
    names = ("t", "input_lower_nats", "input_upper_nats", "label_information_nats")
    t, lower, upper, label = (of(rows, name, **where) for name in names)
    axis.fill_between(t, lower, upper, color=style.BLUE, alpha=0.35, label="I(X;Z|D), bounds")
    axis.plot(t, lower, color=style.BLUE)
    axis.plot(t, label, color=style.GREEN, linestyle="--", label="I(Z;Y), lower bound")
    known = of(rows, "data_information_nats", **where)
    axis.plot(t, known, color=style.ORANGE, linestyle="-.", label="I(Z;D|X), upper bound")
    ceiling = np.log(config.num_test)
    highest = 1.15 * max(upper.max(), known.max())
    if ceiling < highest:
        axis.axhline(ceiling, color="black", linestyle=":", linewidth=1)
        axis.text(t[-1], ceiling, "log B", ha="right", va="bottom", fontsize=8)
    axis.set(ylabel="nats", ylim=(-0.1 * highest, highest), title="what outputs know")
    axis.legend(fontsize=8)


def _draw_weights(axis: Any, rows: Rows, where: dict[str, Any]) -> None:
    t = of(rows, "t", **where)
    for name, colour, dash, said in (
        ("weight_information_nats", style.BLUE, "-", "I(Θ;D), linearised (nats)"),
        ("distance_moved", style.GREEN, "--", "E|θ_t - θ_0|²"),
        ("fisher_trace", style.ORANGE, "-.", "trace of the Fisher information"),
    ):
        axis.plot(t, of(rows, name, **where), color=colour, linestyle=dash, label=said)
    axis.set(yscale="log", ylabel="nats; squared weights", title="what weights know")
    axis.legend(fontsize=8)


def _draw_law(axis: Any, rows: Rows) -> None:
    names = ("t", "weight_information_nats", "exact_nats", "output_nats", "fisher_trace")
    t, bound, exact, outputs, trace = (of(rows, name, "law") for name in names)
    axis.plot(t, bound, color=style.BLUE, label="E KL, the bound")
    axis.plot(t, exact, color=style.ORANGE, linestyle="--", label="I(Θ;Y|X), exact")
    axis.plot(t, outputs, color=style.GREEN, linestyle="-.", label="I(f(X*);Y|X), 20 test inputs")
    axis.plot(t, trace * t, color="black", linestyle=":", linewidth=1, label="t Tr Θ")
    axis.set(yscale="log", ylabel="nats", title="targets of a Gaussian law, readout trained")
    axis.legend(fontsize=8)


def _draw_finite(axis: Any, rows: Rows, config: Config) -> None:
    import matplotlib.pyplot as plt

    shades = plt.get_cmap("viridis")(np.linspace(0.9, 0.25, len(config.widths)))
    for width, colour, marker in zip(config.widths, shades, itertools.cycle("osD^v"), strict=False):
        t, loss, stderr = (
            of(rows, name, "finite", width=width)
            for name in ("t", "test_gibbs_nats", "test_gibbs_stderr_nats")
        )
        look = {"color": colour, "marker": marker, "linestyle": "", "capsize": 2}
        axis.errorbar(t, loss, 1.96 * stderr, label=f"width {width}", **look)
    theory = of(rows, "theory_gibbs_nats", "finite", width=config.widths[0])
    axis.plot(t, theory, color="black", label="infinite width")
    title = f"real networks, N = {config.num_finite}, {config.num_members} each"
    axis.set(ylabel="test Gibbs loss (nats per example)", title=title)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.wide")

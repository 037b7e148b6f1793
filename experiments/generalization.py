"""Does less information in the weights mean better generalisation? A few hundred networks say.

Width, depth, batch size, learning rate, label noise and the number of training examples are varied,
every network is trained to the same cross-entropy, and all that the library calls information in
the weights is set against the gap between training and held-out data, beside the usual measures of
complexity: Kendall's τ over all networks, with the label noise held fixed, and along one factor
with all others fixed.

Default: digits, three minutes on 2 CPU cores (384 networks). Papers: Achille, Paolini &
Soatto (arXiv:1905.12213), Thm 2.2 and Sec. 4; protocol of Jiang et al. (arXiv:1912.02178).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import iw_jax as iw
from experiments.common import checks, complexity, cost, ranks, tables
from experiments.common import config as common
from experiments.common.complexity import SIGMAS
from experiments.common.context import Context
from experiments.common.fitting import MOMENTUM, ROUND, Sets, fit
from experiments.common.tables import Rows, column
from iw_jax import data, nets

ALLOWED = 0.1  # training error that noise may add (Jiang et al., App. C.3)
MARGIN = 10  # percentile of the training margins
FACTORS = {
    "label_noise": "noise",
    "num_examples": "N",
    "width": "width",
    "depth": "depth",
    "batch_size": "batch",
    "learning_rate": "rate",
}
# What is to be ranked. Held-out labels of the gaps are as noisy as the training ones, so that noise
# enters by definition too; into the error on true labels it does not.
TRUTHS = {
    "error_gap": "error gap",
    "loss_gap_nats": "cross-entropy gap",
    "true_test_error": "error on true labels",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10; training and test examples are pooled and
        drawn anew for each seed.
      widths: hidden units of every layer of an mlp, a value a network.
      depths: hidden layers.
      batches: examples a step.
      rates: learning rates of SGD with momentum 0.9.
      noises: parts of the labels that are drawn anew, uniformly.
      numbers: training examples N, increasing; smaller sets are parts of larger ones.
      num_seeds: training sets, label noise and starts.
      loss: training stops at this cross-entropy, nats a label.
      num_steps: steps allowed; a network that has not fitted by then does not count.
      num_test: held-out examples; 0 for all that are not for training.
      prior_scale: standard deviation λ of the prior P, at 0 or at the initial weights.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_matvecs: curvature products of a network; as many as weights (or as N times classes) make
        its spectrum exact.
      num_draws: draws of weight noise.
      num_variational: Adam steps on a diagonal Gaussian code around every network.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    widths: tuple[int, ...] = (10, 16)
    depths: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (8, 32)
    rates: tuple[float, ...] = (0.003, 0.01)
    noises: tuple[float, ...] = (0.0, 0.2, 0.4)
    numbers: tuple[int, ...] = (40, 120)
    num_seeds: int = 4
    loss: float = 0.05
    num_steps: int = 12_000
    num_test: int = 0
    prior_scale: float = 1.0
    betas: tuple[float, ...] = (0.1, 1.0, 10.0)
    num_matvecs: int = 2000
    num_draws: int = 16
    num_variational: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.at_least(self, num_seeds=2, num_variational=1)
        common.positive(self, "widths", "depths", "batches", "rates", "loss")
        noises, tested = self.noises, self.num_test
        good = noises and all(0 <= f < 1 for f in noises)
        common.require(good, "noises", "at least one in [0, 1)", noises)
        # Each half of the test set has a gap of its own.
        common.require(tested == 0 or tested >= 2, "num_test", "0 or at least 2", tested)


PRESETS = {
    "quick": Config(
        widths=(6,),
        depths=(1,),
        batches=(16,),
        rates=(0.01, 0.02),
        noises=(0.0, 0.3),
        numbers=(40,),
        num_seeds=2,
        loss=0.2,
        num_steps=3000,
        betas=(0.1, 1.0),
        num_draws=4,
        num_variational=20,
    ),
    "default": Config(),
    "paper": Config(
        dataset="cifar10",
        widths=(128, 512),
        depths=(1, 2, 3),
        batches=(32, 128),
        rates=(0.003, 0.01),
        noises=(0.0, 0.2, 0.4),
        numbers=(2000, 8000),
        num_seeds=5,
        num_steps=40_000,
        num_test=10_000,
        prior_scale=0.2,
        num_matvecs=480,
        num_variational=3000,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """All examples of the data set as training examples; every seed splits them anew."""
    found = data.load(config.dataset, data_dir=data_dir)
    needed = max(config.numbers)
    inputs = np.concatenate([found.train_inputs, found.test_inputs])
    targets = np.concatenate([found.train_targets, found.test_targets])
    if needed >= len(targets):
        raise ValueError(f"numbers must leave examples to test on, of {len(targets)}, got {needed}")
    return data.Dataset(found.name, inputs, targets, inputs[:0], targets[:0], found.num_classes)


# ----------------------------------------------------------------------------------- the data


def cells(config: Config) -> list[tuple[float, int, float]]:
    """(noise, N, learning rate): what is varied without another shape."""
    return list(itertools.product(config.noises, config.numbers, config.rates))


def split(config: Config, dataset: data.Dataset) -> Sets:
    """The examples of every seed: the first for training, the last for the test."""
    most, total = max(config.numbers), len(dataset.train_targets)
    tested = min(config.num_test or total, total - most)
    parts = []
    for s in range(config.num_seeds):
        order = np.random.default_rng((config.seed, s)).permutation(total)
        train, test = order[:most], order[total - tested :]
        true, noise = dataset.train_targets[train], common.label_seed(config.seed, s)
        labels = np.stack([true] * len(cells(config)))
        for own, (fraction, number, _) in zip(labels, cells(config), strict=True):
            own[:number] = data.corrupt_labels(true[:number], fraction, dataset.num_classes, noise)
        x, y = dataset.train_inputs, dataset.train_targets
        parts.append((x[train], labels, x[test], y[test]))
    _, numbers, rates = map(np.array, zip(*cells(config), strict=True))
    return Sets(*map(np.stack, zip(*parts, strict=True)), numbers, rates)


# ------------------------------------------------------------------------------- the measures


def spectrum(config: Config, task: iw.Task, params: nets.Params, key: jax.Array) -> Any:
    """The spectral measure of the GGN: exact from its smaller side where the products allow it."""
    operator = iw.ggn(task, params)
    outputs = operator.root.examples * operator.root.outputs
    if outputs <= config.num_matvecs and outputs < operator.size:
        return iw.gram_measure(operator)
    return iw.spectral_measure(operator, key=key, num_matvecs=config.num_matvecs)


def information(
    config: Config, measure: Any, loss: float, norm: float, distance: float
) -> dict[str, float]:
    """Every number that the closed-form Gaussian code of `iw.fisher_iw` has, of one spectrum.

    Args:
      config: λ and the β.
      measure: of the GGN.
      loss: L(w), nats.
      norm: |w|².
      distance: |w - w0|².
    """
    variance = config.prior_scale**2
    columns = {}
    for beta in config.betas:
        c, end = variance / beta, f"beta{beta:g}"
        volume, logdet = float(measure.information(c).value), float(measure.logdet(c).value)
        columns |= {
            f"iw_zero_{end}_nats": norm / (2 * variance) + volume,
            f"iw_init_{end}_nats": distance / (2 * variance) + volume,
            f"volume_{end}_nats": volume,
            f"gamma_{end}": float(measure.effective_dimension(c).value),
            f"lagrangian_{end}_nats": loss + beta / 2 * (distance / variance + logdet),
        }
    beta = middle(config.betas)
    for centre, square in (("zero", norm), ("init", distance)):
        scale = iw.best_scale(measure, square, beta=beta)
        c = scale**2 / beta
        nats = square / (2 * scale**2) + float(measure.information(c).value)
        columns |= {
            f"iw_best_{centre}_nats": nats,
            f"half_logdet_best_{centre}_nats": float(measure.logdet(c).value) / 2,
            f"scale_best_{centre}": scale,
        }
    low, high = measure.information(variance / np.array(config.betas)).interval()
    return columns | {
        "volume_relative_half_width": float(np.max((high - low) / (high + low))),
        "fisher_trace": float(measure.trace().value),
        "fisher_largest": float(measure.largest),
    }


def middle(betas: Sequence[float]) -> float:
    """β = 1, or the next to it."""
    return min(betas, key=lambda beta: abs(np.log(beta)))


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    found, most = [], max(config.numbers)
    inputs, targets = dataset.train_inputs[:most], dataset.train_targets[:most]
    for width, depth, batch in itertools.product(config.widths, config.depths, config.batches):
        network = nets.mlp(dataset.num_classes, widths=(width,) * depth)
        found.append(
            cost.training(
                iw.Task(
                    network.apply_fn, iw.Categorical(), jnp.asarray(inputs), jnp.asarray(targets)
                ),
                network.init(jax.random.key(0), inputs[:1]),
                optax.sgd(max(config.rates), MOMENTUM),
                batch=batch,
                steps=config.num_steps,
                networks=config.num_seeds * len(cells(config)),
                # Whether it has fitted, every few steps; then the weight noise that it bears.
                looks=config.num_steps / ROUND + config.num_draws * len(SIGMAS),
                num_matvecs=config.num_matvecs,
                at_most=True,
            )
        )
    return found


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each network."""
    sets = split(config, dataset)
    ledger = context.ledger("spectra")
    rows = []
    for width, depth, batch in itertools.product(config.widths, config.depths, config.batches):
        network = nets.mlp(dataset.num_classes, widths=(width,) * depth)
        stage = f"{width}x{depth} b{batch}"
        initial, params, steps, done = fit(
            network,
            sets,
            context,
            batch=batch,
            loss=config.loss,
            num_steps=config.num_steps,
            seed=config.seed,
            stage=stage,
        )
        members = _rows(config, network, sets, initial, params)
        for at in context.track(np.ndindex(*steps.shape), f"{stage} spectra", steps.size):
            noise, number, rate = cells(config)[at[1]]
            settings = {
                "width": width,
                "depth": depth,
                "batch_size": batch,
                "learning_rate": rate,
                "label_noise": noise,
                "num_examples": number,
                "seed": at[0],
                "fitted": int(done[at]),
                "steps": int(steps[at]),
            }
            measure = partial(_measure, config, network, sets, params, at, members[at])
            rows.append(settings | members[at] | ledger.get(f"{stage} {at}", measure))
    return rows


def _measure(
    config: Config,
    network: nets.Network,
    sets: Sets,
    params: nets.Params,
    at: tuple[int, int],
    member: dict[str, float],
) -> dict[str, float]:
    """The information in the weights of one network."""
    number = int(sets.numbers[at[1]])
    inputs, labels = sets.inputs[at[0], :number], sets.labels[*at, :number]
    task = iw.Task(network.apply_fn, iw.Categorical(), jnp.asarray(inputs), jnp.asarray(labels))
    own = jax.tree.map(lambda w: jnp.asarray(w[at]), params)
    measure = spectrum(config, task, own, jax.random.key(config.seed))
    loss = member["train_loss_nats_per_label"] * number
    return information(config, measure, loss, member["norm_squared"], member["distance_squared"])


def _rows(
    config: Config, network: nets.Network, sets: Sets, initial: nets.Params, params: nets.Params
) -> dict[tuple[int, int], dict[str, float]]:
    """Gaps and all measures but those of the spectrum, by (seed, cell)."""
    seen = _evaluate(config, network, sets, initial, params)
    size = sum(w[0, 0].size for w in jax.tree.leaves(params))
    classes = jax.tree.leaves(params)[-1].shape[-1]
    return {
        at: {"num_weights": size}
        | _gaps({k: v[at] for k, v in seen.items()}, *cells(config)[at[1]][:2], classes)
        for at in np.ndindex(*seen["norm_squared"].shape)
    }


def _evaluate(
    config: Config, network: nets.Network, sets: Sets, initial: nets.Params, params: nets.Params
) -> dict[str, np.ndarray]:
    """What is computed of all networks at once: (S, C, ...) each."""
    noise, start = (jax.random.fold_in(jax.random.key(config.seed), i) for i in (1, 2))
    apply_fn, beta = network.apply_fn, middle(config.betas)
    noisy = complexity.noisy_errors(apply_fn, noise, params, sets, config.num_draws)
    variational = complexity.variational_nats(
        apply_fn, start, params, initial, sets, config.num_variational, config.prior_scale, beta
    )
    moved = jax.tree.map(lambda w, first: w - first[:, None], params, initial)
    squares = (
        sum(np.square(w).reshape(*w.shape[:2], -1).sum(-1) for w in jax.tree.leaves(tree))
        for tree in (params, moved)
    )
    kernels = (np.asarray(layer["kernel"], float) for layer in params.values())
    norms = [np.linalg.norm(kernel, 2, axis=(-2, -1)) ** 2 for kernel in kernels]
    found = {
        **complexity.evaluate(apply_fn, params, sets),
        "noisy": np.moveaxis(np.asarray(noisy, float), 0, -1),
        "variational_nats": variational,
        "spectral_product": np.prod(norms, axis=0),
        **dict(zip(("norm_squared", "distance_squared"), squares, strict=True)),
    }
    return {name: np.asarray(value, float) for name, value in found.items()}


def _gaps(seen: dict[str, Any], noise: float, number: int, classes: int) -> dict[str, float]:
    """Gaps and measures of one network, from what was seen of it.

    Args:
      seen: of `_evaluate`, without the axes of seed and cell.
      noise: part of the labels drawn anew.
      number: N.
      classes: K.
    """
    loss, margin = seen["loss"][:number], seen["margin"][:number]
    train_error = np.mean(margin <= 0)
    # The held-out labels are as noisy as the others, on average over the noise: exactly so.
    wrong = (1 - noise) * seen["test_wrong"] + noise * (1 - 1 / classes)
    nats = (1 - noise) * seen["test_loss"] + noise * seen["test_loss_uniform"]
    half = len(wrong) // 2
    bound = iw.pac_bayes_bound(
        "seeger",
        risk=seen["noisy"],
        kl=seen["distance_squared"] / (2 * complexity.SIGMAS**2),
        num_examples=number,
        num_candidates=len(complexity.SIGMAS),
    )
    tolerated = complexity.tolerated(seen["noisy"], train_error + ALLOWED)
    found = {
        "num_test": len(wrong),
        "train_error": train_error,
        "train_loss_nats_per_label": loss.mean(),
        "true_test_error": seen["test_wrong"].mean(),
        "error_gap": wrong.mean() - train_error,
        "error_gap_stderr": tables.stderr(wrong),
        "error_gap_one_half": wrong[:half].mean() - train_error,
        "error_gap_other_half": wrong[half:].mean() - train_error,
        "loss_gap_nats": nats.mean() - loss.mean(),
        "loss_gap_stderr_nats": tables.stderr(nats),
        **{name: seen[name] for name in ("variational_nats", "norm_squared", "distance_squared")},
        "spectral_product": seen["spectral_product"],
        "inverse_margin_squared": 1 / max(np.percentile(margin, MARGIN), 1e-3) ** 2,
        "flatness": 1 / tolerated**2,
        "pac_bayes_bound": bound.bound.min(),
    }
    return {name: float(value) for name, value in found.items()}


# ------------------------------------------------------------------------ what the table says


class Measure(NamedTuple):
    """A number that is to rank networks by their gap.

    Attributes:
      label: for people.
      kind: information, baseline or setting.
      per_example: whether N divides it, as in the bounds √(μ/N).
    """

    label: str
    kind: str
    per_example: bool = True


def catalogue(rows: Rows) -> dict[str, Measure]:
    """Column -> what it is; larger is to mean a larger gap."""
    start, end = "iw_init_beta", "_nats"
    betas = [
        float(name.removeprefix(start).removesuffix(end))
        for name in rows[0]
        if name.startswith(start)
    ]
    at = f"beta{middle(betas):g}"
    found = {}
    for centre, said in (("init", "w₀"), ("zero", "0")):
        for beta in betas:
            label = f"IW, prior at {said}, β = {beta:g}"
            found[f"iw_{centre}_beta{beta:g}_nats"] = Measure(label, "information")
        label = f"IW, prior at {said}, best λ"
        found[f"iw_best_{centre}_nats"] = Measure(label, "information")
    return found | {
        f"volume_{at}_nats": Measure("its volume", "information"),
        f"gamma_{at}": Measure("effective dimension γ", "information"),
        f"lagrangian_{at}_nats": Measure("Lagrangian C*", "information"),
        "variational_nats": Measure("variational KL", "information"),
        "pac_bayes_bound": Measure("PAC-Bayes bound", "information", False),
        "flatness": Measure("1/σ² of noise borne", "baseline"),
        "fisher_trace": Measure("trace of F", "baseline"),
        "fisher_largest": Measure("largest eigenvalue of F", "baseline"),
        "distance_squared": Measure("|w - w₀|²", "baseline"),
        "norm_squared": Measure("|w|²", "baseline"),
        "spectral_product": Measure("Π spectral norm²", "baseline"),
        "inverse_margin_squared": Measure("1/margin²", "baseline"),
        "num_weights": Measure("number of weights", "baseline"),
        "steps": Measure("steps to fit", "baseline", False),
        "train_loss_nats_per_label": Measure("training loss", "baseline", False),
        "label_noise": Measure("label noise itself", "setting", False),
    }


def values(rows: Rows) -> np.ndarray:
    """Every measure of the catalogue, over N where it is to be: (K, M)."""
    number = column(rows, "num_examples")
    return np.stack(
        [
            column(rows, name) / (number if measure.per_example else 1)
            for name, measure in catalogue(rows).items()
        ]
    )


def fitted(rows: Rows) -> Rows:
    """The networks that met the stopping criterion."""
    return [row for row in rows if row["fitted"]]


def comparisons(rows: Rows) -> dict[str, ranks.Pairs]:
    """Which pairs of networks are compared, by what is held fixed."""
    settings = {name: column(rows, name) for name in (*FACTORS, "seed")}
    varied = [name for name in FACTORS if len(np.unique(settings[name])) > 1]
    found = {
        "all": ranks.pairs(settings),
        "noise fixed": ranks.pairs(settings, same=("label_noise",)),
        "noise, N fixed": ranks.pairs(settings, same=("label_noise", "num_examples")),
    }
    for name in varied:
        others = tuple(other for other in settings if other != name)
        found[f"Ψ {FACTORS[name]}"] = ranks.pairs(settings, same=others, differ=(name,))
    return found


def standings(rows: Rows, gap: str = "error_gap", against: str | None = None) -> dict[str, Any]:
    """Comparison -> (τ, standard error), (K,) each, in the order of the catalogue.

    Ψ is the mean of its factors; standard errors leave out one seed at a time: other data, label
    noise and starts, the same grid of settings.

    Args:
      rows: of the table.
      gap: what is to be ranked.
      against: a measure whose own τ is taken off.
    """
    less = list(catalogue(rows)).index(against) if against else None
    rows = fitted(rows)
    measures, truth = values(rows), column(rows, gap)
    compared = comparisons(rows)

    def statistic(keep: np.ndarray) -> np.ndarray:
        taus = {}
        for name, (first, second) in compared.items():
            both = keep[first] & keep[second]
            taus[name] = ranks.kendall(measures, truth, (first[both], second[both]))
        parts = [tau for name, tau in taus.items() if name.startswith("Ψ")]
        tau = np.stack([*taus.values(), np.mean(parts, axis=0)])
        return tau if less is None else tau - tau[:, [less]]

    tau, error = ranks.jackknife(statistic, column(rows, "seed"))
    return dict(zip((*compared, "Ψ"), zip(tau, error, strict=True), strict=True))


def told(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """`ranks.conditional_information` between networks of a seed, and its standard error."""
    rows = fitted(rows)
    measures, truth = values(rows), column(rows, "error_gap")
    settings = {name: column(rows, name) for name in FACTORS}
    first, second = ranks.pairs({"seed": column(rows, "seed")}, same=("seed",))

    def statistic(keep: np.ndarray) -> np.ndarray:
        chosen = first[keep[first]], second[keep[first]]
        return ranks.conditional_information(measures, truth, chosen, settings)

    return ranks.jackknife(statistic, column(rows, "seed"))


def ceiling(rows: Rows) -> dict[str, float]:
    """τ that a measure of the exact gap would have with the gap on so many test examples.

    From the τ between the gaps of two halves of the test set, as if all were jointly normal, where
    correlations are sin(πτ/2): halves that correlate as r make a whole that does as √(2r/(1 + r))
    with the exact gap (Spearman and Brown).
    """
    rows = fitted(rows)
    one, other = (column(rows, f"error_gap_{half}_half") for half in ("one", "other"))
    found = {}
    for name, chosen in comparisons(rows).items():
        r = np.sin(np.pi / 2 * max(ranks.kendall(one[None], other, chosen)[0], 0))
        found[name] = float(2 / np.pi * np.arcsin(np.sqrt(2 * r / (1 + r))))
    return found


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """τ of the information, and of the best of every kind, by what is held fixed."""
    own, measures = fitted(rows), catalogue(rows)
    names, at = list(measures), f"iw_init_beta{middle(config.betas):g}_nats"
    summary: dict[str, Any] = {
        "networks": len(own),
        "not_fitted": len(rows) - len(own),
        "num_weights": sorted({int(row["num_weights"]) for row in rows}),
        "num_test": int(rows[0]["num_test"]),
        "mean_error_gap_stderr": tables.rounded(column(own, "error_gap_stderr").mean()),
    }
    attainable = ceiling(rows)
    for truth, said in TRUTHS.items():
        more = standings(rows, truth, against="distance_squared")
        for compared, (tau, error) in standings(rows, truth).items():
            k = names.index(at)
            line = {
                "information": _pair(tau[k], error[k]),
                "more_than_distance": _pair(*(part[k] for part in more[compared])),
            }
            for kind in ("information", "baseline"):
                own_kind = [k for k, name in enumerate(names) if measures[name].kind == kind]
                k = max(own_kind, key=tau.__getitem__)
                line[f"best_{kind}"] = [names[k], *_pair(tau[k], error[k])]
            if truth == "error_gap" and compared in attainable:
                line["attainable"] = round(attainable[compared], 3)
            summary[f"tau, {said}, {compared}"] = line
    return summary


def _pair(value: float, error: float) -> list[float]:
    return [round(float(value), 3), round(float(error), 3)]


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether networks compare, and every number of the code obeys its laws."""
    own = fitted(rows)
    missing = len(rows) - len(own)
    beta = middle(config.betas)
    worst = 0.0
    for centre in ("zero", "init"):
        nats, half = (column(rows, f"{name}_best_{centre}_nats") for name in ("iw", "half_logdet"))
        worst = max(worst, float(np.max(np.abs(nats / half - 1))))
    # C* at the best λ is L + β γ/2 + β IW with γ = |w - w0|²/λ², the least over all λ.
    gamma = column(rows, "distance_squared") / column(rows, "scale_best_init") ** 2
    loss = column(rows, "train_loss_nats_per_label") * column(rows, "num_examples")
    least = loss + beta * (gamma / 2 + column(rows, "iw_best_init_nats"))
    fixed = column(rows, f"lagrangian_beta{beta:g}_nats")
    cheaper = float(np.max(least / fixed - 1))
    broken = 0
    for low, high in itertools.pairwise(config.betas):
        cost, nats = (
            [column(rows, f"{name}_beta{b:g}_nats") for b in (low, high)]
            for name in ("lagrangian", "iw_init")
        )
        slope, allowed = (cost[1] - cost[0]) / (high - low), 1 + 1e-6
        broken += int(np.sum((nats[1] > slope * allowed) | (slope > nats[0] * allowed)))
    wide = float(column(rows, "volume_relative_half_width").max())
    return [
        checks.Check(
            f"at least 95 % of the networks reach a training loss of {config.loss:g}",
            missing <= 0.05 * len(rows),
            f"{missing} of {len(rows)} do not, and do not count; allow more --num-steps",
        ),
        checks.Check(
            "KL(beta+) <= dC*/dbeta <= KL(beta-)",
            broken == 0,
            f"violated at {broken} of {len(rows) * (len(config.betas) - 1)} steps",
        ),
        checks.Check(
            "at the best scale of the prior the information is ½ log det(I + λ²F/β)",
            worst < 1e-3,
            f"off by {worst:.1g} of it at most",
        ),
        checks.Check(
            "no other scale has a lower C*",
            cheaper < 1e-5,
            f"C* over that at λ = {config.prior_scale:g}, less 1: {cheaper:.2g} at most",
        ),
        checks.Check(
            "volumes are known to 5 %",
            wide < 0.05,
            f"largest half-width {wide:.1g}; more products (--num-matvecs) narrow it",
        ),
    ]


def table(rows: Rows) -> str:
    """Gaps by noise and N; then τ of every measure with the error gap."""
    own = fitted(rows)
    head = (
        f"{'noise':>6} {'N':>6} {'networks':>9} {'error gap':>10} {'±':>6} {'loss gap':>9} (nats)"
    )
    lines = [head]
    for noise, number in sorted({(row["label_noise"], row["num_examples"]) for row in own}):
        group = [r for r in own if (r["label_noise"], r["num_examples"]) == (noise, number)]
        error, spread, loss = (
            column(group, name).mean()
            for name in ("error_gap", "error_gap_stderr", "loss_gap_nats")
        )
        lines.append(
            f"{noise:6.2g} {number:6d} {len(group):9d} {error:10.3f} {spread:6.3f} {loss:9.2f}"
        )
    found, (share, share_error) = standings(rows), told(rows)
    shown = [name for name in found if not name.startswith("Ψ ")]
    lines.append("")
    lines.append(
        f"{'τ with the error gap (± standard error)':<40}"
        + "".join(f"{name:>16}" for name in (*shown, "cond. inf."))
    )
    for k, measure in enumerate(catalogue(rows).values()):
        pairs = [(found[name][0][k], found[name][1][k]) for name in shown]
        pairs.append((share[k], share_error[k]))
        lines.append(f"{measure.label:<40}" + "".join(f"{v:9.2f} ± {e:4.2f}" for v, e in pairs))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """τ of every measure by what is held fixed; four of them against the gap."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12.5, 7.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    _draw_ranks(left, rows)
    own, at = fitted(rows), f"beta{middle(config.betas):g}"
    chosen = (f"iw_init_{at}_nats", f"volume_{at}_nats", "fisher_trace", "distance_squared")
    known, measures = list(catalogue(rows).items()), values(own)
    gap, noise, number = (column(own, n) for n in ("error_gap", "label_noise", "num_examples"))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(config.noises)))
    axes = right.subplots(2, 2, sharey=True)
    for axis, name in zip(axes.flat, chosen, strict=True):
        k = [column for column, _ in known].index(name)
        for colour, f in zip(colours, config.noises, strict=True):
            for marker, n in zip("os^Dv", config.numbers, strict=False):
                here = (noise == f) & (number == n)
                look = {"color": colour, "marker": marker, "linestyle": "", "markersize": 3.5}
                label = f"noise {f:g}, N = {n}"
                axis.plot(measures[k, here], gap[here], alpha=0.7, label=label, **look)
        axis.set_xlabel(f"{known[k][1].label}, over N")
    for axis in axes[:, 0]:
        axis.set_ylabel("error gap")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    right.legend(handles, labels, loc="outside lower center", ncols=len(config.noises), fontsize=8)
    figure.suptitle(
        f"{config.dataset}: {len(own)} networks, {min(r['num_weights'] for r in own):,} to "
        f"{max(r['num_weights'] for r in own):,} weights, trained to {config.loss:g} nats a label",
        fontsize=11,
    )
    return figure


def _draw_ranks(figure: Any, rows: Rows) -> None:
    """τ as a table of colours; faint where it is within two standard errors of 0."""
    found = standings(rows)
    tau = np.stack([value for value, _ in found.values()], axis=1)
    error = np.stack([error for _, error in found.values()], axis=1)
    axis = figure.subplots()
    axis.grid(False)
    seeds = len({row["seed"] for row in fitted(rows)})
    known = np.abs(tau) > stats.t.ppf(0.975, seeds - 1) * error
    axis.imshow(np.where(known, tau, 0), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (k, j), value in np.ndenumerate(tau):
        dark = known[k, j] and abs(value) > 0.6
        axis.text(
            j,
            k,
            f"{value:.2f}".replace("-", "−"),
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if dark else "black" if known[k, j] else "#888888",
            in_layout=False,
        )
    labels = [measure.label for measure in catalogue(rows).values()]
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_xticks(range(len(found)), found, fontsize=8, rotation=35, ha="left")
    axis.xaxis.tick_top()
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    kinds = [measure.kind for measure in catalogue(rows).values()]
    for k in range(1, len(kinds)):
        if kinds[k] != kinds[k - 1]:
            axis.axhline(k - 0.5, color="white", linewidth=4)
    for j in (2.5, len(found) - 1.5):
        axis.axvline(j, color="white", linewidth=4)
    axis.set_xlabel(
        "Kendall's τ with the error gap; Ψ: one factor varied, all others fixed\n"
        "(coloured where the 95 % interval over seeds excludes 0)",
        fontsize=8,
    )


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.generalization")

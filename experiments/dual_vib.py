"""The dual bottleneck beside its kin: VIB, CEB, and VdualIB under four models of label noise.

VIB and CEB minimise D + β R with the distortion D = E -log q(y|z); VdualIB the dual distortion
E KL(q(y|z) ‖ p_noise(y|x)), for which a model of label noise has to be assumed: label smoothing, a
Gaussian around the one-hot label, the confusion matrix of a plain network, or its predictions. Both
of these come from two plain networks, each asked about the half of the training set that it has not
seen. Networks of all methods and β are trained in one program, on training sets of several sizes.

Default: digits, about 3 minutes on 2 CPU cores. Paper: Piran, Shwartz-Ziv & Tishby
(arXiv:2006.04641), Sec. 5 (FashionMNIST and CIFAR-10, WRN-28-10; its values are not known to us).
"""

import dataclasses
import functools
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import checks, coders, cost, epochs, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import bottleneck, data, nets

NUM_SAMPLES = 12  # of z for each example
WORST = 1 / 3  # of the error of chance: above it a network has not learned
# Name -> (part of the dual distortion, whether codes are compared to b(z|y), noise model).
METHODS = {
    "vib": (0.0, 0.0, 0),
    "ceb": (0.0, 1.0, 0),
    "dual_smoothing": (1.0, 1.0, 0),
    "dual_gaussian": (1.0, 1.0, 1),
    "dual_confusion": (1.0, 1.0, 2),
    "dual_pretrained": (1.0, 1.0, 3),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples at hand; 0 for all.
      numbers: sizes of training sets, increasing; the largest at most the examples at hand.
      num_evaluated: examples of the training set, and of the test set, that are measured; 0 for
        all.
      num_contrasted: of these, those whose codes are contrasted for I(X;Z).
      methods: of vib, ceb, dual_smoothing, dual_gaussian, dual_confusion, dual_pretrained.
      widths: hidden units of the encoder, and of the plain network.
      latent: dimensions of z.
      betas: prices of the rate, increasing. CEB's γ is 1/β.
      smoothing: part of the labels that label smoothing spreads over all classes.
      label_scale: standard deviation of the Gaussian around one-hot labels.
      num_epochs: of training, of all examples at hand: all sizes take the same steps.
      batch_size: examples a step.
      learning_rate: Adam's (its β1 is 0.5); falls by 3 % every two epochs.
      decay: of the moving average of the weights, which is what is measured.
      num_seeds: seeds, which differ in training set, start, minibatches and noise.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    numbers: tuple[int, ...] = (100, 400, 1400)
    num_evaluated: int = 0
    num_contrasted: int = 1000
    methods: tuple[str, ...] = tuple(METHODS)
    widths: tuple[int, ...] = (64, 64)
    latent: int = 8
    betas: tuple[float, ...] = (1e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
    smoothing: float = 0.02
    label_scale: float = 0.5
    num_epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 2e-3
    decay: float = 0.99
    num_seeds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.some_of(self, methods=tuple(METHODS))
        common.at_least(self, latent=1)
        common.positive(self, "label_scale")
        coders.check_config(self)
        common.require(0 < self.smoothing < 1, "smoothing", "between 0 and 1", self.smoothing)
        common.require(min(self.numbers) >= 4, "numbers", "at least 4 each", self.numbers)


PRESETS = {
    "quick": Config(
        num_examples=360,
        numbers=(360,),
        num_contrasted=200,
        methods=("vib", "ceb", "dual_confusion"),
        widths=(32,),
        latent=4,
        betas=(0.01, 0.3),
        num_epochs=80,
        learning_rate=0.01,
        num_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        dataset="fashion_mnist",
        numbers=(1000, 10_000, 60_000),
        num_evaluated=10_000,
        num_contrasted=2000,
        widths=(1024, 1024),
        latent=320,
        betas=(1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
        num_epochs=200,
        learning_rate=1e-4,
        decay=0.999,
        num_seeds=5,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels."""
    dataset = epochs.load(config, data_dir)
    count, largest = len(dataset.train_targets), max(config.numbers)
    common.require(largest <= count, "numbers", f"at most {count}, the examples", config.numbers)
    return dataset


def _coder(config: Config, dataset: data.Dataset) -> coders.Coder:
    return coders.coder(dataset.num_classes, config.widths, config.latent, conditional=True)


def members(config: Config) -> list[tuple[str, float]]:
    """(method, β) of the networks of a seed."""
    return list(itertools.product(config.methods, config.betas))


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take, but for the plain networks; see `common.cost`."""
    coder = _coder(config, dataset)
    noise = jnp.full((4, dataset.num_classes), -np.log(dataset.num_classes))
    setting = jnp.array([0.1, 1.0, 1.0, 0.0])

    def loss(key: jax.Array, batch: iw.Task, own: Any) -> jax.Array:
        rows = jnp.broadcast_to(noise, (batch.num_examples, *noise.shape))
        return _loss(coder.model)(own, key, ((batch.inputs, batch.targets), rows), setting)

    count = len(members(config))
    networks = count * config.num_seeds * len(config.numbers)
    return [coders.stage(config, dataset, coder, loss, networks=networks, abreast=count)]


@functools.cache  # static arguments are known by identity
def _loss(model: bottleneck.VariationalBottleneck) -> Any:
    def loss(params: Any, key: jax.Array, batch: Any, setting: jax.Array) -> jax.Array:
        (inputs, targets), log_noise = batch
        beta, dual, conditional, noise = setting
        return bottleneck.bottleneck_terms(
            *(key, model, params | {"conditional": conditional}, inputs, targets),
            beta=beta,
            dual=dual,
            log_noise=log_noise[:, noise.astype(int)],
        ).objective

    return loss


@functools.cache
def _plain_loss(network: nets.Network) -> Any:
    def loss(params: Any, key: jax.Array, batch: Any, setting: jax.Array) -> jax.Array:
        del key, setting
        inputs, targets = batch
        logits = network.apply_fn(params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    return loss


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each size of the training set, seed, method, β and part of the data."""
    parts = coders.scaled(dataset)
    count = len(parts["train"][0])
    # A cell is a size and a seed; training sets of a seed are nested.
    cells = list(itertools.product(config.numbers, range(config.num_seeds)))
    orders = [np.random.default_rng((config.seed, s)).permutation(count) for _, s in cells]
    subsets = [order[:number] for order, (number, _) in zip(orders, cells, strict=True)]
    plain, starting, training, measuring = jax.random.split(jax.random.key(config.seed), 4)
    log_noise = _noise_models(config, dataset, context, parts["train"], subsets, plain)

    coder = _coder(config, dataset)
    init = jax.jit(jax.vmap(lambda key: coder.init(key, parts["train"][0][:1])))
    start = init(jax.random.split(starting, len(cells)))
    settings = jnp.array([(beta, *METHODS[method]) for method, beta in members(config)])
    params = coders.train(
        *(_loss(coder.model), start, settings, parts["train"], context, config),
        keys=jax.random.split(training, len(cells)),
        stage="training",
        own=log_noise,
        subsets=subsets,
    )
    params["conditional"] = jnp.broadcast_to(settings[:, 2], (len(cells), len(settings)))
    ledger, rows = context.ledger("measured"), []
    for cell in context.track(range(len(cells)), "measuring"):
        number, seed = cells[cell]
        own = jax.tree.map(lambda w, c=cell: w[c], params)
        key = jax.random.fold_in(measuring, cell)
        measure = partial(_columns, config, coder.model, key, own, parts, subsets[cell])
        cell_rows = ledger.get(str(cell), measure)
        first = {"num_examples": number, "seed": seed, "num_classes": dataset.num_classes}
        rows += [{**first, **row} for row in cell_rows]
    return rows


def _noise_models(
    config: Config,
    dataset: data.Dataset,
    context: Context,
    train: tuple[jax.Array, jax.Array],
    subsets: list[np.ndarray],
    key: jax.Array,
) -> jax.Array:
    """log p_noise(y|x) of four models, (cells, N, 4, K); outside of a cell's subset without use."""
    inputs, targets = train
    classes = dataset.num_classes
    network = nets.mlp(classes, widths=config.widths)
    halves = [half for own in subsets for half in (own[::2], own[1::2])]
    starting, training = (jax.random.split(k, len(halves)) for k in jax.random.split(key))
    params = coders.train(
        _plain_loss(network),
        jax.jit(jax.vmap(lambda key: network.init(key, inputs[:1])))(starting),
        *(jnp.zeros(1), train, context, config),
        keys=training,
        stage="plain networks",
        subsets=halves,
    )
    log_q = np.asarray(_log_predictions(network, params, inputs))
    fixed = [
        bottleneck.log_label_noise(rows, targets)
        for rows in (
            bottleneck.label_smoothing(classes, config.smoothing),
            bottleneck.gaussian_label_noise(classes, config.label_scale),
        )
    ]
    labels, found = np.asarray(targets), []
    for cell, own in enumerate(subsets):
        unseen = np.array(log_q[2 * cell])  # the first network has seen the even places
        unseen[own[::2]] = log_q[2 * cell + 1][own[::2]]
        counts = np.ones((classes, classes))
        np.add.at(counts, (labels[own], unseen[own].argmax(1)), 1)
        confusion = counts / counts.sum(1, keepdims=True)
        models = *fixed, bottleneck.log_label_noise(confusion, targets), jnp.asarray(unseen)
        found.append(jnp.stack(models, 1))
    return jnp.stack(found)


@partial(jax.jit, static_argnums=0)
def _log_predictions(network: nets.Network, params: Any, inputs: jax.Array) -> jax.Array:
    """Of plain networks (S, 1, ...): log-softmax, (S, N, K)."""
    own = lambda w: jax.nn.log_softmax(network.apply_fn(w, inputs))  # noqa: E731
    return jax.lax.map(own, jax.tree.map(lambda w: w[:, 0], params))


def _columns(
    config: Config,
    model: bottleneck.VariationalBottleneck,
    key: jax.Array,
    params: Any,
    parts: dict[str, tuple[jax.Array, jax.Array]],
    subset: np.ndarray,
) -> list[dict[str, Any]]:
    """The rows of one cell; params (members, ...)."""
    few = slice(config.num_evaluated or None)
    shown = {
        "train": tuple(leaf[subset[few]] for leaf in parts["train"]),
        "test": tuple(leaf[few] for leaf in parts["test"]),
    }
    rows = []
    for part, (inputs, targets) in shown.items():
        found = _evaluate(key, model, params, inputs, targets, config.num_contrasted)
        for row, (method, beta) in zip(coders.columns(found), members(config), strict=True):
            first = {"method": method, "beta": beta, "part": part, "num_samples": NUM_SAMPLES}
            rows.append({**first, "num_contrasted": found.num_contrasted, **row})
    return rows


@partial(jax.jit, static_argnames=("model", "num_contrasted"))
def _evaluate(
    key: jax.Array,
    model: bottleneck.VariationalBottleneck,
    params: Any,
    inputs: jax.Array,
    targets: jax.Array,
    num_contrasted: int,
) -> bottleneck.BottleneckInformation:
    """Of every member on a set of examples, leaves (M, ...); J is not looked at."""

    def of_member(own: Any) -> bottleneck.BottleneckInformation:
        return bottleneck.evaluate_bottleneck(
            *(key, model, own, inputs, targets),
            beta=0.0,
            num_samples=NUM_SAMPLES,
            num_contrasted=num_contrasted,
        )

    return jax.lax.map(of_member, params)


# ------------------------------------------------------------------------ what the table says


def curve(rows: Rows, name: str, method: str, number: int, part: str = "test") -> np.ndarray:
    """A column as (betas, seeds)."""
    return tables.grid(rows, name, method=method, num_examples=number, part=part)


def least(rows: Rows, method: str, number: int) -> tuple[int, np.ndarray]:
    """Place of the β of the least test error, mean over seeds; its errors, (seeds,)."""
    errors = curve(rows, "error", method, number)
    place = int(errors.mean(1).argmin())
    return place, errors[place]


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Of every method and size at its best β (looked up on the test set): errors and nats.

    Lists are [mean, standard error over seeds]. Differences to CEB are paired by seed.
    """
    summary: dict[str, Any] = {"num_samples": NUM_SAMPLES}
    names = {
        "single_error": "test_error_of_one_draw",
        "rate_nats": "rate_nats",
        "information_nats": "information_nats_at_least",
        "information_upper_nats": "information_nats_at_most",
        "conditional_information_nats": "conditional_information_nats_at_least",
        "label_information_nats": "label_information_nats_at_least",
    }
    for number in config.numbers:
        found = {}
        for method in config.methods:
            place, errors = least(rows, method, number)
            own: dict[str, Any] = {"beta": config.betas[place]}
            own["test_error"] = coders.mean_and_stderr(errors)
            if "ceb" in config.methods and method != "ceb":
                own["test_error_less_that_of_ceb"] = coders.mean_and_stderr(
                    errors - least(rows, "ceb", number)[1]
                )
            own |= {
                said: coders.mean_and_stderr(curve(rows, name, method, number)[place])
                for name, said in names.items()
            }
            found[method] = own
        summary[f"{number}_examples"] = found
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Rates bound what they should, fall with their price; networks have learned."""
    # R bounds I(X;Z), of CEB and its kin I(X;Z|Y).
    worst = np.inf
    for row in rows:
        name = "information" if row["method"] == "vib" else "conditional_information"
        spare = row["rate_nats"] - row[f"{name}_nats"]
        spare += 4 * (row["rate_nats_stderr"] + row[f"{name}_nats_stderr"])
        worst = min(worst, spare)
    chance = 1 - 1 / rows[0]["num_classes"]
    largest = max(config.numbers)
    errors = {m: float(least(rows, m, largest)[1].mean()) for m in config.methods}
    last = max(errors, key=lambda m: errors[m])
    found = [
        checks.Check(
            "I(X;Z), or I(X;Z|Y), by contrast is no more than the rate, every network",
            bool(worst >= 0),
            f"by {worst:.3g} nats beyond four standard errors, at least",
        ),
        checks.Check(
            f"every method errs less than {WORST:.2g} times as often as chance at its best β",
            errors[last] < WORST * chance,
            f"at most {errors[last]:.3g} ({last}), chance {chance:.3g}; else train longer "
            "(--num-epochs)",
        ),
    ]
    for method in config.methods:
        found.append(
            checks.check_rises(
                f"{method}: the training rate falls as its price rises",
                -curve(rows, "rate_nats", method, largest, "train"),
                "train longer (--num-epochs)",
            )
        )
    return found


def table(rows: Rows) -> str:
    """Means over seeds, largest training set, a line for each method and β."""
    number = max(row["num_examples"] for row in rows)
    names = {
        "error": "error",
        "single_error": "1 draw",
        "rate_nats": "rate",
        "information_nats": "I(X;Z)>",
        "information_upper_nats": "I(X;Z)<",
        "conditional_information_nats": "I(X;Z|Y)>",
        "label_information_nats": "I(Z;Y)>",
    }
    lines = [
        f"{'method':<16} {'beta':>7} {'train':>8} " + " ".join(f"{n:>9}" for n in names.values())
    ]
    betas = sorted({row["beta"] for row in rows})
    for method in dict.fromkeys(row["method"] for row in rows):
        train = curve(rows, "error", method, number, "train").mean(1)
        test = np.stack([curve(rows, name, method, number).mean(1) for name in names], 1)
        for beta, first, values in zip(betas, train, test, strict=True):
            said = " ".join(f"{v:9.4g}" for v in values)
            lines.append(f"{method:<16} {beta:>7.1g} {first:8.4g} {said}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- figure

LOOKS = {
    "vib": ("VIB", style.GREY, "x", ":"),
    "ceb": ("CEB", style.BLUE, "o", "-"),
    "dual_smoothing": ("VdualIB, smoothing", style.ORANGE, "s", "-"),
    "dual_gaussian": ("VdualIB, Gaussian", style.YELLOW, "D", "--"),
    "dual_confusion": ("VdualIB, confusion", style.GREEN, "^", "-."),
    "dual_pretrained": ("VdualIB, predictions", style.PURPLE, "v", "-"),
}


def plot(rows: Rows, config: Config) -> Any:
    """Test error against β and against the size of the training set; the information plane."""
    import matplotlib.pyplot as plt

    figure, (errors, sizes, plane, kept) = plt.subplots(1, 4, figsize=(15, 4.6))
    number = max(config.numbers)
    for method in config.methods:
        label, colour, marker, dash = LOOKS[method]
        look = {"label": label, "color": colour, "marker": marker, "linestyle": dash}
        values = 100 * curve(rows, "error", method, number)
        _with_stderr(errors, config.betas, values, look)
        best = np.stack([100 * least(rows, method, n)[1] for n in config.numbers])
        _with_stderr(sizes, config.numbers, best, look)
        low, high, about_y, rest = (
            curve(rows, f"{name}_nats", method, number).mean(1)
            for name in (
                *("information", "information_upper"),
                *("label_information", "conditional_information"),
            )
        )
        plane.plot(low, about_y, **look)
        plane.hlines(about_y, low, high, color=colour, linewidth=0.8, alpha=0.6)
        kept.plot(config.betas, rest, **look)
    top = coders.label_entropy([row for row in rows if row["num_examples"] == number])
    right = 4 * top  # brackets that reach further are cut off
    plane.plot([0, top, right], [0, top, top], color="black", linestyle="--", linewidth=1)
    errors.set(xscale="log", yscale="log", xlabel="β (price of the rate; CEB's γ = 1/β)")
    errors.set_title(f"test error (%), {number:,} examples", fontsize=10)
    sizes.set(xscale="log", yscale="log", xlabel="training examples")
    for axis in (errors, sizes):
        shown = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 90) if t > 0.8 * axis.get_ylim()[0]]
        shown = [t for t in shown if t < 1.2 * axis.get_ylim()[1]]
        axis.set_yticks(shown, [f"{t:g}" for t in shown])
        axis.yaxis.minorticks_off()
    sizes.set_xticks(config.numbers, [f"{n:,}" for n in config.numbers])
    sizes.xaxis.minorticks_off()
    sizes.set_title("test error (%) at the best β of each", fontsize=10)
    plane.set(xlabel="I(X;Z), bracket (nats an example)", ylabel="I(Z;Y), lower bound (nats)")
    plane.set(xlim=(0, right), ylim=(0, 1.1 * top))
    plane.set_title("information plane; dashed: min(I(X;Z), H(Y))", fontsize=10)
    kept.set(xscale="log", xlabel="β (price of the rate)", ylim=(0, None))
    kept.set_title("I(X;Z|Y), by contrast (nats): beyond the label", fontsize=10)
    handles, labels = errors.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(
        f"Bottlenecks and dual bottlenecks, {config.dataset}, test images; mean and standard error "
        f"of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


def _with_stderr(axis: Any, x: Any, by_seed: np.ndarray, look: dict[str, str]) -> None:
    error = tables.stderr(by_seed) if by_seed.shape[1] > 1 else None
    axis.errorbar(x, by_seed.mean(1), error, capsize=2, **look)


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.dual_vib")

"""Hidden layers gather by class in networks with Gaussian noise, with dropout and with neither.

A network of two convolutions and two dense layers is trained without noise, with Gaussian noise on
its hidden layers, and with dropout there. Held-out images then pass without either, and all pairs
are compared in every hidden layer: cosine similarities and distances within and between classes,
neighbours of the same class, and how many clusters there are. Networks of a seed have the same
start, minibatches and noise, so that what differs between them is the kind.

Default: digits, about 3 minutes on 2 CPU cores. Paper: Goldfeld et al. (arXiv:1810.05728), Sec. 5
(MNIST, a four-layer convolutional network; its sizes, σ = 0.05 and dropout are unconfirmed).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import checks, cost, epochs, noisy_cnn, pairs, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

MOMENTUM = 0.9
WORST = 1 / 3  # of the error of chance: above it a network has not learned


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and compared.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      num_compared: test images whose pairs are compared; 0 for all.
      channels: of the two convolutions.
      side: pixels along each side of their kernels; odd.
      width: units of the dense hidden layer.
      sigmas: standard deviations of the Gaussian noise on hidden layers (tanh, in [-1, 1]), a kind
        of network each; increasing.
      dropout: part of the hidden units that dropout sets to 0.
      num_epochs: of training.
      batch_size: examples a step.
      learning_rate: of the mean loss, SGD with momentum 0.9; decays to 0 along a cosine.
      num_seeds: seeds, which differ in start, minibatches and noise.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    num_compared: int = 1000
    channels: tuple[int, int] = (16, 32)
    side: int = 3
    width: int = 64
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    dropout: float = 0.2
    num_epochs: int = 40
    batch_size: int = 50
    learning_rate: float = 0.05
    num_seeds: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.at_least(self, width=1, num_epochs=1, num_seeds=2)
        common.positive(self, "channels", "sigmas")
        common.require(
            self.sigmas and all(a < b for a, b in itertools.pairwise(self.sigmas)),
            "sigmas",
            "at least one, increasing",
            self.sigmas,
        )
        common.require(self.side % 2 == 1 and self.side > 0, "side", "odd", self.side)
        common.require(0 < self.dropout < 1, "dropout", "between 0 and 1", self.dropout)
        few = self.num_compared and self.num_compared <= pairs.NEIGHBOURS
        common.require(not few, "num_compared", f"0 or above {pairs.NEIGHBOURS}", self.num_compared)

    @property
    def kinds(self) -> dict[str, tuple[float, float]]:
        """Name of a kind of network -> (σ, part that dropout sets to 0)."""
        noisy = {f"noisy_{sigma:g}": (sigma, 0.0) for sigma in self.sigmas}
        return {"deterministic": (0.0, 0.0), **noisy, "dropout": (0.0, self.dropout)}


PRESETS = {
    "quick": Config(
        num_examples=300,
        num_compared=100,
        channels=(4, 8),
        width=16,
        sigmas=(0.05, 0.3),
        num_epochs=30,
        num_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        dataset="mnist",
        num_compared=5000,
        side=5,
        width=128,
        num_epochs=128,
        batch_size=32,
        learning_rate=0.01,
    ),
}


load = epochs.load


def _optimizer(config: Config, count: int) -> tuple[optax.GradientTransformation, int]:
    """SGD for a number of examples, and its steps; what is left of an epoch is left out."""
    number = config.num_epochs * (count // config.batch_size)
    rate = optax.cosine_decay_schedule(config.learning_rate, number)
    return optax.sgd(rate, MOMENTUM), number


def _start(config: Config, dataset: data.Dataset, key: jax.Array) -> Any:
    """Parameters of a network before training."""
    return noisy_cnn.initial_params(
        key,
        dataset.train_inputs.shape[1:],
        dataset.num_classes,
        channels=config.channels,
        side=config.side,
        width=config.width,
    )


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    optimizer, number = _optimizer(config, len(inputs))
    return [
        cost.training(
            iw.Task(noisy_cnn.logits, iw.Categorical(), inputs, targets),
            _start(config, dataset, jax.random.key(0)),
            optimizer,
            batch=config.batch_size,
            steps=number,
            networks=len(config.kinds) * config.num_seeds,
            abreast=len(config.kinds),
            looks=1.0,
            shared=True,
        )
    ]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each kind (also: before training), seed and hidden layer."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    start = jax.jit(jax.vmap(partial(_start, config, dataset)))(keys)
    params = _train(config, dataset, context, keys, start)
    before_and_after = jax.tree.map(
        lambda w0, w: jnp.concatenate([w0[:, None], w], 1), start, params
    )
    count = len(dataset.test_targets)
    order = np.random.default_rng((config.seed, 0)).permutation(count)
    compared = order[: config.num_compared or count]
    ledger, rows = context.ledger("layers"), []
    for seed in context.track(range(config.num_seeds), "layers"):
        own = jax.tree.map(lambda w, s=seed: w[s], before_and_after)
        measure = partial(_columns, config, keys[seed], own, dataset, compared)
        rows += [{"seed": seed, **row} for row in ledger.get(str(seed), measure)]
    return rows


def _train(
    config: Config, dataset: data.Dataset, context: Context, keys: jax.Array, start: Any
) -> Any:
    """Trained parameters, leaves (S, kinds, ...), of starts (S, ...); resumes epoch by epoch."""
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    optimizer, _ = _optimizer(config, len(inputs))
    kinds = jnp.array(list(config.kinds.values()))
    params = jax.tree.map(lambda w: jnp.repeat(w[:, None], len(kinds), axis=1), start)

    def epoch(number: int, state: Any) -> Any:
        return epochs.train_epoch(
            noisy_cnn.loss,
            jax.vmap(jax.random.fold_in, (0, None))(keys, number),
            kinds,
            (inputs, targets),
            state,
            optimizer=optimizer,
            batch_size=config.batch_size,
        )

    state = params, jax.jit(jax.vmap(jax.vmap(optimizer.init)))(params)
    return context.iterate(epoch, state, config.num_epochs, "training")[0]


def _columns(
    config: Config, key: jax.Array, params: Any, dataset: data.Dataset, compared: np.ndarray
) -> list[dict[str, Any]]:
    """The rows of a seed; params (1 + kinds, ...), before training first."""
    settings = {"untrained": (0.0, 0.0), **config.kinds}
    inputs = jnp.concatenate([dataset.train_inputs, dataset.test_inputs])
    targets = jnp.concatenate([dataset.train_targets, dataset.test_targets])
    count = len(dataset.train_targets)
    with_noise = jnp.array(list(settings.values()))
    quiet, noisy = (
        np.asarray(noisy_cnn.wrong(key, params, each, inputs, targets))
        for each in (0 * with_noise, with_noise)
    )
    errors = {
        "train_error": quiet[:, :count].mean(1),
        "test_error": quiet[:, count:].mean(1),
        "test_error_with_noise": noisy[:, count:].mean(1),
    }
    images, labels = dataset.test_inputs[compared], dataset.test_targets[compared]
    found = jax.device_get(_clusters(params, jnp.asarray(images), jnp.asarray(labels)))
    rows = []
    for i, (kind, (sigma, dropout)) in enumerate(settings.items()):
        for layer in range(len(noisy_cnn.LAYERS)):
            row = {"kind": kind, "sigma": sigma, "dropout": dropout, "layer": layer + 1}
            row["num_classes"] = dataset.num_classes
            row |= {name: float(value[i]) for name, value in errors.items()}
            rows.append(row | pairs.flat({name: value[i, layer] for name, value in found.items()}))
    return rows


@jax.jit
def _clusters(params: Any, inputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """How S_l of all pairs compare, for networks (M, ...): leaves (M, L, ...)."""
    own = lambda w: pairs.measure(noisy_cnn.passed(w, inputs)[1], labels)  # noqa: E731
    return jax.lax.map(own, params)


# ------------------------------------------------------------------------ what the table says


def resemblance(rows: Rows, config: Config) -> dict[str, np.ndarray]:
    """How far apart histograms of cosines are, mean over layers, (sigmas, S); earth mover's.

    From a noisy network to one with dropout and to one without noise; from the latter to dropout;
    and, as a measure of chance, between networks with dropout of different seeds.

    - `part_of_the_way`: from no noise to dropout that noise goes; 0 where it comes no closer.
    - `margin`: what noise and dropout are closer than the closer of the two other pairs.
    """
    noisy = [f"noisy_{sigma:g}" for sigma in config.sigmas]

    def apart(kinds: list[str], other: str, shift: int = 0) -> np.ndarray:
        each = [pairs.moved(rows, kind, other, shift).mean(0) for kind in kinds]
        return np.broadcast_to(each, (len(noisy), config.num_seeds))

    found = {
        "noisy_to_dropout": apart(noisy, "dropout"),
        "noisy_to_deterministic": apart(noisy, "deterministic"),
        "deterministic_to_dropout": apart(["deterministic"], "dropout"),
        "other_seeds": apart(["dropout"], "dropout", shift=1),
    }
    near, own, far, _ = found.values()
    return found | {"part_of_the_way": 1 - near / far, "margin": np.minimum(own, far) - near}


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Errors, what is found in every layer, resemblance by σ; [mean, standard error over seeds]."""
    kinds = ("untrained", *config.kinds)

    def each(values: np.ndarray) -> list[list[float | None]]:
        return [tables.mean_and_stderr(own) for own in values]

    summary: dict[str, Any] = {
        name: {k: tables.mean_and_stderr(pairs.column(rows, name, k)[0]) for k in config.kinds}
        for name in ("train_error", "test_error", "test_error_with_noise")
    }
    for name in ("neighbour_purity", "effective_clusters", "distance_within_mean"):
        summary[f"{name}_by_layer"] = {k: each(pairs.column(rows, name, k)) for k in kinds}
    summary["cosine_within_less_between_by_layer"] = {
        k: each(pairs.contrast(rows, k)) for k in kinds
    }
    for name, values in resemblance(rows, config).items():
        by_sigma = {f"{s:g}": own for s, own in zip(config.sigmas, each(values), strict=True)}
        same = name in ("deterministic_to_dropout", "other_seeds")
        summary[f"histograms_{name}"] = each(values)[0] if same else by_sigma
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Histograms are what they should be, networks have learned, and classes gather with depth."""
    trained = np.stack([pairs.contrast(rows, kind) for kind in config.kinds])
    errors = {kind: pairs.column(rows, "test_error", kind)[0].max() for kind in config.kinds}
    worst = max(errors, key=lambda kind: errors[kind])
    chance = 1 - 1 / rows[0]["num_classes"]
    more = np.stack([pairs.column(rows, "neighbour_purity", kind)[-1] for kind in config.kinds])
    more = more - pairs.column(rows, "neighbour_purity", "untrained")[-1]
    return [
        pairs.check_histograms(rows, ("untrained", *config.kinds)),
        checks.Check(
            f"every network errs less than {WORST:.2g} times as often as chance",
            bool(errors[worst] < WORST * chance),
            f"at most {errors[worst]:.3g} ({worst}), chance {chance:.3g}; else train longer "
            "(--num-epochs)",
        ),
        checks.Check(
            "in the last hidden layer cosines within classes exceed those between, every network",
            bool(trained[:, -1].min() > 0),
            f"by at least {trained[:, -1].min():.3g}",
        ),
        checks.Check(
            "training raises the part of neighbours of the same class there, every network",
            bool(more.min() > 0),
            f"by at least {more.min():.3g}",
        ),
        checks.check_rises(
            "cosines within classes exceed those between the more, the deeper the layer",
            trained.mean(0),
            "more seeds (--num-seeds), or longer training (--num-epochs)",
        ),
    ]


def table(rows: Rows) -> str:
    """Means over seeds, a line for each kind and layer."""
    names = {
        "train_error": "train",
        "test_error": "test",
        "test_error_with_noise": "noisy",
        "cosine_within_mean": "within",
        "cosine_between_mean": "between",
        "distance_within_mean": "within",
        "distance_between_mean": "between",
        "neighbour_purity": "purity",
        "effective_clusters": "clusters",
    }
    lines = [f"{'':24}{'error':^24}{'cosine':^16}{'distance':^16}"]
    lines += [f"{'kind':<16} {'layer':>6} " + " ".join(f"{n:>7}" for n in names.values())]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        values = np.stack([pairs.column(rows, name, kind).mean(1) for name in names])
        for layer, own in zip(noisy_cnn.LAYERS, values.T, strict=True):
            lines.append(f"{kind:<15} {layer:>7} " + " ".join(f"{v:7.4g}" for v in own))
    return "\n".join(lines)


def looks(config: Config) -> dict[str, dict[str, str]]:
    """How the kinds that are shown look; of the noisy ones the smallest and the largest σ."""
    first, last = config.sigmas[0], config.sigmas[-1]
    every = {
        "untrained": ("before training", style.GREY, "x", ":"),
        "deterministic": ("no noise", style.BLUE, "o", "-"),
        f"noisy_{first:g}": (f"noise σ = {first:g}", style.YELLOW, "s", "-."),
        f"noisy_{last:g}": (f"noise σ = {last:g}", style.ORANGE, "s", "-"),
        "dropout": (f"dropout {config.dropout:g}", style.GREEN, "D", "--"),
    }
    names = ("label", "color", "marker", "linestyle")
    return {kind: dict(zip(names, look, strict=True)) for kind, look in every.items()}


def plot(rows: Rows, config: Config) -> Any:
    """Cosines within and between classes, distances; errors, purity, how kinds resemble."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, len(noisy_cnn.LAYERS) + 1, figsize=(14, 9.2))
    for place, name in zip(axes[:2, :-1], ("cosine_within", "cosine_between"), strict=True):
        _draw_histograms(place, rows, looks(config), [name])
    _draw_histograms(axes[2, :-1], rows, looks(config), ["distance_within", "distance_between"])
    _draw_errors(axes[0, -1], rows, config)
    _draw_purity(axes[1, -1], rows, looks(config))
    _draw_resemblance(axes[2, -1], rows, config)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.suptitle(
        f"{config.dataset}, hidden layers of networks trained without noise, with Gaussian noise "
        f"and with dropout; noise off; mean and range of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


def _draw_histograms(
    places: Sequence[Any], rows: Rows, shown: dict[str, dict[str, str]], names: list[str]
) -> None:
    """A panel for each layer; of two histograms the second is thin."""
    said = "thin: between classes" if len(names) > 1 else f"{names[0].partition('_')[2]} classes"
    for layer, place in enumerate(places):
        for look, (thin, name) in itertools.product(shown.items(), enumerate(names)):
            kind, own = look[0], {n: look[1][n] for n in ("label", "color", "linestyle")}
            values = pairs.density(rows, name, kind)[:, layer]
            style.band(place, pairs.centres(name), values, linewidth=1.5 - 0.7 * thin, **own)
        cosine = names[0].startswith("cosine")
        place.set(xlim=(-1, 1) if cosine else (0, 2), ylim=(0, None))
        place.set_xlabel("cosine similarity" if cosine else "distance / rms distance")
        place.set_title(f"{noisy_cnn.LAYERS[layer].replace('_', ' ')}, {said}", fontsize=10)
    places[0].set_ylabel("density of pairs")


def _draw_errors(place: Any, rows: Rows, config: Config) -> None:
    """Test error of every kind: seeds, and mean with standard error."""
    for x, kind in enumerate(config.kinds):
        values = 100 * pairs.column(rows, "test_error", kind)[0]
        spread = np.linspace(-0.2, 0.2, len(values))
        place.plot(x + spread, values, ".", color=style.GREY, markersize=3)
        place.errorbar(
            x, values.mean(), tables.stderr(values), color=style.BLUE, marker="o", capsize=3
        )
    names = ["none", *(f"σ {sigma:g}" for sigma in config.sigmas), "dropout"]
    place.set_xticks(range(len(names)), names, rotation=30, fontsize=8)
    place.set_title("test error (%), noise off", fontsize=10)
    place.set_ylim(bottom=0)


def _draw_purity(place: Any, rows: Rows, shown: dict[str, dict[str, str]]) -> None:
    """Neighbours of the same class along the layers."""
    for kind, look in shown.items():
        style.band(
            place,
            range(len(noisy_cnn.LAYERS)),
            pairs.column(rows, "neighbour_purity", kind),
            **look,
        )
    place.set_xticks(
        range(len(noisy_cnn.LAYERS)), [name.replace("_", " ") for name in noisy_cnn.LAYERS]
    )
    place.set_title(f"{pairs.NEIGHBOURS} neighbours of the same class (part)", fontsize=10)


def _draw_resemblance(place: Any, rows: Rows, config: Config) -> None:
    """How far histograms of cosines are apart against σ; without noise, those of dropout."""
    apart = resemblance(rows, config)
    for name, label, colour, marker in (
        ("noisy_to_dropout", "noise to dropout", style.GREEN, "D"),
        ("noisy_to_deterministic", "noise to none", style.BLUE, "o"),
    ):
        place.errorbar(
            config.sigmas,
            apart[name].mean(1),
            tables.stderr(apart[name]),
            label=label,
            color=colour,
            marker=marker,
            capsize=3,
        )
    for name, label, dash in (
        ("deterministic_to_dropout", "none to dropout", "--"),
        ("other_seeds", "dropout, other seeds", ":"),
    ):
        place.axhline(apart[name].mean(), label=label, color=style.GREY, linestyle=dash)
    place.set(xscale="log", xlabel="σ", ylim=(0, 1.6 * place.get_ylim()[1]))
    place.set_xticks(config.sigmas, [f"{sigma:g}" for sigma in config.sigmas])
    place.xaxis.minorticks_off()
    place.set_title("cosine histograms apart (earth mover)", fontsize=10)
    place.legend(fontsize=8, ncols=2, loc="upper left")


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.clusters")

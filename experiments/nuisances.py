"""What activations still tell of an occlusion, and of the label, as the price β of a nat goes up.

A bright square lies over every image, at a place n that says nothing about the label y. Codes of
the weights are minimised along β; then the last hidden layer z, under weights drawn anew for every
image, is read by small probes on images that the network has not seen. Fewer nats in the weights
leave fewer nats about n in z, without anybody asking for invariance, while those about y stay until
the network gives up.

Default: digits, about 2 minutes on 2 CPU cores. Paper: Achille & Soatto (arXiv:1706.01350), Fig. 4
(MNIST with clutter, details unknown).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import iw_jax as iw
from experiments.common import checks, measures, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets

# What the probes look for. The control is as the nuisance is, but drawn apart from the image.
SOUGHT = ("nuisance", "label", "control")
STOPPING = 5  # one in so many of the images kept for the probes stops them
KEPT = 0.95  # of the most label information along β: there z is called sufficient


@dataclasses.dataclass(frozen=True)
class Config(common.TrainingConfig):
    """What is swept.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples of the network.
      num_probed: training examples that the network does not see, for the probes.
      grid: places of the square along each side of the image.
      side: pixels along each side of the square.
      num_noises: occlusions, each with weights of its own, of every image that probes see.
      probe_width: hidden units of a probe.
      probe_steps: optimiser steps of a probe.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_seeds: seeds, which differ in initial weights, noise, minibatches and probes.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 800
    num_probed: int = 637
    grid: int = 3
    side: int = 3
    num_noises: int = 6
    probe_width: int = 64
    probe_steps: int = 400
    betas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.7, 1.2, 2.0, 3.0, 5.0)
    num_seeds: int = 2
    num_steps: int = 1200
    batch_size: int = 100
    learning_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network != "mlp" or not self.widths:
            raise ValueError(
                f"network must be an mlp with a hidden layer, got {self.network!r} with widths "
                f"{self.widths}"
            )
        least = {
            "num_examples": 1,
            "num_probed": 2 * STOPPING,
            "num_noises": 1,
            "probe_width": 1,
            "probe_steps": 1,
            "grid": 2,
            "side": 1,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(
                    f"{name} must be an integer of at least {smallest}, got {getattr(self, name)}"
                )


PRESETS = {
    "quick": Config(
        num_examples=200,
        num_probed=200,
        grid=2,
        num_noises=4,
        probe_width=16,
        probe_steps=100,
        betas=(0.001, 0.3, 30.0),
        widths=(20,),
        num_steps=300,
        num_draws=16,
    ),
    "default": Config(),
    "paper": Config(
        dataset="mnist",
        num_examples=50_000,
        num_probed=10_000,
        side=9,
        widths=(256, 256),
        betas=tuple(float(f"{b:.2g}") for b in np.logspace(-3, 2, 16)),
        num_seeds=3,
        num_steps=36_000,
        batch_size=500,
        learning_rate=0.005,
        probe_steps=4000,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set without occlusions: examples of the network first, then those of the probes."""
    dataset = common.load(config, data_dir, config.num_examples + config.num_probed)
    _occluded(config, dataset)  # a square that does not fit is told before a folder is made
    return dataset


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (β, seed)."""
    occluded = _occluded(config, dataset)
    shape = 1, config.num_seeds, config.num_examples
    targets = jnp.asarray(np.broadcast_to(occluded.train_targets, shape))
    result = measures.sweep_members(config, occluded, context, targets)
    rows = measures.member_rows(config, occluded, context, result, targets, [{}])
    images, sought = _probed(config, dataset)
    place, label = float(np.log(config.grid**2)), _entropy(dataset.test_targets)
    entropies = dict(zip(SOUGHT, (place, label, place), strict=True))
    ledger = context.ledger("probes")
    found = []
    for seed in context.track(range(config.num_seeds), "probes"):
        key = jax.random.fold_in(jax.random.key(config.seed), 1 + seed)
        codes = jax.tree.map(lambda leaf, s=seed: leaf[0, :, s], result.code)
        measure = partial(
            _measure, config, key, codes, images, sought, entropies, dataset.num_classes
        )
        found.append(ledger.get(str(seed), measure))
    for row in rows:
        at = config.betas.index(row["beta"])
        for name, (values, errors) in found[row["seed"]].items():
            row |= {f"{name}_lower_nats": values[at], f"{name}_stderr_nats": errors[at]}
        row |= {f"{name}_entropy_nats": entropies[name] for name in SOUGHT[:2]}
    return rows


def _occluded(config: Config, dataset: data.Dataset) -> data.Dataset:
    """What the network is trained and tested on: one occlusion of every image."""
    rng = np.random.default_rng((config.seed, 0))
    cover = partial(data.occlude, grid=config.grid, side=config.side)
    draw = partial(rng.integers, config.grid**2)
    train = dataset.train_inputs[: config.num_examples]
    return dataclasses.replace(
        dataset,
        train_inputs=cover(train, draw(size=len(train))),
        train_targets=dataset.train_targets[: config.num_examples],
        test_inputs=cover(dataset.test_inputs, draw(size=len(dataset.test_inputs))),
    )


def _probed(config: Config, dataset: data.Dataset) -> tuple[jax.Array, jax.Array]:
    """Images that probes see (F, R, H, W, C), and what they look for (3, F, R), as in `SOUGHT`.

    The F images are those of the training set kept for the probes, then the test set.
    """
    rng = np.random.default_rng((config.seed, 1))
    kept = slice(config.num_examples, None)
    inputs = np.concatenate([dataset.train_inputs[kept], dataset.test_inputs])
    labels = np.concatenate([dataset.train_targets[kept], dataset.test_targets])
    shape = len(inputs), config.num_noises
    places, control = rng.integers(config.grid**2, size=(2, *shape))
    repeated = np.repeat(inputs, config.num_noises, axis=0)
    covered = data.occlude(repeated, places.ravel(), grid=config.grid, side=config.side)
    sought = places, np.broadcast_to(labels[:, None], shape), control
    images = covered.reshape(*shape, *inputs.shape[1:])
    return jnp.asarray(images), jnp.asarray(np.stack(sought))


def _entropy(labels: np.ndarray) -> float:
    """Entropy of the frequencies of labels, nats."""
    return float(stats.entropy(np.bincount(labels)))


def hidden_layer(widths: tuple[int, ...]) -> Callable[[Any, jax.Array], jax.Array]:
    """(params, inputs) -> the last hidden layer of the mlp, (X, widths[-1])."""
    below = nets.mlp(widths[-1], widths=widths[:-1])

    def layer_fn(params: Any, inputs: jax.Array) -> jax.Array:
        own = {f"Dense_{i}": params[f"Dense_{i}"] for i in range(len(widths))}
        return jax.nn.relu(below.apply_fn(own, inputs))

    return layer_fn


def _measure(
    config: Config,
    key: jax.Array,
    codes: Any,
    images: jax.Array,
    sought: jax.Array,
    entropies: dict[str, float],
    num_classes: int,
) -> dict[str, tuple[list[float], list[float]]]:
    """The bound and its standard error for every β of a seed, by what is sought."""
    classes = max(config.grid**2, num_classes)  # one kind of probe for all
    found = _bounds(config, classes, key, codes, images, sought, jnp.array([*entropies.values()]))
    values, errors = (np.asarray(x, float).T.tolist() for x in (found.value, found.stderr))
    return dict(zip(entropies, zip(values, errors, strict=True), strict=True))


@partial(jax.jit, static_argnums=(0, 1))
def _bounds(
    config: Config,
    num_classes: int,
    key: jax.Array,
    codes: Any,
    images: jax.Array,
    sought: jax.Array,
    entropies: jax.Array,
) -> iw.Estimate:
    """Lower bounds of I(z; ·), (B, 3), for codes with leaves (B, ...), which see the same noise."""
    layer_fn = hidden_layer(config.widths)
    noise_key, probe_key = jax.random.split(key)
    stopping, fitting = config.num_probed // STOPPING, config.num_probed
    splits = {
        "stopping": slice(stopping),
        "fitting": slice(stopping, fitting),
        "held_out": slice(fitting, None),
    }

    def of_code(code: iw.Code) -> iw.Estimate:
        flat = images.reshape(-1, *images.shape[2:])
        z = iw.noisy_activations(noise_key, code, layer_fn, flat).reshape(*images.shape[:2], -1)

        def bound(labels: jax.Array, entropy: jax.Array) -> iw.Estimate:
            return iw.probe_information(
                probe_key,
                **{name: (z[part], labels[part]) for name, part in splits.items()},
                entropy=entropy,
                num_classes=num_classes,
                width=config.probe_width,
                num_steps=config.probe_steps,
            )

        return jax.vmap(bound)(sought, entropies)

    return jax.vmap(of_code)(codes)


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, sought: str, part: str = "lower") -> np.ndarray:
    """The bound of I(z; ·), or its standard error, (B, S), β increasing; nats."""
    return tables.grid(rows, f"{sought}_{part}_nats")


def half(rows: Rows, sought: str) -> np.ndarray:
    """β at which half of the information that z has at most is lost, one a seed: (S,)."""
    beta, missing = tables.grid(rows, "beta"), -column(rows, sought)
    return np.array(
        [tables.critical_beta(*pair, chance=0.0) for pair in zip(beta.T, missing.T, strict=True)]
    )


def sufficient(rows: Rows) -> int:
    """The largest β up to which z keeps 95 % of the most label information, as an index."""
    label = column(rows, "label").mean(1)
    late = np.arange(len(label)) > label.argmax()
    given_up = np.flatnonzero(late & (label < KEPT * label.max()))
    return int(given_up[0]) - 1 if given_up.size else len(label) - 1


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Both bounds at the smallest β and at the last that keeps the label; where half is lost."""
    summary: dict[str, Any] = {
        f"{name}_entropy_nats": tables.rounded(rows[0][f"{name}_entropy_nats"])
        for name in SOUGHT[:2]
    }
    for name, i in (("at_smallest_beta", 0), ("at_last_sufficient_beta", sufficient(rows))):
        summary[name] = {"beta": config.betas[i]} | {
            "kl_nats_per_label": tables.spread(tables.grid(rows, "kl_nats_per_label")[i]),
            "test_accuracy_noisy": tables.spread(tables.grid(rows, "test_accuracy_noisy")[i]),
        }
        for sought in SOUGHT:
            bound, error = column(rows, sought)[i], column(rows, sought, "stderr")[i]
            summary[name][f"{sought}_lower_nats"] = tables.spread(bound)
            summary[name][f"{sought}_stderr_nats"] = tables.rounded(error.mean())
    for name in SOUGHT[:2]:
        summary[f"beta_at_which_half_of_{name}_is_lost"] = tables.spread(half(rows, name))
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep; probes that find nothing where there is nothing; and the claim."""
    control, error = column(rows, "control"), column(rows, "control", "stderr")
    t = stats.norm.isf(checks.FALSE_ALARM / control.size)
    excess = control - t * error - checks.RESOLUTION
    nuisance, label = half(rows, "nuisance"), half(rows, "label")
    return [
        *checks.check_curves(checks.curves_of(rows, "real labels", config.num_draws)),
        checks.Check(
            "probes find nothing about a place that is not in the image",
            bool(excess.max() <= 0),
            f"at most {control.max():.2g} nats, standard error {error.max():.2g}",
        ),
        checks.Check(
            "half of I(z; nuisance) is lost at a smaller beta than half of I(z; label), every seed",
            bool(np.all(nuisance < label)),
            f"beta = {nuisance.min():.3g} to {nuisance.max():.3g}, and {label.min():.3g} to "
            f"{label.max():.3g}; nan where the betas end before (--betas)",
        ),
    ]


def table(rows: Rows) -> str:
    """Means over seeds, one line for each β."""
    lines = [
        f"{'beta':>8} {'KL/N':>7} {'test':>6}  {'I(z;n) >=':>9} {'±':>6}  {'I(z;y) >=':>9} {'±':>6}"
        f"  {'control':>8}   (nats; accuracy under noise; ± one standard error)"
    ]
    names = ("beta", "kl_nats_per_label", "test_accuracy_noisy")
    own = [tables.grid(rows, name).mean(1) for name in names]
    own += [column(rows, name, part).mean(1) for name in SOUGHT[:2] for part in ("lower", "stderr")]
    own.append(column(rows, "control").mean(1))
    for beta, kl, test, n, n_error, y, y_error, control in zip(*own, strict=True):
        lines.append(
            f"{beta:8.3g} {kl:7.3f} {test:6.3f}  {n:9.3f} {n_error:6.3f}  {y:9.3f} {y_error:6.3f}"
            f"  {control:8.4f}"
        )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Both bounds against β, and against the nats in the weights."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    looks = {
        "label": ("I(z; y), the label", style.BLUE, "o", "-"),
        "nuisance": ("I(z; n), the place of the square", style.ORANGE, "s", "--"),
        "control": ("control: a place drawn apart", style.GREY, "D", ":"),
    }
    beta, nats = (tables.grid(rows, n).mean(1) for n in ("beta", "kl_nats_per_label"))
    for name, (said, colour, marker, dash) in looks.items():
        value, error = column(rows, name), 1.96 * column(rows, name, "stderr").mean(1)
        for axis, x in ((left, beta), (right, nats)):
            look = {"color": colour, "marker": marker, "linestyle": dash, "label": said}
            style.band(axis, x, value, **look)
            axis.errorbar(x, value.mean(1), yerr=error, fmt="none", ecolor=colour, capsize=2, lw=1)
            if name != "control":
                entropy = rows[0][f"{name}_entropy_nats"]
                axis.axhline(entropy, color=colour, linestyle=dash, linewidth=0.8)
    for name, place in (("label", "bottom"), ("nuisance", "top")):
        left.annotate(
            f"H({name})",
            (0.02, rows[0][f"{name}_entropy_nats"]),
            xycoords=("axes fraction", "data"),
            va=place,
            color=looks[name][1],
        )
    for axis in (left, right):
        axis.axhline(0, color="black", linewidth=0.6)
    left.axvline(
        config.betas[sufficient(rows)], color=style.BLUE, linewidth=0.8, linestyle=(0, (1, 3))
    )
    left.set(xscale="log", xlabel="β, price of a nat of weights (nats of loss)")
    left.set_ylabel("lower bound of the information in z (nats)")
    right.set_xscale("symlog", linthresh=0.1)
    right.set_xlim(left=0)
    right.set_xlabel("KL(Q‖P) / N  (nats per label)")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    number = int(rows[0]["num_examples"])
    figure.suptitle(
        f"{config.dataset} under a square at one of {config.grid**2} places, N = {number}, "
        f"{config.network}, {config.code} code;\nbands: range of {config.num_seeds} seeds; bars: "
        "95 % over held-out images",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.nuisances")

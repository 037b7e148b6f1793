"""What activations still tell of an occlusion, and of the label, as the price β of a nat goes up.

A bright square lies over every image, at a place n that says nothing about the label y. Codes of
the weights are minimised along β; then the last hidden layer z, under weights drawn anew for every
image, is read by small probes on images that the network has not seen. Fewer nats in the weights
leave fewer nats about n in z, without anybody asking for invariance, while those about y stay until
the network gives up. The same probes read the images themselves, and an untrained network.

Default: digits, about 4 minutes on 2 CPU cores. Paper: Achille & Soatto (arXiv:1706.01350), Fig. 4
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
from experiments.common import checks, cost, measures, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets

# What the probes look for. The control is the place of the square, half of the time drawn anew: how
# much the place, and so anything made of the image, tells of it is known.
SOUGHT = ("nuisance", "label", "control")
REDRAWN = 0.5
CEILINGS = ("image", "untrained")  # what else they read: the images; a network at its start
STOPPING = 5  # one in so many of the images kept for the probes stops them
PARTS = ("lower", "stderr")  # of a bound, in the names of columns
FOUND = 0.5  # of what the control tells: what probes are to find of it in the images
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
      num_seeds: seeds, which differ in initial weights, noise, minibatches and probes; errors are
        over them.
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
    betas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.18, 0.3, 0.6, 1.2, 2.0, 3.0)
    num_seeds: int = 4
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
            "num_seeds": 2,
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
        num_seeds=2,
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


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    return [cost.sweep(config, _occluded(config, dataset), 1)]


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
        row |= {name: values[at] for name, values in found[row["seed"]].items()}
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
    places, others = rng.integers(config.grid**2, size=(2, *shape))
    control = np.where(rng.random(shape) < REDRAWN, others, places)
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
) -> dict[str, list[float]]:
    """The columns of a seed, a value for each β: bounds and standard errors of all that is read."""
    classes = max(config.grid**2, num_classes)  # one kind of probe for all
    found = _bounds(config, classes, key, codes, images, sought, jnp.array([*entropies.values()]))
    columns = {}
    for source, bound in found.items():
        shape = len(config.betas), len(SOUGHT)
        for part, values in (("lower", bound.value), ("stderr", bound.stderr)):
            every = np.broadcast_to(np.asarray(values, float), shape).T.tolist()
            columns |= {f"{n}{source}_{part}_nats": v for n, v in zip(SOUGHT, every, strict=True)}
    return columns


@partial(jax.jit, static_argnums=(0, 1))
def _bounds(
    config: Config,
    num_classes: int,
    key: jax.Array,
    codes: Any,
    images: jax.Array,
    sought: jax.Array,
    entropies: jax.Array,
) -> dict[str, iw.Estimate]:
    """Lower bounds of I(z; ·), (B, 3), for codes with leaves (B, ...), which see the same noise.

    Likewise, (3,) each, for the images in the place of z, and for z of an untrained network without
    noise.
    """
    layer_fn = hidden_layer(config.widths)
    noise_key, probe_key, start_key = jax.random.split(key, 3)
    stopping, fitting = config.num_probed // STOPPING, config.num_probed
    splits = {
        "stopping": slice(stopping),
        "fitting": slice(stopping, fitting),
        "held_out": slice(fitting, None),
    }
    flat = images.reshape(-1, *images.shape[2:])

    def read(z: jax.Array) -> iw.Estimate:
        z = z.reshape(*images.shape[:2], -1)

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

    start = common.network(config, num_classes).init(start_key, flat[:1])
    noisy = lambda code: iw.noisy_activations(noise_key, code, layer_fn, flat)  # noqa: E731
    return {
        "": jax.vmap(lambda code: read(noisy(code)))(codes),
        "_image": read(flat),
        "_untrained": read(layer_fn(start, flat)),
    }


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, sought: str, part: str = "lower") -> np.ndarray:
    """The bound of I(z; ·), or its standard error, (B, S), β increasing; nats."""
    return tables.grid(rows, f"{sought}_{part}_nats")


def estimate(rows: Rows, sought: str) -> np.ndarray:
    """Mean of a bound over seeds, its standard error over them and that over images, (3, B).

    All seeds are judged on the same images, so that more seeds do not lower the last.
    """
    bound = column(rows, sought)
    return np.stack([bound.mean(1), tables.stderr(bound), column(rows, sought, "stderr").mean(1)])


def lost(rows: Rows, sought: str) -> np.ndarray:
    """The part of the bound at the smallest β that is no longer found, (B, S)."""
    bound = column(rows, sought)
    return 1 - bound / bound[0]


def half(rows: Rows, sought: str) -> tuple[float, float]:
    """Neighbouring β between which half of the most that is found is lost, for all seeds."""
    beta, missing = tables.grid(rows, "beta"), -column(rows, sought)
    ends = [tables.edge(*pair, chance=0.0) for pair in zip(beta.T, missing.T, strict=True)]
    low, high = np.transpose(ends)
    return float(low.min()), float(high.max())


def sufficient(rows: Rows) -> int:
    """The largest β up to which z keeps 95 % of the most label information, as an index."""
    label = column(rows, "label").mean(1)
    late = np.arange(len(label)) > label.argmax()
    given_up = np.flatnonzero(late & (label < KEPT * label.max()))
    return int(given_up[0]) - 1 if given_up.size else len(label) - 1


def control_information(places: int) -> float:
    """I(n; control), nats: of a place and a copy that is drawn anew every so often."""
    same = 1 - REDRAWN + REDRAWN / places
    other = (1 - same) / (places - 1)
    return float(np.log(places) + same * np.log(same) + (1 - same) * np.log(other))


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """What is found at each β, in images and in an untrained network; where half of it is lost."""

    def by_beta(values: Any) -> dict[str, Any]:
        return {f"{beta:g}": value for beta, value in zip(config.betas, values, strict=True)}

    def rounded(values: np.ndarray) -> list[float | None]:
        return [tables.rounded(value) for value in values]

    kl = tables.grid(rows, "kl_nats_per_label")
    summary: dict[str, Any] = {
        "nuisance_entropy_nats": tables.rounded(rows[0]["nuisance_entropy_nats"]),
        "label_entropy_nats": tables.rounded(rows[0]["label_entropy_nats"]),
        "control_information_nats": tables.rounded(control_information(config.grid**2)),
        "kl_nats_per_label": by_beta(map(tables.mean_and_stderr, kl)),
    }
    for name in SOUGHT:
        ceilings = {s: rounded(estimate(rows, f"{name}_{s}")[:, 0]) for s in CEILINGS}
        found = by_beta(map(rounded, estimate(rows, name).T))
        summary[f"{name}_nats_mean_stderr_of_seeds_of_images"] = found | ceilings
    for name in SOUGHT[:2]:
        summary[f"part_of_{name}_lost"] = by_beta(map(tables.mean_and_stderr, lost(rows, name)))
        summary[f"half_of_{name}_lost_between_betas"] = rounded(np.array(half(rows, name)))
    summary["last_sufficient_beta"] = config.betas[sufficient(rows)]
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep; probes that find no more than there is; and the claim."""
    nuisance, label = half(rows, "nuisance"), half(rows, "label")
    return [
        *checks.check_curves(checks.curves_of(rows, "real labels", config.num_draws)),
        _check_control(rows, control_information(config.grid**2)),
        checks.Check(
            "half of I(z; nuisance) is lost at a smaller beta than half of I(z; label), every seed",
            nuisance[1] <= label[0],
            f"beta = {nuisance[0]:g} to {nuisance[1]:g}, and {label[0]:g} to {label[1]:g}; nan "
            "where the betas end before (--betas)",
        ),
    ]


def _check_control(rows: Rows, known: float) -> checks.Check:
    """At most I(n; control) may be found anywhere, and most of it is there to be found."""
    names = ("control", *(f"control_{source}" for source in CEILINGS))
    bounds, errors = (np.stack([column(rows, n, part) for n in names]) for part in PARTS)
    t = stats.norm.isf(checks.FALSE_ALARM / bounds.size)
    excess = bounds - t * errors - checks.RESOLUTION - known
    image = float(bounds[1].mean())
    return checks.Check(
        "of a place that is half of the time drawn anew probes find what there is, and no more",
        bool(excess.max() <= 0 and image > FOUND * known),
        f"{known:.3f} nats; in the images {image:.3f}, in activations at most "
        f"{bounds[0].max():.3f}, standard error {errors.max():.2g}",
    )


def table(rows: Rows) -> str:
    """Means over seeds, one line for each β, then what else is read."""
    lines = [
        f"{'beta':>10} {'KL/N':>7} {'test':>6}  {'I(z;n) >=':>9} {'±':>6} {'±':>6}  "
        f"{'I(z;y) >=':>9} {'±':>6} {'±':>6}  {'control':>8}   (nats; accuracy under noise; ± one "
        "standard error, over seeds and over images)"
    ]
    names = ("beta", "kl_nats_per_label", "test_accuracy_noisy")
    own = np.stack([tables.grid(rows, name).mean(1) for name in names])
    heads = [f"{beta:10.3g} {kl:7.3f} {test:6.3f}" for beta, kl, test in own.T]
    found = np.concatenate([estimate(rows, name) for name in SOUGHT])
    lines += [_line(head, values) for head, values in zip(heads, found.T, strict=True)]
    for source in CEILINGS:
        found = np.concatenate([estimate(rows, f"{name}_{source}") for name in SOUGHT])
        lines.append(_line(f"{source:>10}{'':15}", found[:, 0]))
    return "\n".join(lines)


def _line(head: str, values: np.ndarray) -> str:
    """Bound and both errors of nuisance and label, bound of the control."""
    parts = [f"{v:9.3f} {a:6.3f} {b:6.3f}" for v, a, b in (values[:3], values[3:6])]
    return f"{head}  {parts[0]}  {parts[1]}  {values[6]:8.4f}"


def plot(rows: Rows, config: Config) -> Any:
    """Both bounds against β, beside those of the ceilings, and against the nats in the weights."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    known = control_information(config.grid**2)
    looks = {
        "label": ("I(z; y), the label", style.BLUE, "o", "-"),
        "nuisance": ("I(z; n), the place of the square", style.ORANGE, "s", "--"),
        "control": (f"I(z; control) $\\leq$ {known:.2f}", style.GREY, "D", ":"),
    }
    beta, nats = (tables.grid(rows, n).mean(1) for n in ("beta", "kl_nats_per_label"))
    apart = beta[0] / np.array([80, 8])  # where the ceilings stand
    for name, (said, colour, marker, dash) in looks.items():
        look = {"color": colour, "marker": marker}
        most = known if name == "control" else rows[0][f"{name}_entropy_nats"]
        for axis, x in ((left, beta), (right, nats)):
            style.band(axis, x, column(rows, name), label=said, linestyle=dash, **look)
            _bars(axis, x, estimate(rows, name), look)
            axis.axhline(most, color=colour, linestyle=dash, linewidth=0.8)
        ceilings = [estimate(rows, f"{name}_{source}")[:, 0] for source in CEILINGS]
        _bars(left, apart, np.transpose(ceilings), look)
    _draw_axes(left, right, rows, apart)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    number = int(rows[0]["num_examples"])
    figure.suptitle(
        f"{config.dataset} under a square at one of {config.grid**2} places, N = {number}, "
        f"{config.network}, {config.code} code;\nbands: range of {config.num_seeds} seeds; bars: "
        "95 % over seeds and held-out images",
        fontsize=11,
    )
    return figure


def _bars(axis: Any, x: np.ndarray, found: np.ndarray, look: dict[str, str]) -> None:
    """Points with the error of `estimate` (3, X), of seeds and images together."""
    error = 1.96 * np.hypot(found[1], found[2])
    axis.errorbar(x, found[0], yerr=error, linestyle="", capsize=2, lw=1, **look)


def _draw_axes(left: Any, right: Any, rows: Rows, apart: np.ndarray) -> None:
    """Entropies, the last sufficient β, and ticks; the ceilings have no β."""
    for name, sign, colour, place in (
        ("label", "y", style.BLUE, "bottom"),
        ("nuisance", "n", style.ORANGE, "top"),
    ):
        at = 0.98, rows[0][f"{name}_entropy_nats"]
        where = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": place}
        left.annotate(f"H({sign})", at, color=colour, **where)
    beta = tables.grid(rows, "beta")[:, 0]
    left.axvline(beta[0] / 2.5, color="black", linewidth=0.6)
    left.axvline(beta[sufficient(rows)], color=style.BLUE, linewidth=0.8, linestyle=(0, (1, 3)))
    left.set(xscale="log", xlabel="β, price of a nat of weights (nats of loss)")
    left.set_ylabel("lower bound of the information in z (nats)")
    decades = 10.0 ** np.arange(np.ceil(np.log10(beta[0])), np.log10(beta[-1]) + 1e-9)
    left.set_xticks([*apart, *decades], [*CEILINGS, *(f"{x:g}" for x in decades)])
    left.minorticks_off()
    right.set_xscale("symlog", linthresh=0.1)
    right.set_xlim(left=0)
    right.set_xlabel("KL(Q‖P) / N  (nats per label)")


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.nuisances")

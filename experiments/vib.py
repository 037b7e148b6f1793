"""The deep variational bottleneck: error, I(X;Z), I(Z;Y) and robustness against the price of rate.

An encoder to a diagonal Gaussian and a linear decoder minimise D + β R, distortion and rate in nats
an example, for every β side by side. On training and on test images: error, the rate, I(X;Z) from
both sides, a lower bound of I(Z;Y); on test images also the error after one step of the fast
gradient sign. Codes in two dimensions are drawn. β multiplies the RATE: 1/β of the discrete
bottleneck.

Default: digits, about 3 minutes on 2 CPU cores. Paper: Alemi et al. (arXiv:1612.00410), Table
1 and Figs. 1 to 3 (MNIST, 784-1024-1024-512, β = 1e-3: 1.13 % of errors).
"""

import dataclasses
import functools
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common import checks, coders, cost, epochs, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import bottleneck, data

PLANE, ELLIPSES = 2, 100  # dimensions of the codes that are drawn; how many of them
NUM_SAMPLES = 12  # of z for each example, as in the paper
WORST = 1 / 3  # of the error of chance: above it a network has not learned


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      num_evaluated: examples of the training set, and of the test set, that are measured; 0 for
        all.
      num_contrasted: of these, those whose codes are contrasted for I(X;Z).
      num_attacked: of the measured test images, those that are attacked.
      widths: hidden units of the encoder.
      latents: dimensions of z, a sweep each; codes of 2 dimensions are drawn.
      betas: prices of the rate, increasing.
      epsilons: steps of the fast gradient sign; pixels go from -1 to 1.
      num_epochs: of training.
      batch_size: examples a step.
      learning_rate: Adam's (its β1 is 0.5); falls by 3 % every two epochs.
      decay: of the moving average of the weights, which is what is measured.
      num_seeds: seeds, which differ in start, minibatches and noise.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    num_evaluated: int = 0
    num_contrasted: int = 1000
    num_attacked: int = 1000
    widths: tuple[int, ...] = (128, 128)
    latents: tuple[int, ...] = (2, 16)
    betas: tuple[float, ...] = (1e-9, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.4)
    num_epochs: int = 200
    batch_size: int = 100
    learning_rate: float = 1e-3
    decay: float = 0.99
    num_seeds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.at_least(self, num_attacked=1)
        coders.check_config(self)
        for name, what in (("latents", "whole numbers"), ("epsilons", "numbers")):
            values = getattr(self, name)
            rising = all(a < b for a, b in itertools.pairwise((0, *values)))
            common.require(
                values and rising and np.all(np.isfinite(values)),
                name,
                f"at least one, positive increasing {what}",
                values,
            )


PRESETS = {
    "quick": Config(
        num_examples=360,
        num_contrasted=200,
        widths=(32,),
        latents=(2,),
        betas=(1e-4, 0.01, 0.1, 1.0),
        epsilons=(0.2,),
        num_epochs=150,
        learning_rate=0.01,
        num_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        dataset="mnist",
        num_evaluated=10_000,
        num_contrasted=2000,
        widths=(1024, 1024),
        latents=(2, 256),
        betas=(1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
        learning_rate=1e-4,
        decay=0.999,
        num_seeds=5,
    ),
}


load = epochs.load


def _coder(config: Config, dataset: data.Dataset, latent: int) -> coders.Coder:
    return coders.coder(dataset.num_classes, config.widths, latent, conditional=False)


@functools.cache  # static arguments are known by identity
def _loss(model: bottleneck.VariationalBottleneck) -> Any:
    def loss(params: Any, key: jax.Array, batch: Any, beta: jax.Array) -> jax.Array:
        return bottleneck.bottleneck_terms(key, model, params, *batch, beta=beta).objective

    return loss


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    found = []
    for latent in config.latents:
        coder = _coder(config, dataset, latent)
        loss = partial(_task_loss, coder.model)
        count = len(config.betas)
        networks = count * config.num_seeds
        found.append(coders.stage(config, dataset, coder, loss, networks=networks, abreast=count))
    return found


def _task_loss(
    model: bottleneck.VariationalBottleneck, key: jax.Array, batch: iw.Task, params: Any
) -> jax.Array:
    return _loss(model)(params, key, (batch.inputs, batch.targets), jnp.ones(()))


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each dimension, β, seed and part of the data."""
    parts = coders.scaled(dataset)
    rows = []
    for latent in config.latents:
        coder = _coder(config, dataset, latent)
        starting, keys = (
            jax.random.split(key, config.num_seeds)
            for key in jax.random.split(jax.random.key(config.seed))
        )
        init = jax.jit(jax.vmap(lambda key, c=coder: c.init(key, parts["train"][0][:1])))
        start = init(starting)
        betas = jnp.asarray(config.betas)
        params = coders.train(
            *(_loss(coder.model), start, betas, parts["train"], context, config),
            keys=keys,
            stage=f"training_{latent}",
        )
        ledger = context.ledger(f"measured_{latent}")
        for seed in context.track(range(config.num_seeds), "measuring"):
            own = jax.tree.map(lambda w, s=seed: w[s], params)
            key = jax.random.fold_in(keys[seed], config.num_epochs)
            measure = partial(
                _columns, config, coder.model, key, own, parts, dataset.num_classes, seed
            )
            rows += [
                {"latent": latent, "seed": seed, **row} for row in ledger.get(str(seed), measure)
            ]
    return rows


def _columns(
    config: Config,
    model: bottleneck.VariationalBottleneck,
    key: jax.Array,
    params: Any,
    parts: dict[str, tuple[jax.Array, jax.Array]],
    num_classes: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The rows of one seed; params (betas, ...)."""
    betas, rows = jnp.asarray(config.betas), []
    evaluating, attacking = jax.random.split(key)
    for part, (inputs, targets) in parts.items():
        few = slice(config.num_evaluated or None)
        found = _evaluate(
            evaluating, model, params, betas, inputs[few], targets[few], config.num_contrasted
        )
        columns = coders.columns(found)
        for row, beta in zip(columns, config.betas, strict=True):
            row |= {"beta": beta, "part": part, "num_classes": num_classes}
            row |= {"num_samples": NUM_SAMPLES, "num_contrasted": found.num_contrasted}
            row |= {_at(epsilon): "" for epsilon in config.epsilons} | {"codes": ""}
        if part == "test":
            few = slice(config.num_evaluated or None)
            few = slice(min(config.num_attacked, len(targets[few])))
            epsilons = jnp.asarray(config.epsilons)
            errors = np.asarray(
                _attacked(attacking, model, params, inputs[few], targets[few], epsilons)
            )
            for i, row in enumerate(columns):
                row |= {_at(e): float(errors[i, j]) for j, e in enumerate(config.epsilons)}
        rows += columns
    mean, scale = _codes(model, params, parts["test"][0][:ELLIPSES])
    if seed == 0 and mean.shape[-1] == PLANE:
        drawn = np.concatenate([mean, scale], -1)
        labels = np.asarray(parts["test"][1][:ELLIPSES], np.float32)[:, None]
        for beta in shown(config):
            i = config.betas.index(beta)
            row = next(r for r in rows if r["part"] == "test" and r["beta"] == beta)
            row["codes"] = _hex(np.concatenate([drawn[i], labels], 1))
    return rows


@partial(jax.jit, static_argnames=("model", "num_contrasted"))
def _evaluate(
    key: jax.Array,
    model: bottleneck.VariationalBottleneck,
    params: Any,
    betas: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    num_contrasted: int,
) -> bottleneck.BottleneckInformation:
    """Of every member on a set of examples, leaves (M, ...)."""

    def of_member(at: Any) -> bottleneck.BottleneckInformation:
        own, beta = at
        return bottleneck.evaluate_bottleneck(
            *(key, model, own, inputs, targets),
            beta=beta,
            num_samples=NUM_SAMPLES,
            num_contrasted=num_contrasted,
        )

    return jax.lax.map(of_member, (params, betas))


@partial(jax.jit, static_argnames="model")
def _attacked(
    key: jax.Array,
    model: bottleneck.VariationalBottleneck,
    params: Any,
    inputs: jax.Array,
    targets: jax.Array,
    epsilons: jax.Array,
) -> jax.Array:
    """Error of every member at every ε, (M, E)."""
    attacking, answering = jax.random.split(key)

    def of_member(own: Any) -> jax.Array:
        def at(epsilon: jax.Array) -> jax.Array:
            moved = bottleneck.fast_gradient_sign(
                *(attacking, model, own, inputs, targets), epsilon=epsilon, low=-1.0, high=1.0
            )
            said = bottleneck.predictive(answering, model, own, moved, num_samples=NUM_SAMPLES)
            return jnp.mean(1.0 * (said.argmax(1) != targets))

        return jax.vmap(at)(epsilons)

    return jax.lax.map(of_member, params)


@partial(jax.jit, static_argnames="model")
def _codes(
    model: bottleneck.VariationalBottleneck, params: Any, inputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Means and scales of every member, (M, N, d) each."""
    return jax.vmap(lambda own: model.encode(own, inputs))(params)


def _at(epsilon: float) -> str:
    return f"error_at_epsilon_{epsilon:g}"


def _hex(values: np.ndarray) -> str:
    """Numbers in half precision."""
    return np.asarray(values, "<f2").tobytes().hex()


def _codes_of(text: str) -> np.ndarray:
    """(codes, 5): mean, scale and label, from `_hex`."""
    return np.frombuffer(bytes.fromhex(text), "<f2").reshape(-1, 2 * PLANE + 1).astype(float)


def shown(config: Config) -> list[float]:
    """The β whose codes are drawn, at most four: the smallest, others from the upper half."""
    upper = config.betas[len(config.betas) // 2 :]
    places = np.unique(np.linspace(0, len(upper) - 1, 3).round().astype(int))
    return sorted({config.betas[0], *(upper[i] for i in places)})


# ------------------------------------------------------------------------ what the table says


def curve(rows: Rows, name: str, latent: int, part: str = "test") -> np.ndarray:
    """A column as (betas, seeds)."""
    return tables.grid(rows, name, latent=latent, part=part)


def best(rows: Rows, config: Config, latent: int) -> float:
    """The β of the least test error, mean over seeds."""
    return config.betas[int(curve(rows, "error", latent).mean(1).argmin())]


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Errors, nats and robustness by β; [mean, standard error over seeds]."""
    names = {
        "error": "test_error",
        "single_error": "test_error_of_one_draw",
        "rate_nats": "rate_nats",
        "information_nats": "information_nats_at_least",
        "information_upper_nats": "information_nats_at_most",
        "label_information_nats": "label_information_nats_at_least",
        **{_at(e): _at(e) for e in config.epsilons},
    }
    summary: dict[str, Any] = {"num_samples": NUM_SAMPLES}
    for latent in config.latents:
        found: dict[str, Any] = {"beta_of_least_test_error": best(rows, config, latent)}
        for name, said in names.items():
            found[said] = {
                f"{beta:g}": coders.mean_and_stderr(values)
                for beta, values in zip(config.betas, curve(rows, name, latent), strict=True)
            }
        summary[f"latent_{latent}"] = found
    return summary


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Bounds are in order, rates fall with their price, networks have learned."""
    rate, low, about_y = (
        tables.column(rows, f"{name}_nats") for name in ("rate", "information", "label_information")
    )
    errors = [
        tables.column(rows, f"{name}_nats_stderr")
        for name in ("rate", "information", "label_information")
    ]
    chance = 1 - 1 / rows[0]["num_classes"]
    own = (rate - low + 4 * (errors[0] + errors[1])).min()
    labels = (rate - about_y + 4 * (errors[0] + errors[2])).min()
    found = [
        checks.Check(
            "I(X;Z) by contrast is no more than the rate, every network, train and test",
            bool(own >= 0),
            f"by {own:.3g} nats beyond four standard errors, at least",
        ),
        checks.Check(
            "the bound of I(Z;Y) is no more than the rate (data processing)",
            bool(labels >= 0),
            f"by {labels:.3g} nats beyond four standard errors, at least",
        ),
    ]
    for latent in config.latents:
        name = f"with {latent} dimensions "
        found.append(
            checks.check_rises(
                f"{name}the training rate falls as its price rises",
                -curve(rows, "rate_nats", latent, "train"),
                "train longer (--num-epochs)",
            )
        )
        least = float(curve(rows, "error", latent).mean(1).min())
        found.append(
            checks.Check(
                f"{name}some β errs less than {WORST:.2g} times as often as chance",
                least < WORST * chance,
                f"{least:.3g}, chance {chance:.3g}; else train longer (--num-epochs)",
            )
        )
    return found


def table(rows: Rows) -> str:
    """Means over seeds, a line for each dimension and β."""
    names = {
        "error": "error",
        "single_error": "1 draw",
        "rate_nats": "rate",
        "information_nats": "I(X;Z)>",
        "information_upper_nats": "I(X;Z)<",
        "label_information_nats": "I(Z;Y)>",
        **{name: f"e{name[16:]}" for name in rows[0] if name.startswith("error_at_epsilon_")},
    }
    lines = [f"{'d':>4} {'beta':>7} {'train':>8} " + " ".join(f"{n:>8}" for n in names.values())]
    for latent in sorted({row["latent"] for row in rows}):
        train = curve(rows, "error", latent, "train").mean(1)
        test = np.stack([curve(rows, name, latent).mean(1) for name in names], 1)
        betas = sorted({row["beta"] for row in rows})
        for beta, first, values in zip(betas, train, test, strict=True):
            said = " ".join(f"{v:8.4g}" for v in values)
            lines.append(f"{latent:>4} {beta:>7.1g} {first:8.4g} {said}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- figure

LOOKS = ((style.BLUE, "o"), (style.ORANGE, "s"), (style.GREEN, "^"), (style.PURPLE, "D"))


def plot(rows: Rows, config: Config) -> Any:
    """Errors, nats and attacks against β, the information plane; below, codes in two dimensions."""
    import matplotlib.pyplot as plt

    drawn = {row["beta"]: row["codes"] for row in rows if row["codes"]}
    figure = plt.figure(figsize=(14.5, 7.6 if drawn else 4.2))
    above, below = figure.subfigures(2, 1) if drawn else (figure, None)
    errors, nats, plane, attacks = above.subplots(1, 4)
    latent = config.latents[-1]
    _draw_errors(errors, rows, config)
    _draw_nats(nats, rows, config, latent)
    _draw_plane(plane, rows, config)
    _draw_attacks(attacks, rows, config, latent)
    for axis in (errors, nats, attacks):
        axis.set(xscale="log", xlabel="β (nats of distortion for a nat of rate)")
    if below is not None:
        for axis, (beta, text) in zip(
            below.subplots(1, len(drawn), squeeze=False)[0], sorted(drawn.items()), strict=True
        ):
            error = curve(rows, "error", PLANE)[config.betas.index(beta), 0]
            _draw_codes(axis, _codes_of(text))
            axis.set_title(f"codes, β = {beta:g}: {100 * error:.3g} % of errors", fontsize=10)
    figure.suptitle(
        f"Variational bottleneck, {config.dataset}, test images; mean and range of "
        f"{config.num_seeds} seeds, {NUM_SAMPLES} draws of z",
        fontsize=11,
    )
    return figure


def _draw_errors(axis: Any, rows: Rows, config: Config) -> None:
    for latent, (colour, marker) in zip(config.latents, LOOKS, strict=False):
        look = {"color": colour, "label": f"{latent} dimensions"}
        style.band(axis, config.betas, 100 * curve(rows, "error", latent), marker=marker, **look)
        train = 100 * curve(rows, "error", latent, "train").mean(1)
        axis.plot(config.betas, train, color=colour, linestyle=":")
    axis.set_title("error (%); dotted: training set", fontsize=10)
    axis.set_ylim(0, None)
    axis.legend(fontsize=8)


def _draw_nats(axis: Any, rows: Rows, config: Config, latent: int) -> None:
    style.band(
        *(axis, config.betas, curve(rows, "rate_nats", latent)),
        color=style.BLUE,
        marker="o",
        label="rate R ≥ I(X;Z)",
    )
    low, high = (curve(rows, f"information{end}_nats", latent).mean(1) for end in ("", "_upper"))
    axis.fill_between(
        *(config.betas, low, high), color=style.YELLOW, alpha=0.35, label="I(X;Z), bracket"
    )
    style.band(
        *(axis, config.betas, curve(rows, "label_information_nats", latent)),
        color=style.ORANGE,
        marker="s",
        label="I(Z;Y), lower bound",
    )
    axis.axhline(
        coders.label_entropy(rows), color=style.GREY, linestyle="--", linewidth=1, label="H(Y)"
    )
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(bottom=0)
    axis.set_title(f"nats an example, {latent} dimensions", fontsize=10)
    axis.legend(fontsize=8)


def _draw_plane(axis: Any, rows: Rows, config: Config) -> None:
    top = coders.label_entropy(rows)
    for latent, (colour, marker) in zip(config.latents, LOOKS, strict=False):
        rate, about_y = (
            curve(rows, f"{name}_nats", latent).mean(1) for name in ("rate", "label_information")
        )
        axis.plot(rate, about_y, color=colour, marker=marker, label=f"{latent} dimensions")
    right = max(10 * top, 1.2 * axis.get_xlim()[1])
    axis.plot([0, top, right], [0, top, top], color=style.GREY, linestyle="--", linewidth=1)
    axis.set_xscale("symlog", linthresh=top, linscale=1)  # linear as far as the rate can tell of Y
    axis.set(xlim=(0, right), ylim=(0, 1.12 * top))
    axis.set(xlabel="rate (nats an example)", ylabel="I(Z;Y), lower bound (nats)")
    axis.set_title("information plane; dashed: min(R, H(Y))", fontsize=10)
    axis.legend(fontsize=8, loc="lower right")


def _draw_attacks(axis: Any, rows: Rows, config: Config, latent: int) -> None:
    names = {"error": "not attacked", **{_at(e): f"ε = {e:g}" for e in config.epsilons}}
    for (name, label), (colour, marker) in zip(names.items(), LOOKS, strict=False):
        style.band(
            *(axis, config.betas, 100 * curve(rows, name, latent)),
            color=colour,
            marker=marker,
            label=label,
        )
    axis.set_title(f"error (%) under attack, {latent} dimensions", fontsize=10)
    axis.set_ylim(0, 140)  # the legend is above
    axis.set_yticks(range(0, 101, 20))
    title = "pixels from -1 to 1, moved by ε"
    axis.legend(fontsize=8, loc="upper left", ncols=2, title=title, title_fontsize=8)


def _draw_codes(axis: Any, codes: np.ndarray) -> None:
    """Ellipses of one standard deviation around the means, a colour and a digit for each class."""
    import matplotlib.pyplot as plt
    from matplotlib.collections import EllipseCollection

    mean, scale, labels = codes[:, :2], codes[:, 2:4], codes[:, 4].astype(int)
    colours = plt.get_cmap("tab10")(labels % 10)
    axis.add_collection(
        EllipseCollection(
            *(2 * scale[:, 0], 2 * scale[:, 1], np.zeros(len(mean))),
            units="xy",
            offsets=mean,
            offset_transform=axis.transData,
            facecolors="none",
            edgecolors=colours,
            linewidths=0.7,
        )
    )
    for (x, y), label, colour in zip(mean, labels, colours, strict=True):
        axis.text(x, y, str(label), color=colour, fontsize=6, ha="center", va="center")
    reach = (np.abs(mean) + scale).max(0) * 1.08
    axis.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), xlabel="z₁", ylabel="z₂")


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.vib")

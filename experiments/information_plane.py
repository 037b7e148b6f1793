"""The information plane of Shwartz-Ziv & Tishby, and what noisy networks do in it.

Their plane puts I(X;T) against I(Y;T) of every layer while a network without noise is trained,
both of activations in 30 bins. Then I(X;T) is no property of the network, but of the bins. Beside
it the same plane of networks with noise, where it is one; the gradients of both, whose mean and
spread over minibatches cross where fitting ends ("drift" and "diffusion"); and the bound on the
generalisation error that compression is said to lower.

Default: three networks of each kind, about 5 minutes on 2 CPU cores. Papers: Shwartz-Ziv & Tishby
(arXiv:1703.00810), Figs. 2 and 4; Goldfeld et al. (arXiv:1810.05728).
"""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import checks, cost, noisy, style, szt, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

KINDS = ("binned", "noisy")
TITLES = {"binned": "without noise, in bins", "noisy": "with noise"}
RANGE = 1.0  # of tanh, on both sides of 0: what the bins cover


@dataclasses.dataclass(frozen=True)
class Config(noisy.Config):
    """What is measured.

    Attributes:
      num_bins: of equal width, from -1 to 1 along every unit.
      delta: probability that the bound on the generalisation error fails.
      num_batches: minibatches whose gradients are compared.
    """

    num_seeds: int = 3
    num_bins: int = 30
    delta: float = 0.05
    num_batches: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        common.at_least(self, num_bins=2, num_batches=2)
        common.require(
            self.activation == "tanh", "activation", "tanh, for bins from -1 to 1", self.activation
        )


PRESETS = {
    "quick": Config(num_times=3, num_batches=4, **noisy.QUICK),
    "default": Config(),
    "paper": Config(**noisy.PAPER),
}

load = szt.load


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What training will take; see `common.cost`."""
    return [szt.stage(config, dataset)] * len(KINDS)


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each kind, seed, epoch and hidden layer."""
    rows = []
    for kind, sigma in zip(KINDS, (0.0, config.sigma), strict=True):
        history = szt.train(config, dataset, context, sigma, stage=f"training {kind}")
        rows += _rows(config, dataset, context, kind, sigma, history)
    return [{name: row.get(name, "") for name in rows[-1]} for row in rows]  # bins have no errors


def _rows(
    config: Config,
    dataset: data.Dataset,
    context: Context,
    kind: str,
    sigma: float,
    history: szt.Params,
) -> Rows:
    errors = [
        1 - np.asarray(szt.fits(history, config.activation, jnp.asarray(x), jnp.asarray(y))[1])
        for x, y in (
            (dataset.train_inputs, dataset.train_targets),
            (dataset.test_inputs, dataset.test_targets),
        )
    ]
    key = jax.random.fold_in(jax.random.key(config.seed), 3)
    drift, diffusion = (np.asarray(x) for x in gradients(key, history, dataset, config, sigma))
    epochs, ledger = szt.epochs(config), context.ledger(f"information {kind}")
    rows = []
    for seed, time in context.track(
        list(itertools.product(range(config.num_seeds), range(len(epochs)))), f"plane, {kind}"
    ):
        params = jax.tree.map(lambda w, at=(time, seed): w[at], history)
        if kind == "noisy":
            found = ledger.get(
                f"{seed}-{time}", partial(noisy.measure, config, dataset, params, seed, time)
            )
        else:
            found = _binned(config, dataset, params)
        for layer, values in enumerate(found):
            rows.append(
                {
                    "kind": kind,
                    "seed": seed,
                    "epoch": epochs[time],
                    "layer": layer + 1,
                    **values,
                    "gradient_mean_norm": float(drift[time, seed, layer]),
                    "gradient_deviation": float(diffusion[time, seed, layer]),
                    "train_error": float(errors[0][time, seed]),
                    "test_error": float(errors[1][time, seed]),
                    "compression_bound": compression_bound(
                        values["input_information_nats"], len(dataset.train_targets), config.delta
                    ),
                }
            )
    return rows


def _binned(config: Config, dataset: data.Dataset, params: szt.Params) -> list[dict[str, float]]:
    inputs, labels = szt.all_of(dataset)
    bins = {"width": 2 * RANGE / config.num_bins, "low": -RANGE, "high": RANGE}
    return [
        {
            "input_information_nats": iw.binned_entropy(t, **bins),
            "label_information_nats": iw.binned_label_information(t, labels, **bins),
        }
        for t in szt.activations(config, params, inputs)
    ]


def compression_bound(nats: float, num_examples: int, delta: float) -> float:
    """sqrt((2^I + log(1/δ))/(2N)), I in bits: of the gap between training and test error.

    References:
      Shwartz-Ziv, Painsky & Tishby, Representation compression and generalization in deep neural
      networks (2019); in 1703.00810 without proof. 2^I stands for the number of clusters that the
      typical inputs fall into; the argument needs them chosen without the training labels.
    """
    return float(np.sqrt((np.exp(nats) + np.log(1 / delta)) / (2 * num_examples)))


@partial(jax.jit, static_argnames="config")
def _gradients(
    key: jax.Array,
    history: szt.Params,
    patterns: tuple[jax.Array, jax.Array],
    sigma: Any,
    config: Config,
) -> tuple[jax.Array, jax.Array]:
    inputs, targets = patterns

    def gradient(params: szt.Params, key: jax.Array) -> szt.Params:
        drawing, adding = jax.random.split(key)
        rows = jax.random.randint(drawing, (config.batch_size,), 0, len(inputs))
        noises = [
            sigma * jax.random.normal(jax.random.fold_in(adding, i), (config.batch_size, width))
            for i, width in enumerate(config.widths)
        ]

        def loss(params: szt.Params) -> jax.Array:
            z = szt.logits(params, config.activation, inputs[rows], noises)
            return optax.softmax_cross_entropy_with_integer_labels(z, targets[rows]).mean()

        return jax.grad(loss)(params)

    def of_network(params: szt.Params) -> tuple[jax.Array, jax.Array]:
        all_ = jax.lax.map(partial(gradient, params), jax.random.split(key, config.num_batches))
        kernels = [g["kernel"] for g in all_[: len(config.widths)]]
        sizes = [jnp.sqrt(jnp.square(p["kernel"]).sum()) for p in params[: len(config.widths)]]
        drift = [
            jnp.sqrt(jnp.square(g.mean(0)).sum()) / n for g, n in zip(kernels, sizes, strict=True)
        ]
        spread = [jnp.sqrt(g.var(0).sum()) / n for g, n in zip(kernels, sizes, strict=True)]
        return jnp.stack(drift), jnp.stack(spread)

    return jax.lax.map(jax.vmap(of_network), history)


def gradients(
    key: jax.Array, history: szt.Params, dataset: data.Dataset, config: Config, sigma: float
) -> tuple[jax.Array, jax.Array]:
    """Norm of the mean and of the standard deviation of minibatch gradients over that of W.

    Of the kernel of every hidden layer, (E, S, L) each.
    """
    patterns = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    return _gradients(key, history, patterns, sigma, config)


# ------------------------------------------------------------------------------------ reading


def curves(rows: Rows, name: str, kind: str) -> np.ndarray:
    """A column as (seeds, epochs, layers)."""
    return tables.grid(rows, name, axes=("seed", "epoch", "layer"), kind=kind)


def drift_and_spread(rows: Rows, kind: str, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Norms of the mean gradient and of its standard deviation, all layers together; (S, E) each.

    The mean over so many minibatches has a part of the spread in its norm, which is taken off.
    """
    mean, spread = (
        np.square(curves(rows, name, kind)).sum(2)
        for name in ("gradient_mean_norm", "gradient_deviation")
    )
    return np.sqrt(np.maximum(mean - spread / num_batches, 0)), np.sqrt(spread)


def crossing(rows: Rows, kind: str, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """The first epoch at which gradients spread more than they drift, and the part after it of the
    epochs looked at at which they drift more again; (S,) each. inf and nan where there is none.
    """
    drift, spread = drift_and_spread(rows, kind, num_batches)
    epochs = np.array(sorted({row["epoch"] for row in rows}), float)
    first = np.array([epochs[above].min(initial=np.inf) for above in spread > drift])
    after = epochs > first[:, None]
    again = np.divide(
        (after & (drift > spread)).sum(1), after.sum(1), out=np.full(len(first), np.nan),
        where=after.any(1),
    )  # fmt: skip
    return first, again


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """How much layers compress, where gradients turn to diffusion, and what the bound says."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        information = curves(rows, "input_information_nats", kind)
        gap, bound = _gap(rows, kind)[:, -1], _bound(rows, kind)[:, -1]
        first, again = crossing(rows, kind, config.num_batches)
        found[kind] = {
            "fall_from_the_peak_nats_by_layer": [
                tables.rounded(x) for x in (information.max(1) - information[:, -1]).mean(0)
            ],
            "first_epoch_of_diffusion": tables.spread(first),
            "part_of_later_epochs_with_drift": tables.spread(again),
            "generalisation_gap": tables.spread(gap),
            "compression_bound_last_layer": tables.spread(bound),
            "epochs_with_a_gap_above_the_bound": int((_gap(rows, kind) > _bound(rows, kind)).sum()),
        }
    return found


def _gap(rows: Rows, kind: str) -> np.ndarray:
    """Test error - training error, (S, E)."""
    test, train = (curves(rows, f"{part}_error", kind)[:, :, 0] for part in ("test", "train"))
    return test - train


def _bound(rows: Rows, kind: str) -> np.ndarray:
    """The bound by the last layer, (S, E)."""
    return curves(rows, "compression_bound", kind)[:, :, -1]


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """What holds whatever the networks do."""
    binned, label = (
        curves(rows, f"{name}_information_nats", "binned") for name in ("input", "label")
    )
    ceiling = float(np.log(len(szt.all_of(szt.load(config, None))[1])))
    return [
        checks.Check(
            "in bins 0 <= I(Y;T) <= I(X;T) <= H(X)",
            bool(
                (label > -1e-9).all()
                and (label <= binned + 1e-9).all()
                and (binned <= ceiling + 1e-9).all()
            ),
            f"H(X) = {ceiling:.4g} nats; largest {binned.max():.4g} and {label.max():.4g}",
        ),
        *noisy.check([row for row in rows if row["kind"] == "noisy"], config),
    ]


def table(rows: Rows) -> str:
    """I(X;T) of the last layer in both planes, averaged over seeds."""
    epochs = sorted({row["epoch"] for row in rows})
    names = ("input_information_nats", "label_information_nats")
    last = [curves(rows, name, kind)[:, :, -1].mean(0) for kind in KINDS for name in names]
    heads = [f"I({x};{t})" for t in ("Bin", "T") for x in "XY"]
    lines = ["last hidden layer, nats", f"{'epoch':>7}" + "".join(f"{head:>10}" for head in heads)]
    for i in np.unique(np.linspace(0, len(epochs) - 1, 14).round().astype(int)):
        lines.append(f"{epochs[i]:>7}" + "".join(f"{column[i]:10.3f}" for column in last))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Both planes; gradients; the bound against the gap."""
    import matplotlib.pyplot as plt

    epochs = np.array(sorted({row["epoch"] for row in rows}), float)
    figure, axes = plt.subplots(2, 3, figsize=(12, 7))
    colour_of = plt.get_cmap("plasma")
    shade = plt.Normalize(0, np.log10(epochs[-1]) or 1)
    for kind, (plane, turning, bounding) in zip(KINDS, axes, strict=True):
        information, label = (
            curves(rows, f"{name}_information_nats", kind).mean(0) for name in ("input", "label")
        )
        for layer in range(information.shape[1]):
            x, y = information[:, layer], label[:, layer]
            plane.plot(x, y, color="#cccccc", linewidth=0.8, zorder=1)
            dots = plane.scatter(
                x, y, c=np.log10(epochs), cmap=colour_of, norm=shade, s=16, zorder=2,
                marker="osD^vP*X"[layer % 8],
            )  # fmt: skip
            near = {"xytext": (3, -9), "textcoords": "offset points", "fontsize": 8}
            plane.annotate(f"T{layer + 1}", (x[-1], y[-1]), **near)
        plane.set(
            title=TITLES[kind],
            xlabel="I(X;T)  (nats)",
            ylabel="I(Y;T)  (nats)",
            xlim=(0, 8.8),
            ylim=(0, 0.75),
        )
        bar = figure.colorbar(dots, ax=plane, pad=0.02)
        bar.set_label("log10 of the epoch", fontsize=8)
        both = drift_and_spread(rows, kind, config.num_batches)
        looks = (style.BLUE, "-", "mean (drift)"), (style.ORANGE, "--", "standard deviation")
        for values, (colour, line, text) in zip(both, looks, strict=True):
            style.band(turning, epochs, values.T, color=colour, linestyle=line, label=text)
        turning.set(
            title="gradients of hidden layers over |W|", xscale="log", yscale="log", xlabel="epoch"
        )
        turning.legend(fontsize=8)
        gap = _gap(rows, kind)
        for layer, colour in ((-1, style.GREEN), (-2, style.GREY)):
            bound = curves(rows, "compression_bound", kind)
            if -layer <= bound.shape[2]:
                style.band(
                    bounding, epochs, bound[:, :, layer].T, color=colour,
                    label=f"bound, layer {bound.shape[2] + layer + 1}",
                )  # fmt: skip
        style.band(
            bounding,
            epochs,
            gap.T,
            color=style.ORANGE,
            linestyle="--",
            label="test - training error",
        )
        bounding.set(title="generalisation and its bound", xscale="log", xlabel="epoch")
        bounding.set_yscale("symlog", linthresh=0.01)
        bounding.set_ylim(bottom=min(-0.02, gap.min()))
        bounding.legend(fontsize=8)
    labels = "original labels" if config.szt_file else "built-in rule"
    figure.suptitle(
        f"12-{'-'.join(map(str, config.widths))}-2 tanh, {labels}; above {config.num_bins} bins "
        f"from -1 to 1, below σ = {config.sigma:g}; {config.num_seeds} seeds",
        fontsize=10,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.information_plane")

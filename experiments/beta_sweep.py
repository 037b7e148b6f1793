"""How much information a network keeps in its weights as the price β of a nat goes up.

For real and for random labels, minimises E_Q[loss] + β KL(Q||P) over codes Q of the weights, for a
grid of prices β and several seeds, all in one compiled program. Small β: the network memorises
whatever it is shown. Large β: it keeps nothing. Random labels are given up at a far smaller β than
real ones, since their code is long and pays for nothing else.

Default: digits, 2-layer MLP, about 4 minutes on 2 CPU cores. Papers: Achille, Paolini & Soatto
(arXiv:1905.12213), Def. 2.1; Achille et al. (arXiv:1904.03292), Fig. 2, which finds the edges of
Gaussian codes at β of 0.05 to 0.5 for random labels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import checks, cost, measures, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data

KINDS = ("real", "random")

# Four decades; dense where digits change over: random labels near 0.2, real ones near 5.
DIGITS_BETAS = (
    *(0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.14, 0.17, 0.2, 0.25),
    *(0.4, 1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 5.5, 6.0, 15.0),
)


@dataclasses.dataclass(frozen=True)
class Config(common.TrainingConfig):
    """What is swept.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      betas: prices of a nat, in nats of summed loss; increasing.
      num_seeds: seeds, which differ in initial weights, noise, minibatches and random labels.
      num_matvecs: matrix-vector products of the Fisher information, a member.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    betas: tuple[float, ...] = DIGITS_BETAS
    num_seeds: int = 3
    num_matvecs: int = 100
    seed: int = 0


PRESETS = {
    "quick": Config(
        num_examples=200,
        betas=(0.001, 0.1, 1.0, 30.0),
        num_seeds=2,
        widths=(20,),
        num_steps=300,
        batch_size=100,
        learning_rate=0.05,
        num_draws=16,
        num_matvecs=40,
    ),
    "default": Config(),
    "paper": Config(
        dataset="cifar10",
        network="small_alexnet",
        betas=tuple(float(f"{b:.2g}") for b in np.logspace(-3, 2, 26)),
        num_steps=36_000,
        batch_size=500,
        learning_rate=0.005,
        member_batch=13,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, real labels."""
    return common.load(config, data_dir, config.num_examples)


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    return [cost.sweep(config, dataset, len(KINDS), num_matvecs=config.num_matvecs)]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (labels, β, seed)."""
    sets = [{"labels": kind} for kind in KINDS]
    targets = labels(config, dataset)
    return measures.sweep_rows(
        config, dataset, context, targets, None, sets, num_matvecs=config.num_matvecs
    )


def labels(config: Config, dataset: data.Dataset) -> jax.Array:
    """Real and random labels of every seed: (2, S, N)."""
    random = common.random_labels(config, dataset)
    real = np.broadcast_to(dataset.train_targets, random.shape)
    return jnp.asarray(np.stack([real, random]))


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, kind: str, name: str) -> np.ndarray:
    """One column of a label kind as (B, S), β increasing."""
    return tables.grid(rows, name, labels=kind)


def critical_beta(rows: Rows, kind: str) -> np.ndarray:
    """β at which E_Q[L] is half-way from its smallest value to N ln K, one a seed: (S,)."""
    return tables.critical_betas(rows, labels=kind)


def price(rows: Rows, kind: str) -> np.ndarray:
    """Nats of code per nat of loss removed, KL / (N ln K - E_Q[L]): (B, S).

    nan where less than a tenth of N ln K has been removed: the ratio of two small numbers.
    """
    chance = np.log(rows[0]["num_classes"])
    removed = chance - column(rows, kind, "loss_nats_per_label")
    kl = column(rows, kind, "kl_nats_per_label")
    return np.where(removed > 0.1 * chance, kl / np.where(removed > 0, removed, 1), np.nan)


def cheapest_price(rows: Rows, kind: str) -> np.ndarray:
    """The lowest price of each seed, (S,); inf where no β removed a tenth of N ln K."""
    prices = price(rows, kind)
    return np.where(np.isnan(prices), np.inf, prices).min(0)


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Critical β and price of each label kind, with their spread over seeds."""
    summary: dict[str, Any] = {}
    for kind in KINDS:
        critical, cheapest = critical_beta(rows, kind), cheapest_price(rows, kind)
        accuracy = column(rows, kind, "train_accuracy_noisy").mean(1)
        summary[kind] = {
            "critical_beta": tables.spread(critical),
            "lowest_price_nats_per_nat": tables.spread(cheapest),
            "train_accuracy_noisy_at_smallest_beta": tables.rounded(accuracy[0]),
            "last_beta_fitted_above_90_percent": _edge(config.betas, accuracy > 0.9, -1),
            "first_beta_fitted_below_20_percent": _edge(config.betas, accuracy < 0.2, 0),
            "test_accuracy_mean_at_smallest_beta": tables.rounded(
                column(rows, kind, "test_accuracy_mean")[0].mean()
            ),
            "kl_nats_at_smallest_beta": tables.rounded(column(rows, kind, "kl_nats")[0].mean()),
        }
    ratio = critical_beta(rows, "real") / critical_beta(rows, "random")
    summary["critical_beta_real_over_random"] = tables.spread(ratio)
    return summary


def _edge(betas: Sequence[float], where: np.ndarray, which: int) -> float | None:
    found = np.flatnonzero(where)
    return float(betas[found[which]]) if found.size else None


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """The laws of a β-sweep; and that a random label costs no less than it tells."""
    curves = [
        curve
        for kind in KINDS
        for curve in checks.curves_of(rows, f"{kind} labels", config.num_draws, labels=kind)
    ]
    return [*checks.check_curves(curves), _check_price(float(cheapest_price(rows, "random").min()))]


def _check_price(lowest: float) -> checks.Check:
    name = "random labels cost at least one nat of code per nat of loss removed"
    if np.isinf(lowest):
        message = (
            "not tested: at no beta a tenth of the loss on random labels was removed; take smaller "
            "betas, or train longer (--num-steps)"
        )
        return checks.Check(name, False, message)
    if lowest < 1:
        message = f"the cheapest cost {lowest:.3g}: the KL or the loss is wrong, or labels leaked"
        return checks.Check(name, False, message)
    return checks.Check(name, True, f"the cheapest cost {lowest:.3g}")


def table(rows: Rows) -> str:
    """Means over seeds, one line for each (labels, β)."""
    lines = [
        f"{'labels':<7} {'beta':>8} {'E[L]/N':>8} {'KL':>9} {'KL/N':>7} "
        f"{'Fisher':>9} {'train':>6} {'test':>6}   (nats; accuracy under noise, at the mean)"
    ]
    names = ("loss_nats_per_label", "kl_nats", "kl_nats_per_label", "fisher_nats")
    accuracy = ("train_accuracy_noisy", "test_accuracy_mean")
    for kind in KINDS:
        beta = column(rows, kind, "beta")[:, 0]
        columns = [column(rows, kind, n).mean(1) for n in (*names, *accuracy)]
        for b, loss, kl, per, fisher, train, test in zip(beta, *columns, strict=True):
            lines.append(
                f"{kind:<7} {b:8.3g} {loss:8.4f} {kl:9.1f} {per:7.3f} "
                f"{fisher:9.1f} {train:6.3f} {test:6.3f}"
            )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------- figure


def plot(rows: Rows, config: Config) -> Any:
    """Loss, accuracy and nats against β, and loss against nats."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.4))
    (loss, accuracy), (nats, trade) = axes
    _plot_loss(loss, rows)
    _plot_accuracy(accuracy, rows)
    _plot_nats(nats, rows)
    _plot_trade(trade, rows)
    critical = {kind: critical_beta(rows, kind) for kind in KINDS}
    for axis in (loss, accuracy, nats):
        axis.set_xscale("log")
        axis.set_xlabel("β, price of a nat of weights (nats of loss)")
        axis.axvline(1, color=style.GREY, linestyle=":", linewidth=1)
        for kind in KINDS:
            if np.isfinite(critical[kind]).any():
                axis.axvline(
                    np.nanmean(critical[kind]),
                    color=style.KINDS[kind]["color"],
                    linewidth=0.8,
                    linestyle=(0, (1, 3)),
                )
    for axis, letter in zip(axes.flat, "abcd", strict=True):
        axis.annotate(f"({letter})", (-0.14, 1.03), xycoords="axes fraction", weight="bold")
    number = int(rows[0]["num_examples"])
    figure.suptitle(
        f"Information in the weights: {config.dataset}, N = {number}, {config.network}, "
        f"{config.code} code; bands: range of {config.num_seeds} seeds",
        fontsize=11,
    )
    return figure


def _curve(axis: Any, rows: Rows, kind: str, name: str, **changes: Any) -> None:
    look = {**style.KINDS[kind], **changes}
    style.band(axis, column(rows, kind, "beta")[:, 0], column(rows, kind, name), **look)


def _plot_loss(axis: Any, rows: Rows) -> None:
    chance = np.log(rows[0]["num_classes"])
    for kind in KINDS:
        _curve(axis, rows, kind, "loss_nats_per_label")
    axis.axhline(chance, color=style.GREY, linestyle="--", linewidth=1)
    axis.annotate("ln K", (0.01, chance), xycoords=("axes fraction", "data"), va="bottom")
    axis.annotate("β = 1", (0.95, 0.7), xycoords=("data", "axes fraction"), rotation=90, ha="right")
    axis.set_ylim(0, 1.12 * chance)
    axis.set_ylabel("E$_Q$[L] / N  (nats per label)")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)


def _plot_accuracy(axis: Any, rows: Rows) -> None:
    for kind in KINDS:
        name = style.KINDS[kind]["label"]
        _curve(axis, rows, kind, "train_accuracy_noisy", label=f"train, {name}")
    _curve(
        axis,
        rows,
        "real",
        "test_accuracy_noisy",
        color=style.GREEN,
        marker="^",
        linestyle="--",
        label="test, real labels",
    )
    axis.axhline(1 / rows[0]["num_classes"], color=style.GREY, linestyle="--", linewidth=1)
    axis.annotate(
        "chance",
        (0.01, 1 / rows[0]["num_classes"]),
        xycoords=("axes fraction", "data"),
        va="bottom",
    )
    axis.set_ylim(0, 1.05)
    axis.set_ylabel("accuracy under weight noise")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)


def _plot_nats(axis: Any, rows: Rows) -> None:
    number = int(rows[0]["num_examples"])
    for kind in KINDS:
        _curve(axis, rows, kind, "kl_nats", label=f"KL(Q‖P), {style.KINDS[kind]['label']}")
        if np.isfinite(column(rows, kind, "fisher_nats")).any():
            _plot_fisher(axis, rows, kind)
    axis.axhline(number * np.log(rows[0]["num_classes"]), color=style.GREY, linestyle="--", lw=1)
    axis.annotate(
        "N ln K",
        (0.99, number * np.log(rows[0]["num_classes"])),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
    )
    axis.set_yscale("symlog", linthresh=10)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("information in the weights (nats)")
    bits = axis.secondary_yaxis(
        "right", functions=(lambda nats: nats / np.log(2), lambda bits: bits * np.log(2))
    )
    bits.set_yscale("symlog", linthresh=10)
    bits.set_ylabel("bits")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)


def _plot_fisher(axis: Any, rows: Rows, kind: str) -> None:
    """Fisher nats at the mean, seed 0, with the 95 % interval."""
    beta = column(rows, kind, "beta")[:, 0]
    value, lower, upper = (
        column(rows, kind, f"fisher_{part}nats")[:, 0] for part in ("", "lower_", "upper_")
    )
    axis.errorbar(
        beta,
        value,
        yerr=np.abs(np.stack([value - lower, upper - value])),
        color=style.KINDS[kind]["color"],
        marker=style.KINDS[kind]["marker"],
        markerfacecolor="white",
        linestyle="--",
        linewidth=1,
        capsize=2,
        label=f"Fisher, seed 0, {style.KINDS[kind]['label']}",
    )


def _plot_trade(axis: Any, rows: Rows) -> None:
    chance = np.log(rows[0]["num_classes"])
    for kind in KINDS:
        kl, loss = (
            column(rows, kind, name) for name in ("kl_nats_per_label", "loss_nats_per_label")
        )
        look = style.KINDS[kind]
        axis.scatter(
            kl, loss, color=look["color"], marker=look["marker"], s=14, label=look["label"]
        )
        beta = column(rows, kind, "beta")[:, 0]
        lagrangian = (loss + beta[:, None] * kl).min(1)  # of the best seed at each β
        fine = np.concatenate([np.linspace(0, 1, 200), np.geomspace(1, kl.max(), 200)])
        hull = tables.structure_function(beta, lagrangian, fine)
        axis.plot(fine, hull, color=look["color"], linewidth=1)
    ideal = np.linspace(0, chance, 200)
    axis.plot(
        ideal,
        chance - ideal,
        color=style.GREY,
        linestyle="--",
        linewidth=1,
        label="1 nat of code per nat of loss",
    )
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlim(left=0)
    axis.set_ylim(0, 1.12 * chance)
    axis.set_xlabel("KL(Q‖P) / N  (nats per label)")
    axis.set_ylabel("E$_Q$[L] / N  (nats per label)")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.beta_sweep")

"""Certificates: bounds of the true error from nats, beside a plain held-out set.

Codes Q are minimised over C_β(Q) = E_Q[loss] + β KL(Q||P) for a grid of prices β, and each is
certified by PAC-Bayes. An objective that rises with loss and KL is stationary only where C_β is for
some β, so the grid stands for all of them. Two priors P: one that knows no data, with a scale for
each layer from a grid that δ pays for; and the code of a first part of the data, with which only
the rest counts. Beside each certificate stand its KL and the bound that the rest gives as a
held-out set to the network of the first part: a certificate with KL ≈ 0 is no more than that.

Default: digits, a few minutes on 2 CPU cores; `--dataset mnist` up to ten.
Papers: Dziugaite & Roy (arXiv:1703.11008); Pérez-Ortiz et al. (arXiv:2007.12927); Lotfi et al.
(arXiv:2211.13609).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common import checks, cost, measures, starts, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets, trees
from iw_jax.nets.local import LocalApply
from iw_jax.task import take
from iw_jax.weights.pac_bayes import kl_inverse

PRIORS = ("data-free", "data-dependent")
INITIAL_NOISE = 0.1  # of a code, in units of its layer's initial weights
# Prior scales λ = e^(j/100), |j| <= 500: so fine that rounding costs no nat, and 7 nats a layer.
PER_E_FOLD, SCALES = 100, 1001
# Prices of Catoni's bound, in units of an error: one for every certificate between 2 and 60 %.
PRICES = np.geomspace(0.3, 30, 16)
LEAST = 1e-4  # probability at which -log p is clipped: a loss without a bound has no certificate
ROUNDS = 10  # of a sweep; after each of the last, codes are compared on all examples
# Certificates of the error on MNIST, as published; the protocols are in docs/experiments.md.
PUBLISHED = {
    "data-free": (
        ("Dziugaite & Roy 2017, two classes", 0.161),
        ("Lotfi et al. 2022, LeNet-5", 0.116),
    ),
    "data-dependent": (("Pérez-Ortiz et al. 2021, CNN", 0.0155),),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is certified.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      side: pixels a side at most; larger images are averaged down (MNIST to 14 x 14).
      widths: hidden units of the mlp.
      betas: prices of a nat, in nats of summed cross-entropy; increasing.
      prior_part: part of the data that the data-dependent prior is learnt from.
      prior_beta: price of a nat while it is.
      num_steps: optimiser steps of the codes that are certified.
      prior_steps: optimiser steps of the data-dependent prior.
      batch_size: examples a step.
      learning_rate: Adam's, in units of the prior; decays to 0 along a cosine.
      num_draws: weight draws of the evaluation of C_β.
      num_repeats: fresh weights for every example, so many times, for the risk and the test error.
      delta: probability that a certificate fails, over data sets.
      draws_delta: probability that the draws mislead about any risk along β.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    side: int = 14
    widths: tuple[int, ...] = (200,)
    betas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    prior_part: float = 0.7
    prior_beta: float = 0.1
    num_steps: int = 2500
    prior_steps: int = 6000
    batch_size: int = 250
    learning_rate: float = 0.02
    num_draws: int = 16
    num_repeats: int = 10
    delta: float = 0.025
    draws_delta: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.at_least(self, side=1, prior_steps=1, num_repeats=2)
        if self.delta + self.draws_delta >= 1:
            raise ValueError(
                f"delta + draws_delta must be below 1, got {self.delta + self.draws_delta}"
            )


PRESETS = {
    "quick": Config(
        num_examples=200,
        widths=(),
        betas=(1.0, 4.0),
        num_steps=300,
        prior_steps=300,
        batch_size=100,
        learning_rate=0.05,
    ),
    "default": Config(),
    "paper": Config(
        dataset="mnist",
        widths=(600, 600, 600),
        betas=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
        num_steps=50_000,
        prior_steps=50_000,
        num_repeats=100,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels, averaged down to at most `side` pixels a side."""
    dataset = data.load(
        config.dataset,
        data_dir=data_dir,
        num_examples=config.num_examples or None,
        seed=config.seed,
    )
    split(config, len(dataset.train_targets))  # says now if it cannot be
    return data.average_pool(dataset, config.side)


def split(config: Config, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples the data-dependent prior is learnt from, and which it is certified on."""
    order = np.random.default_rng((config.seed, 1)).permutation(count)
    first, rest = np.split(order, [round(config.prior_part * count)])
    if not (len(first) and len(rest)):
        raise ValueError(
            f"prior_part must leave examples on both sides, got {config.prior_part} of {count}"
        )
    return first, rest


# ----------------------------------------------------------------------------------- the run


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    network = nets.mlp(dataset.num_classes, widths=config.widths)
    local = nets.mlp_local(dataset.num_classes, widths=config.widths)
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    code, prior = _initial(network, inputs[:1], jax.random.key(0))
    first, rest = split(config, len(targets))
    everybody = np.arange(len(targets))
    return [
        cost.codes(
            take(task, examples),
            code,
            prior,
            estimator=iw.local_noise(local),
            num_draws=config.num_draws,
            num_betas=betas,
            looks=config.num_repeats * (1 + len(dataset.test_targets) / len(examples)),
            num_rounds=ROUNDS,
            optimizer=common.optimizer(config.learning_rate, steps),
            batch=min(config.batch_size, len(examples)),
            steps=steps,
            networks=betas,
        )
        for examples, betas, steps in (
            (everybody, len(config.betas), config.num_steps),
            (first, 1, config.prior_steps),
            (rest, len(config.betas), config.num_steps),
        )
    ]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (prior, β)."""
    network = nets.mlp(dataset.num_classes, widths=config.widths)
    local = nets.mlp_local(dataset.num_classes, widths=config.widths)
    likelihood = iw.Categorical()

    def task(inputs: np.ndarray, targets: np.ndarray) -> iw.Task:
        return iw.Task(network.apply_fn, likelihood, jnp.asarray(inputs), jnp.asarray(targets))

    inputs, targets = dataset.train_inputs, dataset.train_targets
    first, rest = split(config, len(targets))
    test = task(dataset.test_inputs, dataset.test_targets)
    whole, rest_task = task(inputs, targets), task(inputs[rest], targets[rest])
    key_free, key_first, key_rest, key_draws = jax.random.split(jax.random.key(config.seed), 4)

    initial = jax.jit(partial(_initial, network, whole.inputs[:1]))
    minimised = partial(_minimised, config, local, context)
    free = minimised(key_free, whole, initial, config.betas, "data-free")
    early = minimised(
        key_first, task(inputs[first], targets[first]), initial, (config.prior_beta,), "prior"
    )
    learnt = _member(early.code, 0)
    dependent = minimised(
        key_rest, rest_task, lambda _: (learnt, learnt), config.betas, "data-dependent"
    )

    measured = partial(_measured, local, config.num_repeats)
    held_out, unseen = (measured(key_draws, learnt, own)["wrong_mean"] for own in (rest_task, test))
    everywhere = {
        "held_out_examples": len(rest),
        "held_out_error": float(held_out.mean()),
        "held_out_bound": float(
            kl_inverse(held_out.mean(), -np.log(config.delta + config.draws_delta) / len(rest))
        ),
        "held_out_test_error": float(unseen.mean()),
        "num_weights": sum(w.size for w in jax.tree.leaves(learnt.mean)),
    }
    rows: list[dict[str, Any]] = []
    stages = (("data-free", free, whole), ("data-dependent", dependent, rest_task))
    cells = [(*stage, i) for stage in stages for i in range(len(config.betas))]
    for name, result, own, i in context.track(cells, "risks"):
        code, prior, number = _member(result.code, i), learnt, 1
        if name == "data-free":
            prior = _on_grid(_member(result.prior, i))
            number = SCALES ** len(jax.tree.leaves(prior.log_scale))
        cost = measures.cost_columns(result, config.betas, [own.num_examples])((0, i, 0))
        kl = float(_kl(code, prior))
        keys = jax.random.split(jax.random.fold_in(key_draws, len(rows)))
        seen, unseen = measured(keys[0], code, own), measured(keys[1], code, test)
        by_example = unseen["wrong"].mean(0)
        rows.append(
            {
                "prior": name,
                **{k: v for k, v in cost.items() if "lagrangian" not in k},
                "kl_nats": kl,
                "kl_nats_per_label": kl / own.num_examples,
                "num_priors": float(number),
                **_certified(config, seen, kl, own.num_examples, number),
                "test_error": float(by_example.mean()),
                "test_error_stderr": float(tables.stderr(by_example)),
                "test_error_mean": float(unseen["wrong_mean"].mean()),
                **everywhere,
            }
        )
    return rows


def _initial(
    network: nets.Network, inputs: jax.Array, key: jax.Array
) -> tuple[iw.Code, iw.IsotropicGaussian]:
    """The code that training starts from, and its prior."""
    params = network.init(key, inputs)
    scales = {name: jnp.std(layer["kernel"]) for name, layer in params.items()}
    code = starts.code_around("diagonal", key, params, scales, INITIAL_NOISE)
    return code, iw.IsotropicGaussian(scales)


def _minimised(
    config: Config,
    local: LocalApply,
    context: Context,
    key: jax.Array,
    task: iw.Task,
    start: Callable[[jax.Array], tuple[iw.Code, Any]],
    betas: tuple[float, ...],
    stage: str,
) -> iw.SweepResult:
    """Codes of every β; the prior's scales are learnt but where it was learnt before."""
    num_steps = config.prior_steps if stage == "prior" else config.num_steps
    result = context.sweep(
        key[None],
        task,
        start,
        betas=np.asarray(betas),
        optimizer=common.optimizer(config.learning_rate, num_steps),
        num_steps=num_steps,
        num_rounds=ROUNDS,
        batch_size=config.batch_size,
        estimator=iw.local_noise(local),
        learn_prior=stage != "data-dependent",
        num_draws=config.num_draws,
        stage=stage,
    )
    return jax.tree.map(np.asarray, result)


def _member(tree: Any, i: int) -> Any:
    """The i-th β of the only target set and seed."""
    return jax.tree.map(lambda x: x[0, i, 0], tree)


_kl = jax.jit(lambda code, prior: code.kl(prior))


def _on_grid(prior: iw.IsotropicGaussian) -> iw.IsotropicGaussian:
    """The prior with scales from the grid: chosen by the data, so δ is shared among all of it."""
    end = SCALES // 2
    nearest = lambda s: np.clip(np.round(PER_E_FOLD * s), -end, end) / PER_E_FOLD  # noqa: E731
    return trees.replace(prior, log_scale=jax.tree.map(nearest, prior.log_scale))


@partial(jax.jit, static_argnums=(0, 1))
def _draw(
    local: LocalApply, repeats: int, key: jax.Array, code: iw.Code, task: iw.Task
) -> dict[str, jax.Array]:
    def wrong(logits: jax.Array) -> jax.Array:
        return jnp.argmax(logits, -1) != task.targets

    def once(key: jax.Array) -> dict[str, jax.Array]:
        logits = local(key, code.mean, code.scale, task.inputs)
        known = trees.replace(task, apply_fn=lambda *_: logits)
        nats = task.likelihood.nll(logits, task.targets)
        clipped = iw.bounded_nll(known, code.mean, least=LEAST)
        return {"wrong": wrong(logits), "clipped": clipped, "nats": nats}

    mean = wrong(task.apply_fn(code.mean, task.inputs))
    return {"wrong_mean": mean, **jax.lax.map(once, jax.random.split(key, repeats))}


def _measured(
    local: LocalApply, repeats: int, key: jax.Array, code: iw.Code, task: iw.Task
) -> dict[str, np.ndarray]:
    """Errors ("wrong") and -log p, clipped and not, under fresh weights for every example.

    (repeats, N) each; "wrong_mean", (N,), has the errors of the mean weights. Given the data all
    draws are independent, and each row's mean is unbiased for R̂(Q), so they count one by one.
    """
    return jax.tree.map(np.asarray, _draw(local, repeats, key, code, task))


def _certified(
    config: Config, seen: dict[str, np.ndarray], kl: float, count: int, num_priors: int
) -> dict[str, float]:
    """Risk of the draws, and its certificates: of errors and, clipped, of nats."""
    wrong, clipped = seen["wrong"], float(seen["clipped"].mean(dtype=float))
    bound = partial(
        iw.pac_bayes_bound,
        kl=kl,
        num_examples=count,
        delta=config.delta,
        num_draws=wrong.size,
        draws_delta=config.draws_delta / len(config.betas),  # every β has draws of its own
    )
    error = float(wrong.mean())
    seeger, quadratic = (
        bound(kind, risk=error, num_candidates=num_priors) for kind in ("seeger", "quadratic")
    )
    tries = num_priors * len(PRICES)
    catoni = bound("catoni", risk=error, beta=PRICES, num_candidates=tries)
    nats = bound("seeger", risk=clipped, max_loss=-np.log(LEAST), num_candidates=num_priors)
    sums = seen["nats"].sum(1, dtype=float)
    return {
        "error": error,
        "error_stderr": float(np.sqrt(wrong.var(0, ddof=1).mean() / wrong.size)),
        "error_upper": float(seeger.risk),
        "certificate": float(seeger.bound),
        "certificate_quadratic": float(quadratic.bound),
        "certificate_catoni": float(np.min(catoni.bound)),
        "clipped_nats": clipped,
        "certificate_clipped_nats": float(nats.bound),
        "loss_fresh_nats": float(sums.mean()),
        "loss_fresh_stderr_nats": float(tables.stderr(sums)),
    }


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, prior: str, name: str) -> np.ndarray:
    """One column of a prior, (B,), β increasing."""
    return tables.grid(rows, name, axes=("beta",), prior=prior)


def best(rows: Rows, prior: str) -> Any:
    """The row of the smallest certificate; free to choose, since the β share their prior."""
    return min((r for r in rows if r["prior"] == prior), key=lambda r: r["certificate"])


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """The best certificate of each prior, its KL, and what the held-out set says."""
    names = {
        "certificate": "certificate",
        "beta": "beta",
        "kl_nats": "kl_nats",
        "kl_nats_per_example": "kl_nats_per_label",
        "training_error": "error",
        "test_error": "test_error",
        "certificate_of_clipped_nats": "certificate_clipped_nats",
        "examples": "num_examples",
    }
    first = rows[0]
    return {
        "num_weights": int(first["num_weights"]),
        "confidence": tables.rounded(1 - config.delta - config.draws_delta),
        **{
            prior: {k: tables.rounded(best(rows, prior)[name]) for k, name in names.items()}
            for prior in PRIORS
        },
        "held_out": {
            "bound": tables.rounded(first["held_out_bound"]),
            "error": tables.rounded(first["held_out_error"]),
            "examples": int(first["held_out_examples"]),
        },
    }


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """Whether the codes are minima, the draws agree, and no certificate is below the truth."""
    curves = [
        curve
        for prior in PRIORS
        for curve in checks.curves_of(rows, f"{prior} prior", config.num_draws, prior=prior)
    ]
    apart = [
        (row["loss_fresh_nats"] - row["loss_nats"])
        / np.hypot(row["loss_fresh_stderr_nats"], row["loss_stderr_nats"])
        for row in rows
    ]
    worst = float(np.max(np.abs(apart)))
    below = [
        f"{row['prior']}, beta {row['beta']:g}"
        for row in rows
        if row["certificate"] < row["test_error"] - 3 * row["test_error_stderr"]
    ]
    loose = max(row["certificate"] - row["certificate_quadratic"] for row in rows)
    return [
        *checks.check_curves(curves),
        checks.Check(
            "fresh weights for every example have the loss of shared ones",
            worst < 4.5,
            f"apart by {worst:.1f} standard errors at most",
        ),
        checks.Check(
            "no certificate is below the test error",
            not below,
            ", ".join(below) or "within three standard errors of the test error",
        ),
        checks.Check(
            "the kl form is below its quadratic relaxation",
            loose <= 1e-9,
            f"by {-100 * loose:.2g} % or more",
        ),
    ]


def table(rows: Rows) -> str:
    """One line for each (prior, β), the best certificate of a prior marked."""
    lines = [
        f"{'prior':<15} {'beta':>5} {'N':>6} {'KL':>7} {'KL/N':>7} {'error':>7} {'kl form':>8} "
        f"{'quadratic':>9} {'Catoni':>7} {'test':>7} {'held-out bound':>15}   (nats; errors in %)"
    ]
    for row in rows:
        mark = "  <- best" if row == best(rows, row["prior"]) else ""
        lines.append(
            f"{row['prior']:<15} {row['beta']:5.3g} {row['num_examples']:6d} {row['kl_nats']:7.1f} "
            f"{row['kl_nats_per_label']:7.4f} {100 * row['error']:7.2f} "
            f"{100 * row['certificate']:8.2f} {100 * row['certificate_quadratic']:9.2f} "
            f"{100 * row['certificate_catoni']:7.2f} {100 * row['test_error']:7.2f} "
            f"{100 * row['held_out_bound']:15.2f}{mark}"
        )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Certificate, training and test error against β for each prior; KL per example of both."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4), width_ratios=(1.1, 1.1, 0.9))
    looks = (
        ("certificate", "PAC-Bayes certificate", style.BLUE, "o", "-"),
        ("error", "error of w ~ Q on the examples certified on", style.GREY, "v", ":"),
        ("test_error", "error of w ~ Q on the test set", style.ORANGE, "s", "--"),
    )
    for axis, prior in zip(axes, PRIORS, strict=False):
        beta = column(rows, prior, "beta")
        for name, label, colour, marker, dash in looks:
            value = column(rows, prior, name)
            look = {"color": colour, "marker": marker, "linestyle": dash, "label": label}
            error = np.zeros_like(value)
            if name != "certificate":
                error = 2 * column(rows, prior, f"{name}_stderr")
            axis.errorbar(beta, 100 * value, 100 * error, capsize=2, **look)
        axis.axhline(
            100 * rows[0]["held_out_bound"],
            color=style.GREEN,
            linestyle="-.",
            linewidth=1.2,
            label=f"held-out bound, {rows[0]['held_out_examples']:,} examples, no KL",
        )
        _prices(axis, beta)
        axis.set_ylabel("error  (%)")
        if config.dataset == "mnist":
            _published(axis, prior)
        axis.set_ylim(bottom=0)
        count = next(row["num_examples"] for row in rows if row["prior"] == prior)
        chosen = best(rows, prior)
        axis.set_title(
            f"{prior} prior, N = {count:,}: {100 * chosen['certificate']:.3g} %", fontsize=10
        )
    kinds = ((style.BLUE, "o", "-"), (style.GREEN, "D", "--"))
    for prior, (colour, marker, dash) in zip(PRIORS, kinds, strict=True):
        nats = column(rows, prior, "kl_nats_per_label")
        beta = column(rows, prior, "beta")
        look = {"color": colour, "marker": marker, "linestyle": dash, "label": f"{prior} prior"}
        axes[2].plot(beta, nats, **look)
    _prices(axes[2], config.betas)
    axes[2].set(yscale="log", ylabel="KL(Q‖P)/N  (nats per example)")
    axes[2].set_title("what the certificate pays for", fontsize=10)
    axes[2].legend(fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    confidence = 1 - config.delta - config.draws_delta
    figure.suptitle(
        f"{config.dataset}, {int(rows[0]['num_weights']):,} weights; each curve of "
        f"certificates with probability {confidence:g}",
        fontsize=11,
    )
    return figure


def _published(axis: Any, prior: str) -> None:
    """Published certificates as lines, named where no curve passes."""
    beside, above = ((0.02, "left"), 2) if prior == "data-free" else ((0.98, "right"), -10)
    for name, value in PUBLISHED[prior]:
        axis.axhline(100 * value, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
        axis.annotate(
            f"{name}: {100 * value:.3g} %",
            (beside[0], 100 * value),
            xycoords=("axes fraction", "data"),
            xytext=(0, above),
            textcoords="offset points",
            ha=beside[1],
            fontsize=8,
        )


def _prices(axis: Any, beta: Any) -> None:
    """β along x, each with its tick."""
    axis.set(xscale="log", xlabel="β")
    axis.set_xticks(beta, [f"{b:g}" for b in beta])
    axis.minorticks_off()


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.certificates")

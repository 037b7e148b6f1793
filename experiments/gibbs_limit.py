"""How many nats each family of codes wastes: the Gibbs code, which none can beat, beneath them all.

On one task and under one prior P, codes Q of several families are minimised over
C_β(Q) = E_Q[loss] + β KL(Q||P) for a grid of prices β. The least C_β that any code has is the free
energy of Q* ∝ P exp(-loss/β), found by annealed Monte Carlo, and a code at C_β wastes exactly
KL(Q||Q*) = (C_β(Q) - C*_β)/β nats: what KL(Q||P) and loss/β it has more. Of a code that an
optimiser found this is what its family wastes at most. For real labels and for random ones.

Default: digits, about 6 minutes on 2 CPU cores. Paper: Achille, Paolini & Soatto
(arXiv:1905.12213), Def. 2.1, with Q unrestricted.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import checks, cost, starts, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets

KINDS = ("real", "random")
NESTED = ("isotropic", "diagonal", "low_rank")  # each holds those before it
FAMILIES = (*NESTED, "log_normal")
REFINING = 0.25  # of the learning rate, for codes that start from those of a smaller family
LOOKS = {
    "gibbs": ("the best of all codes (Gibbs)", "black", "o", "-"),
    "isotropic": ("Gaussian, one scale", style.GREY, "v", ":"),
    "diagonal": ("Gaussian, independent", style.BLUE, "s", "-"),
    "low_rank": ("Gaussian, independent + 8 directions", style.GREEN, "D", "--"),
    "log_normal": ("log-normal", style.ORANGE, "^", "-."),
}
# Where C* must be known, and to what part of it (half the 95 % interval).
SPREAD, WITHIN = 0.02, {"real": 0.1, "random": 1.0}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      widths: hidden units of the tanh mlp.
      prior_scale: standard deviation λ of the prior P = N(0, λ² I), for all codes.
      betas: prices of a nat, in nats of summed loss; increasing.
      codes: families that are laid over the Gibbs code.
      num_chains: Markov chains of the Gibbs code.
      num_temperatures: rungs from the prior to the smallest β.
      num_held: transitions at each β.
      num_leapfrog: leapfrog steps a transition.
      num_steps: optimiser steps of every other code.
      batch_size: examples of such a step.
      learning_rate: Adam's, in units of the prior; decays to 0 along a cosine. A quarter of it for
        a code that starts from one of a smaller family.
      num_draws: weight draws of the evaluation.
      num_seeds: starts of every code; the best is taken.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 500
    widths: tuple[int, ...] = (30,)
    prior_scale: float = 0.3
    betas: tuple[float, ...] = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    codes: tuple[Literal["isotropic", "diagonal", "low_rank", "log_normal"], ...] = FAMILIES
    num_chains: int = 16
    num_temperatures: int = 600
    num_held: int = 80
    num_leapfrog: int = 8
    num_steps: int = 2500
    batch_size: int = 500
    learning_rate: float = 0.02
    num_draws: int = 512
    num_seeds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.some_of(self, codes=FAMILIES)
        common.at_least(self, num_chains=4, num_temperatures=1, num_held=4, num_leapfrog=1)


PRESETS = {
    "quick": Config(
        num_examples=60,
        widths=(4,),
        betas=(1.0, 10.0),
        codes=("diagonal",),
        num_temperatures=180,
        num_held=20,
        num_steps=300,
        learning_rate=0.05,
        batch_size=60,
        num_draws=16,
    ),
    "default": Config(),
    "paper": Config(
        dataset="mnist",
        num_examples=10_000,
        widths=(100,),
        num_chains=64,
        num_temperatures=4000,
        num_leapfrog=16,
        num_held=100,
        num_steps=20_000,
        batch_size=250,
    ),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, real labels."""
    return data.load(
        config.dataset,
        data_dir=data_dir,
        num_examples=config.num_examples or None,
        seed=config.seed,
    )


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    network = nets.mlp(dataset.num_classes, widths=config.widths, activation="tanh")
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    params = network.init(jax.random.key(0), inputs[:1])
    transitions = config.num_temperatures + config.num_held * len(config.betas)
    chains = cost.training(
        task,
        params,
        optax.sgd(1.0),  # a leapfrog step is one on all examples
        batch=task.num_examples,
        steps=transitions * config.num_leapfrog,
        networks=len(KINDS) * config.num_chains,
        abreast=config.num_chains,
    )
    prior = iw.IsotropicGaussian(config.prior_scale)
    return [chains] + [
        cost.codes(
            task,
            starts.code_around(family, jax.random.key(0), params, config.prior_scale, 0.1),
            prior,
            estimator=iw.antithetic_noise,
            num_draws=config.num_draws,
            num_betas=len(config.betas),
            optimizer=common.optimizer(config.learning_rate, config.num_steps),
            batch=min(config.batch_size, task.num_examples),
            steps=config.num_steps,
            networks=len(KINDS) * len(config.betas) * config.num_seeds,
        )
        for family in config.codes
    ]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each (labels, code, β)."""
    network = nets.mlp(dataset.num_classes, widths=config.widths, activation="tanh")
    inputs = jnp.asarray(dataset.train_inputs)
    targets = np.stack([dataset.train_targets, common.random_labels(config, dataset)[0]])
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, jnp.asarray(targets[0]))
    training, annealing = jax.random.split(jax.random.key(config.seed))
    prior = iw.IsotropicGaussian(config.prior_scale)
    params = network.init(jax.random.key(0), inputs[:1])
    rows = []
    ledger = context.ledger("gibbs")
    for number, kind in context.track(list(enumerate(KINDS)), "labels"):
        own = dataclasses.replace(task, targets=jnp.asarray(targets[number]))
        key = jax.random.fold_in(annealing, number)
        rows += ledger.get(kind, partial(_gibbs, config, own, params, prior, key, kind, context))
    trained, found = None, []
    for family in (code for code in FAMILIES if code in config.codes):
        smaller = trained if family in NESTED else None
        trained, own = _trained(
            config, task, targets, network, prior, training, family, smaller, context
        )
        if smaller is not None:  # whose codes are of this family too
            both = zip(own, found, strict=True)
            own = [min(new, old, key=lambda row: row["lagrangian_nats"]) for new, old in both]
        found = [{**row, "code": family} for row in own]
        rows += found
    size = sum(w.size for w in jax.tree.leaves(params))
    fixed = {"num_examples": len(inputs), "num_weights": size, "num_classes": dataset.num_classes}
    return [{**row, **fixed} for row in rows]


def _gibbs(
    config: Config,
    task: iw.Task,
    params: Any,
    prior: Any,
    key: jax.Array,
    kind: str,
    context: Context,
) -> list[dict[str, Any]]:
    rungs = config.num_temperatures + config.num_held * len(config.betas)
    with context.bar(f"{kind} labels", rungs) as show:
        found = iw.gibbs_iw(
            task,
            params,
            prior,
            betas=np.asarray(config.betas),
            key=key,
            num_chains=config.num_chains,
            num_temperatures=config.num_temperatures,
            num_held=config.num_held,
            num_leapfrog=config.num_leapfrog,
            callback=lambda state: show(min(int(state.rung), rungs)),
        )
    columns = _columns(found.lagrangian, found.nats, found.loss)
    return [
        {
            "labels": kind,
            "code": "gibbs",
            "beta": beta,
            **columns(i),
            "lagrangian_ais_nats": float(found.ais.value[i]),
            "rhat": float(found.rhat[i]),
            "sample_size": float(found.sample_size[i]),
            "acceptance": float(found.acceptance[i]),
            "mixed": int(found.mixed[i]),
            "found_as": "",
        }
        for i, beta in enumerate(config.betas)
    ]


def _trained(
    config: Config,
    task: iw.Task,
    targets: np.ndarray,
    network: nets.Network,
    prior: Any,
    key: jax.Array,
    family: str,
    smaller: iw.Code | None,
    context: Context,
) -> tuple[iw.Code, list[dict[str, Any]]]:
    """Both label kinds and all β of one family, in one sweep: the codes, and a row for the best.

    Every code starts from that of a smaller family, where there is one.
    """

    @jax.jit
    def start(key: jax.Array) -> tuple[iw.Code, Any]:
        weights, own = jax.random.split(key)
        params = network.init(weights, task.inputs[:1])
        return starts.code_around(family, own, params, config.prior_scale, 0.1), prior

    codes, rate = None, config.learning_rate
    if smaller is not None:
        widened = partial(starts.widened, family, key)
        codes, rate = jax.vmap(jax.vmap(jax.vmap(widened)))(smaller), REFINING * rate
    result = context.sweep(
        jax.random.split(key, config.num_seeds),
        task,
        start,
        betas=np.asarray(config.betas),
        codes=codes,
        targets=np.repeat(targets[:, None], config.num_seeds, axis=1),
        optimizer=common.optimizer(rate, config.num_steps),
        num_steps=config.num_steps,
        num_rounds=common.NUM_ROUNDS,
        batch_size=config.batch_size if config.batch_size < len(task.targets) else None,
        num_draws=config.num_draws,
        stage=family,
    )
    cost = jax.tree.map(np.asarray, result.lagrangian)
    columns = _columns(cost.value, cost.kl, cost.loss)
    none = dict.fromkeys(("lagrangian_ais_nats", "rhat", "sample_size", "acceptance", "mixed"), "")
    rows = []
    for t, b in np.ndindex(len(KINDS), len(config.betas)):
        best = t, b, int(cost.value.value[t, b].argmin())
        cell = {"labels": KINDS[t], "code": family, "beta": config.betas[b]}
        rows.append({**cell, **columns(best), **none, "found_as": family})
    return result.code, rows


def _columns(
    lagrangian: iw.Estimate, kl: iw.Estimate, loss: iw.Estimate
) -> Callable[[Any], dict[str, float]]:
    """index -> value and ends of the 95 % interval of each, by the names of the table."""
    estimates = {"lagrangian": lagrangian, "kl": kl, "loss": loss}
    parts = {f"{name}_nats": estimate.value for name, estimate in estimates.items()}
    ends = {name: estimate.interval() for name, estimate in estimates.items()}
    ends["kl"] = np.maximum(ends["kl"], 0)  # which no KL lies below, whatever the error says
    parts |= {f"{name}_lower_nats": lower for name, (lower, _) in ends.items()}
    parts |= {f"{name}_upper_nats": upper for name, (_, upper) in ends.items()}
    return lambda at: {name: float(values[at]) for name, values in parts.items()}


# ------------------------------------------------------------------------ what the table says


def column(rows: Rows, kind: str, code: str, name: str) -> np.ndarray:
    """One column of a code, (B,), β increasing."""
    return tables.grid(rows, name, axes=("beta",), labels=kind, code=code)


def codes(rows: Rows) -> list[str]:
    """The families in the table."""
    return [code for code in FAMILIES if any(row["code"] == code for row in rows)]


def wasted(rows: Rows, kind: str, code: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KL(Q||Q*) = (C_β(Q) - C*_β)/β and its ends, (B,) each; nats."""
    beta = column(rows, kind, code, "beta")
    own, best = (
        [column(rows, kind, c, f"lagrangian_{end}nats") for end in ("", "lower_", "upper_")]
        for c in (code, "gibbs")
    )
    value, lower, upper = own[0] - best[0], own[1] - best[2], own[2] - best[1]
    return value / beta, np.maximum(lower, 0) / beta, upper / beta


def half_width(row: Mapping[str, Any]) -> float:
    """That of the 95 % interval of C*, as a part of C*."""
    width = row["lagrangian_upper_nats"] - row["lagrangian_lower_nats"]
    return float(width / 2 / abs(row["lagrangian_nats"]))


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """Nats of every code at β = 1 (or the next), and what its family wastes at most."""
    at = int(np.argmin(np.abs(np.log(config.betas))))
    summary: dict[str, Any] = {"beta": config.betas[at], "num_weights": rows[0]["num_weights"]}
    for kind in KINDS:
        cells = known(rows, kind)
        told = {code: column(rows, kind, code, "kl_nats")[at] for code in ("gibbs", *codes(rows))}
        loss = {code: column(rows, kind, code, "loss_nats")[at] for code in told}
        waste = {code: [x[at] for x in wasted(rows, kind, code)] for code in codes(rows)}
        summary[kind] = {
            "kl_nats": {code: tables.rounded(x) for code, x in told.items()},
            "loss_nats": {code: tables.rounded(x) for code, x in loss.items()},
            "wasted_at_most_nats": {
                code: [tables.rounded(x) for x in ends] for code, ends in waste.items()
            },
            f"from_beta_{WITHIN[kind]:g}": {
                "largest_half_width_of_C": tables.rounded(max(map(half_width, cells), default=0)),
                "largest_rhat": tables.rounded(max((row["rhat"] for row in cells), default=1)),
            },
            "betas_not_mixed": [
                row["beta"]
                for row in rows
                if (row["labels"], row["code"], row["mixed"]) == (kind, "gibbs", 0)
            ],
        }
    return summary


def violations(rows: Rows) -> dict[str, list[str]]:
    """Claim -> where the intervals of the table contradict it."""
    claims = {
        "no code has a lower C than the Gibbs code": [],
        "no code has a higher C than one of a family within its own": [],
        "KL(Q*||P) does not increase with beta": [],
        "dC*/dbeta = KL(Q*||P) (secants)": [],
    }
    below, worse, rises, slopes = claims.values()
    for kind in KINDS:
        beta = column(rows, kind, "gibbs", "beta")
        cost = {
            code: [column(rows, kind, code, f"lagrangian_{end}_nats") for end in ("lower", "upper")]
            for code in ("gibbs", *codes(rows))
        }
        low, high = cost["gibbs"]
        for code, (_, most) in cost.items():
            below += _where(f"{kind} labels, {code}", beta, most < low)
        for small, large in itertools.pairwise(code for code in NESTED if code in cost):
            above = cost[large][0] > cost[small][1]
            worse += _where(f"{kind} labels, {large} above {small}", beta, above)
        least, most = (column(rows, kind, "gibbs", f"kl_{end}_nats") for end in ("lower", "upper"))
        rises += _where(f"{kind} labels", beta[1:], least[1:] > most[:-1])
        steepest, flattest = (high[1:] - low[:-1], low[1:] - high[:-1]) / np.diff(beta)
        wrong = (steepest < least[1:]) | (flattest > most[:-1])
        slopes += _where(f"{kind} labels", beta[1:], wrong)
    return claims


def _where(what: str, beta: np.ndarray, wrong: np.ndarray) -> list[str]:
    return [f"{what}, beta {b:g}" for b in beta[wrong]]


def known(rows: Rows, kind: str) -> Rows:
    """The cells of the Gibbs code in which C* is to be known."""
    own = [row for row in rows if (row["labels"], row["code"]) == (kind, "gibbs")]
    return [row for row in own if row["beta"] >= WITHIN[kind]]


def check(rows: Rows, _: Config) -> list[checks.Check]:
    """Whether codes lie where they must, and the limit itself is known and obeys its laws."""
    cells = [row for kind in KINDS for row in known(rows, kind)]
    width = max((half_width(row) for row in cells), default=0.0)
    stuck = [
        f"{row['labels']} labels, beta {row['beta']:g} (R-hat {row['rhat']:.2f})"
        for row in cells
        if not row["mixed"]
    ]
    region = "real labels from β = 0.1, random ones from 1"
    return [
        *(
            checks.Check(
                claim,
                not places,
                ", ".join([*places, "more --num-steps, --num-seeds or --num-chains may settle it"])
                if places
                else "at all β, within both intervals",
            )
            for claim, places in violations(rows).items()
        ),
        checks.Check(
            f"C* is known to {SPREAD:.0%} ({region})",
            width < SPREAD,
            f"largest half-width {width:.2%} of C; more chains (--num-chains) or rungs "
            "(--num-temperatures) narrow it",
        ),
        checks.Check(
            f"chains have mixed ({region})",
            not stuck,
            ", ".join(stuck) or "R-hat below 1.2",
        ),
    ]


def table(rows: Rows) -> str:
    """KL of every code, and nats wasted, one line for each (labels, β)."""
    lines = [
        f"{'labels':<7} {'beta':>6} {'C*':>9} {'±':>7} {'KL(Q*|P)':>9} {'R-hat':>6}   "
        + " ".join(f"{code:>11}" for code in codes(rows))
        + "   (nats; at the right KL(Q|Q*), what a family wastes at most)"
    ]
    for kind in KINDS:
        columns = [
            column(rows, kind, "gibbs", name)
            for name in ("beta", "lagrangian_nats", "kl_nats", "rhat")
        ]
        ends = (column(rows, kind, "gibbs", f"lagrangian_{e}_nats") for e in ("lower", "upper"))
        half = np.ptp(list(ends), axis=0) / 2
        waste = np.stack([wasted(rows, kind, code)[0] for code in codes(rows)], axis=1)
        for beta, value, nats, rhat, error, own in zip(*columns, half, waste, strict=True):
            lines.append(
                f"{kind:<7} {beta:6.3g} {value:9.1f} {error:7.2g} {nats:9.1f} {rhat:6.2f}   "
                + " ".join(f"{w:11.1f}" for w in own)
            )
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """KL, nats wasted and loss against β, real labels above random ones."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 7), sharex=True)
    for line, kind in zip(axes, KINDS, strict=True):
        for code in ("gibbs", *codes(rows)):
            label, colour, marker, dash = LOOKS[code]
            look = {"color": colour, "marker": marker, "linestyle": dash, "label": label}
            beta = column(rows, kind, code, "beta")
            for axis, name in ((line[0], "kl"), (line[2], "loss")):
                value, lower, upper = (
                    column(rows, kind, code, f"{name}_{end}nats")
                    for end in ("", "lower_", "upper_")
                )
                axis.plot(beta, value, **look)
                axis.fill_between(beta, lower, upper, color=colour, alpha=0.2, linewidth=0)
            if code != "gibbs":
                value, lower, upper = wasted(rows, kind, code)
                line[1].plot(beta, value, **look)
                line[1].fill_between(beta, lower, upper, color=colour, alpha=0.2, linewidth=0)
        stuck = column(rows, kind, "gibbs", "mixed") == 0
        known = [(line[0], "kl_nats"), (line[2], "loss_nats")]
        against = [(axis, column(rows, kind, "gibbs", name)) for axis, name in known]
        against += [(line[1], wasted(rows, kind, code)[0]) for code in codes(rows)]
        for axis, values in against:
            axis.plot(beta[stuck], values[stuck], "o", color="white", markersize=2.5, zorder=3)
        chance = rows[0]["num_examples"] * np.log(rows[0]["num_classes"])
        line[2].axhline(chance, color=style.GREY, linestyle="--", linewidth=1)
        line[2].annotate(
            "N ln K", (0.01, chance), xycoords=("axes fraction", "data"), va="bottom", fontsize=8
        )
        line[0].set_ylabel(f"{kind} labels\n\nKL(Q‖P) (nats)")
        line[1].set_ylabel("wasted at most: KL(Q‖Q*) (nats)")
        line[2].set_ylabel("E$_Q$[L] (nats)")
        for axis in line:
            axis.set_xscale("log")
            if axis is not line[2]:
                axis.set_yscale("symlog", linthresh=10)
            axis.set_ylim(bottom=0)
    for axis in axes[1]:
        axis.set_xlabel("β (nats of loss a nat of weights)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(
        f"{config.dataset}, {rows[0]['num_examples']} examples, {rows[0]['num_weights']} weights, "
        f"prior N(0, {config.prior_scale:g}²)",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.gibbs_limit")

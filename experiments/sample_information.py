"""Nats that the weights hold about each training example; mislabelled ones stand out.

Some labels are replaced by wrong ones, a network is trained to a minimum of L + β/2 |w - w0|²/λ²,
and `iw.sample_information` asks of every example how far the code would move without it. Beside the
scores that people use, loss and gradient norm, and for some examples beside the code of a network
that was trained on without them. No --widths: softmax regression.

Default: digits, about a minute on 2 CPU cores. Paper: Harutyunyan et al. (arXiv:2101.06640).
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import iw_jax as iw
from experiments.common import checks, cost, ranks, style, tables
from experiments.common import config as common
from experiments.common.context import Context
from experiments.common.tables import Rows, column
from iw_jax import data, nets
from iw_jax.task import take

SCORES = {
    "nats": "sample information",
    "influence_nats": "its influence form",
    "loss_nats": "loss",
    "gradient_norm": "gradient norm",
}
RETRAINED = ("retrained_nats", "retrained_hessian_nats", "retrained_left")
SHOWN = 12  # pictures a row
ARRIVED = 0.001  # part of the way that retraining may leave
ROUND = 50  # L-BFGS steps between two looks


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
      dataset: digits, mnist, fashion_mnist or cifar10.
      num_examples: training examples; 0 for all.
      wrong: part of the labels that are replaced by wrong ones.
      network: mlp (tanh), small_alexnet, all_cnn or resnet18.
      widths: hidden units of the mlp; none for softmax regression.
      num_steps: Adam steps on all examples.
      polish_steps: L-BFGS steps after them, towards the minimum.
      learning_rate: Adam's first; decays to 0 along a cosine.
      prior_scale: standard deviation λ of the prior P = N(initial weights, λ² I).
      beta: price of a nat, in nats of summed loss.
      num_matvecs: curvature products for the sketch; as many as weights make it exact.
      num_retrained: examples without which the network is trained on, to compare; half of them
        mislabelled.
      retrain_steps: L-BFGS steps allowed for each.
      seed: root of all randomness.
    """

    dataset: str = "digits"
    num_examples: int = 0
    wrong: float = 0.1
    network: str = "mlp"
    widths: tuple[int, ...] = (32,)
    num_steps: int = 1500
    polish_steps: int = 2000
    learning_rate: float = 0.003
    prior_scale: float = 0.3
    beta: float = 1.0
    num_matvecs: int = 2500
    num_retrained: int = 120
    retrain_steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is loaded."""
        common.check_fields(self)
        common.at_least(self, polish_steps=0, num_retrained=8, retrain_steps=1)


PRESETS = {
    "quick": Config(
        num_examples=150,
        widths=(6,),
        num_steps=200,
        polish_steps=120,
        num_matvecs=460,
        num_retrained=20,
        retrain_steps=300,
    ),
    "default": Config(),
    "paper": Config(dataset="mnist", num_examples=10_000, widths=(256,), num_matvecs=1600),
}


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The data set, true labels."""
    dataset = common.load(config, data_dir, config.num_examples)
    total, half = len(dataset.train_targets), config.num_retrained / 2
    wrong = round(config.wrong * total)
    if not half <= wrong <= total - half:
        raise ValueError(
            f"wrong must leave num_retrained/2 = {half:g} examples with a wrong label and as many "
            f"with a right one, got {config.wrong} of {total}"
        )
    return dataset


def stages(config: Config, dataset: data.Dataset) -> list[cost.Stage]:
    """What the run will take; see `common.cost`."""
    network = common.network(config, dataset.num_classes, "tanh")
    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, targets)
    stage = partial(
        cost.training,
        task,
        network.init(jax.random.key(0), inputs[:1]),
        common.optimizer(config.learning_rate, config.num_steps),
        batch=task.num_examples,
        abreast=1,
    )
    return [
        stage(
            steps=config.num_steps + config.polish_steps, networks=1, num_matvecs=config.num_matvecs
        ),
        stage(steps=config.retrain_steps, networks=config.num_retrained, at_most=True),
    ]


def run(config: Config, dataset: data.Dataset, context: Context) -> Rows:
    """One row for each training example."""
    # tanh, since minima of ReLU lie on kinks, where L is not smooth
    network = common.network(config, dataset.num_classes, "tanh")
    inputs, true = jnp.asarray(dataset.train_inputs), np.asarray(dataset.train_targets)
    given = wrong_labels(config, true, dataset.num_classes)
    task = iw.Task(network.apply_fn, iw.Categorical(), inputs, jnp.asarray(given))
    start, sketch = jax.random.split(jax.random.key(config.seed))
    initial = network.init(start, inputs[:1])
    prior = iw.IsotropicGaussian(scale=config.prior_scale, mean=initial)
    params = train(config, task, initial, prior, context)

    measure = partial(
        iw.sample_information,
        task,
        params,
        prior,
        beta=config.beta,
        key=sketch,
        num_matvecs=config.num_matvecs,
    )
    began = time.monotonic()
    found = measure()
    context.seconds["sample information"] = time.monotonic() - began
    hessian = np.full(len(given), np.nan)
    if sum(w.size for w in jax.tree.leaves(params)) <= config.num_matvecs:  # else it has none
        hessian = measure(curvature=iw.hessian).nats.value
    loss, gradient_norm = baselines(task, params)
    retrained = retrain(config, task, params, prior, given != true, context)
    seconds = context.seconds
    for name, each in (
        ("anew", seconds["training"] + seconds["polish"]),
        ("on_from_old_weights", seconds["retraining"] / len(retrained)),
    ):
        context.notes[f"times_faster_than_training_{name}"] = tables.rounded(
            each * len(given) / seconds["sample information"]
        )
    right = np.asarray(network.apply_fn(params, jnp.asarray(dataset.test_inputs))).argmax(1)
    shown = _extremes(found.nats.value)
    return [
        {
            "example": i,
            "given": int(given[i]),
            "true": int(true[i]),
            "nats": float(found.nats.value[i]),
            "nats_upper": float(found.nats.bracket_upper[i]),
            "influence_nats": float(found.influence.value[i]),
            "leverage": float(found.leverage.value[i]),
            "loss_nats": float(loss[i]),
            "gradient_norm": float(gradient_norm[i]),
            "hessian_nats": _known(hessian[i]),
            **dict(zip(RETRAINED, retrained.get(i, [""] * len(RETRAINED)), strict=True)),
            "off_minimum_nats": float(found.off_minimum.value),
            "test_accuracy": float(np.mean(right == dataset.test_targets)),
            "pixels": _hex(dataset.train_inputs[i]) if i in shown else "",
        }
        for i in range(len(given))
    ]


def _known(nats: float) -> float | str:
    """Empty where the Hessian was not asked, or has no minimum without the example."""
    return float(nats) if np.isfinite(nats) else ""


def wrong_labels(config: Config, true: np.ndarray, num_classes: int) -> np.ndarray:
    """The labels, round(wrong * N) of them replaced by another class."""
    rng = np.random.default_rng((config.seed, 1))
    chosen = rng.permutation(len(true))[: round(config.wrong * len(true))]
    given = true.copy()
    given[chosen] = (given[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    return given


# ------------------------------------------------------------------------------ training


def objective(params: nets.Params, task: iw.Task, prior: Any, beta: float) -> jax.Array:
    """L + β/2 |w - w0|²/λ²; nats."""
    moved = optax.tree.sub(params, prior.mean)
    return iw.nll(task, params) + beta / 2 * optax.tree.norm(moved, squared=True) / prior.scale**2


def train(
    config: Config, task: iw.Task, params: nets.Params, prior: Any, context: Context
) -> nets.Params:
    """A minimum of the objective, by Adam and then L-BFGS, all examples a step."""
    adam = common.optimizer(config.learning_rate, config.num_steps)

    @jax.jit
    def update(params: nets.Params, state: Any) -> tuple[nets.Params, Any]:
        gradient = jax.grad(objective)(params, task, prior, config.beta)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(params, updates), state

    begin = params, adam.init(params)
    params, _ = context.iterate(lambda _, s: update(*s), begin, config.num_steps, "training")

    def polish(i: int, state: Any) -> Any:
        left = min(ROUND, config.polish_steps - i * ROUND)
        return _descend(*state, prior.mean, task, prior, config.beta, left, 0.0)[:2]

    begin = params, _lbfgs_state(params)
    return context.iterate(polish, begin, -(-config.polish_steps // ROUND), "polish")[0]


def _lbfgs_state(params: nets.Params) -> Any:
    """Before the first step; of strict types, as after it, so that nothing compiles twice."""
    return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), optax.lbfgs().init(params))


@jax.jit
def _descend(
    params: nets.Params,
    state: Any,
    origin: nets.Params,
    task: iw.Task,
    prior: Any,
    beta: float,
    most: int,
    enough: float,
) -> tuple[nets.Params, Any, jax.Array]:
    """L-BFGS steps, `most` of them or until no more than `enough` of the way is left.

    The objective curves by β/λ² and more where it is convex, so that its minimum is no further than
    |gradient| λ²/β: that, as a part of the way from `origin`, is what is left.

    Returns:
      Weights, state of L-BFGS, and what is left.
    """
    lbfgs, own = optax.lbfgs(), partial(objective, task=task, prior=prior, beta=beta)

    def step(carry: tuple) -> tuple:
        params, state, _, steps = carry
        value, slope = optax.value_and_grad_from_state(own)(params, state=state)
        updates, state = lbfgs.update(slope, state, params, value=value, grad=slope, value_fn=own)
        params = optax.apply_updates(params, updates)
        ahead = optax.tree.norm(optax.tree.get(state, "grad")) * prior.scale**2 / beta
        return params, state, ahead / optax.tree.norm(optax.tree.sub(params, origin)), steps + 1

    begin = params, state, jnp.inf, 0
    return jax.lax.while_loop(lambda c: (c[3] < most) & (c[2] > enough), step, begin)[:3]


def retrain(
    config: Config, task: iw.Task, params: nets.Params, prior: Any, wrong: Any, context: Context
) -> dict[int, list[float]]:
    """Example -> nats between the codes with and without it, by GGN and Hessian; what is left.

    For some, half of them mislabelled.
    """
    curvatures = iw.ggn(task, params), iw.hessian(task, params)
    half = config.num_retrained // 2
    chosen = [*np.flatnonzero(wrong)[:half], *np.flatnonzero(~wrong)[: config.num_retrained - half]]

    @jax.jit
    def nats(moved: nets.Params) -> list[jax.Array]:
        length = optax.tree.norm(moved, squared=True) / prior.scale**2
        bent = (optax.tree.vdot(moved, A(moved)) / config.beta for A in curvatures)
        return [(b + length) / 2 for b in bent]

    found = {}
    for i in context.track(chosen, "retraining"):
        without = dataclasses.replace(task, weights=task.weights.at[i].set(0))
        begin = params, _lbfgs_state(params), params
        options = without, prior, config.beta, config.retrain_steps, ARRIVED
        other, _, left = _descend(*begin, *options)
        found[int(i)] = [*map(float, nats(optax.tree.sub(other, params))), float(left)]
    return found


@jax.jit
def baselines(task: iw.Task, params: nets.Params) -> tuple[jax.Array, jax.Array]:
    """Loss and norm of the gradient of every example, (N,) each."""

    def one(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss, slope = jax.value_and_grad(lambda p: iw.nll(take(task, i[None]), p))(params)
        return loss, optax.tree.norm(slope)

    return jax.lax.map(one, jnp.arange(task.num_examples), batch_size=64)


# ------------------------------------------------------------------------ what the table says


def mislabelled(rows: Rows) -> np.ndarray:
    """Which examples have a wrong label, (N,)."""
    return column(rows, "given") != column(rows, "true")


def auroc(rows: Rows, name: str) -> float:
    """Chance that a mislabelled example has the higher score of a random pair."""
    score, wrong = column(rows, name), mislabelled(rows)
    pairs = wrong.sum() * (~wrong).sum()
    return float(stats.mannwhitneyu(score[wrong], score[~wrong]).statistic / pairs)


def groups(rows: Rows) -> dict[str, np.ndarray]:
    """Which retrained examples have a wrong label, a right one, either: (N,) each."""
    wrong, known = mislabelled(rows), np.isfinite(column(rows, "retrained_nats"))
    return {"wrong labels": known & wrong, "right labels": known & ~wrong, "both": known}


def agreement(rows: Rows) -> dict[str, dict[str, Any]]:
    """Of every group: how the scores rank it, by the nats that retraining without each moves.

    Spearman's ρ and its 95 % bootstrap interval; by how much that of the nats is larger; and
    retrained nats over nats, by the GGN and, where it is known, by the Hessian. In both groups
    together ρ mostly says that wrong labels are told from right ones, and half of those retrained
    are mislabelled by choice.
    """
    exact, found = column(rows, "retrained_nats"), {}
    for name, chosen in groups(rows).items():
        rho = {
            score: ranks.spearman(column(rows, score)[chosen], exact[chosen], seed=0)
            for score in SCORES
        }
        found[name] = {
            "examples": int(chosen.sum()),
            "arrived": int((column(rows, "retrained_left")[chosen] <= ARRIVED).sum()),
            "retrained_over_nats": {
                score: _quartiles(column(rows, f"retrained_{score}") / column(rows, score), chosen)
                for score in ("nats", "hessian_nats")
            },
            "rank_correlation": {score: _interval(draws) for score, draws in rho.items()},
            "lead_of_nats": {
                score: _interval(rho["nats"] - draws)
                for score, draws in rho.items()
                if score != "nats"
            },
        }
    return found


def _quartiles(ratio: np.ndarray, chosen: np.ndarray) -> list[float | None]:
    """[median, first, third quartile, how many] of those chosen that are known."""
    known = ratio[chosen & np.isfinite(ratio)]
    quartiles = np.quantile(known, (0.5, 0.25, 0.75)) if known.size else [np.nan] * 3
    return [*(tables.rounded(q) for q in quartiles), known.size]


def _interval(draws: np.ndarray) -> list[float | None]:
    """[value, ends of its 95 % interval] of a bootstrap whose first draw is the sample."""
    return [tables.rounded(x) for x in (draws[0], *np.quantile(draws[1:], (0.025, 0.975)))]


def summarize(rows: Rows, config: Config) -> dict[str, Any]:
    """How well every score finds the wrong labels, and how it agrees with retraining."""
    return {
        "num_matvecs": config.num_matvecs,
        "mislabelled": int(mislabelled(rows).sum()),
        "examples": len(rows),
        "nats_in_all": float(column(rows, "nats").sum()),
        "off_minimum_nats": rows[0]["off_minimum_nats"],
        "test_accuracy": rows[0]["test_accuracy"],
        "auroc": {name: auroc(rows, name) for name in SCORES},
        "retrained": agreement(rows),
    }


def check(rows: Rows, _: Config) -> list[checks.Check]:
    """Whether the wrong labels are found, at a minimum, and retraining agrees."""
    found, agreed = auroc(rows, "nats"), agreement(rows)
    off, nats = float(rows[0]["off_minimum_nats"]), column(rows, "nats").sum()
    rho = {name: group["rank_correlation"]["nats"] for name, group in agreed.items()}
    return [
        checks.Check(
            "mislabelled examples hold more nats (AUROC at least 0.9)",
            found >= 0.9,
            f"{found:.4f}",
        ),
        checks.Check(
            "the weights are at a minimum",
            bool(off <= 0.05 * nats),
            f"one Newton step would move the code by {off:.3g} nats, all examples hold {nats:.4g}; "
            "take more steps (--polish-steps) where it is more than 5 %",
        ),
        checks.Check(
            "nine in ten of the retrained networks are at a minimum",
            agreed["both"]["arrived"] >= 0.9 * agreed["both"]["examples"],
            f"{agreed['both']['arrived']} of {agreed['both']['examples']}; allow more "
            "--retrain-steps",
        ),
        checks.Check(
            "retraining ranks examples alike, also within each group (Spearman at least 0.5)",
            all(high >= 0.5 for _, _, high in rho.values()),
            ", ".join(f"{name} {r:.3f} [{a:.3f}, {b:.3f}]" for name, (r, a, b) in rho.items()),
        ),
    ]


def table(rows: Rows) -> str:
    """AUROC of every score, and its rank correlation with retraining, group by group."""
    agreed = agreement(rows)
    lines = [
        f"{'score':<22}{'AUROC':>8}" + "".join(f"{name:>24}" for name in agreed) + "  (Spearman)"
    ]
    for score, label in SCORES.items():
        rhos = (group["rank_correlation"][score] for group in agreed.values())
        said = (f"{rho:.3f} [{low:.3f}, {high:.3f}]" for rho, low, high in rhos)
        lines.append(f"{label:<22}{auroc(rows, score):8.4f}" + "".join(f"{s:>24}" for s in said))
    return "\n".join(lines)


def plot(rows: Rows, config: Config) -> Any:
    """Nats of right and wrong labels, against retraining; the pictures at both ends."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(10, 6.2))
    grid = figure.add_gridspec(3, 2, height_ratios=[4, 1, 1])
    wrong = mislabelled(rows)
    nats = np.maximum(column(rows, "nats"), 1e-12)
    left, right = (figure.add_subplot(grid[0, i]) for i in (0, 1))
    bins = np.geomspace(max(nats.min(), nats.max() * 1e-7), nats.max(), 41)
    looks = (("right labels", ~wrong, style.BLUE, ""), ("wrong labels", wrong, style.ORANGE, "///"))
    for label, chosen, colour, hatch in looks:
        left.hist(nats[chosen], bins, color=colour, alpha=0.6, hatch=hatch, label=label)
    left.set(xscale="log", xlabel="sample information (nats)", ylabel="examples")
    left.set_title(
        "AUROC: " + ", ".join(f"{SCORES[s]} {auroc(rows, s):.3f}" for s in ("nats", "loss_nats")),
        fontsize=9,
    )
    left.legend()
    exact = column(rows, "retrained_nats")
    agreed = agreement(rows)
    for label, chosen, colour, _ in looks:
        marker = "s" if label.startswith("wrong") else "o"
        ratio = agreed[label]["retrained_over_nats"]["nats"][0]
        rho = agreed[label]["rank_correlation"]
        said = f"{label}: ρ = {rho['nats'][0]:.2f}, median {ratio:.2g} times"
        right.loglog(nats[chosen], exact[chosen], marker, color=colour, label=said, markersize=4)
    known = exact[np.isfinite(exact) & (exact > 0)]
    ends = [known.min() / 2, known.max() * 2]
    right.loglog(ends, ends, color=style.GREY, linestyle=":", label="equal")
    right.set(xlabel="sample information (nats)", ylabel="nats by retraining without it")
    right.legend()
    order = np.argsort(-nats)
    for line, chosen in ((1, order[:SHOWN]), (2, order[-SHOWN:])):
        inner = grid[line, :].subgridspec(1, SHOWN)
        for place, i in enumerate(chosen):
            axis = figure.add_subplot(inner[0, place])
            axis.imshow(_picture(rows[i]["pixels"]), cmap="gray_r")
            axis.set(xticks=[], yticks=[])
            said = f"{rows[i]['given']}"
            said += f" (is {rows[i]['true']})" if rows[i]["given"] != rows[i]["true"] else ""
            axis.set_title(said, fontsize=8, pad=2)
            axis.set_xlabel(f"{nats[i]:.2g}", fontsize=7, labelpad=1)
            if place == 0:
                axis.set_ylabel("most" if line == 1 else "least", fontsize=9)
    figure.suptitle(
        f"{config.dataset}, {len(rows)} examples, {wrong.sum()} mislabelled, β = {config.beta:g}; "
        "below: given label and nats",
        fontsize=11,
    )
    return figure


def _extremes(nats: np.ndarray) -> set[int]:
    order = np.argsort(-nats)
    return {int(i) for i in (*order[:SHOWN], *order[-SHOWN:])}


def _hex(picture: np.ndarray) -> str:
    """A grey picture as text: its side lengths, then a byte a pixel."""
    grey = np.asarray(picture, float)
    if grey.ndim == 1:  # digits come flat
        grey = grey.reshape(2 * (round(len(grey) ** 0.5),))
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    span = np.ptp(grey) or 1.0
    return f"{grey.shape[1]}:" + np.uint8(255 * (grey - grey.min()) / span).tobytes().hex()


def _picture(pixels: str) -> np.ndarray:
    width, _, numbers = pixels.partition(":")
    return np.frombuffer(bytes.fromhex(numbers), np.uint8).reshape(-1, int(width))


if __name__ == "__main__":
    from experiments.common import command

    command.main("experiments.sample_information")

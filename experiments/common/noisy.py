"""Information in every layer of the noisy networks on 12 bits: its columns, and what must hold."""

import dataclasses
from typing import Any

import jax
import numpy as np
from scipy import stats

import iw_jax as iw
from experiments.common import checks, szt, tables
from experiments.common import config as common
from experiments.common.tables import Rows
from iw_jax import data

AXES = ("seed", "epoch", "layer")
MEASURES = ("input", "label", "linearised")
AGREE = 0.5  # nats between sample propagation and the linearised network, where σ is SMALL
SMALL = 0.01


@dataclasses.dataclass(frozen=True)
class Config(szt.Config):
    """What is measured.

    Attributes:
      bootstrap_inputs: X uniform over 4,096 patterns drawn with replacement, as in the authors'
        code, and not over all patterns.
      num_draws: passes of every pattern through the noise; a multiple of 4.
      num_probed: patterns at whose T densities are evaluated.
      num_replicas: passes of each of those; a multiple of 4.
      num_points: evaluation points for each of those.
    """

    bootstrap_inputs: bool = False
    num_draws: int = 8
    num_probed: int = 512
    num_replicas: int = 300
    num_points: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        common.at_least(self, num_probed=2, num_points=1)
        for name in ("num_draws", "num_replicas"):
            value = getattr(self, name)
            common.require(value >= 4 and value % 4 == 0, name, "a multiple of 4", value)


# What the presets of these experiments have in common.
QUICK = {
    "num_epochs": 60,
    "num_seeds": 1,
    "num_draws": 4,
    "num_probed": 64,
    "num_replicas": 48,
    "num_points": 2,
}
PAPER = {
    "num_times": 100,
    "num_seeds": 20,
    "num_draws": 16,
    "num_probed": 2048,
    "num_replicas": 1000,
}


def measure(
    config: Config, dataset: data.Dataset, params: szt.Params, seed: int, time: int
) -> list[dict[str, float]]:
    """The columns of every layer, of one network."""
    inputs, labels = szt.all_of(dataset)
    counts = None
    if config.bootstrap_inputs:
        rng = np.random.default_rng((config.seed, 1, seed))
        drawn = rng.integers(len(inputs), size=len(inputs))
        counts = np.bincount(drawn, minlength=len(inputs))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed + 1), seed), time)
    found = iw.noisy_mutual_information(
        key,
        szt.hidden_layers(config.activation, len(config.widths)),
        params,
        inputs,
        labels,
        sigma=config.sigma,
        weights=counts,
        num_classes=2,
        num_draws=config.num_draws,
        num_probed=config.num_probed,
        num_replicas=config.num_replicas,
        num_points=config.num_points,
    )
    p = np.ones(len(labels)) if counts is None else counts
    ones = float(p @ np.asarray(labels) / p.sum())
    columns: dict[str, Any] = {
        "input_entropy_nats": float(found.ceiling),
        "label_entropy_nats": float(stats.entropy([ones, 1 - ones])),
    }
    for name, estimate in zip(MEASURES, (found.nats, found.labels, found.linearised), strict=True):
        lower, upper = estimate.interval()
        columns |= {
            f"{name}_information_nats": estimate.value,
            f"{name}_information_stderr_nats": estimate.stderr,
            f"{name}_information_lower_nats": lower,
            f"{name}_information_upper_nats": upper,
        }
    return [
        {name: float(np.broadcast_to(v, len(config.widths))[i]) for name, v in columns.items()}
        for i in range(len(config.widths))
    ]


def check(rows: Rows, config: Config) -> list[checks.Check]:
    """What holds whatever the network is: data processing, ceilings; two ways to measure agree."""
    value, stderr, lower, upper = (
        {m: _curves(rows, f"{m}_information{part}_nats") for m in MEASURES}
        for part in ("", "_stderr", "_lower", "_upper")
    )
    ceiling, labels = _curves(rows, "input_entropy_nats"), _curves(rows, "label_entropy_nats")
    size = value["input"][..., 1:].size
    t = stats.norm.isf(checks.FALSE_ALARM / max(size, 1))
    found = []
    for name, what in (("input", "I(X;T)"), ("label", "I(Y;T)")):
        v, s = value[name], stderr[name]
        bias = np.maximum(v - lower[name], upper[name] - v) - stats.norm.isf(0.025) * s
        allowed = t * np.hypot(s[..., 1:], s[..., :-1]) + np.maximum(bias[..., 1:], 0) + 1e-3
        excess = np.diff(v, axis=2) - allowed
        found.append(
            _nowhere(
                f"data processing: {what} does not grow from layer to layer",
                excess,
                rows,
                f"within error and replica bias at all {excess.size} places; largest growth "
                f"{np.diff(v, axis=2).max(initial=0):.2g} nats",
            )
        )
    excess = np.maximum(
        value["input"] - ceiling, value["label"] - np.minimum(labels, value["input"])
    )
    allowed = t * np.maximum(stderr["label"], stderr["input"]) + 1e-3
    found.append(
        _nowhere(
            "I(X;T) <= H(X) and I(Y;T) <= min(H(Y), I(X;T))",
            excess - allowed,
            rows,
            f"H(X) = {ceiling.mean():.4g}, H(Y) = {labels.mean():.4g} nats",
        )
    )
    if config.sigma > SMALL:  # there the network is not linear as far as the noise reaches
        return found
    apart = np.maximum(lower["input"] - upper["linearised"], lower["linearised"] - upper["input"])
    worst = float(np.abs(value["input"] - value["linearised"]).max())
    found.append(
        checks.Check(
            "sample propagation and the linearised network agree",
            bool(apart.max() <= AGREE),
            f"apart by {worst:.2g} nats at most, {max(apart.max(), 0):.2g} beyond their intervals; "
            f"allowed {AGREE:g} beyond",
        )
    )
    return found


def _nowhere(name: str, excess: np.ndarray, rows: Rows, message: str) -> checks.Check:
    """Whether nothing is above zero in (seeds, epochs, layers)."""
    if excess.size == 0 or excess.max() <= 0:
        return checks.Check(name, True, message)
    seed, time, layer = np.unravel_index(excess.argmax(), excess.shape)
    epoch = sorted({row["epoch"] for row in rows})[time]
    return checks.Check(
        name,
        False,
        f"violated at {(excess > 0).sum()} of {excess.size} places, most by {excess.max():.3g} "
        f"nats beyond its error (seed {seed}, epoch {epoch}, layer {layer + 1}): the estimator "
        "fails there; allow more --num-replicas and --num-draws",
    )


def _curves(rows: Rows, name: str) -> np.ndarray:
    return tables.grid(rows, name, axes=AXES)

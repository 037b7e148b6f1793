"""What a β-sweep must satisfy whatever the network; each claim with its Monte-Carlo allowance."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.common.tables import Rows, grid

# All comparisons of a run together raise a false alarm in one run of a hundred.
FALSE_ALARM = 0.01
# float32 sums of the loss carry about seven digits; nothing below that is a finding.
RESOLUTION = 1e-5


@dataclasses.dataclass(frozen=True)
class Check:
    """A claim about the results.

    Attributes:
      name: the claim.
      passed: whether it holds.
      message: by how much, and what to do where it does not hold.
    """

    name: str
    passed: bool
    message: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """Minimised Lagrangians of one target set and seed along β.

    Attributes:
      label: for messages.
      beta: (B,) increasing.
      loss: (B,) E_Q[L_D], nats.
      kl: (B,) KL, nats.
      step_stderr: (B,) standard error of loss[i] - loss[i-1] with shared draws; [0] is unused.
      dof: degrees of freedom of step_stderr.
    """

    label: str
    beta: np.ndarray
    loss: np.ndarray
    kl: np.ndarray
    step_stderr: np.ndarray
    dof: int

    @property
    def lagrangian(self) -> np.ndarray:
        """C_β, nats."""
        return self.loss + self.beta * self.kl


def curves_of(rows: Rows, label: str, num_draws: int, **where: Any) -> list[Curve]:
    """The curves along β of every seed, from the rows that match `where`.

    Args:
      rows: of the table.
      label: for messages.
      num_draws: weight draws behind the standard errors.
      **where: column values that single out one target set.
    """
    names = ("beta", "loss_nats", "kl_nats", "loss_step_stderr_nats")
    columns = [grid(rows, name, **where) for name in names]
    return [
        Curve(f"{label}, seed {s}", *(c[:, s] for c in columns), dof=num_draws - 1)
        for s in range(columns[0].shape[1])
    ]


def check_curves(curves: Sequence[Curve]) -> list[Check]:
    """Monotone KL and loss, concave C_β, and KL(β₊) <= ΔC/Δβ <= KL(β₋), along every curve.

    The allowance of a comparison is t * (paired standard error of the loss difference) + 1e-5 C,
    with t so that all comparisons together raise a false alarm in 1 % of runs. For differences of
    KL and slopes it is propagated: if neither neighbour's code beats a code by more than the
    allowance a, then ΔKL <= 2a/Δβ.
    """
    number = sum(5 * (len(c.beta) - 1) for c in curves)
    excess: dict[str, list[tuple[float, str]]] = {name: [] for name in _CLAIMS}
    for c in curves:
        t = stats.t.isf(FALSE_ALARM / max(number, 1), c.dof)
        lower, upper = c.beta[:-1], c.beta[1:]
        step = upper - lower
        allowed = t * c.step_stderr[1:] + RESOLUTION * np.abs(c.lagrangian[1:])
        slope = np.diff(c.lagrangian) / step
        violations = {
            "kl": np.diff(c.kl) - 2 * allowed / step,
            "loss": -np.diff(c.loss) - allowed * (1 + 2 * lower / step),
            "secant_low": (c.kl[1:] - slope) - allowed / step,
            "secant_high": (slope - c.kl[:-1]) - allowed / step,
            "concave": np.diff(slope) - (allowed / step)[1:] - (allowed / step)[:-1],
        }
        for name, values in violations.items():
            for i in np.flatnonzero(values > 0):
                where = f"{c.label}, beta {c.beta[i]:.3g} to {c.beta[i + 1]:.3g}"
                excess[name].append((float(values[i]), where))
    return [_verdict(name, excess[name], number // 5) for name in _CLAIMS]


def check_rises(name: str, values: np.ndarray, remedy: str) -> Check:
    """Whether a quantity rises along its first axis, within its spread over seeds.

    Neither a step nor the whole way from first to last may fall by more than t * (standard error of
    a mean step): steps are paired by seed, and their variance is pooled over the steps. One seed
    shows no spread and gets no allowance.

    Args:
      name: the claim.
      values: (X, S) at X increasing settings, for S seeds.
      remedy: what to do where it does not hold.
    """
    if len(values) < 2:
        return Check(name, True, "nothing to compare: one setting")
    steps = np.diff(values, axis=0)
    number, seeds = steps.shape
    allowed = 0.0
    if seeds > 1:
        t = stats.t.isf(FALSE_ALARM / (number + 1), number * (seeds - 1))
        allowed = t * np.sqrt(steps.var(1, ddof=1).mean() / seeds)
    smallest, whole = steps.mean(1).min(), (values[-1] - values[0]).mean()
    passed = bool(min(smallest, whole) > -allowed)
    message = (
        f"smallest step {smallest:.3g}, from first to last {whole:.3g}; allowance for the spread "
        f"over seeds {allowed:.2g}"
    )
    return Check(name, passed, message if passed else f"{message}: {remedy}")


_CLAIMS = {
    "kl": "KL does not increase with beta",
    "loss": "E_Q[L] does not decrease with beta",
    "secant_low": "KL(beta+) <= dC/dbeta (envelope, lower secant)",
    "secant_high": "dC/dbeta <= KL(beta-) (envelope, upper secant)",
    "concave": "C is concave in beta",
}


def _verdict(name: str, found: list[tuple[float, str]], number: int) -> Check:
    if not found:
        return Check(_CLAIMS[name], True, f"within Monte-Carlo error at all {number} steps")
    worst, where = max(found)
    return Check(
        _CLAIMS[name],
        False,
        f"violated at {len(found)} of {number} steps, most by {worst:.3g} nats beyond its error "
        f"({where}): a code there is not the minimum. Train longer (--num-steps), "
        "take closer betas there, or use more draws (--num-draws).",
    )

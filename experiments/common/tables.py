"""Reading columns out of a tidy table, and numbers as summaries show them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]


def grid(
    rows: Rows, name: str, axes: tuple[str, ...] = ("beta", "seed"), **where: Any
) -> np.ndarray:
    """The column `name` of the rows that match `where`, one axis for each of `axes`, increasing."""
    own = [row for row in rows if all(row[key] == value for key, value in where.items())]
    values = [sorted({row[axis] for row in own}) for axis in axes]
    places = [{value: i for i, value in enumerate(each)} for each in values]
    result = np.full([len(each) for each in values], np.nan)
    for row in own:
        result[tuple(place[row[axis]] for place, axis in zip(places, axes, strict=True))] = row[
            name
        ]
    return result


def edge(
    beta: np.ndarray, loss: np.ndarray, chance: float, part: float = 0.5
) -> tuple[float, float]:
    """Neighbours of the grid between which the loss comes half-way from its smallest to chance.

    Args:
      beta: (B,) increasing.
      loss: (B,) E_Q[L_D]/N, nats.
      chance: ln K, or the entropy of the labels; nats.
      part: of the way, where it is not half.

    Returns:
      The last β below that level, 0 if none is, and the first one not below, inf if none is; nan
      for a loss that is nan.
    """
    level = (1 - part) * loss.min() + part * chance
    if np.isnan(level):
        return np.nan, np.nan
    above = np.flatnonzero(loss >= level)
    first = int(above[0]) if above.size else len(beta)
    ends = 0.0, *map(float, beta), np.inf
    return ends[first], ends[first + 1]


def critical_beta(beta: np.ndarray, loss: np.ndarray, chance: float) -> float:
    """β at which the loss is half-way from its smallest value to chance, linear in log β.

    Between the neighbours of `edge`, arguments as there; nan if it is not between the first and the
    last β. Where the loss jumps, the place between the neighbours is not known.
    """
    ends = edge(beta, loss, chance)
    values = loss[np.isin(beta, ends)]
    if len(values) < 2:
        return float("nan")
    level = (loss.min() + chance) / 2
    return float(np.exp(np.interp(level, values, np.log(ends))))


def structure_function(beta: np.ndarray, lagrangian: np.ndarray, nats: np.ndarray) -> np.ndarray:
    """S(R) = max_β (C_β - β R), as far as a sweep sees it: no code of KL R has a lower loss.

    Args:
      beta: (B,).
      lagrangian: (B,) C_β.
      nats: (R,) of KL, in the unit of the Lagrangian (all nats, or all nats per label).

    Returns:
      (R,) the lower convex hull of the loss; exact but for the gaps between the betas.
    """
    return (lagrangian - np.multiply.outer(nats, beta)).max(-1)


def critical_betas(rows: Rows, **where: Any) -> np.ndarray:
    """Critical β of every seed of the rows that match `where`: (S,)."""
    beta, loss = (grid(rows, name, **where) for name in ("beta", "loss_nats_per_label"))
    chance = float(np.log(rows[0]["num_classes"]))
    return np.array([critical_beta(*pair, chance) for pair in zip(beta.T, loss.T, strict=True)])


def column(rows: Rows, name: str) -> np.ndarray:
    """One column as numbers, (M,); nan where it is empty."""
    return np.array([np.nan if row[name] == "" else row[name] for row in rows], float)


def stderr(values: np.ndarray, axis: int = -1) -> Any:
    """Standard error of the mean along an axis."""
    return values.std(axis, ddof=1) / np.sqrt(values.shape[axis])


def rounded(value: Any) -> float | None:
    """Four digits; None for what is not known."""
    return float(f"{float(value):.4g}") if np.isfinite(value) else None


def mean_and_stderr(values: np.ndarray) -> list[float | None]:
    """[mean, its standard error] of a vector, as summaries show them."""
    return [rounded(values.mean()), rounded(stderr(values))]


def mean_known(values: np.ndarray) -> float:
    """Mean of the finite values; nan, without a warning, where there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def spread(by_seed: np.ndarray) -> dict[str, float | None]:
    """Mean, lowest and highest over the seeds for which a number is known."""
    known = by_seed[np.isfinite(by_seed)]
    if not known.size:
        return {"mean": None, "lowest": None, "highest": None}
    return {
        k: rounded(f(known))
        for k, f in (("mean", np.mean), ("lowest", np.min), ("highest", np.max))
    }

"""Whether one number ranks as another does: Kendall's τ over chosen pairs, Spearman's ρ.

τ looks at pairs only, so what is held fixed is said by which pairs count.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

Pairs = tuple[np.ndarray, np.ndarray]


def pairs(
    settings: Mapping[str, np.ndarray], same: tuple[str, ...] = (), differ: tuple[str, ...] = ()
) -> Pairs:
    """Indices (P,), (P,) of all pairs that share the settings `same` and differ in `differ`.

    Args:
      settings: (M,) each, by name.
      same: names of settings.
      differ: names of settings.
    """
    first, second = np.triu_indices(len(next(iter(settings.values()))), 1)
    keep = np.ones(len(first), bool)
    for name, value in settings.items():
        equal = value[first] == value[second]
        if name in same:
            keep &= equal
        if name in differ:
            keep &= ~equal
    return first[keep], second[keep]


def kendall(measures: np.ndarray, gap: np.ndarray, chosen: Pairs) -> np.ndarray:
    """τ_b over the chosen pairs; over all pairs Kendall's. 0 where one side does not vary.

    Args:
      measures: (K, M).
      gap: (M,).
      chosen: of `pairs`.

    Returns:
      (K,), between -1 and 1.
    """
    first, second = chosen
    order = np.sign(measures[:, first] - measures[:, second])
    truth = np.sign(gap[first] - gap[second])
    norm = np.sqrt(np.square(order).sum(-1) * np.square(truth).sum())
    return (order @ truth) / np.where(norm > 0, norm, 1)


def spearman(
    measure: np.ndarray, truth: np.ndarray, seed: int, num_draws: int = 2000
) -> np.ndarray:
    """ρ of the sample, then of as many bootstrap resamples of it: (1 + num_draws,).

    The same seed resamples alike, so that two measures of one truth can be compared draw by draw.

    Args:
      measure: (M,).
      truth: (M,).
      seed: of the resamples.
      num_draws: resamples.
    """
    count = len(truth)
    drawn = np.random.default_rng(seed).integers(count, size=(num_draws, count))
    chosen = np.concatenate([np.arange(count)[None], drawn])
    a, b = (stats.rankdata(x[chosen], axis=1) for x in (measure, truth))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    norm = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    return (a * b).sum(1) / np.where(norm > 0, norm, 1)


def conditional_information(
    measures: np.ndarray,
    gap: np.ndarray,
    chosen: Pairs,
    settings: Mapping[str, np.ndarray],
    most: int = 2,
) -> np.ndarray:
    """Least share of the order of two gaps that the order of a measure tells, settings known.

    min over |S| ≤ `most` of I(sign Δμ; sign Δgap | U_S)/H(sign Δgap | U_S), U_S the settings S of
    both networks: a measure that only repeats one or two settings has 0. It has no sign.

    Args:
      measures: (K, M).
      gap: (M,).
      chosen: of `pairs`; both orders of a pair count.
      settings: those that S is chosen from, (M,) each.
      most: settings in S.

    Returns:
      (K,), between 0 and 1.

    References:
      Jiang et al., arXiv:1912.02178, Eq. 8 and 9.
    """
    first, second = (np.concatenate(ends) for ends in (chosen, chosen[::-1]))
    varied = gap[first] != gap[second]
    first, second = first[varied], second[varied]
    truth = (gap[first] > gap[second]).astype(int)
    order = 1 + np.sign(measures[:, first] - measures[:, second]).astype(int)
    known = [np.unique(value, return_inverse=True)[1] for value in settings.values()]
    shares = []
    for subset in itertools.chain.from_iterable(
        itertools.combinations(known, size) for size in range(most + 1)
    ):
        cell = np.zeros(len(first), int)
        for value in subset:
            for end in (first, second):
                cell = cell * (value.max() + 1) + value[end]
        cells = cell.max(initial=0) + 1
        counts = np.stack(
            [np.bincount((cell * 3 + row) * 2 + truth, minlength=cells * 6) for row in order]
        ).reshape(len(order), cells, 3, 2)
        left = _entropy(counts.sum(2)) - _entropy(counts.sum((2, 3)))  # H(gap | U)
        unknown = _entropy(counts) - _entropy(counts.sum(3))  # H(gap | U, order)
        shares.append((left - unknown) / np.where(left > 0, left, 1))
    return np.maximum(np.min(shares, axis=0), 0)


def _entropy(counts: np.ndarray) -> np.ndarray:
    """Σ -p log p over all axes but the first; nats."""
    p = counts.reshape(len(counts), -1)
    p = p / p.sum(-1, keepdims=True)
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), -1)


def jackknife(
    statistic: Callable[[np.ndarray], np.ndarray], groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Value, and the standard error from leaving out one group at a time.

    Args:
      statistic: (M,) which members count -> values.
      groups: (M,), what is independent of what: at least two kinds.
    """
    kinds = np.unique(groups)
    without = np.stack([statistic(groups != kind) for kind in kinds])
    spread = (len(kinds) - 1) / len(kinds) * np.square(without - without.mean(0)).sum(0)
    return statistic(np.ones(len(groups), bool)), np.sqrt(spread)

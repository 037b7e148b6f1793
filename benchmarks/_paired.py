"""Timing side by side on a noisy machine: interleaved runs, medians of paired ratios."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np


def interleaved(
    programs: Mapping[str, Callable[[], Any]], *, repetitions: int, warm_ups: int = 2
) -> dict[str, np.ndarray]:
    """Seconds of every program, (repetitions,), measured in turn: A B C A B C ...

    Args:
      programs: by name; each returns arrays, which are waited for.
      repetitions: rounds that are measured.
      warm_ups: rounds before them, which compile.
    """
    rounds = []
    for _ in range(warm_ups + repetitions):
        rounds.append([_seconds(program) for program in programs.values()])
    return dict(zip(programs, np.array(rounds)[warm_ups:].T, strict=True))


def ratio(seconds: np.ndarray, reference: np.ndarray) -> float:
    """Median of the paired ratios: a slow spell of the machine hits both alike."""
    return float(np.median(seconds / reference))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Aligned columns, the first to the left."""
    text = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    for row in text:
        first, *rest = zip(row, widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]))


def _seconds(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - start

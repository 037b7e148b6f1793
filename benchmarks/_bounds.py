"""What accuracy.csv says about the bounds that the spectral measure is to keep.

n1 is the number of eigenvalues above 1/c. Against matfree's Lanczos quadrature of depth 20 at as
many products, the RMS error of log det is to be

* n1 < budget/10: at most 1/3 at 240 products, 1/6 at 480;
* n1 < budget/3:  at most 1/2 at 240 products, 1/4 at 480;
* elsewhere: at most 1.25 times that of the best of depths 20, 40 and 80 (kept unless the lower end
  of the ratio's one-sided 95 % interval is above).

95 % intervals of log det, gamma and the information are to cover in at least 92 % of all runs,
converged or not: a cell fails if a one-sided binomial test says less, at 1 % over all cells
together. The ratios are those of the plan that serves all c, and below it of `logdet` for one c.
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from scipy import stats

from benchmarks import _paired

OURS, PLAIN = ("iw_jax", "iw_jax, c known"), "matfree, depth 20"
BOUNDS = {240: {10: 1 / 3, 3: 1 / 2}, 480: {10: 1 / 6, 3: 1 / 4}}
WORST_RATIO, LEAST_COVERAGE, LEVEL = 1.25, 0.92, 0.01

Row = dict[str, str]


def report(path: Path) -> None:
    """Prints every cell's ratio, bound and verdict, and the cells that cover too little."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    print("\nRMS error of log det over that of a peer at as many products")
    header = ("operator", "products", "c", "n1", "ours", "peer", "ratio", "bound", "kept")
    _paired.print_table(header, [line for ours in OURS for line in _ratios(rows, ours)])
    cells = [row for row in rows if row["method"] == OURS[0]]
    print(f"\ncoverage: {len(cells)} cells, least {min(float(r['coverage']) for r in cells):.3f}")
    for row in cells:
        seeds, held = int(row["seeds"]), float(row["coverage"])
        chance = stats.binom.cdf(round(seeds * held), seeds, LEAST_COVERAGE)
        if chance < LEVEL / len(cells):
            print("too little:", *row.values())


def _ratios(rows: list[Row], own: str) -> Iterator[tuple[str, ...]]:
    table = {
        (row["operator"], int(row["budget"]), float(row["c"]), row["method"]): row
        for row in rows
        if row["quantity"] == "logdet"
    }
    for (operator, budget, c, method), ours in table.items():
        if method != own:
            continue
        above = int(ours["eigenvalues_above_1/c"])
        plain = {m: r for (*cell, m), r in table.items() if cell == [operator, budget, c]}
        few = next((parts for parts in (10, 3) if above < budget / parts), None)
        if few:
            peer, bound = PLAIN, BOUNDS[budget][few]
        else:
            peer = min((m for m in plain if m.startswith("matfree")), key=lambda m: _rms(plain[m]))
            bound = WORST_RATIO
        ratio = _rms(ours) / _rms(plain[peer])
        spread = math.hypot(*(float(r["stderr_of_log_rms"]) for r in (ours, plain[peer])))
        least = ratio if few else ratio * math.exp(-1.645 * spread)
        kept = "yes" if least <= bound else "NO"
        names = operator, str(budget), f"{c:.0e}", str(above), own, peer
        yield *names, f"{ratio:.2g}", f"{bound:.2f}", kept


def _rms(row: Row) -> float:
    return float(row["rms_relative_error"])

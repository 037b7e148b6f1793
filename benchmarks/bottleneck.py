"""The information curve of 1,000 x: accelerated and plain Blahut-Arimoto, and embo.

    python -m benchmarks.bottleneck            (embo: pip install embo)

|X| = 1,000, |Y| = 10, at most 32 clusters, 100 falling β from 30 to 1.05 times the critical one;
rows p(y|x) that are softmax of Gaussian scores. A step is one evaluation of encoder, marginal and
decoder. `excess F`, in nats, is by how much F exceeds the lower of the two, in the mean over β. The
steps without extrapolation are bounded, so it has not converged everywhere. embo stops where F
changes by less than a relative 1e-10; one random start at three of the β.

2 shared CPU cores, with three times as many programs as cores at work, 2026-11-22 (`first s` has
the compilation in it):

                                  first s     s   steps    most  worst residual  converged  excess F
    IB, iw.bottleneck.anneal         38.8  12.3  19,112   3,266         9.9e-12       100%   3.9e-03
    IB, no extrapolation             46.6  64.2  76,908   2,000         7.5e-04        86%   2.6e-02
    dualIB, iw.bottleneck.anneal     30.2  23.3  33,946  16,409         1.0e-11       100%   1.6e-04
    dualIB, no extrapolation         46.5  61.2  77,325   2,000         4.4e-05        84%   5.8e-04

    β     embo s  embo's F above, nats
    131      1.2              -3.0e-01
    24.1     4.8              -5.2e-03
    4.58     1.0               1.2e-09

One start is one local minimum: where β is large others are better, such as embo's.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np

import iw_jax as iw
from benchmarks import _paired
from iw_jax.bottleneck import discrete, sources

X, Y, CLUSTERS, BETAS = 1000, 10, 32, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plain-steps", type=int, default=2000)
    options = parser.parse_args()
    rows = np.exp(1.5 * np.random.default_rng(0).normal(size=(X, Y)))
    joint = rows / rows.sum(1, keepdims=True) / X
    table = []
    for method in ("IB", "dualIB"):
        critical = float(iw.bottleneck.first_critical_beta(joint, dual=method == "dualIB"))
        betas = critical * np.geomspace(30, 1.05, BETAS)
        given = {"dual": method == "dualIB", "num_clusters": CLUSTERS, "key": jax.random.key(0)}
        ways = {
            "iw.bottleneck.anneal": lambda b=betas, g=given: iw.bottleneck.anneal(joint, b, **g),
            "no extrapolation": lambda b=betas, g=given: plain(joint, b, options.plain_steps, **g),
        }
        found = {}
        for name, way in ways.items():
            first = time.perf_counter()
            way()
            start = time.perf_counter()
            found[name] = way(), start - first, time.perf_counter() - start
        best = np.min([path.functional for path, _, _ in found.values()], axis=0)
        for name, (path, cold, warm) in found.items():
            table.append(
                [
                    f"{method}, {name}",
                    f"{cold:.1f}",
                    f"{warm:.1f}",
                    f"{path.steps.sum():,}",
                    f"{path.steps.max():,}",
                    f"{path.residual.max():.1e}",
                    f"{path.converged.mean():.0%}",
                    f"{(path.functional - best).mean():.1e}",
                ]
            )
        if method == "IB":
            curve = found["iw.bottleneck.anneal"][0]
    head = ["", "first s", "s", "steps", "most", "worst residual", "converged", "excess F"]
    _paired.print_table(head, table)
    against_embo(joint, curve)


def plain(
    joint: np.ndarray, betas: np.ndarray, max_steps: int, dual: bool, **start: Any
) -> iw.bottleneck.Solution:
    """The same path without extrapolation, and nothing split."""
    with sources.widest(joint) as finish:
        source = sources.checked(joint, dual)
        z = discrete.first_state(source, dual, start["num_clusters"], start["key"], None)
        path = []
        for beta in betas:
            z, change, steps = _solve(source, z, beta, dual, 1e-11, max_steps, 0)
            path.append(_describe(source, z, beta, dual, steps, change <= 1e-11))
        return finish(jax.tree.map(lambda *x: np.stack(x), *path))


_solve = jax.jit(discrete.solve, static_argnames=("tolerance", "max_steps", "memory"))
_describe = jax.jit(discrete.describe)


def against_embo(joint: np.ndarray, path: Any) -> None:
    """embo at three of the β: its time for all would be hours."""
    try:
        from embo.core import InformationBottleneck
    except ModuleNotFoundError:
        print("embo is not installed: pip install embo")
        return
    p_x, rows = joint.sum(1), (joint / joint.sum(1, keepdims=True)).T
    table = []
    for i in (0, BETAS // 2, BETAS - 1):
        beta = float(path.beta[i])
        np.random.seed(0)
        start = time.perf_counter()
        told = InformationBottleneck.beta_iter(
            1, beta * np.log(2), p_x, joint.sum(0), rows, CLUSTERS, 1, 10_000, rtol=1e-10
        )
        seconds = time.perf_counter() - start
        rate, relevance = told[:2]
        mine = path.rate[i] - beta * path.relevance[i]
        bits = np.log(2)  # embo's unit, also in exp(-β D)
        table.append(
            [f"{beta:.3g}", f"{seconds:.1f}", f"{(rate - beta * relevance) * bits - mine:.1e}"]
        )
    print()
    _paired.print_table(["β", "embo s", "embo's F above, nats"], table)


if __name__ == "__main__":
    main()

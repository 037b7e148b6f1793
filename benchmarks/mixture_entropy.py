"""The log density of a Gaussian mixture at many points: against scikit-learn, and against matmul.

    python -m benchmarks.mixture_entropy

32,768 centres, uniform in [-1, 1]^10, and 4,096 draws from the mixture. The programs take turns;
ratios are medians of paired ratios. `distances` is what of `iw.mixture_log_density` makes squared
distances, tile by tile; its rate counts 2 m n (3 d + 4) floating-point operations. `one product
less` is the plain matmul form |t|² + |s|² - 2 t·s, to show what its digits cost.

2 shared CPU cores, 15 repetitions, 2026-11-22; at the smallest sigma scikit-learn's tree need not
look at most pairs:

    sigma  scikit-learn s   iw s  times as fast  entropies differ by     most
    0.1              5.53  0.205             33              6.4e-07  4.2e-06
    0.3              9.72  0.170             57              6.4e-07  2.8e-06
    1               14.64  0.167             89              8.0e-08  2.5e-06

                ms  GFLOP/s  of the matmul rate
    matmul      90      192                1.00
    distances   61      149                0.76
    all        138

    sigma  largest error  of the mean  one product less: largest  of the mean
    0.005        1.0e-04      2.3e-06                    7.6e-02      5.6e-04
    0.05         7.4e-06      7.0e-07                    7.1e-04      1.9e-05

    centres  MiB needed  MiB of a points x centres array
    4,096            13                               64
    32,768           17                              512
    262,144          48                            4,096
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

import iw_jax as iw
from benchmarks import _paired
from iw_jax.activations import mixture

CENTRES, POINTS, SIZE = 32_768, 4_096, 10
SQUARE = 2_048  # side of the matrices that the machine's matmul rate is measured with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    options = parser.parse_args()
    rows = []
    for sigma in options.sigmas:
        rows.append(against_scikit_learn(sigma, max(options.repetitions // 5, 1)))
    _paired.print_table(
        ["sigma", "scikit-learn s", "iw s", "times as fast", "entropies differ by", "most"], rows
    )
    print()
    rates(options.repetitions)
    print()
    digits()
    print()
    memory()


def laid_out(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres, and draws from their mixture; float32."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(-1, 1, (CENTRES, SIZE))
    points = centres[rng.permutation(CENTRES)[:POINTS]] + sigma * rng.normal(size=(POINTS, SIZE))
    return np.float32(centres), np.float32(points)


def against_scikit_learn(sigma: float, repetitions: int) -> list[str]:
    """Seconds of both, their ratio, and how far their entropies and densities are apart."""
    centres, points = laid_out(sigma)
    on_device = jnp.asarray(centres), jnp.asarray(points)
    wide = centres.astype(float), points.astype(float)
    found = {}

    def theirs() -> np.ndarray:
        found["theirs"] = KernelDensity(bandwidth=sigma).fit(wide[0]).score_samples(wide[1])
        return found["theirs"]

    def ours() -> jax.Array:
        found["ours"] = iw.mixture_log_density(on_device[1], on_device[0], sigma)
        return found["ours"]

    seconds = _paired.interleaved(
        {"theirs": theirs, "ours": ours}, repetitions=repetitions, warm_ups=1
    )
    apart = np.asarray(found["ours"], float) - found["theirs"]
    times = _paired.ratio(seconds["theirs"], seconds["ours"])
    return [
        f"{sigma:g}",
        f"{np.median(seconds['theirs']):.2f}",
        f"{np.median(seconds['ours']):.3f}",
        f"{times:.0f}",
        f"{abs(apart.mean()):.1e}",
        f"{abs(apart).max():.1e}",
    ]


def rates(repetitions: int) -> None:
    """Floating-point operations a second: of a large matmul, of distances, and of all of it."""
    sigma = 0.3
    centres, points = (jnp.asarray(x) for x in laid_out(sigma))
    square = jax.random.normal(jax.random.key(0), (SQUARE, SQUARE))
    matmul = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    programs = {
        "matmul": lambda: matmul(square),
        "distances": lambda: distances(points, centres),
        "all": lambda: iw.mixture_log_density(points, centres, sigma),
    }
    seconds = _paired.interleaved(programs, repetitions=repetitions)
    work = {"matmul": 2.0 * SQUARE**3, "distances": 2.0 * POINTS * CENTRES * (3 * SIZE + 4)}
    rows = []
    for name, taken in seconds.items():
        flop = work.get(name)
        part = _paired.ratio(flop / taken, work["matmul"] / seconds["matmul"]) if flop else None
        rows.append(
            [
                name,
                f"{1e3 * np.median(taken):.0f}",
                f"{flop / np.median(taken) / 1e9:.0f}" if flop else "",
                f"{part:.2f}" if part else "",
            ]
        )
    _paired.print_table(["", "ms", "GFLOP/s", "of the matmul rate"], rows)


@jax.jit
def distances(points: jax.Array, centres: jax.Array) -> jax.Array:
    """Tile by tile as in the library; of each only one column is kept."""
    left, right, _ = mixture.coarse_and_fine(points, centres)
    columns = mixture._in_tiles(right)

    def at_points(rows: jax.Array) -> jax.Array:
        def look(kept: jax.Array, other: jax.Array) -> tuple[jax.Array, None]:
            return kept + mixture.squared_distances(other, rows)[0], None

        return jax.lax.scan(look, jnp.zeros(rows[0].shape[0]), columns)[0]

    return jax.lax.map(at_points, mixture._in_tiles(left)).reshape(-1)


def digits() -> None:
    """Errors of log densities at a small width, in the corners where tanh saturates."""
    rng = np.random.default_rng(1)
    rows = []
    for sigma in (0.005, 0.05):
        centres = np.float32(
            np.sign(rng.normal(size=(3_000, SIZE))) * (1 - 1e-3 * rng.random((3_000, SIZE)))
        )
        points = np.float32(centres[:500] + sigma * rng.normal(size=(500, SIZE)))
        squares = np.square(points[:, None].astype(float) - centres[None]).sum(-1)
        constant = np.log(len(centres)) + SIZE / 2 * np.log(2 * np.pi * sigma**2)
        exact = logsumexp(-squares / (2 * sigma**2), axis=1) - constant
        ours = np.asarray(iw.mixture_log_density(points, centres, sigma)) - exact
        t, s = (x - centres.mean(0) for x in (points, centres))
        form = np.square(t).sum(1)[:, None] + np.square(s).sum(1)[None] - 2 * t @ s.T
        naive = logsumexp(-form.astype(float) / (2 * sigma**2), axis=1) - constant - exact
        errors = [size(e) for e in (ours, naive) for size in (_largest, _of_the_mean)]
        rows.append([f"{sigma:g}", *(f"{e:.1e}" for e in errors)])
    _paired.print_table(
        ["sigma", "largest error", "of the mean", "one product less: largest", "of the mean"], rows
    )


def _largest(errors: np.ndarray) -> float:
    return float(abs(errors).max())


def _of_the_mean(errors: np.ndarray) -> float:
    return float(abs(errors.mean()))


def memory() -> None:
    """Bytes that the compiled program needs beside its arguments."""
    rows = []
    for number in (4_096, 32_768, 262_144):
        shapes = [
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((POINTS, SIZE), (number, SIZE), (number, 1), ())
        ]
        needed = mixture._log_densities.lower(*shapes).compile().memory_analysis()
        rows.append(
            [
                f"{number:,}",
                f"{needed.temp_size_in_bytes / 2**20:.0f}",
                f"{4 * number * POINTS / 2**20:,.0f}",
            ]
        )
    _paired.print_table(["centres", "MiB needed", "MiB of a points x centres array"], rows)


if __name__ == "__main__":
    main()

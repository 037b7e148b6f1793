"""Mean first passage times of diffusions: exact ones, and estimates from simulated escapes.

dx = b(x) dt + sqrt(2 D(x)) dW in the sense of Itô. With Φ' = -b/D the scale function is ∫ e^Φ and
the speed density e^-Φ/D, so that the mean time from x0 up to the absorbing c is

    τ = ∫_x0^c dy e^Φ(y) ∫_-∞^y dz e^-Φ(z)/D(z)

(Gardiner, Handbook of Stochastic Methods, Sec. 5.5; for constant D the double integral of Kramers).
"""

from collections.abc import Callable

import numpy as np
from scipy import integrate, interpolate, sparse
from scipy.sparse import linalg

POINTS = 20_001  # of a quadrature

Function = Callable[[np.ndarray], np.ndarray]


def mean_passage_time(
    drift: Function, diffusion: Function, start: float, target: float, far: float
) -> float:
    """τ from start to target, by quadrature.

    Args:
      drift: b, vectorised.
      diffusion: D, vectorised; positive.
      start: x0, between far and target.
      target: c, where paths end; may lie on either side.
      far: reflecting end on the other side, where hardly a path gets.
    """
    side = np.sign(target - start)  # the mirror image of an escape to the left is one to the right
    away = np.linspace(side * far, side * start, POINTS)
    over = np.linspace(side * start, side * target, POINTS)
    Phi, inside = 0.0, 0.0
    for x in (away, over):
        D = diffusion(side * x)
        slope = -side * drift(side * x) / D
        Phi = Phi + integrate.cumulative_simpson(slope, x=x, initial=0)
        if x is away:
            Phi = Phi - Phi[-1]
        within = inside + integrate.cumulative_simpson(np.exp(-Phi) / D, x=x, initial=0)
        Phi, inside, last = Phi[-1], within[-1], np.exp(Phi) * within
    return float(integrate.simpson(last, x=over))


def mean_passage_time_2d(
    potential: Callable[[np.ndarray, np.ndarray], np.ndarray],
    temperature: float,
    start: float,
    target: float,
    far: float,
    width: float,
    cells: int = 120,
) -> float:
    """τ of dX = -∇L dt + sqrt(2T) dW in the plane from (x0, 0) to the line x = c, L even in y.

    On a grid the diffusion is a jump process with rates T/h² e^-(ΔL/2T), which obey detailed
    balance; the error is of second order in the spacing, and two grids are extrapolated.

    Args:
      potential: L(x, y), vectorised.
      temperature: T.
      start: x0.
      target: c.
      far: reflecting end on the other side of x0.
      width: largest |y|.
      cells: of the coarser grid, from far to c; half as many along y.
    """
    coarse, fine = (
        _on_grid(potential, temperature, start, target, far, width, n) for n in (cells, 2 * cells)
    )
    return (4 * fine - coarse) / 3


def _on_grid(potential, temperature, start, target, far, width, cells) -> float:
    x = np.linspace(far, target, cells + 1)  # paths end in the last column
    y = width / (cells // 2) * (np.arange(cells // 2) + 0.5)  # the other half is its mirror image
    L = potential(x[:, None], y)
    place = np.arange(L.size).reshape(L.shape)
    generator = sparse.csr_array((L.size, L.size))
    for axis, step in enumerate((x[1] - x[0], y[1] - y[0])):
        ends = np.arange(L.shape[axis] - 1)
        pairs = [np.take(place, ends + shift, axis).ravel() for shift in (0, 1)]
        for here, there in (pairs, pairs[::-1]):
            climb = L.flat[there] - L.flat[here]
            rate = temperature / step**2 * np.exp(-climb / (2 * temperature))
            for column, value in ((there, rate), (here, -rate)):
                generator += sparse.coo_array((value, (here, column)), generator.shape)
    inside = place[:-1].ravel()
    times = linalg.spsolve(generator.tocsc()[inside][:, inside], -np.ones(len(inside)))
    times = times.reshape(cells, -1)
    on_axis = (9 * times[:, 0] - times[:, 1]) / 8
    side = np.sign(target - far)
    return float(interpolate.CubicSpline(side * x[:-1], on_axis)(side * start))


def mean_spell(escapes: np.ndarray, observed: float) -> tuple[float, float]:
    """τ from walkers that start anew whenever they escape, and its standard error.

    By the renewal theorem they escape 1/τ times in a unit of time once the first start is
    forgotten, whatever the law of the times. It is the maximum-likelihood estimate for exponential
    ones, time at risk over escapes, each walker's unfinished spell counted as censored. The error
    is the jackknife's over walkers.

    Args:
      escapes: (W,), of every walker.
      observed: time that each was watched.
    """
    walkers, total = len(escapes), escapes.sum()
    without = (walkers - 1) * observed / (total - escapes)
    spread = np.sum((without - without.mean()) ** 2)
    return walkers * observed / total, float(np.sqrt((walkers - 1) / walkers * spread))

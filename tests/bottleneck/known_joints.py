"""Joints with known answers."""

import numpy as np

TOY_STATISTIC, TOY_MULTIPLIERS = np.linspace(-1, 0.6, 5), np.array([-1.0, 1.0])


def toy():
    """The problem of 2006.04641, Figs. 1 and 2: p(y|x) ∝ exp(-λ(y) A(x)), five equal x."""
    scores = np.exp(-TOY_STATISTIC[:, None] * TOY_MULTIPLIERS)
    return scores / scores.sum(1, keepdims=True) / 5


def symmetric(size, error):
    """The K-ary symmetric channel with uniform input."""
    p = np.full((size, size), error / (size - 1))
    np.fill_diagonal(p, 1 - error)
    return p / size


def random(seed, shape):
    """Rows p(y|x) and p(x) uniform on their simplices."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(shape[1]), size=shape[0])
    return rows * rng.dirichlet(np.ones(shape[0]))[:, None]


def gaussian(snr):
    """Y = X + noise on grids of ±4.5 and ±12 standard deviations, 61 x 241 points."""
    x, y = np.linspace(-4.5, 4.5, 61), np.linspace(-12, 12, 241)
    joint = np.exp(-0.5 * x[:, None] ** 2 - 0.5 * (y - np.sqrt(snr) * x[:, None]) ** 2)
    return joint / joint.sum()


def information(joint):
    """I(X;Y), nats."""
    product = joint.sum(1, keepdims=True) * joint.sum(0)
    held = joint > 0
    return float((joint[held] * np.log(joint[held] / product[held])).sum())

"""Laws with a known entropy once noise is added, rivals that estimate it, and a noisy network."""

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special, stats

import iw_jax as iw
from iw_jax.activations.mixture import noise_entropy

# ------------------------------------------------------------------------------------ the laws


class Law(NamedTuple):
    """A law P of S in R^d.

    Attributes:
      name: for tables; without a comma.
      size: d.
      draw: (rng, n) -> samples (n, d).
      entropy: σ -> h(P * N_σ) in nats and its standard error, 0 where it is an integral.
    """

    name: str
    size: int
    draw: Callable[[np.random.Generator, int], np.ndarray]
    entropy: Callable[[float], tuple[float, float]]


def corners(size: int, spread: float, truncated: bool = False) -> Law:
    """2^d Gaussians of equal weight at the corners of [-1, 1]^d; coordinates are independent.

    Args:
      size: d.
      spread: standard deviation of each component.
      truncated: whether to [-1, 1]^d, as in arXiv:1810.11589; `spread` is well below 1 then.
    """

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        away = spread * rng.normal(size=(number, size))
        out = -np.abs(away) if truncated else away
        return rng.choice([-1.0, 1.0], (number, size)) * (1 + out)

    return Law(
        f"corners ({'truncated' if truncated else 'whole'})",
        size,
        draw,
        lambda sigma: (size * coordinate_entropy(spread, sigma, truncated), 0.0),
    )


def coordinate_entropy(spread: float, sigma: float, truncated: bool = False) -> float:
    """h of one coordinate of `corners` with noise, by the trapezoidal rule; nats.

    Half a Gaussian with noise is skew-normal (Azzalini 1985).
    """
    width = np.hypot(spread, sigma)
    t = np.arange(-1 - 12 * width, 1 + 12 * width, sigma / 50)

    def component(u: np.ndarray) -> np.ndarray:
        skew = 2 * special.ndtr(-spread / sigma * u / width) if truncated else 1.0
        return skew * stats.norm.pdf(u, 0, width)

    return float(special.entr((component(t - 1) + component(-t - 1)) / 2).sum() * (t[1] - t[0]))


def generator(order: int, variables: int) -> np.ndarray:
    """Rows that span RM(r, m): all products of at most r of m bits, over all 2^m points; 0 or 1."""
    points = np.arange(2**variables)[:, None] >> np.arange(variables) & 1
    chosen = (c for r in range(order + 1) for c in combinations(range(variables), r))
    return np.stack([points[:, list(c)].prod(1) for c in chosen])


def reed_muller(order: int, variables: int, num_points: int = 2**16) -> Law:
    """BPSK words of RM(r, m), all equally likely: S in {-1, 1}^d, d = 2^m.

    RM(m, m) is all of {-1, 1}^d. Of other codes the words are known, and look alike from each: what
    a noisy word tells of S is averaged over noise on one of them.

    Args:
      order: r.
      variables: m.
      num_points: draws of that noise.
    """
    rows = generator(order, variables)
    size = 2**variables

    def modulated(bits: np.ndarray) -> np.ndarray:
        return 1.0 - 2.0 * (bits @ rows % 2)

    def entropy(sigma: float) -> tuple[float, float]:
        if order == variables:
            return size * coordinate_entropy(0.0, sigma), 0.0
        words = modulated(np.arange(2 ** len(rows))[:, None] >> np.arange(len(rows)) & 1)
        z = np.random.default_rng(0).normal(size=(num_points, size))
        density = np.asarray(iw.mixture_log_density(words[0] + sigma * z, words, sigma))
        own = stats.norm.logpdf(z).sum(1) - size * np.log(sigma)
        told = own - density
        value = float(noise_entropy(size, sigma)) + told.mean()
        return value, told.std(ddof=1) / np.sqrt(num_points)

    return Law(
        f"RM({order} {variables})",
        size,
        lambda rng, number: modulated(rng.integers(2, size=(number, len(rows)))),
        entropy,
    )


# ---------------------------------------------------------------------------------- the rivals

# In units of Scott's width, n^(-1/(d+4)) of the standard deviation.
WIDTHS = np.geomspace(0.05, 1.2, 9)


def kde_entropy(points: np.ndarray, rng: np.random.Generator, num_points: int = 512) -> float:
    """-mean of the log density by Gaussian kernels, at points held out; scikit-learn's trees.

    The width is that of the highest likelihood there, and so the lowest entropy.

    Args:
      points: samples of S + Z, (n, d).
      rng: chooses those held out.
      num_points: how many, at most, and at most a quarter.
    """
    from sklearn.neighbors import KernelDensity

    number, size = points.shape
    shuffled = rng.permutation(points)
    count = min(num_points, number // 4)
    held, centres = shuffled[:count], shuffled[count:]
    scott = points.std(0).mean() * number ** (-1 / (size + 4))
    return min(
        -float(KernelDensity(bandwidth=width).fit(centres).score(held)) / count
        for width in scott * WIDTHS
    )


def knn_entropy(
    points: np.ndarray, rng: np.random.Generator, neighbours: int = 3, num_points: int = 4096
) -> float:
    """ψ(n) - ψ(k) + log V_d + d E log(distance to the k-th of the n - 1 others); nats.

    Args:
      points: samples of S + Z, (n, d).
      rng: chooses those whose neighbours are sought.
      neighbours: k.
      num_points: how many, at most.

    References:
      Kozachenko & Leonenko, Probl. Inf. Transm. 23 (1987).
    """
    from sklearn.neighbors import NearestNeighbors

    number, size = points.shape
    some = points[rng.choice(number, min(num_points, number), replace=False)]
    found, _ = NearestNeighbors(n_neighbors=neighbours + 1).fit(points).kneighbors(some)
    ball = size / 2 * np.log(np.pi) - special.gammaln(size / 2 + 1)
    counts = special.digamma(number) - special.digamma(neighbours)
    return float(counts + ball + size * np.log(found[:, -1]).mean())  # nearest is the point itself


RIVALS = {"kde": kde_entropy, "knn": knn_entropy}


# ---------------------------------------------------------------------------- the spiral network

HIDDEN, ARMS = (8, 9, 10), 3


def spiral(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) on three arms of a spiral of radius 1, and the arm of each, (n,)."""
    arm = rng.integers(ARMS, size=number)
    along = np.sqrt(rng.uniform(0.01, 1, size=number))  # as many points a unit of length
    angle = 4 * along + 2 * np.pi * arm / ARMS + 0.1 * rng.normal(size=number)
    return along[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1), arm


def forward(params: Any, x: jax.Array, key: jax.Array, sigma: float) -> tuple[jax.Array, jax.Array]:
    """S of the last hidden layer, (n, 10), and logits; noise on all hidden layers."""
    s = t = x
    for i, (weights, bias) in enumerate(params[:-1]):
        s = jnp.tanh(t @ weights + bias)
        t = s + sigma * jax.random.normal(jax.random.fold_in(key, i), s.shape)
    weights, bias = params[-1]
    return s, t @ weights + bias


@partial(jax.jit, static_argnames="num_steps")
def train(key: jax.Array, x: jax.Array, arm: jax.Array, sigma: float, num_steps: int) -> Any:
    """Weights of the tanh network 2-8-9-10-3, by Adam on all examples; the noise is in training."""
    sizes = (x.shape[1], *HIDDEN, ARMS)
    starting, stepping = jax.random.split(key)
    params = [
        (jax.random.normal(k, (i, o)) / jnp.sqrt(i), jnp.zeros(o))
        for k, i, o in zip(jax.random.split(starting, len(sizes)), sizes, sizes[1:], strict=False)
    ]
    optimizer = optax.adam(0.01)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        logits = forward(params, x, key, sigma)[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, arm).mean()

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, updates), moments), None

    keys = jax.random.split(stepping, num_steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

r"""Densities and entropies of Gaussian mixtures: samples smoothed by noise of a known width.

    g(t) = Σ_i p_i N(t; s_i, σ² I),      h(g) = -E_g log g

The density at m points is the hot loop of all information in noisy activations: m n distances and
as many exponentials. They come tile by tile from matrix products, with a running maximum and sum,
so that no m x n array is ever made.

Float32 has to keep the digits of |t - s|²/(2σ²) where σ is small. Of coordinates of size 1, a
product t·s is wrong by 1e-7, of which σ = 0.005 makes 2e-3 nats. So every coordinate is a coarse
part, a whole number of grid cells, and a fine one. Squared distances of coarse parts are exact;
what the fine parts add is small, and so is its rounding: at most 1e-4 nats or so at σ = 0.005, more
with the square of the largest coordinate over σ (in float32; at 1e4 in ten dimensions 0.1 nats).
"""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from iw_jax import checks, parallel, trees
from iw_jax.estimates import Estimate

_SIDE = 1024  # points, and centres, of a tile: 4 MB, which stay in a CPU's caches
_LOWEST = -1e30  # below every exponent; unlike -inf it can be subtracted from itself


def mixture_log_density(
    points: Any, centres: Any, sigma: Any, *, weights: Any = None, mesh: Mesh | None = None
) -> jax.Array:
    """log g(t) at every point, (m,), in nats; or of C mixtures of the same centres, (m, C).

    Memory does not grow with m n. Good under `jit`; in place of `vmap` use `jax.lax.map`.

    Args:
      points: t, (m, d).
      centres: s, (n, d).
      sigma: σ, the standard deviation of the noise; never its variance.
      weights: p, (n,) or (n, C), at least 0; of one mixture they should sum to 1. None for 1/n.
        -inf where the centres of a mixture are 87 nats further away than the nearest of all.
      mesh: from `iw.make_mesh`, to deal out the points over all devices.

    Raises:
      ValueError: for shapes that do not fit, nothing in an array, numbers that are not finite,
        weights below 0, or σ that is not positive.

    Warns:
      UserWarning: if rounding reaches 0.01 nats, for coordinates 2,000 σ from the middle in
        float32.
    """
    points, centres = _checked("points", points, sigma), _checked("centres", centres, sigma)
    if points.shape[1] != centres.shape[1]:
        raise ValueError(
            f"points and centres must have as many coordinates, got {points.shape} and "
            f"{centres.shape}"
        )
    p = jnp.full(len(centres), 1 / len(centres)) if weights is None else jnp.asarray(weights, float)
    if p.ndim not in (1, 2) or len(p) != len(centres):
        raise ValueError(f"weights must be (n,) or (n, C), n = {len(centres)}, got {p.shape}")
    checks.finite("weights", p)
    if trees.is_concrete(p) and np.min(p) < 0:
        raise ValueError(f"weights must be at least 0, got {np.min(p)}")
    columns = p.reshape(len(p), -1)
    if trees.is_concrete((points, centres, sigma)) and not exact_enough(centres, sigma):
        warnings.warn(FAR, stacklevel=2)
    if mesh is None:
        found = _log_densities(points, centres, columns, sigma)
    else:
        found = _dealt_out(mesh, points, centres, columns, sigma)
    return found.reshape(len(points), *p.shape[1:])


FAR = (
    "coordinates are so large in units of sigma that rounding moves log densities by 0.01 nats or "
    "more: compute in float64 (jax_enable_x64), or scale the activations down"
)


def exact_enough(centres: jax.Array, sigma: Any) -> jax.Array:
    """Whether rounding moves log densities by less than about 0.01 nats.

    They are wrong by 0.02 ε (reach/σ)², by measurement in ten dimensions.
    """
    reach = jnp.abs(centres - centres.mean(0)).max()
    return reach / sigma < (0.5 / jnp.finfo(centres.dtype).eps) ** 0.5


def mixture_entropy(
    key: jax.Array,
    centres: Any,
    sigma: Any,
    *,
    num_points: int | None = None,
    mesh: Mesh | None = None,
) -> Estimate:
    """h of the mixture with these centres, weights 1/n: mean of -log g over draws from it; nats.

    Of the law that the centres were drawn from, see `smoothed_entropy`.

    Args:
      key: random key.
      centres: s, (n, d).
      sigma: σ, the standard deviation.
      num_points: draws, spread evenly over the centres; None for n.
      mesh: as for `mixture_log_density`.

    References:
      Goldfeld, Greenewald & Polyanskiy, arXiv:1810.11589, Eq. 7 (Eq. 7a as printed lacks a minus).
    """
    checks.key("key", key)
    checks.optional_at_least("num_points", num_points, 1)
    centres = _checked("centres", centres, sigma)
    points, _ = draw(key, centres, sigma, num_points or len(centres))
    return Estimate.mean_of(-mixture_log_density(points, centres, sigma, mesh=mesh))


def mixture_entropy_bounds(
    centres: Any, sigma: Any, *, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array]:
    """Lower and upper bound of h of the mixture, weights 1/n; nats, without sampling.

    Less `noise_entropy` they bracket what a draw tells about the centre that it came from.

    Args:
      centres: s, (n, d).
      sigma: σ, the standard deviation.
      mesh: as for `mixture_log_density`.

    References:
      Kolchinsky & Tracey, arXiv:1706.02419, Eq. 10, with the distances of Bhattacharyya (lower) and
      of Kullback and Leibler (upper).
    """
    centres = _checked("centres", centres, sigma)
    size = centres.shape[1]

    def bound(width: Any) -> jax.Array:  # -mean_i log mean_j exp(-|s_i - s_j|²/(2 width²))
        density = mixture_log_density(centres, centres, width, mesh=mesh)
        return noise_entropy(size, sigma) + jnp.mean(log_peak(size, width) - density)

    return bound(2 * jnp.asarray(sigma)), bound(jnp.asarray(sigma))


def log_peak(size: int, sigma: Any) -> jax.Array:
    """-(d/2) log(2πσ²): log density of the noise at its centre, in d dimensions."""
    return -size / 2 * jnp.log(2 * jnp.pi * jnp.square(sigma))


def noise_entropy(size: int, sigma: Any) -> jax.Array:
    """(d/2) log(2πe σ²): h of the noise alone in d dimensions; nats."""
    return size / 2 - log_peak(size, sigma)


def draw(key: jax.Array, centres: jax.Array, sigma: Any, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws from the mixture, (count, d), and the rows of the centres they belong to, (count,).

    Each centre is drawn as often as any other, or once more.
    """
    choosing, adding = jax.random.split(key)
    rows = jnp.resize(jax.random.permutation(choosing, len(centres)), (count,))
    noise = jax.random.normal(adding, (count, centres.shape[1]), centres.dtype)
    return centres[rows] + sigma * noise, rows


def _checked(name: str, x: Any, sigma: Any) -> jax.Array:
    checks.positive("sigma", sigma)
    checks.scalar("sigma", sigma)
    x = jnp.asarray(x, float)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{name} must be (number, d), at least one and d >= 1, got {x.shape}")
    checks.finite(name, x)
    return x


# ------------------------------------------------------------------------------- the hot loop


@jax.jit
def _log_densities(
    points: jax.Array, centres: jax.Array, weights: jax.Array, sigma: Any
) -> jax.Array:
    """(m, C)."""
    number, size = points.shape
    left, right, cell = coarse_and_fine(points, centres)
    factor = -0.5 * jnp.square(cell / sigma)
    columns = (_in_tiles(right), _in_tiles(weights))  # those that fill up the last tile weigh 0

    # A tile is (centres, points): CPUs add up along its long rows, not across them.
    def at_points(own: Any) -> jax.Array:
        def add(state: tuple, tile: tuple) -> tuple[tuple, None]:
            highest, sums = state
            others, p = tile
            exponents = factor * squared_distances(others, own)
            new = jnp.maximum(highest, exponents.max(0))
            parts = _dot(p.T, jnp.exp(exponents - new))
            return (new, sums * jnp.exp(highest - new) + parts), None

        side = own[0].shape[0]
        start = jnp.full(side, _LOWEST, points.dtype), jnp.zeros((weights.shape[1], side))
        (highest, sums), _ = jax.lax.scan(add, start, columns)
        return (highest + jnp.log(sums)).T

    found = jax.lax.map(at_points, _in_tiles(left)).reshape(-1, weights.shape[1])[:number]
    return found + log_peak(size, sigma)


_dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def coarse_and_fine(points: jax.Array, centres: jax.Array) -> tuple[Any, Any, jax.Array]:
    """What `squared_distances` takes of points and of centres, and the side of a grid cell.

    With t = T + u and s = S + v in cells, T and S whole: |t - s|² is |T - S|² plus
    (2 T·u + |u|²) + (2 S·v + |v|²) - 2 T·v - 2 u·(S + v).
    """
    middle = centres.mean(0)
    points, centres = points - middle, centres - middle
    reach = jnp.maximum(jnp.abs(points).max(), jnp.abs(centres).max())
    # |T|² + |S|² + 2|T·S| <= 4 d (reach/cell)² shall be exact; float32 has 24 bits for it.
    bits = (jnp.finfo(points.dtype).nmant + 1 - jnp.log2(4.0 * points.shape[1])) // 2
    cell = jnp.exp2(jnp.ceil(jnp.log2(jnp.maximum(reach, 1e-30))) - bits)

    def parts(x: jax.Array) -> Any:
        whole = jnp.round(x / cell)
        fine = x / cell - whole
        square = jnp.square(whole).sum(1, keepdims=True)
        rest = (fine * (2 * whole + fine)).sum(1, keepdims=True)
        one = jnp.ones_like(square)
        return whole, fine, square, rest, one

    T, u, T2, rest_t, one_t = parts(points)
    S, v, S2, rest_s, one_s = parts(centres)
    join = partial(jnp.concatenate, axis=1)
    left = join([-2 * T, T2, one_t]), join([-2 * T, -2 * u, rest_t, one_t])
    right = join([S, one_s, S2]), join([v, S + v, one_s, rest_s])
    return left, right, cell


def squared_distances(rows: Any, columns: Any) -> jax.Array:
    """In grid cells; (a, ...) and (b, ...) to (a, b)."""
    coarse, fine = (_dot(a, b.T) for a, b in zip(rows, columns, strict=True))
    return coarse + fine


def _in_tiles(tree: Any) -> Any:
    """Leaves (n, ...) as (tiles, at most _SIDE, ...), the last tile filled up with zeros."""

    def cut(x: jax.Array) -> jax.Array:
        tiles = -(-len(x) // _SIDE)
        side = -(-len(x) // tiles)
        padded = jnp.pad(x, ((0, tiles * side - len(x)), (0, 0)))
        return padded.reshape(tiles, side, x.shape[1])

    return jax.tree.map(cut, tree)


def _dealt_out(mesh: Mesh, points: jax.Array, *others: Any) -> jax.Array:
    """`_log_densities`, each device at points of its own; (m, C)."""
    parallel.require_mesh(mesh)
    rows = PartitionSpec(mesh.axis_names)
    missing = -len(points) % mesh.size
    parts = jax.shard_map(
        _log_densities,
        mesh=mesh,
        in_specs=(rows, *(PartitionSpec(),) * len(others)),
        out_specs=rows,
        check_vma=False,
    )
    return parts(jnp.pad(points, ((0, missing), (0, 0)), mode="edge"), *others)[: len(points)]

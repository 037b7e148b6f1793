r"""Solutions along β, each started from the one before; and where they bifurcate.

At every β the equations are solved from the neighbour's solution. If a cluster is unstable then
(`growth` above 1) and a place is free, it is split in two halves that deviate a little along its
leading deviation, and the equations are solved again. So clusters split where they lose stability
on the way up and merge, or lose their weight, on the way down, and no random perturbation is
needed. The two ways may differ (hysteresis): a branch can begin, with a cluster of next to no
weight, before the clusters of the other lose stability.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from iw_jax import checks, trees
from iw_jax.bottleneck import critical, discrete, sources
from iw_jax.bottleneck.discrete import MAX_STEPS, TOLERANCE, Solution
from iw_jax.bottleneck.sources import Source

_DEVIATION = (
    0.01  # of each half from its cluster: F shows it above rounding where growth is 1 + 1e-6
)
_UNSTABLE = 1 + 1e-6  # growth from which clusters are split
_CLOSER = 16  # β from one neighbour to the other
_SPLIT_STEPS = 3000  # that a cluster splits is known long before where its halves end


@trees.record
class Bifurcation:
    """A place on a path where the number of clusters changes.

    Attributes:
      beta: where.
      clusters: numbers of distinct clusters before and after, along the path.
      rates: I(X;Xh) just before and, not quite converged, after it; nats. Far apart if the
        path jumps from one branch to another.
    """

    beta: float
    clusters: tuple[int, int]
    rates: tuple[float, float]


def anneal(
    joint: Any,
    betas: Any,
    *,
    dual: bool = False,
    num_clusters: int | None = None,
    key: jax.Array | None = None,
    start: Any = None,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Solution:
    """Local minima of F along a path of β, with warm starts.

    Falling β (the usual way) begin with as many clusters as there are places and follow them while
    they merge. Rising β begin with one cluster and split it when it is unstable: they enter a
    branch later than falling ones leave it, where that begins with a cluster of no weight.

    Args:
      joint: p(x, y), (X, Y); positive for dualIB.
      betas: (B,), strictly falling or strictly rising; as for `iw.bottleneck.blahut_arimoto`.
      dual: dualIB instead of IB.
      num_clusters: places T for clusters; None for as many as there are x.
      key: as for `iw.bottleneck.blahut_arimoto`, for falling β with T < X and without a start.
      start: p(xh|x) to start from, (X, T).
      tolerance: as for `iw.bottleneck.blahut_arimoto`.
      max_steps: iterations of each solution at most.

    Returns:
      Solutions with a leading axis for β. `steps` counts those before splits too.

    Raises:
      ValueError: as `iw.bottleneck.blahut_arimoto`; betas that neither fall nor rise throughout.
      TypeError: as `iw.bottleneck.blahut_arimoto`.
    """
    discrete.check_budget(tolerance, max_steps)
    discrete.check_beta(betas, dual)
    rising = _direction(betas)
    with sources.widest(joint, betas, key, start) as finish:
        source = sources.checked(joint, dual)
        if rising and start is None:
            places = len(source.log_p_x) if num_clusters is None else num_clusters
            checks.at_least("num_clusters", places, 1)
            z = _single(source, dual, places)
        else:
            z = discrete.first_state(source, dual, num_clusters, key, start)
        betas = jnp.asarray(betas, float)
        return discrete.named(finish(_path(source, z, betas, dual, tolerance, max_steps)), dual)


def bifurcations(joint: Any, path: Solution, *, rtol: float = 1e-4) -> list[Bifurcation]:
    """Where along a path the number of clusters changes, located between the β of the path.

    Between neighbours whose numbers differ the path is annealed again, in smaller steps, and so on.
    What happens between two neighbours counts as one bifurcation.

    Args:
      joint: p(x, y), (X, Y), of the path.
      path: from `iw.bottleneck.anneal`, falling or rising.
      rtol: relative accuracy of β.

    Returns:
      In the order of the path.

    Raises:
      ValueError: for a path of one solution, or as `iw.bottleneck.anneal`.
    """
    checks.between("rtol", rtol, 0, 1)
    if np.ndim(path.beta) != 1 or len(path.beta) < 2:
        raise ValueError(
            f"path must have two solutions or more, got beta of shape {np.shape(path.beta)}"
        )
    return [_located(joint, _at(path, i), _at(path, i + 1), rtol) for i in _changes(path)]


def _located(joint: Any, near: Solution, far: Solution, rtol: float) -> Bifurcation:
    beta = float(far.beta)
    while abs(beta / near.beta - 1) > rtol:
        betas = np.geomspace(near.beta, beta, _CLOSER)
        if not near.dual and betas.min() < 1:
            break
        steps = MAX_STEPS if beta < near.beta else _SPLIT_STEPS
        finer = anneal(joint, betas, dual=near.dual, start=near.encoder, max_steps=steps)
        same = np.flatnonzero(finer.num_clusters == near.num_clusters)
        if not len(same):
            break
        last = int(same[-1])
        if last + 1 < _CLOSER:
            near, far = _at(finer, last), _at(finer, last + 1)
            beta = float(far.beta)
        else:  # in smaller steps the branch lasts longer
            near, beta = _at(finer, last), beta * beta / float(near.beta)
    numbers = int(near.num_clusters), int(far.num_clusters)
    return Bifurcation(beta, numbers, (float(near.rate), float(far.rate)))


def _changes(path: Solution) -> list[int]:
    return np.flatnonzero(np.diff(path.num_clusters)).tolist()


def _at(path: Solution, i: int) -> Solution:
    return jax.tree.map(lambda x: x[i], path)


def _direction(betas: Any) -> bool:
    """Whether they rise; traced ones are taken for falling."""
    if np.ndim(betas) != 1 or np.shape(betas)[0] < 1:
        raise ValueError(f"betas must be (B,), at least one, got shape {np.shape(betas)}")
    if not trees.is_concrete(betas):
        return False
    steps = np.diff(np.asarray(betas, np.float64))
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError("betas must be strictly falling or strictly rising, got a turn in them")
    return bool(len(steps) and steps[0] > 0)


@partial(jax.jit, static_argnames=("places",))
def _single(source: Source, dual: Any, places: int) -> jax.Array:
    """The trivial solution: one cluster holds all of X, and all places are like it."""
    back = jnp.exp(source.log_p_x)[None]
    row = jnp.concatenate([jnp.zeros((1, 1)), sources.decoder(source, back, dual)], 1)
    return jnp.repeat(row, places, 0).at[1:, 0].set(discrete.empty(row.dtype))


@partial(jax.jit, static_argnames="tolerance")
def _path(source, z, betas, dual, tolerance, max_steps):
    def one(z: jax.Array, beta: jax.Array) -> tuple[jax.Array, Solution]:
        z, change, steps = _settled(source, z, beta, dual, tolerance, max_steps)
        converged = change <= discrete.floored(tolerance, z.dtype)
        return z, discrete.describe(source, z, beta, dual, steps, converged)

    return jax.lax.scan(one, z, betas)[1]


def _settled(source, z, beta, dual, tolerance, max_steps):
    """The solution near z, its unstable clusters split while places are free."""

    def more(carry):
        _, _, _, rounds, again = carry
        return again & (rounds <= len(z))

    def body(carry):
        start, _, steps, rounds, _ = carry
        found, change, taken = discrete.solve(source, start, beta, dual, tolerance, max_steps)
        halves, again = split(source, found, beta, dual)
        last = ~again | (rounds == len(z))
        return jnp.where(last, found, halves), change, steps + taken, rounds + 1, again

    infinity = jnp.full((), jnp.inf, z.dtype)
    z, change, steps, _, _ = jax.lax.while_loop(
        more, body, (z, infinity, jnp.array(0), jnp.array(0), jnp.array(True))
    )
    return z, change, steps


def split(source: Source, z: jax.Array, beta: jax.Array, dual: Any) -> tuple[jax.Array, jax.Array]:
    """Unstable clusters halved, as far as places are free; and whether there were any.

    Equal clusters are made one first, which frees places.
    """
    _, log_marginal, back = discrete.clusters(source, z, beta, dual)
    numbers = jnp.arange(len(z))
    owner = discrete.owners(back, log_marginal)
    mine = owner == numbers
    shares = jnp.where(owner[None] == numbers[:, None], log_marginal, -jnp.inf)
    merged = jnp.where(mine, logsumexp(shares, axis=1), discrete.empty(z.dtype))
    log_decoder = sources.decoder(source, back, dual)
    sigma2, direction = critical.deviations(source, back, log_decoder, dual)
    unstable = mine & (beta * sigma2 > _UNSTABLE)
    # The i-th unstable cluster gives half of itself to the i-th free place.
    giver, taker = jnp.argsort(~unstable), jnp.argsort(mine)
    pairs = unstable[giver] & ~mine[taker]
    lean = jnp.clip(_DEVIATION * direction, -1, 1)[giver]
    given, decoder = merged[giver] - jnp.log(2), log_decoder[giver]
    place = jnp.where(pairs, taker, len(z))  # out of range: dropped
    z = jnp.concatenate([merged[:, None], log_decoder], 1)
    plus, minus = (jnp.concatenate([given[:, None], decoder + s * lean], 1) for s in (1, -1))
    z = z.at[place].set(plus, mode="drop")
    z = z.at[jnp.where(pairs, giver, len(z))].set(minus, mode="drop")
    return discrete.normalised(z), jnp.any(pairs)

r"""The information bottleneck and its dual for a discrete p(x, y), by Blahut-Arimoto.

X is compressed to Xh by p(xh|x); Y - X - Xh is a Markov chain. For a price β of distortion

    IB      F = I(X;Xh) + β E D(p(y|x) ‖ p(y|xh)),    p(y|xh) = Σ_x p(x|xh) p(y|x)
    dualIB  F = I(X;Xh) + β E D(p(y|xh) ‖ p(y|x)),    p(y|xh) = exp(Σ_x p(x|xh) log p(y|x)) / Z(xh)

    p(xh|x) = p(xh) exp(-β D(x, xh)) / Z(x, β),       p(xh) = Σ_x p(x) p(xh|x)

Each of the three is the minimum of F over one of its arguments, so that going round never increases
F. A round is a map of (log p(xh), log p(y|xh)), few numbers however many x there are; its fixed
points are found with `acceleration.fixed_point`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from iw_jax import checks, trees
from iw_jax.bottleneck import critical, sources
from iw_jax.bottleneck.acceleration import Evaluation, fixed_point
from iw_jax.bottleneck.sources import Source, dot

SAME = 1e-4  # total variation of p(x|xh) below which two clusters are one
# The same times p(xh): a cluster that merges or fades would change by less than the tolerance, at
# 1e-3 of the β where it does, and so is left there.
UNRESOLVED = 1e-8
TOLERANCE, MAX_STEPS = 1e-11, 100_000
NEGLIGIBLE = 1e-7  # p(xh) of a cluster that is not counted: one that fades is left there, converged
_MIXING = 0.05  # of all others into the first decoders: D is finite, and nothing is decided yet


@trees.record
class Solution:
    """A solution of the self-consistent equations; leading axes for several.

    Attributes:
      beta: price of distortion.
      log_encoder: log p(xh|x), (X, T).
      log_marginal: log p(xh), (T,).
      log_decoder: log p(y|xh), (T, Y): for dualIB the geometric mean, no posterior of Y.
      rate: I(X;Xh), nats.
      relevance: I(Y;Xh) of the Markov chain, by Σ_x p(x|xh) p(y|x) for both; nats.
      distortion: E D, nats; for IB it is I(X;Y) - I(Y;Xh).
      functional: F = rate + β distortion, nats.
      growth: (T,), by how much an iteration drives two halves of a cluster apart: one that has a
        spare duplicate splits if it is above 1. 0 for one of no probability.
      num_clusters: those that differ, and have a probability.
      steps: iterations.
      residual: of the equations: max_x Σ_xh |p(xh|x) - p(xh|x) after one more iteration|.
      converged: whether the last change was within the tolerance.
      dual: whether this is dualIB.
    """

    beta: Any
    log_encoder: Any
    log_marginal: Any
    log_decoder: Any
    rate: Any
    relevance: Any
    distortion: Any
    functional: Any
    growth: Any
    num_clusters: Any
    steps: Any
    residual: Any
    converged: Any
    dual: bool = trees.static()

    @property
    def encoder(self) -> Any:
        """p(xh|x), (X, T)."""
        return np.exp(self.log_encoder) if trees.is_concrete(self) else jnp.exp(self.log_encoder)

    @property
    def critical_betas(self) -> Any:
        """β from which each cluster, staying as it is, could split; inf if it is empty: (T,)."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.beta)[..., None] / self.growth


def blahut_arimoto(
    joint: Any,
    beta: Any,
    *,
    dual: bool = False,
    num_clusters: int | None = None,
    key: jax.Array | None = None,
    start: Any = None,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Solution:
    """A solution of the self-consistent equations at one β, from a start that is not symmetric.

    It is a local minimum of F if no cluster with a probability has a `growth` above 1; `anneal`
    splits those that have. Clusters that start as equals stay equals.

    Computed in float64 and returned as NumPy arrays, whatever JAX allows; under `jit` and `vmap`
    (over β, keys or starts) in the caller's precision, and NaN instead of errors about numbers.

    Args:
      joint: p(x, y), (X, Y); positive for dualIB.
      beta: price of distortion, no unit, scalar; at least 1 for IB, where below 1 the trivial
        solution is the best. Variational papers put their β on the rate: 1/β.
      dual: dualIB instead of IB.
      num_clusters: T; None for as many as there are x.
      key: chooses the x whose p(y|x) the first decoders are like, by p(x); needed for T < X without
        a start. Several keys give several local minima.
      start: p(xh|x) to start from, (X, T).
      tolerance: stops where an iteration changes p(.|x) by this in total, at every x; at least 100
        roundings.
      max_steps: iterations at most.

    Raises:
      ValueError: for a joint that does not sum to one, has a row without probability or, for
        dualIB, zeros; β < 1 for IB, β <= 0 for dualIB; a start that is no p(xh|x).
      TypeError: if T < X and there is neither key nor start.

    References:
      Tishby, Pereira & Bialek, physics/0004057; Piran, Shwartz-Ziv & Tishby, arXiv:2006.04641.
      Both stop at a mean Jensen-Shannon change of 1e-9, which is a change of p(xh|x) by 1e-4.
    """
    check_budget(tolerance, max_steps)
    check_beta(beta, dual)
    checks.scalar("beta", beta)
    with sources.widest(joint, beta, key, start) as finish:
        source = sources.checked(joint, dual)
        z = first_state(source, dual, num_clusters, key, start)
        found = solution_from(source, z, jnp.asarray(beta, float), dual, tolerance, max_steps)
        return named(finish(found), dual)


@partial(jax.jit, static_argnames="tolerance")
def solution_from(source, z, beta, dual, tolerance, max_steps):
    """The solution near a state."""
    z, change, steps = solve(source, z, beta, dual, tolerance, max_steps)
    return describe(source, z, beta, dual, steps, change <= floored(tolerance, z.dtype))


# ------------------------------------------------------------------------------- the iteration
# The state is log p(xh) beside log p(y|xh), (T, 1 + Y).


def iterate(source: Source, z: jax.Array, beta: jax.Array, dual: Any) -> Evaluation:
    """One round: encoder, marginal, decoder. The objective is F = -Σ_x p(x) log Z(x, β)."""
    scores = _scores(source, z, beta, dual)
    top = scores.max(0)
    relative = jnp.exp(scores - top)
    Z = relative.sum(0)
    p_x = jnp.exp(source.log_p_x)
    together = relative * (p_x / Z)  # p(x, xh)
    marginal = together.sum(1)
    log_marginal = jnp.log(jnp.maximum(marginal, jnp.finfo(z.dtype).tiny))
    back = together / jnp.where(marginal > 0, marginal, 1)[:, None]
    after = jnp.concatenate([log_marginal[:, None], sources.decoder(source, back, dual)], 1)
    # A cluster that is all but empty stays as it is: its numbers are rounding.
    limit = empty(z.dtype)
    gone = ((z[:, 0] <= limit) | (log_marginal <= limit))[:, None]
    after = jnp.where(gone, z.at[:, 0].set(limit), after)
    # Change of p(xh|x), to first order, Σ_xh p |Δ log p|.
    moved = _scores(source, after, beta, dual) - scores
    encoder = relative / Z
    moved = moved - (encoder * moved).sum(0)
    change = (encoder * jnp.abs(moved)).sum(0).max()
    # The metric of F for a fixed encoder.
    root = jnp.exp(0.5 * after)
    metric = root[:, :1] * jnp.concatenate(
        [jnp.ones_like(root[:, :1]), jnp.sqrt(beta) * root[:, 1:]], 1
    )
    return Evaluation(after, -dot(p_x, top + jnp.log(Z)), change, metric)


def _scores(source: Source, z: jax.Array, beta: jax.Array, dual: Any) -> jax.Array:
    """log p(xh) - β D, (T, X)."""
    return z[:, :1] - beta * sources.divergence(source, z[:, 1:], dual)


def normalised(z: jax.Array) -> jax.Array:
    """p(xh) and every p(y|xh) sum to one."""
    marginal, decoder = z[:, 0], z[:, 1:]
    marginal = marginal - logsumexp(marginal)
    decoder = decoder - logsumexp(decoder, axis=1, keepdims=True)
    return jnp.concatenate([jnp.maximum(marginal, empty(z.dtype))[:, None], decoder], 1)


def empty(dtype: Any) -> float:
    """log p(xh) of a cluster that is not there."""
    return 0.9 * float(np.log(np.finfo(dtype).tiny))


def floored(tolerance: float, dtype: Any) -> float:
    """The tolerance, as far as the type allows."""
    return max(tolerance, 100 * float(jnp.finfo(dtype).eps))


def solve(
    source: Source,
    z: jax.Array,
    beta: jax.Array,
    dual: Any,
    tolerance: float,
    max_steps: int,
    memory: int = 10,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """State, last change and number of iterations."""
    return fixed_point(
        lambda z: iterate(source, z, beta, dual),
        normalised,
        z,
        tolerance=floored(tolerance, z.dtype),
        max_steps=max_steps,
        memory=memory,
    )


# ------------------------------------------------------------------------------ starts and ends


def first_state(
    source: Source, dual: bool, num_clusters: int | None, key: jax.Array | None, start: Any
) -> jax.Array:
    """The state to start from: of a given encoder, else clusters around single x."""
    number = len(source.log_p_x)
    if start is not None:
        return _state_of(source, dual, start, num_clusters)
    size = number if num_clusters is None else num_clusters
    checks.at_least("num_clusters", size, 1)
    if size < number:
        if key is None:
            raise TypeError(
                f"key must be a random key where num_clusters = {size} is below the {number} x: it "
                "chooses among them; or give a start"
            )
        checks.key("key", key)
    return _around_single(source, key, size, dual)


@partial(jax.jit, static_argnames=("size",))
def _around_single(source: Source, key: Any, size: int, dual: Any) -> jax.Array:
    p_x = jnp.exp(source.log_p_x)
    number, dtype = len(p_x), p_x.dtype
    if size < number:
        chosen = jax.random.choice(key, number, (size,), replace=False, p=p_x)
        marginal = jnp.full(size, -np.log(size), dtype)
    else:
        chosen = jnp.arange(size) % number
        marginal = jnp.where(jnp.arange(size) < number, source.log_p_x[chosen], empty(dtype))
    back = (1 - _MIXING) * jax.nn.one_hot(chosen, number, dtype=dtype) + _MIXING * p_x
    return jnp.concatenate([marginal[:, None], sources.decoder(source, back, dual)], 1)


def _state_of(source: Source, dual: bool, start: Any, num_clusters: int | None) -> jax.Array:
    number = len(source.log_p_x)
    shape = np.shape(start)
    if len(shape) != 2 or shape[0] != number or num_clusters not in (None, shape[1]):
        wanted = "T" if num_clusters is None else num_clusters
        raise ValueError(f"start must be p(xh|x) as ({number}, {wanted}), got shape {shape}")
    if trees.is_concrete(start):
        values = np.asarray(start, np.float64)
        if not (np.all(values >= 0) and np.allclose(values.sum(1), 1, atol=1e-5)):
            raise ValueError("start must be p(xh|x): not negative, with rows that sum to 1")
    return _from_encoder(source, jnp.asarray(start, float), dual)


@jax.jit
def _from_encoder(source: Source, encoder: jax.Array, dual: Any) -> jax.Array:
    _, log_marginal, back = posterior_of(source, encoder)
    state = jnp.concatenate([log_marginal[:, None], sources.decoder(source, back, dual)], 1)
    return normalised(state)


def posterior_of(source: Source, encoder: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log p(xh|x), (T, X), log p(xh), (T,), and p(x|xh), (T, X); p(x) for an empty cluster."""
    return _posterior(source, jnp.log(encoder.T))


def describe(
    source: Source, z: jax.Array, beta: jax.Array, dual: Any, steps: Any, converged: Any
) -> Solution:
    """The solution at a state: its encoder, and all that follows from that."""
    log_encoder, log_marginal, back = clusters(source, z, beta, dual)
    log_decoder = sources.decoder(source, back, dual)
    p_x, encoder = jnp.exp(source.log_p_x), jnp.exp(log_encoder)
    marginal = jnp.exp(log_marginal)
    rate = dot((encoder * (log_encoder - log_marginal[:, None])).sum(0), p_x)
    D = sources.divergence(source, log_decoder, dual)
    distortion = dot((encoder * D).sum(0), p_x)
    posterior, p_y = dot(back, source.p_y), dot(p_x, source.p_y)
    told = jnp.where(posterior > 0, posterior * jnp.log(posterior / jnp.where(p_y > 0, p_y, 1)), 0)
    sigma2, _ = critical.deviations(source, back, log_decoder, dual)
    again = jax.nn.softmax(log_marginal[:, None] - beta * D, axis=0)
    return Solution(
        beta=beta,
        log_encoder=log_encoder.T,
        log_marginal=log_marginal,
        log_decoder=log_decoder,
        rate=rate,
        relevance=dot(told.sum(1), marginal),
        distortion=distortion,
        functional=rate + beta * distortion,
        growth=jnp.where(log_marginal > np.log(NEGLIGIBLE), beta * sigma2, 0),
        num_clusters=(owners(back, log_marginal) == jnp.arange(len(back))).sum(),
        steps=steps,
        residual=jnp.abs(again - encoder).sum(0).max(),
        converged=converged,
        dual=False,  # traced here; see `named`
    )


def named(solution: Solution, dual: bool) -> Solution:
    """The solution of a program that serves both, with which of them it was asked for."""
    return trees.replace(solution, dual=dual)


def clusters(source: Source, z: jax.Array, beta: jax.Array, dual: Any):
    """log p(xh|x), (T, X); log p(xh), (T,); p(x|xh), (T, X)."""
    return _posterior(source, jax.nn.log_softmax(_scores(source, z, beta, dual), axis=0))


def _posterior(source: Source, log_encoder: jax.Array):
    log_together = log_encoder + source.log_p_x
    log_marginal = logsumexp(log_together, axis=1)
    held = (log_marginal > -jnp.inf)[:, None]
    back = jnp.where(held, log_together - jnp.where(held, log_marginal[:, None], 0), source.log_p_x)
    return log_encoder, log_marginal, jnp.exp(back)


def owners(back: jax.Array, log_marginal: jax.Array) -> jax.Array:
    """The first cluster that each is equal to, (T,); T for those without a probability."""
    held = log_marginal > np.log(NEGLIGIBLE)
    limit = jnp.maximum(SAME, UNRESOLVED * jnp.exp(-log_marginal))

    def first_equal(own: tuple[jax.Array, jax.Array]) -> jax.Array:
        one, limit = own
        return jnp.argmax(held & (0.5 * jnp.abs(back - one).sum(1) < limit))

    return jnp.where(held, jax.lax.map(first_equal, (back, limit)), len(back))


# -------------------------------------------------------------------------------------- checks


def check_beta(beta: Any, dual: bool) -> None:
    """Raises ValueError for a price at which there is nothing to be found."""
    checks.positive("beta", beta)
    if not dual and trees.is_concrete(beta) and np.min(beta) < 1:
        raise ValueError(
            f"beta must be at least 1 for IB, got {np.min(beta)}: below 1 the best Xh is "
            "independent of X, since I(Y;Xh) <= I(X;Xh). A β on the rate is 1/beta here"
        )


def check_budget(tolerance: float, max_steps: int) -> None:
    """Raises ValueError for a tolerance or a number of steps that cannot be."""
    checks.positive("tolerance", tolerance)
    checks.at_least("max_steps", max_steps, 1)

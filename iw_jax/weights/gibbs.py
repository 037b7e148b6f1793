r"""The best code of all: Gibbs, Q ∝ P e^(-L/β), whose Lagrangian is a free energy.

With t = 1/β and F(t) = -log E_P e^(-tL):

    C*_β = β F(1/β)              no code has a lower C_β;  C_β(Q) = C*_β + β KL(Q‖Q*)
    KL(Q*‖P) = F - t E_t L
    F(t) = ∫_0^t E_s L ds        E_s L never rises: left sums lie above, right sums below

The left sum W of a chain is also minus its log weight, E e^-W = e^-F exactly. Chains that lag
behind their rungs make both sums too large; but then W varies between chains, and E W - F = Var W/2
to second order (Jarzynski). So: -log mean e^-W from above, and from below the smaller of the right
sum and mean W - Var W/2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from iw_jax import checks, trees
from iw_jax.estimates import Estimate
from iw_jax.task import Task, check_task, require_whole
from iw_jax.trees import PyTree
from iw_jax.weights import annealing
from iw_jax.weights.annealing import Climb, Ladder, Potential

_WORST_RHAT = 1.2  # Brooks & Gelman, J. Comput. Graph. Stat. 7 (1998) 434


@trees.record
class GibbsInformation:
    """KL(Q*‖P) of the Gibbs code at every β, and what goes with it; all of shape (B,).

    `cost` counts gradients of L, those of the pilot run included.

    Attributes:
      nats: KL(Q*‖P), the least information in the weights that reaches its C_β; nats. Bracket as
        for `lagrangian`.
      lagrangian: C* = β F(1/β), below that of every other code under this prior; nats. The upper
        end of its bracket is `ais`; the lower end the right thermodynamic sum or what the spread of
        the chains' work says, whichever is less: an estimate of a bound, not a bound. `stderr` is
        the jackknife's, over chains.
      loss: E_Q*[L]; nats.
      ais: C by annealed importance sampling: in expectation at or above C*, whether or not the
        chains have mixed or kept up; nats. Its standard error is that of the few weights that
        count.
      ais_sample_size: effective number of chains in it.
      sample_size: effective number of draws of L at this β, all chains together.
      rhat: split R-hat of L at this β.
      acceptance: least mean acceptance of the transitions up to this β.
      mixed: whether R-hat is below 1.2: chains agree AT this β. Where False, so is `converged` of
        the estimates.
      ladder: inverse temperatures and step sizes.
      prior: P.
      beta: prices of a nat.
    """

    nats: Estimate
    lagrangian: Estimate
    loss: Estimate
    ais: Estimate
    ais_sample_size: Any
    sample_size: Any
    rhat: Any
    acceptance: Any
    mixed: Any
    ladder: Ladder
    prior: Any
    beta: Any


def gibbs_iw(
    task: Task,
    params: PyTree,
    prior: Any,
    *,
    betas: Any,
    key: jax.Array,
    num_chains: int = 16,
    num_temperatures: int = 600,
    num_held: int = 40,
    num_leapfrog: int = 8,
    batch_size: int | None = None,
    callback: Callable[[Climb], None] | None = None,
) -> GibbsInformation:
    """Information in the weights of the best of ALL codes, for every β from the same chains; nats.

    Chains of Hamiltonian Monte Carlo go from draws of the prior up to the smallest β. Each gives a
    left and a right thermodynamic sum; errors are those between chains, which are independent.

    Args:
      task: the task.
      params: weights of the network's shapes; their values do not matter.
      prior: P, an `IsotropicGaussian` or a `DiagonalGaussian`.
      betas: (B,) positive; prices of a nat, for the summed loss.
      key: a typed random key.
      num_chains: independent chains; at least 4.
      num_temperatures: rungs between the prior and the smallest β. At the best the bracket of F is
        as wide as (∫ sd_t(L) dt)² over their number; wider where chains lag behind.
      num_held: transitions at each β, for E_Q*[L] and to see whether the chains have mixed.
      num_leapfrog: leapfrog steps a transition.
      batch_size: examples a chunk; None for all at once.
      callback: is shown the `Climb` after every few rungs.

    Raises:
      ImportError: without the `gibbs` extra (blackjax).
      TypeError: for a prior that is not Gaussian with independent weights.
      ValueError: for arguments out of range, or a loss that is not finite at draws from the prior.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Def. 2.1 with Q unrestricted; Neal,
      physics/9803008 (AIS).
    """
    checks.key("key", key)
    betas = _betas(betas)
    potential = _potential(task, params, prior, batch_size)
    return _ascend(
        jax.random.split(key),
        potential,
        prior,
        betas,
        num_chains,
        callback,
        num_temperatures=num_temperatures,
        num_held=num_held,
        num_leapfrog=num_leapfrog,
    )


@trees.record
class GibbsBracket:
    """C* at β = 1, minus the log evidence, of targets that the model itself has made.

    Attributes:
      lower: at or below C* in expectation: annealing down from the weights that made the targets.
        All chains start there; the standard error is for that draw.
      upper: at or above C* in expectation: annealing up from the prior.
      information: `gibbs_iw` of the same targets.
      targets: what the model has made, (N, ...).
    """

    lower: Estimate
    upper: Estimate
    information: GibbsInformation
    targets: jax.Array


def simulated_bracket(
    task: Task,
    params: PyTree,
    prior: Any,
    *,
    key: jax.Array,
    num_chains: int = 16,
    num_temperatures: int = 600,
    num_held: int = 40,
    num_leapfrog: int = 8,
    batch_size: int | None = None,
) -> GibbsBracket:
    """A two-sided bracket of C* at β = 1, for targets drawn from the model at a draw of the prior.

    Those weights are an exact draw of Q* given the targets, so that annealing the other way gives
    an unbiased estimate of 1/Z (bidirectional Monte Carlo). Both sides hold in expectation whether
    or not the chains mix; their gap bounds the error of either. The targets of `task` are not
    used: this is how to validate settings before they are used on real ones.

    Args:
      task: network, likelihood and inputs; an example of weight 0 is masked, all others have
        weight 1: targets of p^weight cannot be drawn.
      params: weights of the network's shapes; their values do not matter.
      prior: P.
      key: a typed random key.
      num_chains: as for `gibbs_iw`, and so on.
      num_temperatures: rungs.
      num_held: transitions at β = 1.
      num_leapfrog: leapfrog steps a transition.
      batch_size: examples a chunk.

    Raises:
      ValueError: as for `gibbs_iw`, and for weights other than 0 and 1.

    References:
      Grosse, Ghahramani & Adams, arXiv:1511.02543.
    """
    checks.key("key", key)
    require_whole(task)
    given = np.unique(task.weights)
    if not np.isin(given, (0, 1)).all():
        raise ValueError(
            "weights of the task must be 0 or 1 where the model makes the targets, got "
            f"{given[~np.isin(given, (0, 1))][0]:g}"
        )
    drawing, labelling, *up, down = jax.random.split(key, 5)
    potential = _potential(task, params, prior, batch_size)
    made_by = potential.draw(drawing, 1)[0]
    outputs = task.apply_fn(potential.weights(made_by), task.inputs)
    targets = task.likelihood.sample_targets(labelling, outputs)
    potential = trees.replace(potential, task=trees.replace(task, targets=targets))
    forward = _ascend(
        up,
        potential,
        prior,
        np.ones(1),
        num_chains,
        num_temperatures=num_temperatures,
        num_held=num_held,
        num_leapfrog=num_leapfrog,
    )
    way_down = forward.ladder.turned()
    begin = annealing.place(down, jnp.tile(made_by, (num_chains, 1)), way_down)
    loss = annealing.climb(begin, potential, way_down).loss[::-1]
    left, _ = _sums(forward.ladder, loss)
    upper = jax.tree.map(lambda x: x[0] if np.ndim(x) else x, forward.ais)
    return GibbsBracket(_log_mean_exp(left[-1], 1.0, upper.cost)[0], upper, forward, targets)


def _betas(betas: Any) -> np.ndarray:
    numbers = np.asarray(betas, np.float64)
    if numbers.ndim != 1 or not numbers.size or len(np.unique(numbers)) != len(numbers):
        raise ValueError(f"betas must be a vector of different numbers, at least one, got {betas}")
    checks.positive("betas", betas)
    return numbers


def _potential(task: Task, params: PyTree, prior: Any, batch_size: int | None) -> Potential:
    check_task(task, params)
    return Potential.of(task, params, prior, batch_size)


def _ascend(
    keys: Any,
    potential: Potential,
    prior: Any,
    betas: np.ndarray,
    num_chains: int,
    callback: Callable[[Climb], None] | None = None,
    **settings: int,
) -> GibbsInformation:
    """From draws of the prior to the smallest β; keys of the pilot run and of the chains."""
    finding, running = keys
    ladder = annealing.pilot(finding, potential, betas, num_chains=num_chains, **settings)
    begin = annealing.start(running, potential, ladder, num_chains)
    return _measure(annealing.climb(begin, potential, ladder, callback), ladder, prior, betas)


def _measure(climbed: Climb, ladder: Ladder, prior: Any, betas: np.ndarray) -> GibbsInformation:
    """From L on all rungs; chain by chain, then the mean over chains."""
    left, right = (sums[ladder.held] for sums in _sums(ladder, climbed.loss))  # (B, M): F
    first = np.asarray(ladder.held)[:, None] - ladder.num_held + 2  # L after each held transition
    held = climbed.loss[first + np.arange(ladder.num_held)]  # (B, held, M)
    loss = held.mean(1)
    worst, sample_size = (np.asarray(x) for x in _diagnose(jnp.asarray(held)))
    worst = np.where(np.ptp(held, axis=(1, 2)) == 0, 1.0, worst)  # a loss that never varies
    mixed = worst < _WORST_RHAT
    beta = betas[:, None]
    cost = ladder.cost + climbed.loss[1:].size * (ladder.num_leapfrog + 1)
    free = np.stack(_free_energy(left, right))  # lower and upper end: (2, B)
    leaves_out = np.stack(_free_energy(_without_one(left), _without_one(right)))  # (2, B, M)
    others = _without_one(loss).mean(-1)

    def estimate(ends: np.ndarray, jackknife: np.ndarray, scale: np.ndarray) -> Estimate:
        (lower, upper), middles = scale * ends, (scale[:, None] * jackknife).mean(0)
        count = middles.shape[1]
        stderr = np.sqrt((count - 1) * middles.var(1))
        dof = np.full_like(lower, count - 1)
        return Estimate((lower + upper) / 2, stderr, dof, lower, upper, cost, mixed)

    ais, ais_sample_size = _log_mean_exp(-left, -betas, cost)
    return GibbsInformation(
        nats=estimate(free - loss.mean(1) / betas, leaves_out - others / beta, np.ones(len(betas))),
        lagrangian=estimate(free, leaves_out, betas),
        loss=trees.replace(Estimate.mean_of(loss.T), cost=cost, converged=mixed),
        ais=ais,
        ais_sample_size=ais_sample_size,
        sample_size=sample_size,
        rhat=worst,
        acceptance=np.array([climbed.acceptance[: i + 1].min() for i in ladder.held]),
        mixed=mixed,
        ladder=ladder,
        prior=prior,
        beta=betas,
    )


@jax.jit
def _diagnose(held: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split R-hat and effective sample size of draws (B, S, M) of M chains: (B,) each."""
    from blackjax.diagnostics import effective_sample_size, potential_scale_reduction

    def one(chains: jax.Array) -> tuple[jax.Array, jax.Array]:  # (M, S)
        halves = jnp.concatenate(jnp.array_split(chains[:, : chains.shape[1] // 2 * 2], 2, axis=1))
        return potential_scale_reduction(halves), effective_sample_size(chains)

    return jax.vmap(one)(jnp.moveaxis(held, -1, 1))


def _sums(ladder: Ladder, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left and right sums of ∫ L dt up to every rung, of every chain: (K, M)."""
    widths = np.diff(ladder.inverse, prepend=0.0)[:, None]
    return np.cumsum(widths * loss[:-1], 0), np.cumsum(widths * loss[1:], 0)


def _free_energy(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of F from the sums of chains, (..., M)."""
    upper = -special.logsumexp(-left, axis=-1) + np.log(left.shape[-1])
    lower = np.minimum(right.mean(-1), left.mean(-1) - left.var(-1, ddof=1) / 2)
    return np.minimum(lower, upper), upper


def _without_one(x: np.ndarray) -> np.ndarray:
    """(..., M) -> (..., M, M - 1): each chain left out once."""
    count = x.shape[-1]
    kept = np.array([[j for j in range(count) if j != i] for i in range(count)])
    return x[..., kept]


def _log_mean_exp(x: np.ndarray, factor: Any, cost: int) -> tuple[Estimate, np.ndarray]:
    """factor * log of the mean of e^x over chains, with its error to first order; what counts."""
    value = factor * (special.logsumexp(x, axis=-1) - np.log(x.shape[-1]))
    share = special.softmax(x, axis=-1)
    counting = 1 / (share**2).sum(-1)
    dof = np.full_like(counting, x.shape[-1] - 1)
    stderr = np.abs(factor) * np.sqrt((x.shape[-1] / counting - 1).clip(0) / dof)
    enough = counting > x.shape[-1] / 2
    return Estimate(value, stderr, dof, value, value, cost, enough), counting

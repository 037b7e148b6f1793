r"""PAC-Bayes certificates: bounds of the true risk from the training risk and the nats of a code.

For a loss in [0, 1], N independent examples, a prior P fixed before them and with probability at
least 1 - δ over them, for all codes Q at once; R is the true risk of w ~ Q, R̂ its training mean:

    seeger      kl(R̂‖R) ≤ [KL(Q‖P) + log(2√N/δ)] / N
    quadratic   R ≤ (√(R̂ + B) + √B)²,  B = [KL + log(2√N/δ)] / 2N
    thiemann    R ≤ R̂/(1 - l/2) + 2B/(l (1 - l/2)),  all l in (0, 2) at once
    catoni      R ≤ [1 - exp(-R̂/b - (KL + log 1/δ)/N)] / (1 - e^(-1/b)),  b fixed beforehand
    linear      R ≤ [R̂ + (b/N) (KL + log 1/δ)] / (1 - 1/2b),  b > ½ fixed beforehand

b is the price of a nat, β, in units of the largest loss. The last one's numerator is C_β/N.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.likelihoods import GaussianLikelihood
from iw_jax.task import Task, require_whole
from iw_jax.trees import PyTree

Array = Any
KINDS = ("seeger", "quadratic", "thiemann", "catoni", "linear")

# Halvings of [q, 1]: below the resolution of float64 around 1.
_HALVINGS = 60


@trees.record
class Certificate:
    """A bound of the true risk that fails with probability at most 1 - confidence.

    Attributes:
      bound: of the true risk of w ~ Q, in units of the loss; `max_loss` where it says nothing.
      confidence: 1 - δ, less what the Monte-Carlo risk takes.
      risk: R̂(Q), or the upper bound of it that its draws allow.
      kl: KL(Q‖P); nats.
    """

    bound: Array
    confidence: float = trees.static()
    risk: Array
    kl: Array


def pac_bayes_bound(
    kind: str,
    *,
    risk: Any,
    kl: Any,
    num_examples: int,
    delta: float = 0.05,
    max_loss: float = 1.0,
    beta: Any = None,
    trade_off: float | None = None,
    num_candidates: int = 1,
    num_draws: int | None = None,
    draws_delta: float = 0.01,
) -> Certificate:
    """Bounds the true risk of weights drawn from a code Q, by its nats and its training risk.

    "seeger" is the tightest; it and "quadratic" know no β, "thiemann" holds for all trade-offs at
    once. Choosing the best of several codes costs nothing where they share P (and β). Choosing
    among J priors or prices costs δ/J each: `num_candidates`. A prior that was learnt from a part
    of the data leaves only the other examples, for `risk` and for `num_examples`. A scale of the
    prior that was fitted to the data, without either, certifies nothing.

    Args:
      kind: "seeger", "quadratic", "thiemann", "catoni" or "linear".
      risk: mean loss over the examples of w ~ Q, exactly, or of `num_draws` draws; scalar or array.
      kl: KL(Q‖P); nats, of a shape that broadcasts with `risk`.
      num_examples: N, examples that P does not know.
      delta: probability that the bound fails, over data sets.
      max_loss: the loss lies in [0, max_loss]: 1 for errors; see `bounded_nll` for nats.
      beta: price of a nat of the summed loss, fixed beforehand; "catoni" and "linear" need it, the
        latter above max_loss/2.
      trade_off: l of "thiemann", between 0 and 2; None for the best, which gives "quadratic".
      num_candidates: J, how many priors (or prices) the reported one was chosen from.
      num_draws: m, where `risk` is the mean of m losses that are independent given the data and
        have the expectation R̂ in the mean: of m draws of weights, each scored on all N examples,
        or of fresh weights for every example, as often for each (`iw_jax.nets.mlp_local`;
        m is then N times that). None where `risk` is exact.
      draws_delta: probability that R̂ lies above what the draws allow; added to delta. Several
        codes, of which the best is reported, have draws of their own: a share for each.

    Returns:
      A `Certificate`, of the broadcast shape of `risk` and `kl`.

    Raises:
      ValueError: for a risk outside [0, max_loss], a KL that is negative or not finite, a delta
        outside (0, 1), alone or with draws_delta, a price that is missing or out of range, an
        unknown kind.

    References:
      Maurer, cs/0411099, and Seeger 2002; Pérez-Ortiz et al., arXiv:2007.12927 (quadratic);
      Thiemann et al., arXiv:1608.05610; Catoni, arXiv:0712.0248; McAllester, arXiv:1307.2118,
      Theorem 2, and Achille et al., arXiv:1905.12213, Theorem 2.2 (linear). Maurer's constant is
      proved for N ≥ 8 and holds below by direct evaluation. Monte-Carlo risk: Langford & Caruana
      2001; the one-sided log(1/δ') is enough. Hoeffding 1963, Theorem 1, which it rests on, asks
      for independent losses in [0, 1], not for equal means: P(mean ≤ q) ≤ e^(-m kl(q‖R̂)), q ≤ R̂.
    """
    _check(kind, risk, kl, num_examples, delta, max_loss, beta, trade_off)
    checks.at_least("num_candidates", num_candidates, 1)
    confidence = 1 - delta
    xp = trees.namespace(risk, kl, beta)
    mean, kl, nats = (xp.asarray(x, dtype=float) for x in (risk, kl, max_loss))
    mean, kl = xp.broadcast_arrays(mean / nats, kl)
    if num_draws is not None:
        checks.at_least("num_draws", num_draws, 1)
        checks.between("draws_delta", draws_delta, 0, 1)
        if delta + draws_delta >= 1:
            raise ValueError(
                f"delta and draws_delta must sum to less than 1, got {delta} + {draws_delta}"
            )
        mean = kl_inverse(mean, np.log(1 / draws_delta) / num_draws)
        confidence -= draws_delta
    share = delta / num_candidates
    cost = kl + np.log(2 * np.sqrt(num_examples) / share)
    if kind == "seeger":
        bound = kl_inverse(mean, cost / num_examples)
    elif kind in ("quadratic", "thiemann"):
        B = cost / (2 * num_examples)
        if trade_off is None:
            bound = (xp.sqrt(mean + B) + xp.sqrt(B)) ** 2
        else:
            bound = (mean + 2 * B / trade_off) / (1 - trade_off / 2)
    else:
        b = beta / nats
        cost = (kl + np.log(1 / share)) / num_examples
        if kind == "catoni":
            bound = xp.expm1(-mean / b - cost) / xp.expm1(-1 / b)
        else:
            bound = (mean + b * cost) / (1 - 1 / (2 * b))
    return Certificate(
        bound=nats * xp.minimum(bound, 1), confidence=confidence, risk=nats * mean, kl=kl
    )


def kl_inverse(q: Any, c: Any) -> Array:
    """sup{p ≥ q : kl(q‖p) ≤ c} with kl(q‖p) = q log(q/p) + (1-q) log((1-q)/(1-p)).

    By bisection, to the resolution of the numbers (1e-10 in float64); 1 - e^-c at q = 0.

    Args:
      q: between 0 and 1, scalar or array.
      c: not negative; nats.
    """
    xp = trees.namespace(q, c)
    q, c = xp.broadcast_arrays(xp.asarray(q, dtype=float), xp.asarray(c, dtype=float))
    low, high = q, xp.ones_like(q)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = _binary_kl(xp, q, middle) <= c
        low, high = xp.where(inside, middle, low), xp.where(inside, high, middle)
    return xp.where(q > 0, xp.where(q < 1, (low + high) / 2, 1), -xp.expm1(-c))


def _binary_kl(xp: Any, q: Array, p: Array) -> Array:
    """kl(q‖p) for q ≤ p; 0 and 1 are not looked at by `kl_inverse`."""
    q, p = xp.clip(q, 1e-300, 1 - 1e-16), xp.clip(p, 1e-300, 1 - 1e-16)
    return q * xp.log(q / p) + (1 - q) * (xp.log1p(-q) - xp.log1p(-p))


def _check(
    kind: str,
    risk: Any,
    kl: Any,
    num_examples: int,
    delta: float,
    max_loss: float,
    beta: Any,
    trade_off: float | None,
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    checks.at_least("num_examples", num_examples, 1)
    checks.between("delta", delta, 0, 1)
    checks.positive("max_loss", max_loss)
    if trees.is_concrete((risk, kl)):
        low, high = np.min(risk), np.max(risk)
        if not 0 <= low <= high <= max_loss:
            raise ValueError(
                f"risk must lie between 0 and max_loss = {max_loss}, got {low} to {high}; a loss "
                "without a bound has no certificate (see `bounded_nll`)"
            )
        if not (np.min(kl) >= 0 and np.max(kl) < np.inf):
            raise ValueError(f"kl must be finite and not negative, got {np.min(kl)}")
    if (beta is None) == (kind in ("catoni", "linear")):
        raise ValueError(f"beta must be given with 'catoni' and 'linear' only, got {beta!r}")
    if beta is not None:
        checks.positive("beta", beta)
        if kind == "linear" and trees.is_concrete(beta) and np.min(beta) <= max_loss / 2:
            raise ValueError(
                f"beta must be above max_loss/2 = {max_loss / 2} with 'linear', got {np.min(beta)}"
            )
    if trade_off is not None:
        if kind != "thiemann":
            raise ValueError(f"trade_off is l of 'thiemann', got {trade_off!r} with {kind!r}")
        checks.between("trade_off", trade_off, 0, 2)


def bounded_nll(task: Task, params: PyTree, *, least: float = 1e-4) -> jax.Array:
    """-log max(p(y_i|x_i, w), least) of every example, (N,); nats, between 0 and log(1/least).

    Cross-entropy has no bound, and then no PAC-Bayes bound holds; with this clip `max_loss` is
    log(1/least). A density may exceed 1, and -log of it is then below 0: it is refused.

    Args:
      task: the task, of discrete targets; every example has weight 1, since a masked one has no
        loss and one of another weight is not one of N independent examples.
      params: parameters of its network.
      least: between 0 and 1; the least probability that is told apart.

    Raises:
      ValueError: for `least` out of range, weights that are not 1, a likelihood that is a density.
    """
    checks.between("least", least, 0, 1)
    require_whole(task)
    if trees.is_concrete(task.weights) and np.any(np.asarray(task.weights) != 1):
        raise ValueError(
            "weights of the task must be 1 for a certificate, got "
            f"{np.min(task.weights)} to {np.max(task.weights)}; leave masked examples out"
        )
    outputs = task.apply_fn(params, task.inputs)
    nats = task.likelihood.nll(outputs, task.targets)
    density = isinstance(task.likelihood, GaussianLikelihood)
    if density or (trees.is_concrete(nats) and np.min(nats) < 0):
        raise ValueError(
            "likelihood must give probabilities of discrete targets, got "
            f"{type(task.likelihood).__name__}, a density: its -log p has no lower bound of 0"
        )
    return jnp.minimum(nats, -jnp.log(least))

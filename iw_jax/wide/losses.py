r"""What an ensemble's outputs z say of the targets: -log q(y|z), with q(y|z) = N(y; z, I).

The Gibbs loss is the mean of the members' losses, the Bayes loss that of the mixture of all of
them, which is never larger. I(Z; Y) >= H(Y) - Gibbs loss, where q and H(Y) refer to the same
measure: a density for targets that are real numbers, probabilities for class labels.
"""

from typing import Any

import jax
import numpy as np

from iw_jax import checks, trees
from iw_jax.estimates import Estimate
from iw_jax.wide import sampled
from iw_jax.wide.ensemble import Moments

# The integrand over a standard normal u is analytic where |Im u| < π/(s|Δ|), so that steps h of the
# trapezoidal rule err by exp(-2π²/(h s|Δ|)): 1e-17 at h s|Δ| = 1/2.
_REACH, _STEP = 9.0, 0.025
_MOST = 2**16  # steps


def gibbs_loss(moments: Moments, targets: Any) -> Any:
    """E_z[-log N(y; z, I)] of every example, (T, ..., M); nats. Exact.

    Args:
      moments: of the outputs at M inputs.
      targets: y, (M, k), or (M,) for one output.

    References:
      Shwartz-Ziv & Alemi, arXiv:1911.09189, Sec. 3.
    """
    xp, error = _squared_error(moments, targets)
    size = moments.mean.shape[-1]
    return (error + size * (xp.asarray(moments.variance) + np.log(2 * np.pi))) / 2


def bayes_loss(moments: Moments, targets: Any) -> Any:
    """-log E_z N(y; z, I) = -log N(y; μ, (1 + s²) I) of every example, (T, ..., M); nats. Exact.

    Arguments as for `gibbs_loss`.
    """
    xp, error = _squared_error(moments, targets)
    size, variance = moments.mean.shape[-1], 1 + xp.asarray(moments.variance)
    return (error / variance + size * xp.log(2 * np.pi * variance)) / 2


@trees.record
class ClassLosses:
    """Losses of class labels; estimates (T, ..., M), nats; exact for two classes.

    Attributes:
      gibbs: E_z[-log q(c|z)].
      bayes: -log E_z q(c|z).
    """

    gibbs: Estimate
    bayes: Estimate


def class_losses(
    moments: Moments, labels: Any, codes: Any, *, key: Any = None, num_draws: int = 256
) -> ClassLosses:
    """Losses of labels c under q(c|z) = N(e_c; z, I)/Σ_c' N(e_c'; z, I).

    Two classes: an integral over the difference of the logits, to rounding (under an outer `jit`,
    where its steps cannot be chosen, up to a standard deviation of 20). More: draws of z.

    Args:
      moments: of the outputs at M inputs.
      labels: (M,), rows of `codes`.
      codes: e, (C, k), the target of every class; (C,) for one output.
      key: random key, for more than two classes.
      num_draws: of z, for more than two classes.

    Raises:
      ValueError: for shapes that do not fit, labels that are no rows of `codes`, or, of two
        classes, a difference of the logits whose standard deviation is above 1,800.
      TypeError: for more than two classes without a key.
    """
    xp = trees.namespace(moments, labels, codes)
    codes, labels = xp.asarray(codes, float), xp.asarray(labels)
    codes = codes[:, None] if codes.ndim == 1 else codes
    count, size = moments.mean.shape[-2:]
    if codes.ndim != 2 or len(codes) < 2 or codes.shape[1] != size or labels.shape != (count,):
        raise ValueError(
            f"codes must be (C, {size}) with C >= 2, and labels ({count},), got shapes "
            f"{codes.shape} and {labels.shape}"
        )
    if trees.is_concrete(labels) and not np.isin(labels, np.arange(len(codes))).all():
        raise ValueError(f"labels must lie in 0 .. {len(codes) - 1}, got {np.unique(labels)}")
    offsets = -0.5 * (codes * codes).sum(1)
    if len(codes) == 2:
        return _two_classes(moments, labels, codes, offsets, xp)
    checks.key("key", key)
    checks.at_least("num_draws", num_draws, 2)
    shape = (num_draws, *moments.mean.shape[1:])
    noise = xp.asarray(jax.random.normal(key, shape), float)  # the same at all times

    def losses(one: tuple[Any, Any]) -> ClassLosses:
        mean, variance = one
        logits = (mean + xp.sqrt(variance)[..., None] * noise) @ codes.T + offsets
        chance = _chance(logits, labels, xp)  # (num_draws, ..., M)
        left_out = (chance.sum(0) - chance) / (num_draws - 1)
        return ClassLosses(
            gibbs=sampled.mean_of(-xp.log(chance), xp),
            bayes=sampled.jackknife(-xp.log(chance.mean(0)), -xp.log(left_out), xp),
        )

    return _each_time(losses, moments, xp)


def _two_classes(moments: Moments, labels: Any, codes: Any, offsets: Any, xp: Any) -> ClassLosses:
    """The logit of the other class less that of the own is Gaussian."""
    apart = codes[1] - codes[0]
    sign = xp.where(labels == 1, -1.0, 1.0)
    spread = xp.sqrt((apart * apart).sum())
    nodes = _nodes(spread, moments.variance)
    weights = np.exp(-0.5 * nodes**2) / np.exp(-0.5 * nodes**2).sum()

    def losses(one: tuple[Any, Any]) -> ClassLosses:
        mean, variance = one
        centre = sign * (mean @ apart + offsets[1] - offsets[0])
        logit = centre[..., None] + (spread * xp.sqrt(variance))[..., None] * nodes
        gibbs = xp.logaddexp(0.0, logit) @ weights
        bayes = -xp.log(xp.exp(-xp.logaddexp(0.0, logit)) @ weights)
        return ClassLosses(sampled.exact(gibbs, xp), sampled.exact(bayes, xp))

    return _each_time(losses, moments, xp)


def _nodes(spread: Any, variance: Any) -> np.ndarray:
    """Values of u, close enough for the logits of the largest standard deviation."""
    steps = 2 * _REACH / _STEP
    if trees.is_concrete((spread, variance)):
        widest = float(np.sqrt(np.max(variance))) * float(spread)
        steps = max(steps, 4 * _REACH * widest)
        if not steps <= _MOST:
            raise ValueError(
                "the standard deviation of the difference of two logits, s |e_1 - e_0|, must be at "
                f"most {_MOST / (4 * _REACH):.0f}, got {widest:.3g}"
            )
    return np.linspace(-_REACH, _REACH, int(np.ceil(steps)) + 1)


def _chance(logits: Any, labels: Any, xp: Any) -> Any:
    """Softmax of the logits (..., M, C), at the label of every example."""
    relative = xp.exp(logits - logits.max(-1, keepdims=True))
    own = xp.take_along_axis(relative, xp.broadcast_to(labels, logits.shape[:-1])[..., None], -1)
    return own[..., 0] / relative.sum(-1)


def _squared_error(moments: Moments, targets: Any) -> tuple[Any, Any]:
    """The namespace, and |y - μ|², (T, ..., M)."""
    xp = trees.namespace(moments, targets)
    y = xp.asarray(targets, float)
    y = y[:, None] if y.ndim == 1 else y
    if y.shape != moments.mean.shape[-2:]:
        raise ValueError(
            f"targets must be (M, k) = {moments.mean.shape[-2:]} as the outputs are, got shape "
            f"{np.shape(targets)}"
        )
    return xp, ((y - moments.mean) ** 2).sum(-1)


def _each_time(function: Any, moments: Moments, xp: Any) -> Any:
    if xp is np:
        pairs = zip(moments.mean, moments.variance, strict=True)
        return jax.tree.map(lambda *parts: np.stack(parts), *map(function, pairs))
    return jax.lax.map(function, (moments.mean, moments.variance))

r"""Fisher information in the weights: the closed-form Gaussian code around trained weights.

P = N(m, Λ) with Λ = λ² I (or λ_l² I in layer l), Q = N(w*, Σ), loss to second order around w* with
curvature H of the SUMMED loss. With s_j = (λ²/β) h_j, the eigenvalues of Λ^½ H Λ^½/β in general:

    Σ* = β (H + β Λ^-1)^-1
    IW = ½ (w*-m)' Λ^-1 (w*-m) + ½ Σ_j [log(1 + s_j) - s_j/(1 + s_j)]
    C* = L(w*) + (β/2) (w*-m)' Λ^-1 (w*-m) + (β/2) Σ_j log(1 + s_j)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.codes.gaussian import IsotropicGaussian, require_isotropic
from iw_jax.curvature.curvatures import ggn
from iw_jax.curvature.growing import Growth, spectral_measure
from iw_jax.curvature.layers import LayerTraces, spectral_measure_by_tensor
from iw_jax.curvature.measure import QUANTITIES, SpectralMeasure
from iw_jax.curvature.operators import Operator
from iw_jax.estimates import Estimate
from iw_jax.task import Task
from iw_jax.trees import PyTree, namespace
from iw_jax.weights import penalised


@trees.record
class FisherInformation:
    """KL(Q*‖P) of the best Gaussian code around w*, and its parts; of the shape of `beta`.

    Attributes:
      nats: the information in the weights, distance + volume; nats.
      distance: ½ (w*-m)' Λ^-1 (w*-m), what moving the mean costs; scalar, nats, exact.
      volume: ½ Σ [log(1 + s) - s/(1 + s)], what narrowing the covariance costs; nats. A flat
        direction costs nothing.
      lagrangian: C* = L(w*) + β distance + (β/2) log det(I + Λ^½ H Λ^½/β); nats, and
        dC*/dβ = the IW.
      loss: L(w*), the summed loss; scalar, nats.
      effective_dimension: γ = Σ s/(1 + s), so that E_Q* L = L(w*) + (β/2) γ.
      tensors: what each tensor of the weights contributes, by name; nats. The values sum to `nats`;
        what truncation leaves open is shared out in proportion. None unless asked for.
      gradient_norm: |g|, g = λ ∇L + β (w* - m)/λ, in units of the prior; nats.
      off_minimum: ½ g'H̃^-1 g/β, H̃ = Λ^½ H Λ^½ + β: nats between Q and the code around the minimum
        of L + β distance that one Newton step finds, for H without negative curvature. Only |g| and
        the largest s are known: between |g|²/(2β² (1 + s)), the value, and |g|²/(2β²).
      measure: spectral measure behind all of these: of H where the prior has one scale (c = λ²/β),
        of Λ^½ H Λ^½ where it has one a layer (c = 1/β).
      prior: P.
      beta: price of a nat; 1 is the ELBO of the summed loss.
    """

    nats: Estimate
    distance: jax.Array
    volume: Estimate
    lagrangian: Estimate
    loss: jax.Array
    effective_dimension: Estimate
    tensors: dict[str, Estimate] | None
    gradient_norm: jax.Array
    off_minimum: Estimate
    measure: SpectralMeasure
    prior: IsotropicGaussian
    beta: Any


def fisher_iw(
    task: Task,
    params: PyTree,
    prior: IsotropicGaussian,
    *,
    beta: Any = 1.0,
    key: jax.Array,
    num_matvecs: int = 240,
    rtol: float = 0.0,
    batch_size: int | None = None,
    curvature: Callable[..., Operator] = ggn,
    policy: str = "error",
    by_tensor: bool = False,
    tolerance: float = 0.1,
    callback: Callable[[Growth], None] | None = None,
    stored: dict[str, Any] | None = None,
) -> FisherInformation:
    """Information in the weights of the Q = N(w*, Σ) that minimises E_Q[L] + β KL(Q‖P); nats.

    One set of curvature products serves all of `beta`. The mean stays at w*: a gradient that is not
    zero there does not enter (odd orders vanish under Q), and all numbers are right for this Q.
    But with its mean at the minimum of L + β distance its C_β would be lower, by β `off_minimum`.

    Args:
      task: the task.
      params: w*, weights trained to a minimum of L + β/2 (w - m)'Λ^-1 (w - m), where Q is to be the
        best Gaussian code of any mean.
      prior: P, with one scale or one a layer, centred at 0 or at its mean.
      beta: positive, scalar or array; the price of a nat, for the summed loss (papers that average
        the loss use β/N).
      key: a typed random key, for the probes.
      num_matvecs: curvature products allowed; as many as there are weights (8192 at most) make
        the result exact.
      rtol: stop when the 95 % half-width of `volume` is at most this part of it, for every beta; 0
        to spend the budget, by a plan that does not look at beta.
      batch_size: examples a chunk; None for all at once.
      curvature: `ggn`, `fisher` or `hessian`, or your own (task, params, batch_size=) -> Operator.
      policy: what negative curvature means: "error", "clip" or "abs"; see `SpectralMeasure`.
      by_tensor: say what each tensor contributes, too; not under `jit`.
      tolerance: part of `nats` that the code may be away from its minimum before a warning; inf
        for none.
      callback: is shown the state after each block of products (see `spectral_measure`).
      stored: such a state, packed, to go on from.

    Warns:
      UserWarning: where the lower end of `off_minimum` is beyond that part of `nats`; not under
        `jit`.

    Raises:
      TypeError: for a prior that is no `IsotropicGaussian`, or a key that is no typed random key.
      ValueError: unless beta is positive and finite; where prior, parameters, network and data do
        not fit; for negative curvature with policy "error".

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Prop. 2.5 and Eq. 8, in the finite-λ form. As
      printed (mean loss): Σ* = (β/2) (H + β/(2λ²) I)^-1 and a term -k in Eq. 8 (slip: the ½ of the
      Taylor expansion is lost, so Σ* is half as wide in stiff directions and Eq. 8 lies k/2 below
      the KL). Its λ → ∞ form ½ log det H + const diverges for singular H and is not used.
    """
    checks.positive("beta", beta)
    checks.key("key", key)
    penalised.require_tolerance(tolerance)
    require_isotropic(prior)
    log_scale = prior.full_log_scale(params)
    operator = curvature(task, params, batch_size=batch_size)
    variance = jnp.ones(())
    if isinstance(prior.log_scale, jax.Array) and prior.log_scale.ndim == 0:
        variance = jnp.exp(2 * prior.log_scale)  # one scale: the measure of H serves every λ
    else:
        operator = operator.congruence(jax.tree.map(jnp.exp, log_scale))
    loss, distances, norm = _at(task, params, prior, jnp.asarray(beta), batch_size)
    distance = sum(distances.values())
    options: dict[str, Any] = {
        "key": key,
        "num_matvecs": num_matvecs,
        "c": variance / jnp.asarray(beta) if rtol else None,
        "rtol": rtol,
        "quantities": ("information",),
        "policy": policy,
        "callback": callback,
        "stored": stored,
    }
    traces = None
    if by_tensor:
        spectrum, traces = spectral_measure_by_tensor(operator, **options)
    else:
        spectrum = spectral_measure(operator, **options)

    xp = namespace(beta, variance, distance, spectrum)
    beta, variance, distance, loss, norm = (
        xp.asarray(x, dtype=float) for x in (beta, variance, distance, loss, norm)
    )
    c = variance / beta
    volume = spectrum.information(c)
    nats = _affine(volume, 1.0, distance)
    most = norm**2 / (2 * beta**2)
    least = most / (1 + c * xp.maximum(spectrum.largest, 0))
    off_minimum = trees.replace(
        Estimate.exact(least), bracket_upper=most, converged=most <= 1.01 * least
    )
    if xp is np and np.isfinite(tolerance):
        worst = np.argmax(least - tolerance * nats.value)
        off, length, limit = (np.ravel(x)[worst] for x in (least, norm, tolerance * nats.value))
        penalised.warn(off, length, limit, "with its mean there, Q would have a lower C")
    tensors = _attribute(traces, c, volume, distances, policy) if traces is not None else None
    return FisherInformation(
        nats=nats,
        distance=distance,
        volume=volume,
        lagrangian=_affine(spectrum.logdet(c), beta / 2, loss + beta * distance),
        loss=loss,
        effective_dimension=spectrum.effective_dimension(c),
        tensors=tensors,
        gradient_norm=norm,
        off_minimum=off_minimum,
        measure=spectrum,
        prior=prior,
        beta=beta,
    )


def _attribute(
    traces: LayerTraces,
    c: Any,
    volume: Estimate,
    distances: dict[str, jax.Array],
    policy: str,
) -> dict[str, Estimate]:
    """Distance and volume of every tensor; the volumes scaled to those of the whole.

    What truncation leaves open of the whole is shared out in proportion: an estimate.
    """
    magnitude = np.abs if policy == "abs" else partial(np.maximum, 0)
    volumes = traces.integrate(lambda x: QUANTITIES["information"](c[..., None] * magnitude(x)))
    total = sum(v.value for v in volumes.values())
    total = np.where(total > 0, total, 1)

    def scaled(own: Estimate) -> Estimate:
        share = own.value / total
        return trees.replace(
            own,
            value=share * volume.value,
            stderr=own.stderr / total * volume.value,
            bracket_lower=share * volume.bracket_lower,
            bracket_upper=share * volume.bracket_upper,
            converged=volume.converged,
        )

    return {
        name: _affine(scaled(own), 1.0, np.asarray(distances[name]))
        for name, own in volumes.items()
    }


@partial(jax.jit, static_argnames="batch_size")
def _at(
    task: Task, params: PyTree, prior: IsotropicGaussian, beta: jax.Array, batch_size: int | None
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """L(w*), ½ |w - m|²/λ² of every tensor, and |g| for every beta."""
    units = prior.full_mean(params), prior.full_log_scale(params)
    half = lambda w, m, s: 0.5 * jnp.sum(((w - m) * jnp.exp(-s)) ** 2)  # noqa: E731
    distances = trees.by_name(jax.tree.map(half, params, *units))
    loss, pull, moved = penalised.loss_and_pulls(task, params, prior, batch_size)
    norms = jax.lax.map(lambda b: jnp.linalg.norm(pull + b * moved), beta.ravel())
    return loss, distances, norms.reshape(beta.shape)


def _affine(estimate: Estimate, factor: Any, offset: Any) -> Estimate:
    """offset + factor * estimate, for a factor > 0 and an offset known exactly."""
    return trees.replace(
        estimate,
        value=offset + factor * estimate.value,
        stderr=factor * estimate.stderr,
        bracket_lower=offset + factor * estimate.bracket_lower,
        bracket_upper=offset + factor * estimate.bracket_upper,
    )

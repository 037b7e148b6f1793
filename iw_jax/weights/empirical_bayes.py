r"""The prior's scales that make C* least: empirical Bayes.

C* = L(w*) + (β/2) [ |w*-m|²/λ² + log det(I + λ²H/β) ] has one minimum in λ, where

    λ² = |w*-m|²/γ(λ²),     γ = tr S (1 + S)^-1        one scale: λ² γ(λ²) rises, one root
    λ_l² = |w_l-m_l|²/γ_l,  γ_l = tr E_l S (1 + S)^-1    one a layer: MacKay, half-steps

with S = Λ^½HΛ^½/β and E_l the weights of layer l.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from iw_jax import checks, trees
from iw_jax.codes.gaussian import IsotropicGaussian, require_isotropic
from iw_jax.curvature.curvatures import ggn
from iw_jax.curvature.growing import spectral_measure
from iw_jax.curvature.layers import spectral_measure_by_tensor
from iw_jax.curvature.measure import QUANTITIES, SpectralMeasure
from iw_jax.curvature.operators import Operator
from iw_jax.task import Task
from iw_jax.trees import PyTree

_LOWEST, _HIGHEST = -30.0, 30.0  # log λ


def empirical_bayes(
    task: Task,
    params: PyTree,
    prior: IsotropicGaussian,
    *,
    beta: float = 1.0,
    key: jax.Array,
    num_matvecs: int = 240,
    batch_size: int | None = None,
    curvature: Callable[..., Operator] = ggn,
    rtol: float = 1e-3,
    max_rounds: int = 30,
) -> IsotropicGaussian:
    """The prior with the scales that minimise C* of `fisher_iw` around these weights.

    One scale takes one set of products. One a layer takes a set a round, with the same probes,
    until no scale moves by more than `rtol`. Such a prior has seen the data through its scales: a
    certificate would have to pay for them. The weights stay where they are: how far they are from a
    minimum under the prior found, `fisher_iw` with that prior says.

    Args:
      task: the task.
      params: w*, trained weights.
      prior: P; its scales, one or one a layer, are where the search starts.
      beta: price of a nat; positive.
      key: a typed random key, for the probes.
      num_matvecs: curvature products of a set.
      batch_size: examples a chunk; None for all at once.
      curvature: as for `fisher_iw`; positive semi-definite.
      rtol: relative change of a scale at which the rounds end.
      max_rounds: sets of products allowed, for one scale a layer.

    Raises:
      TypeError: for a prior that is no `IsotropicGaussian`.
      ValueError: for arguments out of range; where the weights of a scale are at the prior's mean,
        or the loss does not bend along them: there the best scale is 0, or any.
      RuntimeError: where the rounds do not end.

    References:
      MacKay 1992; reference formulas in Achille et al., arXiv:1904.03292, Thm 5.4.
    """
    checks.positive("beta", beta)
    checks.scalar("beta", beta)
    checks.positive("rtol", rtol)
    checks.key("key", key)
    require_isotropic(prior)
    A = curvature(task, params, batch_size=batch_size)
    moved = jax.tree.map(lambda w, m: jnp.sum((w - m) ** 2), params, prior.full_mean(params))
    owner, log_scales, rebuild = _groups(prior, params)
    distances = np.zeros(len(log_scales))
    for name, square in trees.by_name(moved).items():
        distances[owner[name]] += float(square)
    if not distances.min() > 0:
        raise ValueError(
            "params must differ from the prior's mean in every group that has a scale, got a group "
            "that is equal to it: its best scale is 0"
        )
    if len(log_scales) == 1:
        spectrum = spectral_measure(A, key=key, num_matvecs=num_matvecs)
        return rebuild(np.log([best_scale(spectrum, distances[0], beta=beta)]))

    for _ in range(max_rounds):
        scales = jax.tree.map(jnp.exp, rebuild(log_scales).full_log_scale(params))
        gamma = _dimensions(A.congruence(scales), key, num_matvecs, beta, owner, len(log_scales))
        _require_bend(gamma.min())
        # Half of MacKay's step: where s << 1 the whole one would turn the error round for ever. The
        # map's Jacobian lies between -1 and 0, so half-steps at least halve the error.
        move = 0.5 * (0.5 * np.log(distances / gamma) - log_scales)
        log_scales = log_scales + move
        change = np.abs(np.expm1(2 * move)).max()
        if change <= rtol:
            return rebuild(log_scales)
    raise RuntimeError(
        f"the scales still move by {change:.2g} of themselves after {max_rounds} rounds; give more "
        "of them (max_rounds), a larger rtol, or start from the prior found for another beta"
    )


def best_scale(spectrum: SpectralMeasure, squared_distance: float, *, beta: float = 1.0) -> float:
    """The one λ that minimises C*, the root of λ² γ(λ²) = |w*-m|², from a spectrum at hand.

    There the information in the weights is ½ log det(I + λ²H/β).

    Args:
      spectrum: of the curvature of the summed loss.
      squared_distance: |w*-m|²; positive, squared weights.
      beta: price of a nat; positive.

    Raises:
      ValueError: for arguments out of range; a loss that does not bend: there any scale is as
        good; a root outside e^-30 to e^30.
    """
    checks.positive("squared_distance", squared_distance)
    checks.positive("beta", beta)
    checks.scalar("beta", beta)
    _require_bend(float(spectrum.largest))

    def excess(log_scale: float) -> float:
        gamma = spectrum.effective_dimension(np.exp(2 * log_scale) / beta).value
        return 2 * log_scale + float(np.log(gamma)) - float(np.log(squared_distance))

    if not excess(_LOWEST) < 0 < excess(_HIGHEST):
        raise ValueError(
            f"the best scale must lie between e^{_LOWEST:g} and e^{_HIGHEST:g}, got one outside "
            f"for squared_distance = {float(squared_distance):.3g} and curvature up to "
            f"{float(spectrum.largest):.3g}; take other units of the weights"
        )
    return float(np.exp(optimize.brentq(excess, _LOWEST, _HIGHEST, xtol=1e-12)))


def _groups(
    prior: IsotropicGaussian, params: PyTree
) -> tuple[dict[str, int], np.ndarray, Callable[[np.ndarray], IsotropicGaussian]]:
    """Tensor -> number of its scale; the log scales; and the prior with others in their place."""
    leaves, treedef = jax.tree.flatten(prior.log_scale)
    numbers = jax.tree.unflatten(treedef, range(len(leaves)))
    owner = trees.by_name(trees.broadcast_prefix("scale", numbers, params))

    def rebuild(log_scales: np.ndarray) -> IsotropicGaussian:
        new = [jnp.asarray(s, old.dtype) for s, old in zip(log_scales, leaves, strict=True)]
        return trees.replace(prior, log_scale=jax.tree.unflatten(treedef, new))

    return owner, np.array(leaves, float), rebuild


def _dimensions(
    A: Operator, key: jax.Array, num_matvecs: int, beta: float, owner: dict[str, int], count: int
) -> np.ndarray:
    """γ of every group of tensors, (count,); they sum to that of the whole."""
    spectrum, traces = spectral_measure_by_tensor(A, key=key, num_matvecs=num_matvecs)
    shares = traces.integrate(lambda x: QUANTITIES["effective_dimension"](x.clip(0) / beta))
    gamma = np.zeros(count)
    for name, estimate in shares.items():
        gamma[owner[name]] += float(estimate.value)
    total = gamma.sum()
    return gamma * float(spectrum.effective_dimension(1 / beta).value) / (total if total else 1)


def _require_bend(least: float) -> None:
    if not least > 0:
        raise ValueError(
            "the loss must bend along the weights of every scale, got curvature 0: any scale is "
            "as good"
        )

"""Gaussian codes with independent weights: one scale for many weights, or one for each."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from iw_jax import checks, trees
from iw_jax.normals import standard_normal
from iw_jax.trees import PyTree


@trees.record
class IsotropicGaussian:
    """N(mean, scale² I) with one scale for all weights, or one for each layer.

    The usual prior; also the simplest code around trained weights.

    Attributes:
      log_scale: log of the standard deviation: a scalar, or a pytree prefix of the weights.
      mean: weights at the centre; None for 0 (a prior only: a code must know its shapes).

    Raises:
      ValueError: for scales that are not positive and finite, or a mean that is not finite.
    """

    log_scale: PyTree
    mean: PyTree = None

    def __init__(self, scale: PyTree, mean: PyTree = None) -> None:
        """Takes the standard deviation itself: scale > 0, one or a pytree prefix of the weights."""
        checks.positive("scale", scale)
        checks.finite("mean", mean)
        shapes = {jnp.shape(s) for s in jax.tree.leaves(scale)} - {()}
        if shapes:
            raise ValueError(
                "scale must be one number or one a layer (DiagonalGaussian has one a weight), got "
                f"an array of shape {shapes.pop()}"
            )
        object.__setattr__(self, "log_scale", jax.tree.map(_log, scale))
        object.__setattr__(self, "mean", jax.tree.map(floating, mean))

    @property
    def scale(self) -> PyTree:
        """Standard deviations, of the structure they were given in."""
        return jax.tree.map(jnp.exp, self.log_scale)

    def full_log_scale(self, like: PyTree) -> PyTree:
        """log standard deviation of every tensor of `like`: scalars in its structure."""
        full = trees.broadcast_prefix("scale", self.log_scale, like)
        return jax.tree.map(lambda s, w: jnp.asarray(s, w.dtype), full, like)

    def full_mean(self, like: PyTree) -> PyTree:
        """Mean of every weight of `like`."""
        if self.mean is None:
            return optax.tree.zeros_like(like)
        checks.same_structure("the prior's mean", self.mean, "the weights", like)
        return self.mean

    def noise(self, key: jax.Array) -> PyTree:
        """Standard normal, of the shape of the weights."""
        return standard_normal(key, self._centre())

    def weights(self, noise: PyTree) -> PyTree:
        """mean + scale * noise."""
        mean = self._centre()
        return _weights(mean, self.full_log_scale(mean), noise)

    def kl(self, prior: Any) -> jax.Array:
        """KL to a Gaussian prior with independent weights: scalar, nats."""
        return optax.tree.sum(self.kl_by_tensor(prior))

    def kl_by_tensor(self, prior: Any) -> PyTree:
        """What each tensor adds to `kl`: scalars in the structure of the weights, nats."""
        mean = self._centre()
        return _kl_by_tensor(mean, self.full_log_scale(mean), prior)

    def in_units_of(self, prior: Any) -> "IsotropicGaussian":
        """The code of (w - m)/λ."""
        log_scale = jax.tree.map(jnp.subtract, self.log_scale, self._matching(prior))
        return trees.replace(self, mean=_to_units(self._centre(), prior), log_scale=log_scale)

    def from_units_of(self, prior: Any) -> "IsotropicGaussian":
        """The code of m + λ w."""
        log_scale = jax.tree.map(jnp.add, self.log_scale, self._matching(prior))
        return trees.replace(self, mean=_from_units(self._centre(), prior), log_scale=log_scale)

    def _centre(self) -> PyTree:
        if self.mean is None:
            raise ValueError(
                "mean must be given where an IsotropicGaussian is used as a code, got None; "
                "write IsotropicGaussian(scale, mean=params)"
            )
        return self.mean

    def _matching(self, prior: Any) -> PyTree:
        """The prior's log scale in this code's own structure."""
        require_gaussian(prior)
        try:
            matching = jax.tree.broadcast(prior.log_scale, self.log_scale)
            checks.same_structure("scale", self.log_scale, "the prior's", matching)
        except ValueError as error:
            raise ValueError(
                "an IsotropicGaussian code must have one scale for each scale of its prior, got "
                f"{_shapes(self.log_scale)} for {_shapes(prior.log_scale)}; "
                "give scale the structure of the prior's"
            ) from error
        return jax.tree.map(lambda s, t: jnp.asarray(t, s.dtype), self.log_scale, matching)


@trees.record
class DiagonalGaussian:
    """N(mean, diag(scale²)): every weight has its own standard deviation (mean field).

    Attributes:
      mean: weights.
      log_scale: log standard deviations, of the structure and shapes of `mean`.

    Raises:
      ValueError: for scales that are not positive and finite, a mean that is not finite, or shapes
        that differ.
    """

    mean: PyTree
    log_scale: PyTree

    def __init__(self, mean: PyTree, scale: PyTree) -> None:
        """Takes standard deviations: scale > 0, of the shape of `mean` or a pytree prefix of it."""
        checks.positive("scale", scale)
        checks.finite("mean", mean)
        mean = jax.tree.map(floating, mean)
        full = full_scale("mean", mean, scale)
        log_scale = jax.tree.map(jnp.log, full)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "log_scale", log_scale)

    @property
    def scale(self) -> PyTree:
        """Standard deviations, of the shape of `mean`."""
        return jax.tree.map(jnp.exp, self.log_scale)

    def full_log_scale(self, like: PyTree) -> PyTree:
        """log standard deviation of every weight (as a prior)."""
        checks.same_structure("the prior's mean", self.mean, "the weights", like)
        return self.log_scale

    def full_mean(self, like: PyTree) -> PyTree:
        """Mean of every weight (as a prior)."""
        checks.same_structure("the prior's mean", self.mean, "the weights", like)
        return self.mean

    def noise(self, key: jax.Array) -> PyTree:
        """Standard normal, of the shape of the weights."""
        return standard_normal(key, self.mean)

    def weights(self, noise: PyTree) -> PyTree:
        """mean + scale * noise."""
        return _weights(self.mean, self.log_scale, noise)

    def kl(self, prior: Any) -> jax.Array:
        """KL to a Gaussian prior with independent weights: scalar, nats."""
        return optax.tree.sum(self.kl_by_tensor(prior))

    def kl_by_tensor(self, prior: Any) -> PyTree:
        """What each tensor adds to `kl`: scalars in the structure of the weights, nats."""
        return _kl_by_tensor(self.mean, self.log_scale, prior)

    def in_units_of(self, prior: Any) -> "DiagonalGaussian":
        """The code of (w - m)/λ."""
        log_scale = jax.tree.map(jnp.subtract, self.log_scale, units(prior, self.mean)[1])
        return trees.build(DiagonalGaussian, mean=_to_units(self.mean, prior), log_scale=log_scale)

    def from_units_of(self, prior: Any) -> "DiagonalGaussian":
        """The code of m + λ w."""
        log_scale = jax.tree.map(jnp.add, self.log_scale, units(prior, self.mean)[1])
        return trees.build(
            DiagonalGaussian, mean=_from_units(self.mean, prior), log_scale=log_scale
        )


def floating(x: Any) -> jax.Array:
    """A number or array as a floating-point array, of its own dtype where it is one."""
    return jnp.asarray(x, dtype=jnp.result_type(x, float))


def full_scale(name: str, location: PyTree, scale: PyTree) -> PyTree:
    """A scale for every weight, of the dtype of `location`, from a pytree prefix of it."""
    full = trees.broadcast_prefix("scale", scale, location)

    def one(w, s):
        if jnp.shape(s) not in ((), w.shape):
            raise ValueError(
                f"scale must have the shapes of {name}, got {jnp.shape(s)} for {w.shape}"
            )
        return jnp.broadcast_to(jnp.asarray(s, w.dtype), w.shape)

    return jax.tree.map(one, location, full)


def require_gaussian(prior: Any) -> None:
    """Raises TypeError unless `prior` is a Gaussian with independent weights."""
    if not isinstance(prior, IsotropicGaussian | DiagonalGaussian):
        raise TypeError(
            "a Gaussian code has a closed-form KL to an IsotropicGaussian or a DiagonalGaussian, "
            f"got a prior of type {type(prior).__name__}"
        )


def require_isotropic(prior: Any) -> None:
    """Raises TypeError unless `prior` is an `IsotropicGaussian`, as curvature codes need."""
    if not isinstance(prior, IsotropicGaussian):
        raise TypeError(
            "prior must be an IsotropicGaussian (one scale, or one a layer), got "
            f"{type(prior).__name__}; `minimize` measures codes under other priors"
        )


def units(prior: Any, like: PyTree) -> tuple[PyTree, PyTree]:
    """Mean and log scale of a Gaussian prior, over the tree `like`."""
    require_gaussian(prior)
    return prior.full_mean(like), prior.full_log_scale(like)


def _log(scale: Any) -> jax.Array:
    return jnp.log(floating(scale))


def _shapes(tree: PyTree) -> str:
    return str(jax.tree.map(jnp.shape, tree))


def _weights(mean: PyTree, log_scale: PyTree, noise: PyTree) -> PyTree:
    return jax.tree.map(lambda m, s, e: m + jnp.exp(s) * e, mean, log_scale, noise)


def _to_units(mean: PyTree, prior: Any) -> PyTree:
    centre, log_scale = units(prior, mean)
    return jax.tree.map(lambda w, m, s: (w - m) * jnp.exp(-s), mean, centre, log_scale)


def _from_units(mean: PyTree, prior: Any) -> PyTree:
    centre, log_scale = units(prior, mean)
    return jax.tree.map(lambda w, m, s: m + jnp.exp(s) * w, mean, centre, log_scale)


def _kl_by_tensor(mean: PyTree, log_scale: PyTree, prior: Any) -> PyTree:
    """½ Σ [σ²/λ² - 1 - log(σ²/λ²) + (μ - m)²/λ²]; σ²/λ² - 1 by expm1, exact near the prior."""
    centre, prior_log_scale = units(prior, mean)

    def tensor(mu, s, m, t):
        ratio = 2 * (s - t)
        cost = jnp.expm1(ratio) - ratio + ((mu - m) * jnp.exp(-t)) ** 2
        return 0.5 * jnp.sum(jnp.broadcast_to(cost, mu.shape))

    return jax.tree.map(tensor, mean, log_scale, centre, prior_log_scale)

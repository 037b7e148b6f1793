"""A Gaussian code that knows a few directions in which weights move together."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from iw_jax import checks, trees
from iw_jax.codes import gaussian
from iw_jax.normals import standard_normal
from iw_jax.trees import PyTree


@trees.record
class LowRankGaussian:
    """N(mean, diag(scale²) + U U'), a draw is mean + scale * ε + U η.

    Attributes:
      mean: weights.
      log_scale: log standard deviations of the diagonal part, of the shapes of `mean`.
      factor: U: the structure of `mean`, every leaf with a leading axis of the rank r.

    Raises:
      ValueError: for scales that are not positive and finite, shapes that differ, or r = 0.
    """

    mean: PyTree
    log_scale: PyTree
    factor: PyTree

    def __init__(self, mean: PyTree, scale: PyTree, factor: PyTree) -> None:
        """Takes standard deviations `scale` > 0, and the r columns of U as leading axes."""
        diagonal = gaussian.DiagonalGaussian(mean, scale)
        checks.finite("factor", factor)
        ranks = {jnp.shape(u)[:1] for u in jax.tree.leaves(factor)}
        if len(ranks) != 1 or ranks & {(), (0,)}:
            raise ValueError(
                f"factor must have one leading axis r >= 1 in all leaves, got {sorted(ranks)}"
            )
        checks.same_structure("factor[0]", jax.tree.map(lambda u: u[0], factor), "mean", mean)
        object.__setattr__(self, "mean", diagonal.mean)
        object.__setattr__(self, "log_scale", diagonal.log_scale)
        object.__setattr__(self, "factor", jax.tree.map(gaussian.floating, factor))

    @property
    def scale(self) -> PyTree:
        """Standard deviations of the diagonal part."""
        return jax.tree.map(jnp.exp, self.log_scale)

    @property
    def rank(self) -> int:
        """r, the number of columns of U."""
        return jax.tree.leaves(self.factor)[0].shape[0]

    def noise(self, key: jax.Array) -> PyTree:
        """(ε of the shape of the weights, η of shape (r,)), standard normal."""
        key_diagonal, key_factor = jax.random.split(key)
        dtype = jax.tree.leaves(self.mean)[0].dtype
        eta = jax.random.normal(key_factor, (self.rank,), dtype)
        return standard_normal(key_diagonal, self.mean), eta

    def weights(self, noise: PyTree) -> PyTree:
        """Mean + scale * ε + U η."""
        epsilon, eta = noise
        return jax.tree.map(
            lambda m, s, e, u: m + jnp.exp(s) * e + jnp.tensordot(eta, u, axes=1),
            self.mean,
            self.log_scale,
            epsilon,
            self.factor,
        )

    def kl(self, prior: Any) -> jax.Array:
        """KL to a Gaussian prior with independent weights: scalar, nats.

        The diagonal part's KL + ½ Σ |U_i|²/λ_i² - ½ log det(I_r + U' D^-1 U), D = diag(scale²).
        """
        own = _total(self._grams(self.log_scale))
        root = jnp.linalg.cholesky(jnp.eye(self.rank, dtype=own.dtype) + own)
        half_log_det = jnp.sum(jnp.log(jnp.diagonal(root)))
        return optax.tree.sum(self._kl_without_log_det(prior)) - half_log_det

    def kl_by_tensor(self, prior: Any) -> PyTree:
        """What each tensor adds to `kl`: scalars in the structure of the weights, nats.

        U' D^-1 U = Σ_l G_l over tensors; of its log det, tensor l has tr[G^-1 log(I + G) G_l], what
        it contributes while all G_l grow from 0 together.
        """
        grams = self._grams(self.log_scale)
        values, vectors = jnp.linalg.eigh(_total(grams))
        values = jnp.maximum(values, jnp.finfo(values.dtype).tiny)
        share = (vectors * (jnp.log1p(values) / values)) @ vectors.T
        return jax.tree.map(
            lambda rest, gram: rest - 0.5 * jnp.sum(share * gram),
            self._kl_without_log_det(prior),
            grams,
        )

    def _kl_without_log_det(self, prior: Any) -> PyTree:
        """KL of the diagonal part + ½ Σ |U_i|²/λ_i², tensor by tensor."""
        _, prior_log_scale = gaussian.units(prior, self.mean)
        diagonal = trees.build(gaussian.DiagonalGaussian, mean=self.mean, log_scale=self.log_scale)
        return jax.tree.map(
            lambda kl, gram: kl + 0.5 * jnp.trace(gram),
            diagonal.kl_by_tensor(prior),
            self._grams(prior_log_scale),
        )

    def _grams(self, log_scale: PyTree) -> PyTree:
        """(r, r), U_l' diag(scale²)^-1 U_l of every tensor l."""

        def gram(u, log_scale):
            scaled = (u * jnp.exp(-log_scale)).reshape(self.rank, -1)
            return jnp.matmul(scaled, scaled.T, precision=jax.lax.Precision.HIGHEST)

        return jax.tree.map(gram, self.factor, log_scale)

    def in_units_of(self, prior: Any) -> "LowRankGaussian":
        """The code of (w - m)/λ."""
        return self._map_scales(prior, "in_units_of", -1)

    def from_units_of(self, prior: Any) -> "LowRankGaussian":
        """The code of m + λ w."""
        return self._map_scales(prior, "from_units_of", 1)

    def _map_scales(self, prior: Any, method: str, sign: int) -> "LowRankGaussian":
        _, prior_log_scale = gaussian.units(prior, self.mean)
        diagonal = trees.build(gaussian.DiagonalGaussian, mean=self.mean, log_scale=self.log_scale)
        moved = getattr(diagonal, method)(prior)
        factor = jax.tree.map(lambda u, s: u * jnp.exp(sign * s), self.factor, prior_log_scale)
        return trees.build(
            LowRankGaussian, mean=moved.mean, log_scale=moved.log_scale, factor=factor
        )


def _total(grams: PyTree) -> jax.Array:
    """The sum of all leaves (optax.tree.sum would add up their entries too)."""
    return functools.reduce(jnp.add, jax.tree.leaves(grams))

r"""Effective information in the activations: what noise in the weights leaves of the input.

A layer z = f_w(x) whose weights carry the noise of the optimal Gaussian code around w*,
Σ_w = β (H + βΛ^-1)^-1, tells of x no more than, to first order in the noise,

    z | x ~ N(f(x), S(x)),    S = J Σ_w J',  J = dz/dw

with the Fisher information about x, D = dz/dx and S_a = dS/dx_a,

    F_z|x = D' S^-1 D + ½ tr(S^-1 S_a S^-1 S_b)

H is never formed: Y = (H + βΛ^-1)^-1 J' is solved for by preconditioned conjugate gradients, and
since S_a = β [J_a Y + (J_a Y)'], the derivatives are those of J(x) Y with Y held.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from iw_jax import checks, trees
from iw_jax.codes.gaussian import IsotropicGaussian, require_isotropic
from iw_jax.curvature.curvatures import ggn
from iw_jax.curvature.inverse import SketchedInverse, solve
from iw_jax.curvature.nystrom import sketch
from iw_jax.task import Task
from iw_jax.trees import PyTree

LayerFn = Callable[[PyTree, jax.Array], jax.Array]


@trees.record
class EffectiveInformation:
    """Of X inputs of d numbers each, in a layer of m outputs.

    Attributes:
      mean_term: (X, d, d), D' S^-1 D; it grows like 1/β.
      covariance_term: (X, d, d), ½ tr(S^-1 S_a S^-1 S_b); it stays.
      outputs: (X, m), f(x).
      covariance: (X, m, m), S(x).
      rank: (X,), dimension of z in which there is noise; directions without any (units that no
        weight moves) are left out, they do not depend on x to this order.
      residual: the largest relative residual of the solves.
      prior: P.
      beta: price of a nat.
    """

    mean_term: np.ndarray
    covariance_term: np.ndarray
    outputs: np.ndarray
    covariance: np.ndarray
    rank: np.ndarray
    residual: float
    prior: IsotropicGaussian
    beta: Any

    @property
    def fisher(self) -> np.ndarray:
        """F_z|x, (X, d, d)."""
        return self.mean_term + self.covariance_term

    def gaussian_bound(self) -> float:
        """An upper bound of I(x; z), nats: ½ log det(Cov f + E S) - ½ E log det S.

        No law of z with its covariance has more entropy than the Gaussian. Finite for every rank;
        mean and covariance are those of the X inputs.
        """
        spread = np.cov(self.outputs.T, bias=True).reshape(self.covariance.shape[1:])
        within = np.linalg.eigvalsh(self.covariance)
        total = np.linalg.eigvalsh(spread + self.covariance.mean(0))
        if within.min() <= 0:
            return float("inf")
        return float(0.5 * (np.log(total).sum() - np.log(within).sum(-1).mean()))

    def linear_information(self, covariance: np.ndarray) -> float:
        """½ log det(I + C^½ F C^½), nats, with the mean F of the inputs.

        I(x; z) itself for a linear layer with S free of x and x ~ N(., C); finite for every rank,
        where -½ log det F is not.

        Args:
          covariance: C, (d, d), of the inputs.
        """
        values, axes = np.linalg.eigh(np.asarray(covariance, np.float64))
        root = axes * np.sqrt(np.maximum(values, 0))
        inside = root.T @ self.fisher.mean(0) @ root
        return float(0.5 * np.log1p(np.maximum(np.linalg.eigvalsh(inside), 0)).sum())


def effective_information(
    task: Task,
    params: PyTree,
    layer_fn: LayerFn,
    inputs: jax.Array,
    prior: IsotropicGaussian,
    *,
    beta: float = 1.0,
    key: jax.Array,
    num_matvecs: int = 240,
    rtol: float = 1e-5,
    max_solves: int = 200,
    output_noise: float = 0.0,
    batch_size: int | None = None,
) -> EffectiveInformation:
    """Fisher information about the input in activations whose weights carry their optimal noise.

    Args:
      task: what the weights were trained on; its GGN is H.
      params: w*, trained weights.
      layer_fn: static; (params, inputs (X, ...)) -> activations (X, m).
      inputs: (X, ...), where to evaluate.
      prior: P, with one scale or one a layer; its scale is the damping of H.
      beta: price of a nat; positive.
      key: a typed random key, for the preconditioner.
      num_matvecs: curvature products of the preconditioner, a Nyström sketch of H.
      rtol: relative residual at which a solve ends.
      max_solves: conjugate gradient steps allowed; a step takes a product for every output.
      output_noise: standard deviation of noise added to z itself, independent of the weights.
      batch_size: examples a chunk of a curvature product; None for all at once.

    Raises:
      TypeError: for a prior that is no `IsotropicGaussian`, or a key that is no typed random key.
      ValueError: for arguments out of range, or activations that are not (X, m).
      RuntimeError: where the solves do not reach `rtol`.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Def. 3.1, Prop. 3.2. As printed, its first
      term is D' J F J' D/β (slip: J F^-1 J' must be inverted as a whole; the printed value grows
      fourfold under x -> 2x on a linear layer, where the right one falls fourfold), and Eq. 10
      takes log det F, which is -inf for every layer that compresses.
    """
    checks.positive("beta", beta)
    checks.positive("rtol", rtol)
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 1)
    if not output_noise >= 0:
        raise ValueError(f"output_noise must not be negative, got {output_noise}")
    require_isotropic(prior)
    scales = jax.tree.map(jnp.exp, prior.full_log_scale(params))
    A = ggn(task, params, batch_size=batch_size).congruence(scales)
    shape = jax.eval_shape(layer_fn, params, inputs)
    if len(getattr(shape, "shape", ())) != 2 or shape.shape[0] != len(inputs):
        raise ValueError(
            f"layer_fn must return activations (X, m) for {len(inputs)} inputs, got {shape}"
        )
    vectors, values = sketch(A, key, min(num_matvecs, A.size))
    inverse = SketchedInverse(vectors, values, jnp.asarray(beta, A.dtype))
    parts, worst = [], 0.0
    for x in inputs:
        rows = _rows(layer_fn, params, scales, x).astype(A.dtype)
        solution = solve(A, rows, inverse, rtol=rtol, max_solves=max_solves)
        worst = max(worst, float(solution.worst))
        moments = _moments(layer_fn, params, scales, x, solution.rows)
        parts.append([np.asarray(part, np.float64) for part in moments])
    outputs, slopes, forms, changes = (np.stack(part) for part in zip(*parts, strict=True))
    noise = output_noise**2 * np.eye(outputs.shape[1])
    covariance = beta * (forms + forms.swapaxes(1, 2)) / 2 + noise
    changes = beta * (changes + changes.swapaxes(1, 2))  # (X, m, m, d)
    size, axes = np.linalg.eigh(covariance)
    live = size > 1e-6 * np.maximum(size.max(1, keepdims=True), np.finfo(float).tiny)
    half = np.where(live, 1 / np.sqrt(np.where(live, size, 1)), 0)
    whiten = axes * half[:, None, :]  # S^+ = whiten whiten'
    D = np.einsum("xai,xad->xid", whiten, slopes)
    T = np.einsum("xai,xabd,xbj->xijd", whiten, changes, whiten)
    return EffectiveInformation(
        mean_term=np.einsum("xid,xie->xde", D, D),
        covariance_term=0.5 * np.einsum("xijd,xije->xde", T, T),
        outputs=outputs,
        covariance=covariance,
        rank=live.sum(1),
        residual=worst,
        prior=prior,
        beta=beta,
    )


def _one(layer_fn: LayerFn, params: PyTree, x: jax.Array) -> jax.Array:
    return layer_fn(params, x[None])[0]


@partial(jax.jit, static_argnames="layer_fn")
def _rows(layer_fn: LayerFn, params: PyTree, scales: PyTree, x: jax.Array) -> jax.Array:
    """J in units of the prior, (m, n)."""
    z, pull = jax.vjp(lambda p: _one(layer_fn, p, x), params)

    def row(axis: jax.Array) -> jax.Array:
        (slopes,) = pull(axis)
        return ravel_pytree(jax.tree.map(jnp.multiply, slopes, scales))[0]

    return jax.vmap(row)(jnp.eye(len(z), dtype=z.dtype))


@partial(jax.jit, static_argnames="layer_fn")
def _moments(
    layer_fn: LayerFn, params: PyTree, scales: PyTree, x: jax.Array, solved: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """f (m,), D (m, d), J Y (m, m) and its derivative in x with Y held (m, m, d)."""
    _, unravel = ravel_pytree(params)

    def outputs(flat_x: jax.Array) -> jax.Array:
        return _one(layer_fn, params, flat_x.reshape(x.shape))

    def form(flat_x: jax.Array) -> jax.Array:
        at = lambda p: _one(layer_fn, p, flat_x.reshape(x.shape))  # noqa: E731

        def column(y: jax.Array) -> jax.Array:
            direction = jax.tree.map(jnp.multiply, unravel(y), scales)
            return jax.jvp(at, (params,), (direction,))[1]

        return jax.vmap(column, out_axes=1)(solved)

    flat_x = x.ravel()
    return outputs(flat_x), jax.jacfwd(outputs)(flat_x), form(flat_x), jax.jacfwd(form)(flat_x)

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
from iw_jax.estimates import Estimate, left_out
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
      slopes: (X, m, d), D.
      covariance: (X, m, m), S(x).
      rank: (X,), dimension of z in which there is noise; the other directions (units that no weight
        moves, outputs that repeat others) tell nothing more about x, and are left out.
      rounding: eigenvalues below this times their number are not told from 0, in units in which the
        diagonal of the matrix is 1.
      residual: the largest relative residual of the solves.
      prior: P.
      beta: price of a nat.
    """

    mean_term: np.ndarray
    covariance_term: np.ndarray
    outputs: np.ndarray
    slopes: np.ndarray
    covariance: np.ndarray
    rank: np.ndarray
    rounding: float
    residual: float
    prior: IsotropicGaussian
    beta: Any

    @property
    def fisher(self) -> np.ndarray:
        """F_z|x, (X, d, d)."""
        return self.mean_term + self.covariance_term

    def logdet(self) -> Estimate:
        """E log det F_z|x over the inputs; -inf where it is singular, as in layers that compress.

        In H(x) - ½ E log[(2πe)^d / det F], about I(x; z) where F is large in every direction. Where
        it is not told from a singular one, the bracket reaches up to what rounding may hide.
        """
        axes, size, live = _axes(self.fisher, self.rounding)
        floor = self.rounding * size.shape[1]
        logs = np.log(np.maximum(size, floor)).sum(1) - 2 * np.linalg.slogdet(axes)[1]
        most = Estimate.mean_of(logs)
        if live.all():
            return most
        return trees.replace(most, value=-np.inf, bracket_lower=-np.inf, converged=False)

    def gaussian_bound(self) -> Estimate:
        """An upper bound of I(x; z), nats: ½ log det(Cov f + E S) - ½ E log det S.

        No law of z with its covariance has more entropy than the Gaussian. Finite for every rank of
        F; inf where some direction of z is without noise at one input and not at another. Moments
        are those of the law that the inputs were drawn from, independently: a jackknife.

        Raises:
          ValueError: for no more inputs than there are independent outputs.
        """
        axes, _, live = _axes(self.covariance.mean(0), self.rounding)
        number, independent = len(self.outputs), int(live.sum())
        if number <= independent:
            raise ValueError(
                f"inputs must be more than the {independent} independent outputs for their "
                f"covariance to be known, got {number}"
            )
        f = (self.outputs - self.outputs.mean(0)) @ axes
        S = (axes.T @ self.covariance @ axes)[:, live][:, :, live]
        unblurred = (f[:, ~live] ** 2).sum() > self.rounding * ((self.outputs @ axes) ** 2).sum()
        if unblurred or self.rank.min() < independent:
            return Estimate.exact(np.inf)
        f, noise = f[:, live], np.linalg.slogdet(S)[1]
        second = f[:, :, None] * f[:, None, :]
        total = left_out(second + S) - second / (number - 1) ** 2  # f is centred anew
        return Estimate.jackknife(
            0.5 * (np.linalg.slogdet((second + S).mean(0))[1] - noise.mean()),
            0.5 * (np.linalg.slogdet(total)[1] - left_out(noise)),
        )

    def linear_information(self, covariance: Any) -> Estimate:
        """½ log det(I + (E S)^-1 D C D'), nats, of a linear layer; finite for every rank of F.

        I(x; z) for x ~ N(., C) where S does not depend on x (noise in the biases, or added to the
        outputs). Noise in the kernel grows with x, and then it is a lower bound: of all noises
        that are uncorrelated with a Gaussian input, the Gaussian one of their covariance hides
        the most. E S is that of the law that the inputs were drawn from: a jackknife.

        Args:
          covariance: C, (d, d), of the inputs.

        Raises:
          ValueError: for fewer than two inputs, a layer whose dz/dx depends on x, or a covariance
            of another shape.

        References:
          Hassibi & Hochwald, IEEE Trans. Inf. Theory 49 (2003), Thm 1.
        """
        C, D = np.asarray(covariance, np.float64), self.slopes[0]
        if C.shape != (D.shape[1],) * 2:
            raise ValueError(f"covariance must be ({D.shape[1]}, {D.shape[1]}), got {C.shape}")
        if len(self.slopes) < 2:
            raise ValueError(f"inputs must be at least two, got {len(self.slopes)}")
        if np.abs(self.slopes - D).max() > self.rounding * np.abs(D).max():
            raise ValueError("layer_fn must be linear in its inputs, got a dz/dx that differs")
        axes, _, live = _axes(self.covariance.mean(0), self.rounding)
        axes = axes[:, live]
        signal, S = axes.T @ D @ C @ D.T @ axes, axes.T @ self.covariance @ axes

        def information(noise: np.ndarray) -> np.ndarray:
            return 0.5 * (np.linalg.slogdet(signal + noise)[1] - np.linalg.slogdet(noise)[1])

        return Estimate.jackknife(information(S.mean(0)), information(left_out(S)))


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
      beta: price of a nat; positive, scalar.
      key: a typed random key, for the preconditioner.
      num_matvecs: curvature products of the preconditioner, a Nyström sketch of H.
      rtol: relative residual at which a solve ends.
      max_solves: conjugate gradient steps allowed; a step takes a product for every output.
      output_noise: standard deviation of noise added to z itself, independent of the weights.
      batch_size: examples a chunk of a curvature product; None for all at once.

    Raises:
      TypeError: for a prior that is no `IsotropicGaussian`, or a key that is no typed random key.
      ValueError: for arguments out of range, inputs that are not finite, activations that are not
        (X, m), or that depend on x where no noise reaches them, which makes F infinite.
      RuntimeError: where the solves do not reach `rtol`.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Def. 3.1, Prop. 3.2. As printed, its first
      term is D' J F J' D/β (slip: J F^-1 J' must be inverted as a whole; the printed value grows
      fourfold under x -> 2x on a linear layer, where the right one falls fourfold), and Eq. 10
      takes log det F, which is -inf for every layer that compresses.
    """
    for name, value in (("beta", beta), ("rtol", rtol)):
        checks.scalar(name, value)
        checks.positive(name, value)
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 1)
    checks.at_least("max_solves", max_solves, 1)
    if not output_noise >= 0:
        raise ValueError(f"output_noise must not be negative, got {output_noise}")
    checks.finite("inputs", inputs)
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
    parts, residuals = [], []
    for x in inputs:
        rows = _rows(layer_fn, params, scales, x).astype(A.dtype)
        solution = solve(A, rows, inverse, rtol=rtol, max_solves=max_solves)
        residuals.append(float(solution.worst))
        moments = _moments(layer_fn, params, scales, x, solution.rows)
        parts.append([np.asarray(part, np.float64) for part in moments])
    outputs, slopes, forms, changes = (np.stack(part) for part in zip(*parts, strict=True))
    noise = output_noise**2 * np.eye(outputs.shape[1])
    covariance = beta * (forms + forms.swapaxes(1, 2)) / 2 + noise
    changes = beta * (changes + changes.swapaxes(1, 2))  # (X, m, m, d)
    worst = max(residuals)
    rounding = 10 * max(float(np.finfo(A.dtype).eps), worst**2)
    axes, size, live = _axes(covariance, rounding)
    D = np.einsum("xai,xad->xid", axes, slopes)
    T = np.einsum("xai,xabd,xbj->xijd", axes, changes, axes)
    _require_noise(D, T, size, live, rounding)
    half = np.where(live, 1 / np.sqrt(np.where(live, size, 1)), 0)
    D = half[:, :, None] * D
    T = half[:, :, None, None] * T * half[:, None, :, None]
    return EffectiveInformation(
        mean_term=np.einsum("xid,xie->xde", D, D),
        covariance_term=0.5 * np.einsum("xijd,xije->xde", T, T),
        outputs=outputs,
        slopes=slopes,
        covariance=covariance,
        rank=live.sum(1),
        rounding=rounding,
        residual=worst,
        prior=prior,
        beta=beta,
    )


def _axes(S: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B, λ and which λ are not rounding, with B'SB = diag λ and the diagonal of S scaled to 1.

    Without the scale a loud output would pass off the small noise of a quiet one as none.
    """
    variance = np.diagonal(S, axis1=-2, axis2=-1)
    scale = np.sqrt(np.maximum(variance, np.finfo(np.float32).tiny))
    size, axes = np.linalg.eigh(S / (scale[..., :, None] * scale[..., None, :]))
    return axes / scale[..., :, None], size, size > rounding * S.shape[-1]


def _require_noise(
    D: np.ndarray, T: np.ndarray, size: np.ndarray, live: np.ndarray, rounding: float
) -> None:
    """Raises where a direction without noise depends on x, in its mean D or its covariance T.

    Rounding turns the axes by about rounding/λ towards those of noise λ.
    """
    for i, has_noise in enumerate(live):
        for part in (D[i], T[i]):
            flat = part.reshape(len(has_noise), -1)
            known = flat[has_noise] / size[i][has_noise, None]
            turned = rounding * len(has_noise) * np.linalg.norm(known)
            if np.linalg.norm(flat[~has_noise]) > turned:
                raise ValueError(
                    "activations must be noisy wherever they depend on the input, got a direction "
                    f"of them at inputs[{i}] that depends on it, with no noise of the weights "
                    "beyond rounding: its information is infinite. Give output_noise, leave it out "
                    "of layer_fn, or solve with a smaller rtol"
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

"""Curvatures of the loss as operators on the weights: Hessian, GGN, and three kinds of Fisher.

All are of the SUMMED loss L_D(w) = Σ_i weight_i nll_i(w), so they grow with N; their entries are
nats per squared weight.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax

from iw_jax import checks, trees
from iw_jax.curvature.operators import Operator, Root, blocked, structure_of
from iw_jax.task import Task, check_task, nll, sum_over_examples, take
from iw_jax.trees import PyTree

# On CPUs networks of at most so many weights take so many probes at once (see `_each_probe`).
_SMALL, _FEW = 2**14, 4


def ggn(task: Task, params: PyTree, *, batch_size: int | None = None) -> Operator:
    """The generalised Gauss-Newton matrix G = Σ_i weight_i J_i' Λ_i J_i of the summed loss.

    J_i is the Jacobian of the outputs in the weights, Λ_i the likelihood's Fisher in output space,
    applied in closed form. Positive semi-definite. The network runs at its own matmul precision.

    Args:
      task: the task.
      params: weights at which to linearise.
      batch_size: examples a chunk, so that memory does not grow with N; None for all at once.

    Raises:
      ValueError: where parameters, network and data do not fit (see `check_task`).
      TypeError: for weights that are not floating-point, or targets of the wrong type.
    """
    checks.optional_at_least("batch_size", batch_size, 1)
    examples, *outputs = check_task(task, params)
    product = _GaussNewton(batch_size, _exact_metric)
    root = Root(_ggn_rows, examples, math.prod(outputs))
    return blocked(product, task, params, structure=structure_of(params), root=root)


def fisher(task: Task, params: PyTree, *, batch_size: int | None = None) -> Operator:
    """The exact Fisher F = Σ_i weight_i E_{y ~ p_i}[g g'], targets y drawn from the model itself.

    g is the gradient of one example's nll in the weights. The expectation is taken in closed form:
    every likelihood supplies its output-space Fisher, with which F is the matrix `ggn` applies
    (arXiv:1905.12213 Sec. 2; not the empirical Fisher, which has the data's targets).

    Args:
      task: the task.
      params: weights at which to linearise.
      batch_size: examples a chunk, so that memory does not grow with N; None for all at once.

    Raises:
      ValueError: where parameters, network and data do not fit (see `check_task`).
      TypeError: for weights that are not floating-point, or targets of the wrong type.
    """
    return ggn(task, params, batch_size=batch_size)


def mc_fisher(
    key: jax.Array,
    task: Task,
    params: PyTree,
    *,
    num_draws: int = 1,
    batch_size: int | None = None,
) -> Operator:
    """A Monte-Carlo Fisher F̂ = Σ_i weight_i mean_m g_im g_im', targets y_im drawn from the model.

    g_im is the gradient of the nll of (x_i, y_im) in the weights: squares are taken example by
    example, so that E[F̂] = F at every `batch_size`. The targets are drawn once, when the operator
    is made; they do not depend on `batch_size`.

    Products and the trace are unbiased. log det, γ and the information are concave in A, and the
    rank of F̂ is at most N * num_draws: those of F̂ lie BELOW those of F (30 examples with one draw
    each: by half), and a measure's interval holds for F̂. `fisher` is F̂ for infinitely many draws
    at the price of one; F̂ is for comparisons.

    Args:
      key: a typed random key, for the targets.
      task: the task; its own targets must be valid, but play no part.
      params: weights at which to linearise.
      num_draws: targets M for each example, which share its forward pass.
      batch_size: examples a chunk, so that memory does not grow with N; None for all at once.

    Raises:
      ValueError: where parameters, network and data do not fit (see `check_task`).
      TypeError: for a key that is no typed random key, weights that are not floating-point, or
        targets of the wrong type.
    """
    checks.key("key", key)
    checks.at_least("num_draws", num_draws, 1)
    checks.optional_at_least("batch_size", batch_size, 1)
    check_task(task, params)
    drawn = trees.replace(task, targets=_sample_targets(key, task, params, num_draws, batch_size))
    product = _GaussNewton(batch_size, _score_metric)
    return blocked(product, drawn, params, structure=structure_of(params))


def empirical_fisher(task: Task, params: PyTree, *, batch_size: int | None = None) -> Operator:
    """The empirical Fisher Σ_i weight_i g_i g_i', with the targets of the data; not the Fisher.

    g_i is the gradient of one example's nll in the weights. It vanishes where every example is
    fitted, and equals the Fisher in expectation only where the model is the law of the data
    (Kunstner, Balles & Hennig, arXiv:1905.12558).

    Args:
      task: the task.
      params: weights at which to linearise.
      batch_size: examples a chunk, so that memory does not grow with N; None for all at once.

    Raises:
      ValueError: where parameters, network and data do not fit (see `check_task`).
      TypeError: for weights that are not floating-point, or targets of the wrong type.
    """
    checks.optional_at_least("batch_size", batch_size, 1)
    check_task(task, params)
    once = trees.replace(task, targets=jnp.asarray(task.targets)[:, None])
    product = _GaussNewton(batch_size, _score_metric)
    return blocked(product, once, params, structure=structure_of(params))


def hessian(task: Task, params: PyTree, *, batch_size: int | None = None) -> Operator:
    """The Hessian of the summed loss, forward-over-reverse; usually indefinite.

    Args:
      task: the task.
      params: weights at which to differentiate.
      batch_size: examples a chunk, so that memory does not grow with N; None for all at once.

    Raises:
      ValueError: where parameters, network and data do not fit (see `check_task`).
      TypeError: for weights that are not floating-point, or targets of the wrong type.
    """
    checks.optional_at_least("batch_size", batch_size, 1)
    check_task(task, params)
    return blocked(_Hessian(batch_size), task, params, structure=structure_of(params))


# The products below are module-level functions or frozen dataclasses: equal whenever they mean
# the same, so that two operators of one kind share one compiled program.


@dataclass(frozen=True)
class _GaussNewton:
    """Σ_i weight_i J_i' Λ_i J_i; `metric` (chunk, outputs) gives the product with its Λ_i."""

    batch_size: int | None
    metric: Callable[[Task, jax.Array], Callable[[jax.Array], jax.Array]]

    def __call__(self, V: PyTree, task: Task, params: PyTree) -> PyTree:
        def on_chunk(chunk: Task, V: PyTree, params: PyTree) -> PyTree:
            # Linearised once a chunk; the probes share the forward pass and its residuals.
            outputs, jvp = jax.linearize(lambda p: chunk.apply_fn(p, chunk.inputs), params)
            vjp = jax.linear_transpose(jvp, params)
            weights = chunk.weights.reshape(-1, *[1] * (outputs.ndim - 1))
            metric = self.metric(chunk, outputs)

            def product(v: PyTree) -> PyTree:
                u = metric(jvp(v))
                u = jnp.where(weights > 0, weights * u, 0)
                return vjp(u.astype(outputs.dtype))[0]

            return _each_probe(product, V)

        return sum_over_examples(on_chunk, task, V, params, batch_size=self.batch_size)


def _each_probe(product: Callable[[PyTree], PyTree], V: PyTree) -> PyTree:
    """The product of each of a block of vectors with the same linearisation.

    On a CPU one after the other: each fills the processor, its activations stay in the cache, and
    memory does not grow with the block; a few at once where a network is so small that starting
    its matrix products takes longer than they do. Elsewhere together.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(product)(V)
    count = jax.tree.leaves(V)[0].shape[0]
    small = optax.tree.size(V) <= count * _SMALL
    return jax.lax.map(product, V, batch_size=min(_FEW, count) if small else None)


def _ggn_rows(indices: jax.Array, task: Task, params: PyTree) -> PyTree:
    """sqrt(weight_i) S_i' J_i for some examples, with Λ_i = S_i S_i'."""
    chunk = take(task, indices)

    def rows(inputs: PyTree, weight: jax.Array) -> PyTree:
        alone = jax.tree.map(lambda x: x[None], inputs)
        outputs, vjp = jax.vjp(lambda p: chunk.apply_fn(p, alone), params)
        axes = jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, *outputs.shape)
        S = jax.vmap(lambda e: chunk.likelihood.root_product(outputs, e))(axes)
        return jax.vmap(lambda u: vjp(u)[0])((jnp.sqrt(weight) * S).astype(outputs.dtype))

    by_example = jax.vmap(rows)(chunk.inputs, chunk.weights)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), by_example)


def _exact_metric(chunk: Task, outputs: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Λ u in closed form."""
    return lambda u: chunk.likelihood.fisher_product(outputs, u)


def _score_metric(chunk: Task, outputs: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """mean_m g_m (g_m'u) with g_m the gradient in the outputs, for targets (N, M, ...)."""

    def score(targets: jax.Array) -> jax.Array:
        return jax.grad(lambda z: jnp.sum(chunk.likelihood.nll(z, targets)))(outputs)

    scores = jax.vmap(score, in_axes=1)(chunk.targets)
    axes = tuple(range(2, scores.ndim))
    return lambda u: jnp.mean(scores * jnp.sum(scores * u, axis=axes, keepdims=True), axis=0)


@partial(jax.jit, static_argnums=(3, 4))
def _sample_targets(
    key: jax.Array, task: Task, params: PyTree, num_draws: int, batch_size: int | None
) -> jax.Array:
    """Targets from the model, each example with keys of its own: (N, num_draws, ...)."""

    def draw(example: tuple[PyTree, jax.Array]) -> jax.Array:
        inputs, own_key = example
        outputs = task.apply_fn(params, jax.tree.map(lambda x: x[None], inputs))
        keys = jax.random.split(own_key, num_draws)
        return jax.vmap(lambda k: task.likelihood.sample_targets(k, outputs)[0])(keys)

    examples = task.inputs, jax.random.split(key, task.num_rows)
    return jax.lax.map(draw, examples, batch_size=batch_size or task.num_rows)


@dataclass(frozen=True)
class _Hessian:
    batch_size: int | None

    def __call__(self, V: PyTree, task: Task, params: PyTree) -> PyTree:
        def on_chunk(chunk: Task, V: PyTree, params: PyTree) -> PyTree:
            _, product = jax.linearize(jax.grad(lambda p: nll(chunk, p)), params)
            return _each_probe(product, V)

        return sum_over_examples(on_chunk, task, V, params, batch_size=self.batch_size)

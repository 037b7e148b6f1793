"""A task: what is to be learned, as the summed loss L_D(w) in nats."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from iw_jax import checks, compiler, trees
from iw_jax.likelihoods import Likelihood
from iw_jax.trees import PyTree

DATA = "data"  # the axis of a mesh that examples are dealt out over; see `iw_jax.parallel`


@trees.record
class Task:
    """A network, a likelihood and data: L_D(w) = Σ_i weights_i * nll_i(w), in nats.

    Attributes:
      apply_fn: pure function (params, inputs) -> outputs of shape (N, ...). Static: define it
        once, since another function object compiles again.
      likelihood: a `Categorical`, `Bernoulli`, `GaussianLikelihood` or one of your own.
      inputs: any pytree of arrays with leading axis N.
      targets: an array with leading axis N.
      weights: (N,), non-negative; 0 masks an example: the network never sees its inputs (they are
        replaced by another example's, so that no NaN of it can reach a gradient). None for all
        ones.
      mesh: where `iw.spread` has dealt out the examples; None for one device.
      num_padding: rows at the end that are no examples, there to divide evenly.

    Raises:
      ValueError: for N = 0, leading axes that differ, non-finite inputs, weights that are negative
        or not finite.
    """

    apply_fn: Callable[[PyTree, PyTree], jax.Array] = trees.static()
    likelihood: Likelihood
    inputs: PyTree
    targets: Any
    weights: Any = None
    mesh: Mesh | None = trees.static(default=None)
    num_padding: int = trees.static(default=0)

    def __post_init__(self) -> None:
        """Checks what can be known without running the network."""
        if isinstance(self.likelihood, type):
            raise TypeError(
                f"likelihood must be an instance, {self.likelihood.__name__}(), got the class"
            )
        shapes = {np.shape(x)[:1] for x in jax.tree.leaves((self.inputs, self.targets))}
        if len(shapes) != 1 or () in shapes:
            raise ValueError(
                "inputs and targets must share their leading axis N, got leading axes "
                f"{sorted(shapes)}"
            )
        (num_examples,) = shapes.pop()
        if num_examples == 0:
            raise ValueError("inputs must hold at least one example, got N = 0")
        if self.weights is None:
            live = jnp.arange(num_examples) < num_examples - self.num_padding
            object.__setattr__(self, "weights", live.astype(jnp.result_type(float)))
        if np.shape(self.weights) != (num_examples,):
            raise ValueError(
                f"weights must have shape ({num_examples},), got {np.shape(self.weights)}"
            )
        checks.finite("weights", self.weights)
        if trees.is_concrete(self.weights) and np.min(self.weights) < 0:
            raise ValueError(f"weights must not be negative, got {np.min(self.weights)}")
        padding = slice(num_examples - self.num_padding, None)
        if trees.is_concrete(self.weights) and np.any(np.asarray(self.weights)[padding] != 0):
            raise ValueError(
                f"weights must be 0 for the {self.num_padding} rows of padding, got others"
            )
        if trees.is_concrete((self.inputs, self.weights)):
            live = np.asarray(self.weights) > 0
            if live.any() and not live.all():
                first = int(np.argmax(live))
                inputs = jax.tree.map(lambda x: _select(live, x, x[first]), self.inputs)
                object.__setattr__(self, "inputs", inputs)
        checks.finite("inputs", self.inputs)

    @property
    def num_examples(self) -> int:
        """N, masked examples included."""
        return self.num_rows - self.num_padding

    @property
    def num_rows(self) -> int:
        """Length of the arrays: N, and padding."""
        return jax.tree.leaves(self.inputs)[0].shape[0]


def check_task(task: Task, params: PyTree) -> tuple[int, ...]:
    """Raises, before anything is compiled, where parameters, network and data do not fit.

    Args:
      task: the task.
      params: parameters of its network.

    Returns:
      The shape (N, ...) of the network's outputs; N with padding.

    Raises:
      ValueError: for parameters that the network does not take, outputs that are no array with
        leading axis N, parameters that are not finite, targets out of range.
      TypeError: for targets of the wrong type.
      RuntimeError: if the compiler is known to compute wrong numbers; see `iw_jax.compiler`.
    """
    compiler.require_sound()
    checks.finite("params", params)
    count = min(2, task.num_rows)  # shapes do not depend on how many there are
    two = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), task.inputs)
    try:
        outputs = jax.eval_shape(task.apply_fn, params, two)
    except Exception as error:
        raise ValueError(
            "params must fit apply_fn, got a failure when apply_fn(params, inputs) was traced with "
            f"parameters {_shapes(params)} and inputs {_shapes(task.inputs)}: "
            f"{type(error).__name__}: {str(error).strip()[:400]}"
        ) from error
    if not hasattr(outputs, "shape") or outputs.shape[:1] != (count,):
        raise ValueError(
            "apply_fn must return one array with the examples on its leading axis, got "
            f"{_shapes(outputs)} for {count} examples"
        )
    shape = (task.num_rows, *outputs.shape[1:])
    task.likelihood.check(shape, task.targets)
    return shape


def require_whole(task: Task) -> None:
    """Raises for a task whose examples are spread over devices, where each is asked for."""
    if task.mesh is not None:
        raise ValueError("task must not be spread here, got one that is: give the whole one")


def take(task: Task, indices: jax.Array, factor: Any = 1.0) -> Task:
    """The task of some of the examples, weights multiplied by `factor`.

    With a uniform draw of B indices and factor N/B its loss is an unbiased estimate of L_D.

    Args:
      task: the task.
      indices: (B,) integers.
      factor: multiplies every weight.
    """
    inputs = jax.tree.map(lambda x: jnp.take(x, indices, axis=0), task.inputs)
    targets = jnp.take(task.targets, indices, axis=0)
    weights = factor * jnp.take(task.weights, indices, axis=0)
    return _on_one_device(task, inputs, targets, weights)


def sum_over_examples(
    function: Callable[..., PyTree], task: Task, *arguments: PyTree, batch_size: int | None = None
) -> PyTree:
    """Σ over chunks of `function(chunk, *arguments)`, so that memory does not grow with N.

    Where the examples are spread over devices, each sums its own and one all-reduce sums the sums.

    Args:
      function: maps a task of at most `batch_size` examples to a pytree that is additive over
        examples and linear in their weights. What it differentiates must be among `arguments`.
      task: the task.
      *arguments: the same for every chunk.
      batch_size: examples a chunk, on each device; None for all at once.

    Returns:
      function(task, *arguments), up to the order of summation.
    """
    checks.optional_at_least("batch_size", batch_size, 1)
    if task.mesh is None:
        return _sum_over_chunks(function, task, arguments, batch_size)

    def own(inputs: PyTree, targets: Any, weights: Any, likelihood: Any, arguments: Any) -> PyTree:
        own = trees.replace(_on_one_device(task, inputs, targets, weights), likelihood=likelihood)
        return jax.lax.psum(_sum_over_chunks(function, own, arguments, batch_size), DATA)

    dealt, same = PartitionSpec(DATA), PartitionSpec()
    return jax.shard_map(
        own,
        mesh=task.mesh,
        in_specs=(dealt, dealt, dealt, same, same),
        out_specs=same,
        # With it JAX would sum gradients taken inside over the devices, each by itself.
        check_vma=False,
    )(task.inputs, task.targets, task.weights, task.likelihood, arguments)


def _on_one_device(task: Task, inputs: PyTree, targets: Any, weights: Any) -> Task:
    return trees.replace(
        task, inputs=inputs, targets=targets, weights=weights, mesh=None, num_padding=0
    )


def _sum_over_chunks(
    function: Callable[..., PyTree], task: Task, arguments: Any, batch_size: int | None
) -> PyTree:
    num = task.num_rows
    if batch_size is None or batch_size >= num:
        return function(task, *arguments)

    def add_chunk(total, first):
        # The last chunk is moved back to end at N; what it repeats is masked.
        start = jnp.minimum(first, num - batch_size)
        indices = start + jnp.arange(batch_size)
        chunk = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, batch_size),
            (task.inputs, task.targets, task.weights),
        )
        inputs, targets, weights = chunk
        weights = jnp.where(indices >= first, weights, 0)
        chunk = trees.replace(task, inputs=inputs, targets=targets, weights=weights)
        return jax.tree.map(jnp.add, total, function(chunk, *arguments)), None

    shapes = jax.eval_shape(function, take(task, jnp.arange(batch_size)), *arguments)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add_chunk, zero, jnp.arange(0, num, batch_size))[0]


def nll(task: Task, params: PyTree, *, batch_size: int | None = None) -> jax.Array:
    """The summed loss L_D(w) = Σ_i weight_i * -log p(y_i | x_i, w); scalar, nats.

    Args:
      task: the task.
      params: parameters of its network.
      batch_size: examples a chunk; None for all at once.

    Raises:
      ValueError: for targets out of range or of a shape that does not belong to the outputs.
      TypeError: for targets of the wrong type.
    """

    def loss(chunk: Task, params: PyTree) -> jax.Array:
        live = chunk.weights > 0  # outputs of the others may be inf or NaN: their nll must not be
        outputs = chunk.apply_fn(params, chunk.inputs)
        chunk.likelihood.check(outputs.shape, chunk.targets)  # traced targets: their shape only
        outputs = _select(live, outputs, 0)
        nats = chunk.likelihood.nll(outputs, chunk.targets)
        return jnp.sum(jnp.where(live, chunk.weights * nats, 0))

    if batch_size is None:  # spread or not: the compiler sums over devices, gradients along with it
        return loss(task, params)
    return sum_over_examples(loss, task, params, batch_size=batch_size)


def _select(live: Any, x: Any, other: Any) -> jax.Array:
    """`x` where an example is live, else `other`."""
    return jnp.where(live.reshape(-1, *(1,) * (x.ndim - 1)), x, other)


def _shapes(tree: PyTree) -> str:
    text = str(jax.tree.map(np.shape, tree))
    return text if len(text) < 300 else text[:300] + " ..."

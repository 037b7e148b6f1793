"""Many devices: a mesh of them, tasks and members spread over it, several hosts.

A mesh has three axes: `sweep` for the members of a sweep, `data` for examples, `model` for weights.
Numbers do not depend on how many devices there are, but for the order of sums: random numbers are
made by place (JAX's partitionable keys), and what does not divide evenly is padded and masked.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from iw_jax import checks, trees
from iw_jax.task import DATA, Task
from iw_jax.trees import PyTree

SWEEP, MODEL = "sweep", "model"
EVERYWHERE = PartitionSpec()
Result = TypeVar("Result")


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others of a run; once, before the first JAX computation.

    Without arguments what the environment says: TPU pods, Slurm and Open MPI say it by themselves.

    Args:
      coordinator: address and port of process 0, "10.0.0.1:1234".
      num_processes: how many there are.
      process_id: which one this is, from 0 on.

    Raises:
      ValueError: for some of the arguments without the others, or a process_id out of range.
    """
    given = coordinator, num_processes, process_id
    if any(x is None for x in given) and not all(x is None for x in given):
        raise ValueError(
            "coordinator, num_processes and process_id must be given together or not at all, got "
            f"{coordinator}, {num_processes}, {process_id}"
        )
    if num_processes is not None:
        checks.at_least("num_processes", num_processes, 1)
        if process_id not in range(num_processes):
            raise ValueError(
                f"process_id must lie from 0 to num_processes - 1 = {num_processes - 1}, got "
                f"{process_id}"
            )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def make_mesh(*, sweep: int | None = None, data: int = 1, model: int = 1) -> Mesh:
    """All devices of all processes, as a mesh of sweep x data x model.

    Args:
      sweep: parts that the members of a sweep are dealt out to; None for all that is left.
      data: parts of the examples.
      model: parts of the weights.

    Raises:
      ValueError: unless the three multiply to the number of devices.
    """
    devices = jax.device_count()
    checks.at_least("data", data, 1)
    checks.at_least("model", model, 1)
    left = max(devices // (data * model), 1) if sweep is None else sweep
    if left * data * model != devices:
        raise ValueError(
            f"sweep * data * model must be the number of devices, {devices}, got "
            f"{left} * {data} * {model}"
        )
    axes = SWEEP, DATA, MODEL
    return jax.make_mesh((left, data, model), axes, axis_types=(AxisType.Auto,) * 3)


def spread(task: Task, mesh: Mesh, *, num_examples: int | None = None) -> Task:
    """The task with its examples dealt out over the axis `data` of a mesh.

    Curvature products and losses then take one all-reduce each, and a device holds its own examples
    only; `batch_size` counts examples a chunk on each device. What is missing to a multiple of the
    axis is padded with copies of an example, of weight 0.

    Args:
      task: the task; whole on every process, or with `num_examples` the process's own rows of it.
      mesh: from `make_mesh`.
      num_examples: N of all processes together, where each has loaded `own_rows` only.

    Raises:
      ValueError: for a task that is spread already, another mesh, or rows that are not `own_rows`.
    """
    require_mesh(mesh)
    if task.mesh is not None:
        raise ValueError("task must not be spread yet, got one that is")
    whole = task.num_rows if num_examples is None else num_examples
    rows = whole + -whole % mesh.shape[DATA]
    first, last, stop = 0, whole, rows
    if num_examples is not None:
        own, (_, stop) = own_rows(num_examples, mesh), _held(rows, mesh)
        first, last = own.start, own.stop
        if task.num_rows != max(last - first, 1):
            raise ValueError(
                f"task must hold this process's own rows {first} to {last} of {num_examples}, got "
                f"{task.num_rows}"
            )

    def deal(x: Any, masked: bool = False) -> jax.Array:
        x = np.asarray(x)
        copies = np.repeat(0 * x[:1] if masked else x[:1], stop - last, axis=0)
        own = np.concatenate([x[: last - first], copies])

        def part(index: Any) -> np.ndarray:
            low, high, _ = index[0].indices(rows)
            return own[low - first : high - first]

        sharding = NamedSharding(mesh, PartitionSpec(DATA))
        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

    inputs, targets = jax.tree.map(deal, (task.inputs, task.targets))
    return trees.replace(
        task,
        inputs=inputs,
        targets=targets,
        weights=deal(task.weights, masked=True),
        likelihood=put(mesh, task.likelihood),
        mesh=mesh,
        num_padding=rows - whole,
    )


def own_rows(num_examples: int, mesh: Mesh) -> slice:
    """Which of N examples the devices of this process hold in a spread task: what it has to load.

    Empty where it holds nothing but padding; one example must be loaded then too, any.
    """
    first, stop = _held(num_examples + -num_examples % mesh.shape[DATA], mesh)
    return slice(min(first, num_examples), min(stop, num_examples))


def _held(rows: int, mesh: Mesh) -> tuple[int, int]:
    """The first row that a device of this process holds, and the one behind the last."""
    dealt = NamedSharding(mesh, PartitionSpec(DATA)).addressable_devices_indices_map((rows,))
    parts = [index[0].indices(rows) for index in dealt.values() if index]
    return min(part[0] for part in parts), max(part[1] for part in parts)


def pad(array: Any, missing: int, axis: int = 0) -> np.ndarray:
    """The array with `missing` copies of its first row behind the last one; on the host."""
    array = np.asarray(array)
    first = np.take(array, [0], axis)
    return np.concatenate([array, np.repeat(first, missing, axis)], axis)


def put(mesh: Mesh, tree: PyTree, spec: PartitionSpec = EVERYWHERE) -> PyTree:
    """Arrays that every process holds whole, placed on a mesh; without a spec on all devices."""

    def place(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            kind = jax.random.key_impl(x)
            return jax.random.wrap_key_data(place(jax.random.key_data(x)), impl=kind)
        own = np.asarray(x)
        return jax.make_array_from_callback(own.shape, NamedSharding(mesh, spec), lambda i: own[i])

    return jax.tree.map(place, tree)


def hold(mesh: Mesh | None, tree: PyTree, spec: PartitionSpec = EVERYWHERE) -> PyTree:
    """Inside a compiled program: keeps arrays where the spec says. No mesh: the tree itself."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))


def of_weights(mesh: Mesh, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """Where an array of weights lies: along its longest axis that the axis `model` divides."""
    parts = mesh.shape[MODEL]
    divided = [i for i, length in enumerate(shape) if length % parts == 0]
    longest = max(divided, key=lambda i: shape[i], default=None)
    return tuple(MODEL if i == longest else None for i in range(len(shape)))


def local(tree: PyTree) -> PyTree:
    """Arrays that lie on every device, as this process's own on its first device."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def anywhere(value: bool) -> bool:
    """Whether it holds on any process; each must ask, in the same order."""
    if jax.process_count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.asarray(value))))


def together(function: Callable[[], Result]) -> Result:
    """What the function returns here; where it fails on any process, it fails on every one.

    So that none waits for one that has given up. Each process must ask, in the same order.
    """
    failure = None
    try:
        result = function()
    except Exception as error:
        failure = error
    if anywhere(failure is not None):
        raise failure or RuntimeError("another process of the run could not do it, and says why")
    return result


def require_mesh(mesh: Any) -> None:
    """Raises unless it is a mesh with the axes of `make_mesh`."""
    if not isinstance(mesh, Mesh) or set(mesh.axis_names) != {SWEEP, DATA, MODEL}:
        raise ValueError(f"mesh must come from iw.make_mesh, got {mesh!r:.200}")

"""The few pytree operations that `jax.tree` and `optax.tree` do not have."""

import dataclasses
import itertools
import math
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
_T = TypeVar("_T")


def static(**options: Any) -> Any:
    """A field of a `record` that is hashed and compared, not traced."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def record(cls: type[_T]) -> type[_T]:
    """Makes a class a frozen dataclass and a pytree whose constructor may check its arguments.

    Fields made with `static()` are compared, the others are traced. JAX rebuilds a pytree from
    tracers and placeholders; that path does not run the constructor, so checks are safe there
    (`jax.tree_util.register_dataclass` would run it).
    """
    hand_written = "__init__" in cls.__dict__
    cls = dataclasses.dataclass(frozen=True, eq=False, init=not hand_written)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(x):
        children = [(jax.tree_util.GetAttrKey(name), getattr(x, name)) for name in data]
        return children, tuple(getattr(x, name) for name in meta)

    def flatten(x):
        return [getattr(x, name) for name in data], tuple(getattr(x, name) for name in meta)

    def unflatten(meta_values, children):
        return build(
            cls,
            **dict(zip(data, children, strict=True)),
            **dict(zip(meta, meta_values, strict=True)),
        )

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def build(cls: type[_T], **fields: Any) -> _T:
    """An instance of a `record` with these fields, made without its constructor."""
    instance = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
    return instance


def replace(instance: _T, **changes: Any) -> _T:
    """A copy of a `record` with some fields changed, made without its constructor."""
    fields = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}  # type: ignore[arg-type]
    return build(type(instance), **{**fields, **changes})


def broadcast_prefix(name: str, prefix: PyTree, tree: PyTree) -> PyTree:
    """Repeats a pytree prefix (one scalar, or one a layer) over the leaves of `tree`.

    Args:
      name: of the argument, for the error message.
      prefix: a prefix of `tree`.
      tree: the full pytree.

    Raises:
      ValueError: if `prefix` is no prefix of `tree`.
    """
    try:
        return jax.tree.broadcast(prefix, tree)
    except ValueError as error:
        raise ValueError(
            f"{name} must be one value or a pytree prefix of the parameters (one value a layer), "
            f"got {jax.tree.structure(prefix)} for parameters {jax.tree.structure(tree)}"
        ) from error


def standard_normal(key: jax.Array, like: PyTree) -> PyTree:
    """Independent N(0, 1) entries, in the structure, shapes and dtypes of `like`.

    One draw, cut into leaves: a generator for every leaf (`optax.tree.random_like`) takes ten times
    as long to compile for a network of four tensors.
    """
    leaves, treedef = jax.tree.flatten(like)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    flat = _normal(key, sum(sizes), jnp.result_type(*leaves))
    ends = list(itertools.accumulate(sizes))
    parts = [
        flat[end - size : end].reshape(leaf.shape).astype(leaf.dtype)
        for leaf, size, end in zip(leaves, sizes, ends, strict=True)
    ]
    return jax.tree.unflatten(treedef, parts)


def _normal(key: jax.Array, size: int, dtype: Any) -> jax.Array:
    """`jax.random.normal`, kept in memory: √2 erf⁻¹(u), in a loop over two halves.

    Elementwise, XLA would fuse it into all that reads the noise and compute it again in each place
    (`benchmarks/variational_step.py`: a tenth of a step). A loop is a boundary to fusion.
    """
    low = np.nextafter(np.asarray(-1, dtype), np.asarray(0, dtype))
    uniform = jax.random.uniform(key, (size + size % 2,), dtype, low, 1)
    root2 = np.asarray(np.sqrt(2), dtype)
    halves = jax.lax.map(lambda u: root2 * jax.lax.erf_inv(u), uniform.reshape(2, -1))
    return halves.reshape(-1)[:size]


def is_concrete(tree: PyTree) -> bool:
    """Whether every leaf holds numbers now, so that values (not only shapes) can be checked."""
    try:
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array):
                leaf.devices()  # a tracer lives on no device
    except jax.errors.ConcretizationTypeError:
        return False
    return True


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every floating-point leaf is finite; a traced boolean ()."""
    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floating] or [True]))

"""The few pytree operations that `jax.tree` and `optax.tree` do not have."""

import dataclasses
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


def by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves under their paths, "Dense_0/kernel"."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def is_concrete(tree: PyTree) -> bool:
    """Whether every leaf holds numbers now, so that values (not only shapes) can be checked.

    A tracer does not, nor, here, an array of which other processes hold a part.
    """
    try:
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array):
                leaf.devices()  # a tracer lives on no device
                if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
                    return False
    except jax.errors.ConcretizationTypeError:
        return False
    return True


def namespace(*arrays: Any) -> Any:
    """NumPy for concrete arrays (float64 whatever JAX allows), jax.numpy for traced ones."""
    return np if is_concrete(arrays) else jnp


def all_finite(tree: PyTree) -> jax.Array:
    """Whether every floating-point leaf is finite; a traced boolean ()."""
    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in floating] or [True]))

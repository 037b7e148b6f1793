"""Symmetric linear operators on weights, known by their products, and their algebra."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iw_jax import checks, trees
from iw_jax.convolutions import with_fast_convolutions
from iw_jax.trees import PyTree


class Structure(NamedTuple):
    """Shapes of a weight tree in a hashable form, since an operator's structure is static."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]


@dataclass(frozen=True)
class Root:
    """The root Φ of A = Φ'Φ, known by its rows: so many for each example.

    Attributes:
      rows: static function (indices, *leaves) -> the rows of these examples, a block of trees with
        the examples' rows one after the other on the leading axis.
      examples: N.
      outputs: rows of one example.
    """

    rows: Callable[..., PyTree]
    examples: int
    outputs: int

    @property
    def size(self) -> int:
        """How many rows Φ has; the rank of A is at most that."""
        return self.examples * self.outputs


@trees.record
class Operator:
    """A symmetric operator v -> A v on trees of weights; a frozen pytree.

    `A(v)` is one product, `A.block(V)` many in one pass over the data. `A + B`, `2.0 * A`,
    `A.restrict(layer)` and `A.congruence(scales)` are operators too. The product function is
    static (compared by identity: define it once), what it is applied with is traced, so one
    compiled program serves all parameters of the same shapes.

    Attributes:
      product: static function of a tree (or of a block of trees) and `leaves`.
      blocked: whether `product` takes a block of trees with a leading axis.
      structure: static shapes and dtypes of the weights; see `like`.
      leaves: traced arguments of `product`.
      root: static; Φ where A = Φ'Φ is known in that form (`ggn`), else None.

    Raises:
      TypeError: if `product` is not callable or returns other types than `like` has, or a leaf of
        `like` is not floating-point.
      ValueError: if `product` does not map trees like `like` to trees like `like`.
    """

    product: Callable[..., PyTree] = trees.static()
    blocked: bool = trees.static()
    structure: Structure = trees.static()
    leaves: tuple[Any, ...]
    root: Root | None = trees.static()

    __array_ufunc__ = None  # lets NumPy scalars leave `scalar * A` to `__rmul__`

    def __init__(self, product: Callable[..., PyTree], *leaves: Any, like: PyTree) -> None:
        """Takes product(v, *leaves) -> A v, and `like`, weights or their ShapeDtypeStructs."""
        if not callable(product):
            raise TypeError(f"product must be a function (v, *leaves) -> tree, got {product!r:.80}")
        structure = structure_of(like)
        object.__setattr__(self, "product", product)
        object.__setattr__(self, "blocked", False)
        object.__setattr__(self, "structure", structure)
        object.__setattr__(self, "leaves", leaves)
        object.__setattr__(self, "root", None)
        image = jax.eval_shape(lambda v, rest: product(v, *rest), self.like, leaves)
        checks.same_structure("product(v)", image, "like", self.like)
        for given, wanted in zip(jax.tree.leaves(image), structure.dtypes, strict=True):
            if given.dtype != wanted:
                raise TypeError(
                    f"product(v) must have the types of like, got {given.dtype} instead of {wanted}"
                )

    @property
    def like(self) -> PyTree:
        """The weights' structure: a tree of `jax.ShapeDtypeStruct`."""
        treedef, shapes, dtypes = self.structure
        return jax.tree.unflatten(treedef, map(jax.ShapeDtypeStruct, shapes, dtypes))

    @property
    def size(self) -> int:
        """n, the number of weights."""
        return sum(math.prod(shape) for shape in self.structure.shapes)

    @property
    def dtype(self) -> Any:
        """The type of flat vectors: that of the weights, at least float32."""
        return jnp.result_type(jnp.float32, *self.structure.dtypes)

    def __call__(self, v: PyTree) -> PyTree:
        """A v, one product.

        Args:
          v: a tree like `like`.

        Raises:
          ValueError: if `v` does not have the structure and shapes of `like`.
        """
        checks.same_structure("v", v, "the operator's weights", self.like)
        image = _apply(self, jax.tree.map(lambda x: jnp.asarray(x)[None], v))
        return jax.tree.map(lambda x: x[0], image)

    def block(self, V: PyTree) -> PyTree:
        """A v for many v in one pass over the data.

        Args:
          V: a tree like `like` with one more leading axis, of the same length P, on every leaf.

        Raises:
          ValueError: if `V` is not such a tree.
        """
        counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(V)}
        if len(counts) != 1 or () in counts:
            raise ValueError(
                "V must have one leading axis of probes on every leaf, got leading axes "
                f"{sorted(counts)}"
            )
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.float32), V)
        checks.same_structure(
            "V without its leading axis", first, "the operator's weights", self.like
        )
        return _apply(self, V)

    def flat_block(self, V: jax.Array) -> jax.Array:
        """As `block`, for flat vectors.

        Args:
          V: (P, n), the leaves of the weights one after the other.

        Returns:
          (P, n), of `dtype`.
        """
        return self._flatten(self.block(self.unflatten(V)))

    def unflatten(self, V: jax.Array) -> PyTree:
        """Flat vectors (P, n) as a block of trees."""
        treedef, shapes, dtypes = self.structure
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        parts = [
            part.reshape(-1, *shape).astype(dtype)
            for part, shape, dtype in zip(jnp.split(V, ends, axis=1), shapes, dtypes, strict=True)
        ]
        return jax.tree.unflatten(treedef, parts)

    def flat_rows(self, indices: jax.Array) -> jax.Array:
        """Rows of the root Φ, A = Φ'Φ, as flat vectors.

        Args:
          indices: (m,), examples.

        Returns:
          (m * root.outputs, n), of `dtype`.

        Raises:
          ValueError: if the operator has no root.
        """
        return self._flatten(_rows(self, indices))

    def check(self, key: jax.Array, *, rtol: float | None = None) -> None:
        """Raises where the product is not what it must be: the same twice, finite, and symmetric.

        Four products: A u twice, A v, and u'Av = v'Au, for two random vectors. What fails on
        purpose or by accident: dropout, a random order of the data, batch statistics; products
        that are not of a symmetric matrix.

        Args:
          key: a typed random key.
          rtol: allowed asymmetry |u'Av - v'Au| and change |Au - (Au)'|, relative to |Au| and |Av|;
            None for a hundred roundings of a sum over the weights.

        Raises:
          ValueError: for products that are not finite, differ when repeated, or are asymmetric.
        """
        checks.key("key", key)
        V = jax.random.normal(key, (2, self.size), self.dtype)
        V = V / jnp.linalg.norm(V, axis=1, keepdims=True)
        first, again = (np.asarray(self.flat_block(V), np.float64) for _ in range(2))
        if not np.all(np.isfinite(first)):
            raise ValueError("products A v must be finite, got NaN or inf")
        scale = np.linalg.norm(first) + np.finfo(np.float64).tiny
        eps = max(float(jnp.finfo(dtype).eps) for dtype in self.structure.dtypes)
        allowed = 100 * eps if rtol is None else rtol
        change = np.linalg.norm(first - again) / scale
        if change > allowed:
            raise ValueError(
                "the product must be deterministic, got A v that changed by "
                f"{change:.1e} of its length when repeated; fix the order of the data, and switch "
                "off dropout and batch statistics"
            )
        u, v = np.asarray(V, np.float64)
        asymmetry = abs(u @ first[1] - v @ first[0]) / scale
        if asymmetry > allowed:
            raise ValueError(
                f"the product must be symmetric, got |u'Av - v'Au| = {asymmetry:.1e} of |Av| for "
                "random unit vectors"
            )

    def _flatten(self, block: PyTree) -> jax.Array:
        flat = [x.reshape(x.shape[0], -1).astype(self.dtype) for x in jax.tree.leaves(block)]
        return jnp.concatenate(flat, axis=1)

    def __add__(self, other: "Operator") -> "Operator":
        """A + B, both on the same weights."""
        if not isinstance(other, Operator):
            return NotImplemented
        checks.same_structure("B in A + B", other.like, "the weights of A", self.like)
        return blocked(_sum, self, other, structure=self.structure)

    def __mul__(self, factor: Any) -> "Operator":
        """factor * A for a scalar."""
        if isinstance(factor, Operator) or jnp.ndim(factor) != 0:
            return NotImplemented
        return blocked(
            _multiple,
            self,
            factor,
            structure=self.structure,
            root=_rooted(_multiple_rows, self) if _is_not_negative(factor) else None,
        )

    __rmul__ = __mul__

    def restrict(self, *layer: Any) -> "Operator":
        """The diagonal block A_ll of one layer, as an operator on that layer's weights alone.

        Blocks overstate the whole: Σ_l log det(I + cA_ll) >= log det(I + cA) (Fischer).

        Args:
          *layer: keys, indices or attribute names that lead to the layer in the tree of weights,
            as in `A.restrict("params", "Dense_0")`.

        Raises:
          ValueError: if there is no such layer.
        """
        return blocked(
            _Restriction(layer),
            self,
            structure=structure_of(_select(self.like, layer)),
            root=_rooted(_RestrictedRows(layer), self),
        )

    def congruence(self, scales: PyTree) -> "Operator":
        """Λ^½ A Λ^½ for a prior covariance Λ = diag(scales²).

        Args:
          scales: standard deviations of the prior, positive; one, or a pytree prefix of the
            weights (one a layer).

        Raises:
          ValueError: for scales that are not positive and finite, or no prefix of the weights.
        """
        checks.positive("scales", scales)
        full = trees.broadcast_prefix("scales", scales, self.like)
        root = _rooted(_scaled_rows, self)
        return blocked(_congruence, self, full, structure=self.structure, root=root)


# The products below are module-level functions or frozen dataclasses: equal whenever they mean
# the same, so that two operators of one kind share one compiled program.


@dataclass(frozen=True)
class _Restriction:
    layer: tuple[Any, ...]

    def __call__(self, V: PyTree, A: Operator) -> PyTree:
        def select(tree: PyTree) -> PyTree:
            return _select(tree, self.layer)

        embed = jax.linear_transpose(select, A.like)  # zero outside the layer
        return select(A.block(jax.vmap(lambda v: embed(v)[0])(V)))


@dataclass(frozen=True)
class _RestrictedRows:
    layer: tuple[Any, ...]

    def __call__(self, indices: jax.Array, A: Operator) -> PyTree:
        return _select(_rows(A, indices), self.layer)


def _sum(V: PyTree, A: Operator, B: Operator) -> PyTree:
    return optax.tree.add(A.block(V), B.block(V))


def _multiple(V: PyTree, A: Operator, factor: Any) -> PyTree:
    return jax.tree.map(lambda x: factor * x, A.block(V))


def _congruence(V: PyTree, A: Operator, scales: PyTree) -> PyTree:
    image = A.block(jax.tree.map(lambda s, x: s * x, scales, V))
    return jax.tree.map(lambda s, x: s * x, scales, image)


def _multiple_rows(indices: jax.Array, A: Operator, factor: Any) -> PyTree:
    return jax.tree.map(lambda x: jnp.sqrt(factor).astype(x.dtype) * x, _rows(A, indices))


def _scaled_rows(indices: jax.Array, A: Operator, scales: PyTree) -> PyTree:
    return jax.tree.map(lambda s, x: s * x, scales, _rows(A, indices))


def _rows(A: Operator, indices: jax.Array) -> PyTree:
    return require_root(A).rows(indices, *A.leaves)


def require_root(A: Operator) -> Root:
    """The root of A; raises ValueError where it has none."""
    if A.root is None:
        raise ValueError("A must have a root, A = Φ'Φ, as `ggn` has; got an operator without one")
    return A.root


def _rooted(rows: Callable[..., PyTree], A: Operator) -> Root | None:
    """The root of an operator made of A, if A has one; `rows` takes A as its first leaf."""
    return None if A.root is None else Root(rows, A.root.examples, A.root.outputs)


def _is_not_negative(factor: Any) -> bool:
    return trees.is_concrete(factor) and bool(factor >= 0)


@jax.jit
def _apply(A: Operator, V: PyTree) -> PyTree:
    V = jax.tree.map(lambda x, s: x.astype(s.dtype), V, A.like)
    product = A.product if A.blocked else _each(A.product)
    image = with_fast_convolutions(product)(V, *A.leaves)
    return jax.tree.map(lambda x, s: x.astype(s.dtype), image, A.like)


def _each(product: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A product of one tree made one of a block of trees."""
    return lambda V, *leaves: jax.vmap(lambda v: product(v, *leaves))(V)


def blocked(
    product: Callable[..., PyTree],
    *leaves: Any,
    structure: Structure,
    root: Root | None = None,
) -> Operator:
    """An operator from a product (V, *leaves) -> A V on blocks of trees, and perhaps its root."""
    return trees.build(
        Operator, product=product, blocked=True, structure=structure, leaves=leaves, root=root
    )


def structure_of(like: PyTree) -> Structure:
    """Shapes and types of floating-point weights; TypeError for others."""
    leaves, treedef = jax.tree.flatten(like)
    shapes = tuple(jnp.shape(x) for x in leaves)
    dtypes = tuple(
        jnp.dtype(x.dtype) if hasattr(x, "dtype") else jnp.result_type(x) for x in leaves
    )
    for dtype in dtypes:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"weights must be floating-point arrays, got a leaf of type {dtype}")
    if sum(map(math.prod, shapes)) == 0:
        raise ValueError(f"weights must hold at least one number, got {treedef}")
    return Structure(treedef, shapes, dtypes)


def _select(tree: PyTree, layer: tuple[Any, ...]) -> PyTree:
    for name in layer:
        try:
            tree = tree[name] if hasattr(tree, "__getitem__") else getattr(tree, name)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(
                f"layer must lead to a part of the weights, got {layer}: no {name!r} in "
                f"{jax.tree.structure(tree)}"
            ) from error
    return tree

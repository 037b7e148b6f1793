import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax import checks, trees


@trees.record
class Pair:
    left: object
    kind: str = trees.static(default="plain")

    def __post_init__(self):
        if isinstance(self.left, float) and self.left < 0:
            raise ValueError("left must not be negative")


def test_a_record_goes_through_jit_and_keeps_its_static_field():
    out = jax.jit(lambda p: trees.replace(p, left=2 * p.left))(Pair(jnp.arange(3.0), "odd"))
    assert out.kind == "odd"
    np.testing.assert_array_equal(out.left, [0.0, 2.0, 4.0])


def test_another_static_value_compiles_again_and_another_array_does_not():
    traces = []

    @jax.jit
    def count(pair):
        traces.append(pair.kind)
        return pair.left

    for pair in (Pair(1.0), Pair(3.0), Pair(1.0, "odd")):
        count(pair)
    assert traces == ["plain", "odd"]


def test_the_constructor_checks_and_rebuilding_does_not():
    with pytest.raises(ValueError, match="left must not be negative"):
        Pair(-1.0)
    assert trees.build(Pair, left=-1.0, kind="plain").left == -1.0
    assert jax.tree.map(lambda x: -x, Pair(1.0)).left == -1.0


def test_a_record_is_frozen():
    with pytest.raises(AttributeError):
        Pair(1.0).left = 2.0


def test_paths_name_the_fields():
    ((path, _),) = jax.tree_util.tree_leaves_with_path(Pair(1.0))
    assert jax.tree_util.keystr(path) == ".left"


def test_broadcast_prefix_repeats_one_value_a_layer():
    tree = {"a": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}, "b": jnp.ones(3)}
    assert trees.broadcast_prefix("scale", {"a": 1.0, "b": 2.0}, tree) == {
        "a": {"kernel": 1.0, "bias": 1.0},
        "b": 2.0,
    }


def test_broadcast_prefix_names_the_argument_that_does_not_fit():
    with pytest.raises(ValueError, match="scale must be one value or a pytree prefix"):
        trees.broadcast_prefix("scale", {"c": 1.0}, {"a": jnp.ones(2)})


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_traced_values_are_not_concrete(transform):
    seen = []

    def function(x):
        seen.append(trees.is_concrete({"x": x, "y": 1.0}))
        return x

    transform(function)(jnp.ones(1)[0] if transform is not jax.vmap else jnp.ones(2))
    assert seen == [False]
    assert trees.is_concrete({"x": jnp.ones(2), "y": 1.0, "z": np.ones(2)})


@pytest.mark.parametrize(
    ("tree", "finite"),
    [
        ({"a": jnp.ones(2), "b": jnp.arange(3)}, True),
        ({"a": jnp.array([1.0, jnp.nan])}, False),
        ((1.0, np.array([np.inf])), False),
        ({}, True),
        (jnp.array([1, 2]), True),
    ],
)
def test_all_finite_looks_at_every_floating_leaf(tree, finite):
    assert bool(trees.all_finite(tree)) is finite


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, [1.0, -2.0], None, {}])
def test_positive_rejects_and_shows(bad):
    with pytest.raises(ValueError, match="beta must be positive and finite, got"):
        checks.positive("beta", bad)


@pytest.mark.parametrize("bad", [0, -3, 2.0, True, "2", None])
def test_at_least_takes_integers_only(bad):
    with pytest.raises(ValueError, match="count must be an integer of at least 1"):
        checks.at_least("count", bad, 1)


@pytest.mark.parametrize("bad", [0, jax.random.PRNGKey(0), None, jnp.ones(2)])
def test_only_typed_keys_are_keys(bad):
    with pytest.raises(TypeError, match=r"key must be a typed random key such as jax.random.key"):
        checks.key("key", bad)


def test_a_key_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"key must be a key of shape \(\), got shape \(2,\)"):
        checks.key("key", jax.random.split(jax.random.key(0)))

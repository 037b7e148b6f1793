"""Noise for the weights: the numbers of jax.random, faster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.normals import standard_normal

LIKE = {"kernel": jnp.zeros((31, 8), jnp.float32), "bias": jnp.zeros(7, jnp.float32)}


def flat(tree):
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5])
def test_the_numbers_are_those_of_jax_random(impl, dtype, seed):
    key = jax.random.key(seed, impl=impl)
    like = jax.tree.map(lambda x: x.astype(dtype), LIKE)
    drawn = standard_normal(key, like)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), drawn) == jax.tree.map(
        lambda x: (x.shape, x.dtype), like
    )
    expected = jax.random.normal(key, (256,), dtype)[:255]  # odd sizes come from an even draw
    # Where LLVM contracts a * b + c, the last bit may differ.
    np.testing.assert_allclose(flat(drawn), expected, rtol=4 * np.finfo(dtype).eps)


def test_many_keys_at_once_are_each_key_alone():
    keys = jax.random.split(jax.random.key(3), 5)
    together = jax.jit(jax.vmap(lambda k: flat(standard_normal(k, LIKE))))(keys)
    alone = jnp.stack([flat(standard_normal(k, LIKE)) for k in keys])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert np.unique(together).size > 0.99 * together.size


def test_tensors_and_types_are_those_of_the_weights():
    like = {"a": jnp.zeros((2, 3), jnp.float32), "b": jnp.zeros((), jnp.float16)}
    drawn = standard_normal(jax.random.key(0), like)
    assert (drawn["b"].shape, drawn["b"].dtype) == ((), jnp.float16)

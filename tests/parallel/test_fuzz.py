"""Sums over examples for any number of them, any chunks, types, masks and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import iw_jax as iw

LIKELIHOODS = {
    "categorical": (iw.Categorical(), lambda rng, shape: rng.integers(0, shape[1], shape[0])),
    "bernoulli": (iw.Bernoulli(), lambda rng, shape: rng.integers(0, 2, shape)),
    "gaussian": (iw.GaussianLikelihood(0.7), lambda rng, shape: rng.normal(size=shape)),
}


def network(params, inputs):
    return jnp.tanh(inputs["x"] @ params["first"]) @ params["last"]


def dense(task, params):
    """L, its gradient, and the GGN from whole Jacobians, in float64 on one device."""
    flat, back = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params))
    inputs = {"x": jnp.asarray(task.inputs["x"], jnp.float64)}
    weights = jnp.asarray(task.weights, jnp.float64)

    def outputs(w):
        return network(back(w), inputs)

    def loss(w):
        return jnp.sum(weights * task.likelihood.nll(outputs(w), task.targets))

    J, z = jax.jacobian(outputs)(flat), outputs(flat)
    product = lambda j: task.likelihood.fisher_product(z, j)  # noqa: E731
    LJ = jax.vmap(product, in_axes=2, out_axes=2)(J)
    return loss(flat), jax.grad(loss)(flat), jnp.einsum("n,nki,nkj->ij", weights, J, LJ)


# Every shape compiles anew, so a failure is not made smaller.
HOW = {"deadline": None, "derandomize": True, "phases": [Phase.explicit, Phase.generate]}
CASES = {
    "kind": st.sampled_from(list(LIKELIHOODS)),
    "num_examples": st.integers(1, 9),
    "sizes": st.tuples(*[st.integers(1, 4)] * 2, st.integers(2, 3)),
    "dtype": st.sampled_from([np.float32, np.float64]),
    "batch_size": st.none() | st.integers(1, 12),
    "data": st.sampled_from([None, 1, 2]),
    "masked": st.sets(st.integers(0, 8), max_size=4),
    "seed": st.integers(0, 2**20),
}


@pytest.mark.slow
@settings(max_examples=3, **HOW)
@given(**CASES)
def test_sums_are_those_of_the_whole(**case):
    compare(**case)


@pytest.mark.slow
@settings(max_examples=24, **HOW)
@given(**CASES)
def test_sums_are_those_of_the_whole_in_many_cases(**case):
    compare(**case)


def compare(kind, num_examples, sizes, dtype, batch_size, data, masked, seed):
    rng = np.random.default_rng(seed)
    inputs, hidden, outputs = sizes
    likelihood, draw = LIKELIHOODS[kind]
    weights = rng.uniform(0.5, 2, num_examples)
    weights[[i for i in masked if i < num_examples]] = 0
    params = {
        "first": jnp.asarray(rng.normal(size=(inputs, hidden)), dtype),
        "last": jnp.asarray(rng.normal(size=(hidden, outputs)), dtype),
    }
    x = {"x": jnp.asarray(rng.normal(size=(num_examples, inputs)), dtype)}
    targets = jnp.asarray(draw(rng, (num_examples, outputs)))
    task = iw.Task(network, likelihood, x, targets, jnp.asarray(weights, dtype))
    loss, slope, G = dense(task, params)

    if data is not None:
        task = iw.spread(task, iw.make_mesh(data=data))
    V = rng.normal(size=(2, G.shape[0])).astype(dtype)
    rtol = 2e-4 if dtype == np.float32 else 1e-11
    found = iw.nll(task, params, batch_size=batch_size)
    np.testing.assert_allclose(found, loss, rtol=rtol, atol=rtol)
    gradient = jax.grad(lambda p: iw.nll(task, p, batch_size=batch_size))(params)
    scale = 1 + np.abs(slope).max()
    np.testing.assert_allclose(ravel_pytree(gradient)[0], slope, atol=rtol * scale)
    products = iw.ggn(task, params, batch_size=batch_size).flat_block(V)
    scale = 1 + np.abs(G).max()
    np.testing.assert_allclose(products, V @ G, atol=10 * rtol * scale)

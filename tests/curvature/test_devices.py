"""Operators whose data are spread over devices, differentiated, and donated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from iw_jax.curvature import empirical_fisher, ggn, hessian, spectral_measure
from iw_jax.likelihoods import Categorical
from iw_jax.task import Task

N, DIM, HIDDEN, OUT = 24, 4, 3, 3


def mlp(params, x):
    return jnp.tanh(x @ params["first"]) @ params["last"]


PARAMS = {
    "first": jax.random.normal(jax.random.key(0), (DIM, HIDDEN)),
    "last": jax.random.normal(jax.random.key(1), (HIDDEN, OUT)),
}
INPUTS = jax.random.normal(jax.random.key(2), (N, DIM))
TARGETS = jax.random.randint(jax.random.key(3), (N,), 0, OUT)
CURVATURES = [ggn, hessian, empirical_fisher]


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_examples_may_lie_on_several_devices(curvature, batch_size):
    assert len(jax.devices()) == 2, "tests/conftest.py asks for two"
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    together = Task(mlp, Categorical(), INPUTS, TARGETS)
    apart = Task(
        mlp, Categorical(), jax.device_put(INPUTS, spread), jax.device_put(TARGETS, spread)
    )
    V = jax.random.normal(jax.random.key(4), (3, 21))
    one, two = (
        curvature(task, PARAMS, batch_size=batch_size).flat_block(V) for task in (together, apart)
    )
    np.testing.assert_allclose(one, two, atol=1e-12)


@pytest.mark.slow
def test_a_measure_of_spread_data_is_the_same():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    key, values = jax.random.key(5), []
    for place in (lambda x: x, lambda x: jax.device_put(x, spread)):
        A = ggn(Task(mlp, Categorical(), place(INPUTS), place(TARGETS)), PARAMS)
        measure = spectral_measure(A, key=key, num_matvecs=12, c=1.0)
        values.append(measure.logdet([0.1, 1.0]).value)
    np.testing.assert_allclose(*values, rtol=1e-10)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_products_are_differentiable_in_the_weights(curvature):
    task = Task(mlp, Categorical(), INPUTS, TARGETS)
    v, u, direction = jax.random.normal(jax.random.key(6), (3, 21))

    def form(w):
        params = jax.flatten_util.ravel_pytree(PARAMS)[1](w)
        return u @ curvature(task, params, batch_size=7).flat_block(v[None])[0]

    w, step = jax.flatten_util.ravel_pytree(PARAMS)[0], 1e-5
    difference = (form(w + step * direction) - form(w - step * direction)) / (2 * step)
    np.testing.assert_allclose(jax.grad(form)(w) @ direction, difference, rtol=1e-7)


def test_an_operator_may_be_donated():
    def product(A, v):
        return A.flat_block(v), A

    A = ggn(Task(mlp, Categorical(), INPUTS + 0, TARGETS + 0), jax.tree.map(jnp.copy, PARAMS))
    v = jnp.ones((1, 21))
    expected = A.flat_block(v)
    received, again = jax.jit(product, donate_argnums=0)(A, v)
    np.testing.assert_allclose(received, expected, rtol=1e-12)
    np.testing.assert_allclose(again.flat_block(v), expected, rtol=1e-12)

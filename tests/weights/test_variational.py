import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iw_jax as iw
from tests import oracles

WORLD = oracles.linear_world(0)
CODE, PRIOR = iw.DiagonalGaussian(jnp.zeros(3), 0.3), iw.IsotropicGaussian(0.8)
BETAS = np.array([0.3, 1.0, 4.0])
KEY = jax.random.key(7)
SETTINGS = dict(
    optimizer=optax.adam(optax.cosine_decay_schedule(0.02, 3000)), num_steps=3000, num_draws=8
)


def two_tensors(params, inputs):
    return inputs @ jnp.concatenate([params["first"], params["last"]])


def split(vector):
    return {"first": vector[:1], "last": vector[1:]}


def best_factorised(beta):
    """Mean and variances of the diagonal Gaussian that minimises C_β: the loss is quadratic."""
    slope = WORLD.hessian @ WORLD.minimum
    mean = np.linalg.solve(WORLD.hessian + beta / 0.64 * np.eye(3), slope)
    return mean, beta / (np.diag(WORLD.hessian) + beta / 0.64)


def kl_by_weight(mean, variance):
    return 0.5 * ((variance + mean**2) / 0.64 - 1 - np.log(variance / 0.64))


def cost(mean, variance, beta):
    """C_β, exact."""
    kl = kl_by_weight(mean, variance).sum()
    return WORLD.expected_loss(mean, np.diag(variance)) + beta * kl


@pytest.fixture(scope="module")
def found():
    own = WORLD.task
    task = iw.Task(two_tensors, own.likelihood, own.inputs, own.targets)
    code = iw.DiagonalGaussian(split(CODE.mean), 0.3)
    return iw.variational_iw(KEY, task, code, PRIOR, beta=BETAS, **SETTINGS)


def test_the_nats_are_those_of_the_best_code_of_the_family(found):
    for i, beta in enumerate(BETAS):
        mean, variance = (
            np.concatenate([x["first"][i], x["last"][i]])
            for x in (found.code.mean, jax.tree.map(np.square, found.code.scale))
        )
        best = best_factorised(beta)
        # Of the error in the code the cost has the square, the KL the first power.
        np.testing.assert_allclose(cost(mean, variance, beta), cost(*best, beta), atol=2e-3)
        np.testing.assert_allclose(found.nats.value[i], kl_by_weight(*best).sum(), rtol=5e-3)
        np.testing.assert_allclose(found.nats.value[i], kl_by_weight(mean, variance).sum())


def test_tensors_sum_to_the_nats_and_have_their_own(found):
    assert set(found.tensors) == {"first", "last"}
    np.testing.assert_allclose(sum(found.tensors.values()), found.nats.value, rtol=1e-12)
    own = kl_by_weight(*best_factorised(BETAS[1]))
    np.testing.assert_allclose(found.tensors["first"][1], own[0], rtol=5e-3)


def test_a_single_beta_has_no_axis(found):
    one = iw.variational_iw(KEY, WORLD.task, CODE, PRIOR, beta=1.0, **SETTINGS)
    assert one.nats.value.shape == one.lagrangian.value.value.shape == ()
    assert one.code.mean.shape == (3,)
    np.testing.assert_allclose(one.nats.value, found.nats.value[1], rtol=5e-3)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="beta must be positive and finite"):
        iw.variational_iw(KEY, WORLD.task, CODE, PRIOR, beta=[1.0, -1.0], **SETTINGS)
    with pytest.raises(TypeError, match="key must be a typed random key"):
        iw.variational_iw(0, WORLD.task, CODE, PRIOR, **SETTINGS)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iw_jax as iw
from iw_jax.weights import sweeping
from tests import oracles

WORLD = oracles.linear_world(0)
TASK = WORLD.task
CODE, PRIOR = iw.DiagonalGaussian(jnp.zeros(3), 0.3), iw.IsotropicGaussian(0.8)
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.2, 130))
KEY = jax.random.key(7)
OPTIONS = dict(optimizer=OPTIMIZER, num_steps=130)  # not a multiple of the 20 rounds


@functools.cache
def minimum(beta=0.5):
    states = []
    found = iw.minimize(KEY, TASK, CODE, PRIOR, beta=beta, callback=states.append, **OPTIONS)
    return found, states


def test_a_minimum_is_the_member_of_a_sweep_with_the_same_key():
    result = iw.sweep(
        KEY[None], TASK, lambda _: (CODE, PRIOR), betas=[0.5, 2.0], exchange=False, **OPTIONS
    )
    found, _ = minimum()
    member = jax.tree.map(
        lambda x: x[0, 0, 0] if jnp.ndim(x) else x, (result.lagrangian, result.code, result.prior)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        (found.lagrangian, found.code, found.prior),
        member,
    )
    np.testing.assert_allclose(found.history, result.history[:, :, 0, 0, 0], rtol=1e-9)


def test_no_round_is_empty():
    found, states = minimum()
    steps = [int(s.step) for s in states]
    assert steps[-1] == 130
    assert np.all(np.diff(steps) > 0)
    assert found.history.shape == (len(steps), 2)
    assert np.all(np.isfinite(found.history))


def test_another_beta_or_key_does_not_compile_again():
    minimum()
    before = sweeping._round._cache_size()
    other = iw.minimize(jax.random.key(1), TASK, CODE, PRIOR, beta=3.0, **OPTIONS)
    assert sweeping._round._cache_size() == before
    assert other.lagrangian.kl.value < minimum()[0].lagrangian.kl.value


def test_a_minimum_is_below_where_it_started_and_above_the_free_energy():
    found, _ = minimum()
    mean, cov = np.zeros(3), 0.64 * np.eye(3)
    at = np.asarray(found.code.mean), np.diag(np.asarray(found.code.scale) ** 2)
    cost = WORLD.expected_loss(*at) + 0.5 * oracles.gaussian_kl(*at, mean, cov)
    lowest = WORLD.free_energy(mean, cov, 0.5)
    first = WORLD.expected_loss(mean, 0.09 * np.eye(3))
    assert lowest <= cost < lowest + 0.5 < first
    assert found.beta == 0.5


@pytest.mark.parametrize(
    ("key", "changes", "error", "message"),
    [
        (0, {}, TypeError, "key must be a typed random key"),
        (jax.random.key(0), {"beta": 0.0}, ValueError, "must be positive and finite, got 0.0"),
        (jax.random.key(0), {"beta": np.nan}, ValueError, "must be positive and finite, got nan"),
        (jax.random.key(0), {"num_steps": 2.5}, ValueError, "num_steps must be an integer"),
        (jax.random.key(0), {"num_draws": 1}, ValueError, "num_draws must be an integer"),
    ],
)
def test_bad_arguments_are_named(key, changes, error, message):
    with pytest.raises(error, match=message):
        iw.minimize(key, TASK, CODE, PRIOR, **{**OPTIONS, **changes})

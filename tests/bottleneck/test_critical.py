"""Critical β: known channels, formulas for two labels, and what perturbations really do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import iw_jax as iw
from iw_jax.bottleneck import discrete, sources
from tests.bottleneck import known_joints

BOTH = pytest.mark.parametrize("dual", [False, True])


def first(joint, dual):
    return float(iw.bottleneck.first_critical_beta(joint, dual=dual))


def test_the_toy_problem_has_those_of_its_paper():
    toy = known_joints.toy()
    np.testing.assert_allclose(first(toy, False), 4.3655, rtol=2e-5)
    np.testing.assert_allclose(first(toy, True), 3.2517, rtol=2e-5)
    np.testing.assert_allclose(known_joints.information(toy), 0.12260, rtol=1e-4)


@pytest.mark.parametrize("error", [0.1, 0.3, 0.45])
def test_of_a_binary_symmetric_channel(error):
    joint = known_joints.symmetric(2, error)
    np.testing.assert_allclose(first(joint, False), 1 / (1 - 2 * error) ** 2, rtol=1e-9)
    np.testing.assert_allclose(first(joint, True), 4 / special.logit(error) ** 2, rtol=1e-9)


@pytest.mark.parametrize(("size", "error"), [(4, 0.3), (3, 0.05), (7, 0.6)])
def test_of_a_symmetric_channel(size, error):
    joint = known_joints.symmetric(size, error)
    ib = 1 / (1 - error - error / (size - 1)) ** 2
    dual = size**2 / np.log((1 - error) * (size - 1) / error) ** 2
    np.testing.assert_allclose([first(joint, False), first(joint, True)], [ib, dual], rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_of_two_labels(seed):
    joint = known_joints.random(seed, (5, 2))
    p_x = joint.sum(1)
    p = joint[:, 1] / p_x
    mean = p_x @ p
    ib = p_x @ (p - mean) ** 2 / (mean * (1 - mean))
    q = special.expit(p_x @ special.logit(p))
    logit = special.logit(p)
    dual = q * (1 - q) * (p_x @ logit**2 - (p_x @ logit) ** 2)
    found = [1 / first(joint, d) for d in (False, True)]
    np.testing.assert_allclose(found, [ib, dual], rtol=1e-9)


def test_dual_ib_need_not_bifurcate_first():
    rows = special.expit([[6.0, -6.0], [-6.0, 6.0]])
    joint = np.array([[0.8], [0.2]]) * rows
    np.testing.assert_allclose(first(joint, False), 1.016, rtol=1e-3)
    np.testing.assert_allclose(first(joint, True), 1.676, rtol=1e-3)


def test_ends_of_dependence():
    np.testing.assert_allclose(first(np.eye(3) / 3, False), 1, rtol=1e-12)
    independent = np.outer([0.2, 0.3, 0.5], [0.4, 0.6])
    assert first(independent, False) == first(independent, True) == np.inf


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_the_leading_singular_value_is_that_of_the_references_matrices(seed, dual):
    joint = known_joints.random(seed, (6, 4))
    p_x, p_y = joint.sum(1), joint.sum(0)
    if dual:
        L = np.log(joint / p_x[:, None])
        q = special.softmax(p_x @ L)
        L = L - p_x @ L
        L = L - (L @ q)[:, None]
        sigma = np.linalg.svd(np.sqrt(p_x)[:, None] * L * np.sqrt(q), compute_uv=False)[0]
    else:
        B = joint / np.sqrt(np.outer(p_x, p_y))
        sigma = np.linalg.svd(B, compute_uv=False)[1]
    np.testing.assert_allclose(first(joint, dual), 1 / sigma**2, rtol=1e-9)


@partial(jax.jit, static_argnames=("steps",))
def grown(source, beta, dual, steps=60):
    """Factor of a small deviation from the trivial encoder in the last of many iterations."""
    rng = np.random.default_rng(1)
    encoder = 0.5 + 1e-7 * rng.normal(size=(len(source.p_y), 1)) * np.array([1.0, -1.0])
    _, log_marginal, back = discrete.posterior_of(source, encoder)
    z = jnp.concatenate([log_marginal[:, None], sources.decoder(source, back, dual)], 1)

    def size(z):
        return jnp.linalg.norm(z[0, 1:] - z[1, 1:])

    def step(z, _):
        return discrete.iterate(source, z, beta, dual).next, size(z)

    sizes = jax.lax.scan(step, z, length=steps)[1]
    return sizes[-1] / sizes[-2]


@BOTH
@pytest.mark.parametrize("shape", [(6, 3), (6, 4)])
def test_perturbations_of_the_trivial_solution_grow_from_the_critical_beta_on(shape, dual):
    for seed in range(5):
        joint = known_joints.random(seed, shape)
        critical = first(joint, dual)
        growth = partial(grown, sources.checked(joint, dual), dual=dual)
        low, high = (growth(f * critical) for f in (0.97, 1.03))
        assert low < 1 < high, (seed, low, high)
    place = optimize.brentq(lambda b: growth(b) - 1, 0.9 * critical, 1.1 * critical)
    np.testing.assert_allclose(place, critical, rtol=1e-3)


@pytest.mark.slow
@BOTH
def test_clusters_report_their_own_growth(dual):
    """A pair of halves of one cluster, pushed apart: the others do not notice."""
    joint = known_joints.random(1, (6, 4))
    s = iw.bottleneck.blahut_arimoto(joint, 14.0, dual=dual)
    source = sources.checked(joint, dual)
    z = jnp.concatenate([jnp.asarray(s.log_marginal)[:, None], jnp.asarray(s.log_decoder)], 1)
    largest = int(np.argmax(s.log_marginal))
    rng = np.random.default_rng(0)
    lean = 1e-5 * jnp.asarray(rng.normal(size=4))
    half = z[largest].at[0].add(-np.log(2))
    pair = jnp.stack([half.at[1:].add(lean), half.at[1:].add(-lean)])
    z = jnp.concatenate([z.at[largest].set(pair[0]), pair[1:]])

    def step(z, _):
        apart = jnp.linalg.norm(z[largest, 1:] - z[-1, 1:])
        return discrete.iterate(source, z, 14.0, dual).next, apart

    apart = jax.jit(lambda z: jax.lax.scan(step, z, length=8)[1])(z)
    np.testing.assert_allclose(apart[-1] / apart[-2], s.growth[largest], rtol=0.02)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(s.critical_betas, 14.0 / s.growth)


@pytest.mark.parametrize("joint", [np.ones((2, 2)), np.eye(2), np.ones((1, 2)) / 2])
def test_what_is_no_joint_is_named(joint):
    with pytest.raises(ValueError, match="joint must"):
        iw.bottleneck.first_critical_beta(joint)

"""Blahut-Arimoto: the equations, F and its derivatives, data processing, invariances, Gaussians."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import iw_jax as iw
from iw_jax.bottleneck import discrete, sources
from tests.bottleneck import known_joints

TOY = known_joints.toy()
KEY = jax.random.key(0)
BOTH = pytest.mark.parametrize("dual", [False, True])


@pytest.fixture(scope="module")
def solved():
    """The toy problem at a few β, solved once."""
    return {
        (dual, beta): iw.bottleneck.blahut_arimoto(TOY, beta, dual=dual)
        for dual in (False, True)
        for beta in (2.0, 6.0, 6.001, 5.999, 15.0, 60.0)
    }


def by_hand(joint, encoder, dual):
    """I(X;Xh), I(Y;Xh), E D of an encoder, with the decoder that is best for it: plain sums."""
    p_x, p_yx = joint.sum(1), joint / joint.sum(1, keepdims=True)
    m = p_x @ encoder
    back = (p_x[:, None] * encoder / m).T
    posterior = back @ p_yx
    if dual:
        decoder = np.exp(back @ np.log(p_yx))
        decoder /= decoder.sum(1, keepdims=True)
    else:
        decoder = posterior
    rate = special.rel_entr(p_x[:, None] * encoder, np.outer(p_x, m)).sum()
    relevance = special.rel_entr(m[:, None] * posterior, np.outer(m, joint.sum(0))).sum()
    pair = (
        special.rel_entr(decoder[None], p_yx[:, None])
        if dual
        else special.rel_entr(p_yx[:, None], decoder[None])
    )
    return rate, relevance, (p_x[:, None] * encoder * pair.sum(2)).sum()


@BOTH
@pytest.mark.parametrize("beta", [6.0, 60.0])
def test_its_numbers_are_those_of_its_encoder(solved, dual, beta):
    s = solved[dual, beta]
    np.testing.assert_allclose(s.encoder.sum(1), 1, rtol=1e-12)
    expected = by_hand(TOY, s.encoder, dual)
    np.testing.assert_allclose([s.rate, s.relevance, s.distortion], expected, rtol=1e-9)
    np.testing.assert_allclose(s.functional, s.rate + beta * s.distortion, rtol=1e-12)
    if not dual:
        np.testing.assert_allclose(
            s.distortion, known_joints.information(TOY) - s.relevance, rtol=1e-9
        )


@BOTH
@pytest.mark.parametrize("beta", [2.0, 6.0, 15.0, 60.0])
def test_the_equations_hold(solved, dual, beta):
    s = solved[dual, beta]
    assert s.dual is dual
    assert s.converged
    assert s.residual < 1e-10
    p_x, p = TOY.sum(1), TOY / TOY.sum(1, keepdims=True)
    r = np.exp(s.log_decoder)
    pair = special.rel_entr(r[None], p[:, None]) if dual else special.rel_entr(p[:, None], r[None])
    weight = np.exp(s.log_marginal) * np.exp(-beta * pair.sum(2))
    np.testing.assert_allclose(s.encoder, weight / weight.sum(1, keepdims=True), atol=1e-10)
    # F of a fixed point.
    np.testing.assert_allclose(s.functional, -p_x @ np.log(weight.sum(1)), rtol=1e-10)


@BOTH
def test_the_slope_of_f_is_the_distortion(solved, dual):
    low, high = solved[dual, 5.999].functional, solved[dual, 6.001].functional
    np.testing.assert_allclose((high - low) / 0.002, solved[dual, 6.0].distortion, rtol=1e-7)


@BOTH
def test_no_encoder_nearby_or_anywhere_is_better(dual):
    """A general minimiser over all p(xh|x), from ten places."""
    joint, beta, rng = known_joints.random(4, (4, 3)), 6.0, np.random.default_rng(0)

    def functional(logits):
        rate, _, distortion = by_hand(joint, special.softmax(logits.reshape(4, 4), axis=1), dual)
        return rate + beta * distortion

    found = iw.bottleneck.blahut_arimoto(joint, beta, dual=dual).functional
    best = min(
        optimize.minimize(functional, rng.normal(size=16), method="L-BFGS-B").fun for _ in range(10)
    )
    np.testing.assert_allclose(found, best, atol=1e-5)


@BOTH
@pytest.mark.parametrize("memory", [0, 10])
def test_f_never_increases_along_iterations(dual, memory):
    joint = known_joints.random(0, (6, 4))
    source = sources.checked(joint, dual)
    beta = jnp.array(12.0)
    z = discrete.first_state(source, dual, 3, KEY, None)
    values = []
    for steps in range(1, 25):
        point, _, _ = SOLVE(source, z, beta, dual, 1e-11, steps, memory)
        values.append(float(discrete.iterate(source, point, beta, dual).objective))
    assert np.all(np.diff(values) < 1e-12)
    assert values[-1] < values[0] - 1e-3


SOLVE = jax.jit(discrete.solve, static_argnames=("tolerance", "memory"))


@pytest.mark.slow
@BOTH
def test_acceleration_ends_where_plain_iteration_does_and_sooner(dual):
    beta = 1.02 * float(iw.bottleneck.first_critical_beta(TOY, dual=dual))
    source = sources.checked(TOY, dual)
    z = discrete.first_state(source, dual, None, None, None)
    (a, _, plain), (b, _, fast) = (
        SOLVE(source, z, jnp.array(beta), dual, 1e-12, 100_000, memory) for memory in (0, 10)
    )
    ends = [discrete.describe(source, z, jnp.array(beta), dual, 0, True) for z in (a, b)]
    np.testing.assert_allclose(*(e.functional for e in ends), rtol=1e-11)
    np.testing.assert_allclose(*(e.rate for e in ends), rtol=1e-6)
    assert fast < plain / 5


@BOTH
def test_data_processing(dual):
    for seed, beta in itertools.product(range(3), (2.0, 8.0, 30.0)):
        joint = known_joints.random(seed, (6, 4))
        s = iw.bottleneck.blahut_arimoto(joint, beta, dual=dual)
        assert s.relevance <= s.rate + 1e-12
        assert s.relevance <= known_joints.information(joint) + 1e-12


def test_a_large_price_keeps_all_information():
    s = iw.bottleneck.blahut_arimoto(TOY, 1e5)
    np.testing.assert_allclose(s.relevance, known_joints.information(TOY), atol=1e-6)
    np.testing.assert_allclose(s.rate, np.log(5), atol=1e-6)
    assert s.num_clusters == 5


def test_of_two_conflicting_labels_ib_at_beta_one_keeps_none():
    s = iw.bottleneck.blahut_arimoto(TOY, 1.0)
    assert s.num_clusters == 1
    np.testing.assert_allclose([s.rate, s.relevance], 0, atol=1e-12)


@BOTH
def test_relabelling_changes_nothing(dual):
    joint, rng = known_joints.random(3, (6, 4)), np.random.default_rng(0)
    start = rng.dirichlet(np.ones(3), size=6)
    x, y, t = (rng.permutation(n) for n in (6, 4, 3))
    a = iw.bottleneck.blahut_arimoto(joint, 9.0, dual=dual, start=start)
    b = iw.bottleneck.blahut_arimoto(joint[x][:, y], 9.0, dual=dual, start=start[x][:, t])
    np.testing.assert_allclose(a.encoder[x][:, t], b.encoder, atol=1e-8)
    np.testing.assert_allclose(a.functional, b.functional, rtol=1e-12)


@BOTH
def test_a_duplicate_of_a_cluster_changes_neither_f_nor_informations(dual):
    start = np.random.default_rng(0).dirichlet(np.ones(3), size=5)
    doubled = np.concatenate([start[:, :2], start[:, 2:] * 0.3, start[:, 2:] * 0.7], 1)
    a = iw.bottleneck.blahut_arimoto(TOY, 20.0, dual=dual, start=start)
    b = iw.bottleneck.blahut_arimoto(TOY, 20.0, dual=dual, start=doubled)
    for name in ("functional", "rate", "relevance", "distortion"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9)
    assert a.num_clusters == b.num_clusters


@BOTH
@pytest.mark.parametrize(
    "beta",
    [2.0, pytest.param(3.0, marks=pytest.mark.slow), pytest.param(6.0, marks=pytest.mark.slow)],
)
def test_a_gaussian_on_a_grid_has_the_gaussian_bottleneck(dual, beta):
    """snr = 2. The reference says 0.3466, 0.6931, 1.1513 and 0.2027, 0.3466, 0.4581."""
    joint = known_joints.gaussian(2.0)
    if dual:  # far labels underflow
        joint = np.maximum(joint, 1e-280)
        joint /= joint.sum()
    beta = beta - dual
    # The best Xh is continuous: of 61 clusters most only fade, and slowly.
    s = iw.bottleneck.blahut_arimoto(joint, beta, dual=dual, max_steps=300)
    expected = iw.bottleneck.gaussian_information(np.array([2.0]), beta, dual=dual)
    np.testing.assert_allclose([s.rate, s.relevance], expected, atol=1e-3)


def test_labels_that_are_certain_are_no_trouble():
    """Y = X: the iteration keeps X whole above β = 1, and zeros of p(y|x) give no NaN."""
    s = iw.bottleneck.blahut_arimoto(np.eye(4) / 4, 3.0)
    np.testing.assert_allclose([s.rate, s.relevance], np.log(4), rtol=1e-9)
    assert s.converged


def test_it_is_the_same_under_vmap_over_prices_and_keys():
    betas = jnp.array([3.0, 8.0, 20.0])
    many = jax.vmap(lambda b: iw.bottleneck.blahut_arimoto(TOY, b))(betas)
    for i, beta in enumerate(betas):
        one = iw.bottleneck.blahut_arimoto(TOY, float(beta))
        np.testing.assert_allclose(many.functional[i], one.functional, rtol=1e-11)
        np.testing.assert_allclose(many.log_encoder[i], one.log_encoder, atol=1e-7)
    keys = jax.random.split(KEY, 4)
    solve = lambda k: iw.bottleneck.blahut_arimoto(TOY, 20.0, num_clusters=3, key=k)  # noqa: E731
    restarts = jax.vmap(solve)(keys)
    assert np.all(restarts.residual < 1e-10)
    assert restarts.functional.min() >= iw.bottleneck.blahut_arimoto(TOY, 20.0).functional - 1e-10


def test_without_x64_it_is_still_float64_and_traced_it_is_what_the_caller_has():
    with jax.enable_x64(False):
        s = iw.bottleneck.blahut_arimoto(np.float32(TOY), 6.0)
        assert s.log_encoder.dtype == np.float64
        assert s.residual < 1e-10
        traced = jax.jit(lambda b: iw.bottleneck.blahut_arimoto(TOY, b))(6.0)
        assert traced.log_encoder.dtype == jnp.float32
        np.testing.assert_allclose(traced.rate, s.rate, rtol=1e-3)
        assert traced.residual < 1e-4


def test_what_has_not_converged_says_so():
    s = iw.bottleneck.blahut_arimoto(TOY, 4.4, max_steps=5)
    assert not s.converged
    assert s.steps == 5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"joint": TOY * 2}, ValueError, "joint must sum to 1, got 2"),
        ({"joint": np.eye(3)[:, :2] / 2}, ValueError, "every x a probability, got none for x = 2"),
        ({"joint": TOY - 0.1}, ValueError, "joint must be at least 0, got -0"),
        ({"joint": np.full((2, 2), np.nan)}, ValueError, "joint must be finite"),
        ({"joint": np.ones(4) / 4}, ValueError, r"as \(X, Y\), at least two of each"),
        (
            {"joint": np.eye(2) / 2, "dual": True},
            ValueError,
            "positive everywhere for dualIB.*x = 0",
        ),
        ({"beta": 0.9}, ValueError, "beta must be at least 1 for IB, got 0.9"),
        ({"beta": 0.0, "dual": True}, ValueError, "beta must be positive and finite, got 0.0"),
        ({"beta": np.ones(2)}, ValueError, "beta must be a scalar"),
        ({"num_clusters": 0}, ValueError, "num_clusters must be an integer of at least 1"),
        ({"num_clusters": 3}, TypeError, "key must be a random key where num_clusters = 3"),
        ({"start": np.ones((5, 2))}, ValueError, "rows that sum to 1"),
        ({"start": np.ones((4, 1))}, ValueError, r"start must be p\(xh\|x\) as \(5, T\)"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be positive"),
        ({"max_steps": 0}, ValueError, "max_steps must be an integer of at least 1"),
    ],
)
def test_what_is_no_problem_is_named(changes, error, message):
    given = {"joint": TOY, "beta": 3.0, **changes}
    with pytest.raises(error, match=message):
        iw.bottleneck.blahut_arimoto(given.pop("joint"), given.pop("beta"), **given)


def test_a_floor_leaves_no_zeros_and_keeps_p_of_x():
    joint = iw.bottleneck.with_floor(np.eye(3) / 3, 0.06)
    np.testing.assert_allclose(joint, known_joints.symmetric(3, 0.04), rtol=1e-12)
    with pytest.raises(ValueError, match="floor must lie between 0 and 1, got 1"):
        iw.bottleneck.with_floor(np.eye(3) / 3, 1.0)

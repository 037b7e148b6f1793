"""The β from which something is better than nothing: known channels, brute force, and paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import iw_jax as iw
from tests.bottleneck import known_joints

BOTH = pytest.mark.parametrize("dual", [False, True])


def learnable(joint, dual):
    return float(iw.bottleneck.learnable_beta(joint, dual=dual))


def prices(joint, q, dual):
    """D(q(x) ‖ p(x)) over the divergence of decoders, of many q (S, X), from their definitions."""
    p_x, p_y = joint.sum(1), joint.sum(0)
    rows = joint / p_x[:, None]
    if dual:
        r = np.exp(p_x @ np.log(rows))
        each = np.exp(q @ np.log(rows))
        told = stats.entropy((r / r.sum())[:, None], (each / each.sum(1, keepdims=True)).T)
    else:
        told = stats.entropy((q @ rows).T, p_y[:, None])
    return stats.entropy(q.T, p_x[:, None]) / told


@pytest.mark.parametrize("error", [0.1, 0.3, 0.45])
def test_a_symmetric_channel_is_learnable_from_where_it_splits(error):
    """s* of a uniform bit is its maximal correlation squared (Ahlswede & Gács 1976)."""
    joint = known_joints.symmetric(2, error)
    np.testing.assert_allclose(learnable(joint, False), 1 / (1 - 2 * error) ** 2, rtol=1e-7)


@BOTH
@pytest.mark.parametrize("seed", [0, 2, 3])  # 1 is all but independent: the grid knows 1e-6
def test_two_inputs_against_every_q(seed, dual):
    joint = known_joints.random(seed, (2, 3))
    first = np.linspace(0, 1, 400_001)[1:-1]
    far = np.abs(first - joint.sum(1)[0]) > 1e-3
    best = prices(joint, np.stack([first, 1 - first], 1)[far], dual).min()
    critical = float(iw.bottleneck.first_critical_beta(joint, dual=dual))
    found = learnable(joint, dual)
    assert found < critical
    # The grid does not reach q -> p(x), nor the best q quite.
    assert found <= best * (1 + 1e-6)
    np.testing.assert_allclose(found, min(best, critical), rtol=1e-6)


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_no_q_of_many_is_cheaper(seed, dual):
    joint = known_joints.random(seed, (5, 4))
    rng = np.random.default_rng(seed)
    q = np.concatenate([rng.dirichlet(np.full(5, a), size=40_000) for a in (0.1, 0.5, 2.0)])
    far = stats.entropy(q.T, joint.sum(1)[:, None]) > 1e-6
    best = prices(joint, np.maximum(q[far], 1e-300), dual).min()
    found = learnable(joint, dual)
    assert found <= best
    assert best < 1.05 * found  # it is met


def test_a_certain_label_is_learnable_at_once():
    """Where a y tells that x is one of few, q on these x gives D(q(y) ‖ p(y)) = D(q(x) ‖ p(x))."""
    joint = np.array([[0.3, 0.0, 0.0], [0.0, 0.2, 0.1], [0.0, 0.15, 0.25]])
    np.testing.assert_allclose(learnable(joint, False), 1.0, rtol=1e-6)
    assert float(iw.bottleneck.first_critical_beta(joint)) == pytest.approx(1.0)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_of_independent_variables_nothing_is_learned(seed, dual):
    rng = np.random.default_rng(seed)
    joint = np.outer(rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(10)))
    assert np.isinf(learnable(joint, dual))


@BOTH
@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_of_a_weak_dependence_no_digits_are_lost(size, dual):
    """Two labels: the best q is p(x) tilted by p(y|x), and D of decoders is that of one number."""
    labels = 0.5 + size * (np.random.default_rng(0).exponential(size=12) - 1)
    joint = np.stack([labels, 1 - labels], 1) / 12
    score = np.longdouble(labels if not dual else special.logit(labels))
    score = (score - score.mean()) / score.std()
    tilts = np.concatenate([-np.geomspace(0.1, 9, 2000), np.geomspace(0.1, 9, 2000)])
    q = np.exp(np.longdouble(tilts)[:, None] * score)
    q /= q.sum(1, keepdims=True)
    if dual:
        away = q @ np.longdouble(special.logit(labels))
        here = np.longdouble(special.logit(labels)).mean()
        r, p = (1 / (1 + np.exp(-np.longdouble(v))) for v in (away, here))
        u, v = (r - p) / p, (p - r) / (1 - p)
        told = -p * np.log1p(u) - (1 - p) * np.log1p(v)
    else:
        p = np.longdouble(labels).mean()
        r = q @ np.longdouble(labels)
        u, v = (r - p) / p, (p - r) / (1 - p)
        told = r * np.log1p(u) + (1 - r) * np.log1p(v)
    best = float(((q * np.log(12 * q)).sum(1) / told).min())
    assert best < 0.9 * float(iw.bottleneck.first_critical_beta(joint, dual=dual))
    np.testing.assert_allclose(learnable(joint, dual), best, rtol=1e-5)


@BOTH
def test_traced_float32_agrees(dual):
    joint = np.random.default_rng(5).dirichlet(np.full(2, 300.0), size=3) / 3
    with jax.enable_x64(False):
        traced = jax.jit(lambda j: iw.bottleneck.learnable_beta(j, dual=dual))
        found = traced(jnp.asarray(joint, jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, learnable(joint, dual), rtol=5e-3)


@BOTH
def test_falling_paths_end_there_and_rising_ones_begin_where_the_trivial_one_is_unstable(dual):
    joint = known_joints.random(7, (4, 3))
    critical = float(iw.bottleneck.first_critical_beta(joint, dual=dual))
    least = learnable(joint, dual)
    assert least < 0.98 * critical
    betas = np.concatenate([critical * np.geomspace(6, 1.1, 8), critical * np.array([1.01, 0.99])])
    betas = np.append(betas, least * np.array([1.02, 1.005, 0.995, 0.98]))
    betas = np.sort(np.maximum(betas, 1e-3 if dual else 1))[::-1]
    down, up = (iw.bottleneck.anneal(joint, b, dual=dual) for b in (betas, betas[::-1]))
    np.testing.assert_array_equal(down.num_clusters > 1, betas > least)
    np.testing.assert_array_equal(up.num_clusters > 1, betas[::-1] > critical)
    # In between it is not only there, it is better.
    between = (betas > least) & (betas < critical)
    assert np.all(down.functional[between] < up.functional[::-1][between])


@BOTH
def test_the_gibbs_encoder_beside_nothing_gains_nothing_below_and_something_above(dual):
    """A cluster of next to no weight, F of a start with it against the trivial one's."""
    joint = known_joints.random(5, (4, 3))
    critical = float(iw.bottleneck.first_critical_beta(joint, dual=dual))
    for share, better in ((0.97, False), (1.03, True)):
        beta = share * learnable(joint, dual)
        starts = np.random.default_rng(0).dirichlet(np.full(2, 0.2), size=(12, 4))
        found = [
            iw.bottleneck.blahut_arimoto(joint, beta, dual=dual, start=s).functional for s in starts
        ]
        nothing = iw.bottleneck.blahut_arimoto(
            joint, beta, dual=dual, start=np.full((4, 2), 0.5)
        ).functional
        assert (min(found) < nothing - 1e-9) == better, (share, critical)


def test_a_joint_that_is_none_is_named():
    with pytest.raises(ValueError, match="joint must sum to 1"):
        iw.bottleneck.learnable_beta(np.ones((3, 2)))
    with pytest.raises(ValueError, match="positive everywhere for dualIB"):
        iw.bottleneck.learnable_beta(np.array([[0.5, 0.0], [0.2, 0.3]]), dual=True)

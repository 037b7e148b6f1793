"""Exponential families: k statistics or |Y| labels, the same dualIB."""

import jax.numpy as jnp
import numpy as np
import pytest

import iw_jax as iw
from iw_jax.bottleneck import discrete, exponential, sources
from tests.bottleneck import known_joints


def family(k=2, labels=7, number=9, seed=0):
    rng = np.random.default_rng(seed)
    return iw.bottleneck.ExponentialFamily(
        rng.dirichlet(np.ones(number)), rng.normal(size=(number, k)), rng.normal(size=(labels, k))
    )


def test_a_round_of_statistics_is_a_round_of_labels():
    given = family()
    source = sources.checked(given.joint, dual=True)
    rng, beta = np.random.default_rng(1), 3.0
    log_marginal, A = np.log(rng.dirichlet(np.ones(4))), rng.normal(size=(4, 2))
    few = jnp.concatenate([log_marginal[:, None], A], 1)
    scores = -A @ given.multipliers.T
    many = discrete.normalised(jnp.concatenate([log_marginal[:, None], scores], 1))
    a = exponential.iterate(source, given, few, beta)
    b = discrete.iterate(source, many, beta, True)
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-13)
    np.testing.assert_allclose(a.next[:, 0], b.next[:, 0], rtol=1e-12)
    scores = -a.next[:, 1:] @ given.multipliers.T
    decoder = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    np.testing.assert_allclose(decoder, b.next[:, 1:], rtol=1e-11)


@pytest.mark.parametrize("beta", [4.0, 9.0])
def test_solutions_agree_to_rounding(beta):
    given = family()
    a = iw.bottleneck.dual_from_statistics(given, beta, tolerance=1e-13)
    b = iw.bottleneck.blahut_arimoto(given.joint, beta, dual=True, tolerance=1e-13)
    assert a.residual < 1e-10
    assert a.num_clusters > 1
    np.testing.assert_allclose(a.functional, b.functional, rtol=1e-12)
    np.testing.assert_allclose(a.encoder.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose([a.rate, a.relevance], [b.rate, b.relevance], rtol=1e-7)


def test_the_decoders_stay_in_the_family():
    given = family()
    s = iw.bottleneck.blahut_arimoto(given.joint, 4.0, dual=True)
    design = np.column_stack([given.multipliers, np.ones(7)])
    rest = np.linalg.lstsq(design, s.log_decoder.T, rcond=None)[1]
    np.testing.assert_allclose(rest, 0, atol=1e-20)
    ib = iw.bottleneck.blahut_arimoto(given.joint, 8.0)
    assert ib.num_clusters > 1
    assert np.linalg.lstsq(design, ib.log_decoder.T, rcond=None)[1].max() > 1e-4


def test_a_joint_is_reduced_to_its_statistics():
    given = family(k=2)
    found = iw.bottleneck.exponential_family(given.joint)
    # One more for what all x share: here none, since λ(y) spans it all.
    assert found.statistics.shape == (9, 2)
    np.testing.assert_allclose(found.joint, given.joint, rtol=1e-10)
    assert iw.bottleneck.exponential_family(known_joints.toy()).statistics.shape == (5, 1)
    full = known_joints.random(0, (6, 4))
    np.testing.assert_allclose(iw.bottleneck.exponential_family(full).joint, full, rtol=1e-9)


def test_what_is_no_family_is_named():
    wrong = iw.bottleneck.ExponentialFamily(np.ones(3) / 3, np.ones((3, 2)), np.ones((4, 1)))
    with pytest.raises(ValueError, match=r"statistics \(X, k\) and multipliers \(Y, k\), got"):
        iw.bottleneck.dual_from_statistics(wrong, 2.0)
    with pytest.raises(ValueError, match="beta must be positive"):
        iw.bottleneck.dual_from_statistics(family(), 0.0)
    with pytest.raises(ValueError, match="positive everywhere for dualIB"):
        iw.bottleneck.exponential_family(np.eye(2) / 2)

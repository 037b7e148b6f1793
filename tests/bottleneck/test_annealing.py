"""Paths along β: where clusters split and merge, monotone curves, hysteresis."""

import numpy as np
import pytest

import iw_jax as iw
from tests.bottleneck import known_joints

TOY = known_joints.toy()
FALLING = 2 ** np.linspace(6, 1, 61)
BOTH = pytest.mark.parametrize("dual", [False, True])


@pytest.fixture(scope="module")
def paths():
    return {
        (dual, rising): iw.bottleneck.anneal(TOY, FALLING[:: -1 if rising else 1], dual=dual)
        for dual in (False, True)
        for rising in (False, True)
    }


@BOTH
def test_information_rises_with_beta_both_ways(paths, dual):
    for rising in (False, True):
        path = paths[dual, rising]
        order = np.argsort(path.beta)
        for name in ("rate", "relevance"):
            assert np.diff(getattr(path, name)[order]).min() > -1e-12
        assert np.all(path.converged)
        assert path.residual.max() < 1e-10
        # Envelope: F is concave in β with slope E D, so secants lie between the slopes.
        F, D, beta = path.functional[order], path.distortion[order], path.beta[order]
        if not rising:
            secant = np.diff(F) / np.diff(beta)
            assert np.all(secant <= D[:-1] + 1e-10)
            assert np.all(secant >= D[1:] - 1e-10)


@BOTH
def test_clusters_merge_from_five_to_one_and_split_again(paths, dual):
    down, up = (paths[dual, rising].num_clusters for rising in (False, True))
    assert set(down) == set(up) == {1, 2, 3, 4, 5}
    assert np.all(np.diff(down) <= 0)
    assert np.all(np.diff(up) >= 0)


@BOTH
def test_the_way_down_is_never_worse(paths, dual):
    """It follows the branch that is optimal where β is large; the way up is late."""
    down, up = paths[dual, False].functional, paths[dual, True].functional[::-1]
    assert np.all(down <= up + 1e-10)


@pytest.mark.slow
def test_of_ib_the_first_bifurcation_is_continuous_and_at_the_closed_form(paths):
    critical = float(iw.bottleneck.first_critical_beta(TOY))
    for rising in (False, True):
        found = iw.bottleneck.bifurcations(TOY, paths[False, rising])
        assert [set(b.clusters) for b in found][:: 1 if rising else -1] == [
            {1, 2}, {2, 3}, {3, 4}, {4, 5},
        ]  # fmt: skip
        first = found[0 if rising else -1]
        np.testing.assert_allclose(first.beta, critical, rtol=5e-4)
        assert max(first.rates) < 1e-3


@pytest.mark.slow
def test_dual_ib_of_the_toy_problem_fades_below_where_it_splits(paths):
    """On the way down a cluster loses its weight at 0.99 β_c; on the way up it jumps at β_c."""
    critical = float(iw.bottleneck.first_critical_beta(TOY, dual=True))
    down, up = (iw.bottleneck.bifurcations(TOY, paths[True, rising]) for rising in (False, True))
    np.testing.assert_allclose(up[0].beta, critical, rtol=2e-4)
    assert 0.985 < down[-1].beta / critical < 0.999
    assert down[-1].rates[0] < 1e-5
    assert up[0].rates[1] > 1e-3


@pytest.mark.slow
@BOTH
def test_a_symmetric_channel_splits_in_all_directions_at_once(dual):
    """K - 1 equal singular values: one cluster becomes K."""
    joint = known_joints.symmetric(4, 0.3)
    critical = float(iw.bottleneck.first_critical_beta(joint, dual=dual))
    path = iw.bottleneck.anneal(joint, critical * np.array([0.9, 0.99, 1.5, 4.0]), dual=dual)
    assert list(path.num_clusters[:2]) == [1, 1]
    assert path.num_clusters[-1] == 4
    np.testing.assert_allclose(path.growth[:2, 0], [0.9, 0.99], rtol=1e-6)


def test_few_places_are_all_that_is_used():
    path = iw.bottleneck.anneal(TOY, FALLING[::-1], num_clusters=2)
    assert path.num_clusters.max() == 2
    assert path.log_encoder.shape == (61, 5, 2)
    assert np.all(path.converged)
    assert path.growth.max() > 1  # it would split further


@pytest.mark.parametrize(
    ("betas", "options", "message"),
    [
        ([3.0, 2.0, 2.5], {}, "strictly falling or strictly rising"),
        (3.0, {}, r"betas must be \(B,\)"),
        ([2.0, 0.5], {}, "beta must be at least 1 for IB, got 0.5"),
        ([2.0, 3.0], {"num_clusters": 0}, "num_clusters must be an integer of at least 1"),
    ],
)
def test_what_is_no_path_is_named(betas, options, message):
    with pytest.raises(ValueError, match=message):
        iw.bottleneck.anneal(TOY, np.array(betas), **options)


def test_bifurcations_need_a_path(paths):
    one = iw.bottleneck.blahut_arimoto(TOY, 3.0)
    with pytest.raises(ValueError, match="path must have two solutions or more"):
        iw.bottleneck.bifurcations(TOY, one)
    with pytest.raises(ValueError, match="rtol must lie between 0 and 1"):
        iw.bottleneck.bifurcations(TOY, paths[False, False], rtol=0.0)

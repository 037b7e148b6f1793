"""The experiment: its joints, its measured critical β, what counts as near a bifurcation."""

import numpy as np
import pytest

import iw_jax as iw
from experiments import bottleneck


@pytest.mark.parametrize("dual", [False, True])
def test_the_critical_beta_is_measured_without_its_closed_form(dual):
    joint = bottleneck.toy()
    critical = iw.bottleneck.first_critical_beta(joint, dual=dual)
    found = bottleneck.measured_critical_beta(joint, dual, seed=3)
    np.testing.assert_allclose(found, critical, rtol=1e-5)


def test_the_joints_are_laws():
    for joint in (bottleneck.toy(), *(bottleneck.random_joint(0, i) for i in range(4))):
        np.testing.assert_allclose(joint.sum(), 1, rtol=1e-12)
        assert joint.min() > 0
    assert bottleneck.random_joint(0, 0).shape == (6, 3)
    assert bottleneck.random_joint(0, 1).shape == (6, 4)
    np.testing.assert_allclose(bottleneck.information(bottleneck.toy()), 0.12260, rtol=1e-4)


def test_cells_are_quantiles_of_the_directions_that_vary_most():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    hidden = rng.normal(size=(900, 3)) * [5, 2, 0.1]
    cell = bottleneck.cells(hidden @ turn + 7, 2, 3)
    assert set(cell) <= set(range(9))
    first, second = np.unravel_index(cell, (3, 3))
    assert list(np.bincount(first)) == list(np.bincount(second)) == [300] * 3
    # Components have a direction, not a sign.
    assert abs(np.corrcoef(first, hidden[:, 0])[0, 1]) > 0.85
    assert abs(np.corrcoef(second, hidden[:, 1])[0, 1]) > 0.85


def test_paths_stay_where_ib_has_something_to_find():
    config = bottleneck.Config()
    for problem in ("toy", "real", "random 1"):
        betas = bottleneck.grid(config, problem, 1.02, 1.05, dual=False)
        assert np.all(np.diff(betas) < 0)
        assert betas.min() >= 1
        assert bottleneck.grid(config, problem, 1.02, 1.05, dual=True).min() < 1 or problem == "toy"


def row(beta, clusters, places=""):
    return {
        "problem": "toy", "method": "IB", "way": "down", "beta": beta, "clusters": clusters,
        "bifurcations": places, "critical_beta": 4.0,
    }  # fmt: skip


def test_a_percent_around_a_bifurcation_is_near_it():
    rows = [row(b, 2, "12.5 4.0") for b in (3.9, 3.97, 4.03, 4.1, 12.4, 13.0)]
    near = [bottleneck.near_bifurcation(r, rows) for r in rows]
    assert near == [False, True, True, False, True, False]
    rows = [row(9.0, 2), row(9.1, 3), row(12.0, 4)]
    assert [bottleneck.near_bifurcation(r, rows) for r in rows] == [True, True, False]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--floor", "0"], "floor must be between 0 and 1, got 0"),
        (["--num-bins", "1"], "num_bins must be an integer of at least 2, got 1"),
        (["--num-joints", "0"], "num_joints must be an integer of at least 1, got 0"),
        (["--num-betas", "3"], "num_betas must be an integer of at least 10, got 3"),
        (["--dataset", "cats"], "dataset must be"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags, words, command_line, never_run, tmp_path):
    never_run("bottleneck")
    status, text = command_line(
        "bottleneck", "--preset", "quick", "--results-dir", tmp_path, *flags
    )
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())


def ends(problem, method, down, up, least=0.8):
    """Rows of the two paths of a joint with β_c = 2, bifurcations in units of it."""
    return [
        {
            "problem": problem, "method": method, "way": way, "beta": 2.0, "critical_beta": 2.0,
            "learnable_beta": 2 * least, "bifurcations": " ".join(str(2 * b) for b in places),
        }
        for way, places in (("down", down), ("up", up))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("down", "up", "passes"),
    [
        ([5.0, 0.8], [1.0, 5.0], True),
        ([0.9], [1.0], True),  # on another branch by then
        ([0.79], [1.0], False),  # where nothing is better than nothing
        ([1.2], [1.0], False),  # the trivial solution is unstable there
        ([0.8], [1.01], False),
        ([0.8], [0.99], False),
    ],
)
def test_ends_of_paths_are_held_against_theory(down, up, passes):
    rows = ends("toy", "IB", down, up) + ends("toy", "dualIB", [0.8], [1.0])
    assert bottleneck.hysteresis(rows, "toy", "IB") == pytest.approx((down[-1], up[0]))
    assert bottleneck._check_hysteresis(rows).passed == passes


def test_of_several_clusters_that_merge_between_two_betas_the_last_is_found():
    joint = bottleneck.toy()
    coarse = iw.bottleneck.anneal(joint, [64.0, 2.0])
    assert list(coarse.num_clusters) == [5, 1]
    fine = bottleneck.last(joint, coarse)
    assert list(fine.num_clusters) == [2, 1]
    critical = iw.bottleneck.first_critical_beta(joint)
    assert fine.beta[1] < critical < fine.beta[0] * (1 + 1e-3)


@pytest.mark.slow
def test_a_cluster_that_fades_is_not_counted_where_nothing_is_better_than_nothing():
    """A cluster of 5e-7 and next to p(x) changes by less than the tolerance, and is none."""
    joint = bottleneck.random_joint(0, 9)
    critical, least = (
        float(f(joint, dual=True))
        for f in (iw.bottleneck.first_critical_beta, iw.bottleneck.learnable_beta)
    )
    betas = bottleneck.grid(bottleneck.Config(), "random 10", least, critical, dual=True)
    path = iw.bottleneck.anneal(joint, betas, dual=True)
    end = iw.bottleneck.bifurcations(joint, bottleneck.last(joint, path))[0]
    assert end.clusters == (2, 1)
    np.testing.assert_allclose(end.beta, least, rtol=bottleneck.NEAR)

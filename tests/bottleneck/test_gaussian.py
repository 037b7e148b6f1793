"""Gaussian bottlenecks: the paper's formulas, the frontier's concavity, covariances by hand."""

import jax
import numpy as np
import pytest
from scipy import stats

import iw_jax as iw

SNR = np.array([4.0, 2.0, 0.5, 0.0])


def by_formula(snr, beta):
    """JMLR 2005, Eq. 16 and after: λ = 1/(1 + snr)."""
    lam = 1 / (1 + snr)
    active = beta > 1 / np.where(lam < 1, 1 - lam, 1e-300)
    lam = lam[active]
    of_x = 0.5 * np.log((beta - 1) * (1 - lam) / lam).sum()
    return of_x, of_x - 0.5 * np.log(beta * (1 - lam)).sum()


@pytest.mark.parametrize("beta", [1.0, 1.3, 1.6, 2.9, 3.1, 100.0])
def test_informations_are_those_of_the_paper_for_both(beta):
    expected = by_formula(SNR, beta)
    found = iw.bottleneck.gaussian_information(SNR, beta)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    if beta > 1:
        dual = iw.bottleneck.gaussian_information(SNR, beta - 1, dual=True)
        np.testing.assert_allclose(dual, expected, atol=1e-12)


def test_the_values_of_the_reference():
    found = iw.bottleneck.gaussian_information(np.array([2.0]), np.array([2.0, 3.0, 6.0]))
    expected = [[0.3466, 0.6931, 1.1513], [0.2027, 0.3466, 0.4581]]
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_components_switch_on_at_their_critical_betas():
    for dual in (False, True):
        critical = iw.bottleneck.gaussian_critical_betas(SNR, dual=dual)
        np.testing.assert_allclose(critical[:3], (not dual) + 1 / SNR[:3])
        assert critical[3] == np.inf
        for beta in critical[:3]:
            near = beta + np.array([-2e-3, -1e-3, 0, 1e-3])
            rate = iw.bottleneck.gaussian_information(SNR, near, dual=dual)[0]
            slopes = np.diff(rate) / 1e-3
            assert slopes[2] - slopes[1] > 0.2 / beta
            assert abs(slopes[1] - slopes[0]) < 0.01


def test_the_frontier_is_the_curve_of_beta():
    betas = np.geomspace(1.01, 1e4, 50)
    rate, relevance = iw.bottleneck.gaussian_information(SNR, betas)
    np.testing.assert_allclose(iw.bottleneck.gaussian_frontier(SNR, rate), relevance, atol=1e-10)
    traced = jax.jit(iw.bottleneck.gaussian_frontier)(SNR[::-1], rate)
    np.testing.assert_allclose(traced, relevance, atol=1e-10)


def test_the_frontier_is_concave_with_slope_one_over_beta_and_ends_at_all_there_is():
    rates = np.linspace(0, 6, 601)
    frontier = iw.bottleneck.gaussian_frontier(SNR, rates)
    slopes = np.diff(frontier) / np.diff(rates)
    assert frontier[0] == 0
    assert np.all(np.diff(slopes) < 1e-12)
    assert slopes[0] < SNR[0] / (1 + SNR[0])  # 1/β_1
    np.testing.assert_allclose(slopes[0], SNR[0] / (1 + SNR[0]), rtol=0.02)
    total = 0.5 * np.log1p(SNR).sum()
    np.testing.assert_allclose(iw.bottleneck.gaussian_frontier(SNR, 40.0), total, rtol=1e-9)
    assert np.all(frontier <= np.minimum(rates, total) + 1e-12)


def test_ratios_of_covariances_give_the_mutual_information():
    rng = np.random.default_rng(0)
    S_x, S_n = (stats.wishart.rvs(6, np.eye(n), random_state=rng) for n in (4, 3))
    A = rng.normal(size=(3, 4))
    snr = iw.bottleneck.signal_to_noise(S_x, A, S_n)
    together = np.linalg.slogdet(A @ S_x @ A.T + S_n)[1] - np.linalg.slogdet(S_n)[1]
    np.testing.assert_allclose(0.5 * np.log1p(snr).sum(), together / 2, rtol=1e-10)
    values, axes = np.linalg.eigh(S_x)
    root = axes * np.sqrt(values) @ axes.T
    full = np.linalg.eigvalsh(root @ A.T @ np.linalg.solve(S_n, A) @ root)
    np.testing.assert_allclose(snr, full[::-1][:3], rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda b: b.gaussian_information(np.array([-1.0]), 2.0),
            "snr must be finite and at least 0",
        ),
        (lambda b: b.gaussian_information(SNR, 0.5), "beta must be at least 1 for IB"),
        (lambda b: b.gaussian_information(2.0, 2.0), r"snr must be \(n,\)"),
        (lambda b: b.gaussian_frontier(np.zeros(2), 1.0), "at least 0, one above"),
        (lambda b: b.gaussian_frontier(SNR, -1.0), "rate must be at least 0, got -1"),
        (lambda b: b.signal_to_noise(np.eye(2), np.eye(3), np.eye(3)), r"map must be \(m, n\)"),
        (lambda b: b.signal_to_noise(-np.eye(2), np.eye(2), np.eye(2)), "positive semi-definite"),
        (lambda b: b.signal_to_noise(np.eye(2), np.eye(2), np.diag([1, 0])), "positive definite"),
        (lambda b: b.signal_to_noise(np.eye(2), np.eye(2), np.tri(2)), "must be symmetric"),
    ],
)
def test_what_is_no_gaussian_problem_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(iw.bottleneck)

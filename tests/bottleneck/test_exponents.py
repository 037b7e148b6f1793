"""Error exponents against exact error probabilities of tests on many labels."""

import numpy as np
import pytest
from scipy import optimize, special, stats

import iw_jax as iw
from tests.bottleneck import known_joints


def log_error_of_the_best_test(p, q, number):
    """log Σ_k min(p^n(k), q^n(k))/2 over all counts k of the label 1."""
    counts = np.arange(number + 1)
    both = np.minimum(*(stats.binom.logpmf(counts, number, x[1]) for x in (p, q)))
    return special.logsumexp(both) - np.log(2)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.6), (0.05, 0.1), (0.5, 0.99)])
def test_the_best_test_errs_at_the_rate_of_the_chernoff_information(a, b):
    p, q = np.array([1 - a, a]), np.array([1 - b, b])
    # The factor before exp(-nC) falls like n^-1/2: of n and 4n it differs by log 2.
    n = 20_000
    few, many = (log_error_of_the_best_test(p, q, m) for m in (n, 4 * n))
    slope = -(many - few + np.log(2)) / (3 * n)
    np.testing.assert_allclose(iw.bottleneck.chernoff_information(p, q), slope, rtol=2e-3)


def test_the_chernoff_information_is_the_largest_over_tilts():
    rng = np.random.default_rng(0)
    for p, q in rng.dirichlet(np.ones(5), size=(20, 2)):
        best = optimize.minimize_scalar(
            lambda s, p=p, q=q: np.log((p**s * q ** (1 - s)).sum()), bounds=(0, 1), method="bounded"
        )
        found = iw.bottleneck.chernoff_information(p, q)
        np.testing.assert_allclose(found, -best.fun, rtol=1e-7)
        np.testing.assert_allclose(iw.bottleneck.chernoff_information(q, p), found, rtol=1e-12)


def test_laws_that_agree_are_not_told_apart_and_those_that_exclude_each_other_are_at_once():
    assert iw.bottleneck.chernoff_information([0.5, 0.5], [0.5, 0.5]) == 0
    assert iw.bottleneck.chernoff_information([1.0, 0.0], [0.0, 1.0]) == np.inf
    half = iw.bottleneck.chernoff_information([1.0, 0.0], [0.5, 0.5])
    np.testing.assert_allclose(half, np.log(2), rtol=1e-12)


def test_labels_pass_for_those_of_the_cluster_at_the_rate_of_its_divergence():
    """Sanov, exactly: P(counts = n r) under p(y|x)."""
    joint = known_joints.random(2, (5, 3))
    s = iw.bottleneck.blahut_arimoto(joint, 6.0, dual=True)
    p = joint[0] / joint[0].sum()
    cluster = int(np.argmax(s.log_encoder[0]))
    n = 400_000
    counts = np.floor(n * np.exp(s.log_decoder[cluster])).astype(int)
    counts[0] += n - counts.sum()
    exponent = -stats.multinomial.logpmf(counts, n, p) / n
    r = np.exp(s.log_decoder[cluster])
    np.testing.assert_allclose(exponent, special.rel_entr(r, p).sum(), atol=1e-4)


def test_the_mean_exponent_of_dual_ib_is_its_distortion():
    joint = known_joints.random(1, (6, 4))
    s = iw.bottleneck.blahut_arimoto(joint, 12.0, dual=True)
    found = iw.bottleneck.error_exponent(joint, s.encoder)
    np.testing.assert_allclose(found.nats, s.distortion, rtol=1e-9)
    np.testing.assert_allclose(found.nats, np.exp(s.log_marginal) @ found.clusters, rtol=1e-9)


def test_two_x_in_a_cluster_are_told_apart_by_the_best_test_no_later():
    joint = known_joints.random(0, (2, 4))
    rows = joint / joint.sum(1, keepdims=True)
    best = iw.bottleneck.chernoff_information(*rows)
    together = np.ones((2, 1))
    found = iw.bottleneck.error_exponent(joint, together).clusters[0]
    assert found <= best + 1e-12

    def at(weight):
        of_x = np.array([[1 - weight], [weight]])
        return iw.bottleneck.error_exponent(rows * of_x, together).clusters[0]

    np.testing.assert_allclose(max(at(w) for w in np.linspace(0.01, 0.99, 99)), best, rtol=1e-3)


def test_no_encoder_of_the_same_rate_has_a_smaller_exponent_than_dual_ib():
    joint = known_joints.random(5, (6, 3))
    betas = np.geomspace(200, 0.5, 60)
    dual = iw.bottleneck.anneal(joint, betas, dual=True)
    ib = iw.bottleneck.anneal(joint, np.geomspace(200, 1, 60))
    order = np.argsort(dual.rate)
    for i in range(0, 60, 7):
        # Chords of a convex curve lie above it.
        least = np.interp(ib.rate[i], dual.rate[order], dual.distortion[order])
        told = iw.bottleneck.error_exponent(joint, np.exp(ib.log_encoder[i]))
        assert told.nats > least - 5e-3


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.5], [1.0], "q must be a law"),
        ([0.5, 0.6], [0.5, 0.5], "p must not be negative, and sum to one"),
        ([0.5, 0.5], [1.5, -0.5], "q must not be negative"),
        ([np.nan, 0.5], [0.5, 0.5], "p must be finite"),
    ],
)
def test_what_is_no_law_is_named(p, q, message):
    with pytest.raises(ValueError, match=message):
        iw.bottleneck.chernoff_information(p, q)

"""Losses: sampling, quadrature, and the order of Gibbs and Bayes."""

import jax
import numpy as np
import pytest
from scipy import integrate, special, stats

from iw_jax import wide

RNG = np.random.default_rng(0)
CODES = np.eye(3)


@pytest.fixture(scope="module")
def moments():
    """At two times and five inputs, three outputs; the first input is known exactly."""
    variance = RNG.uniform(0.1, 2.0, (2, 5))
    variance[:, 0] = 0
    return wide.Moments(RNG.normal(size=(2, 5, 3)), variance)


def test_losses_of_densities_are_those_of_members(moments):
    y = RNG.normal(size=(5, 3))
    draws = RNG.normal(size=(200_000, 2, 5, 3))
    z = moments.mean + np.sqrt(moments.variance)[..., None] * draws
    losses = ((y - z) ** 2).sum(-1) / 2 + 1.5 * np.log(2 * np.pi)
    gibbs, bayes = wide.gibbs_loss(moments, y), wide.bayes_loss(moments, y)
    np.testing.assert_allclose(gibbs, losses.mean(0), rtol=0.01)
    np.testing.assert_allclose(bayes, -np.log(np.exp(-losses).mean(0)), rtol=0.02)
    assert np.all(gibbs[:, 1:] > bayes[:, 1:])
    np.testing.assert_allclose(gibbs[:, 0], bayes[:, 0], rtol=1e-12)  # one member


@pytest.mark.parametrize("deviation", [0.05, 1.0, 6.0, 200.0])
def test_two_classes_are_an_integral_over_one_logit(deviation):
    mean = np.array([[[0.3], [-1.5]]])
    found = wide.class_losses(
        wide.Moments(mean, np.full((1, 2), deviation**2)), [1, 0], np.array([-1.0, 1.0])
    )

    def expected(of, centre, sign):
        density = lambda u: stats.norm.pdf(u) * of(2 * sign * (centre + deviation * u))  # noqa: E731
        turn = -centre / deviation + np.array([-40, 0, 40]) / (2 * deviation)
        at = np.sort(np.clip(turn, -10, 10))
        return integrate.quad(density, -10, 10, epsabs=1e-13, epsrel=1e-13, limit=400, points=at)[0]

    for i, (centre, sign) in enumerate([(0.3, 1), (-1.5, -1)]):
        gibbs = -expected(special.log_expit, centre, sign)
        bayes = -np.log(expected(special.expit, centre, sign))
        np.testing.assert_allclose(found.gibbs.value[0, i], gibbs, rtol=1e-10)
        np.testing.assert_allclose(found.bayes.value[0, i], bayes, rtol=1e-10)
        assert gibbs > bayes
    assert np.all(found.gibbs.stderr == 0)


def test_two_classes_do_not_care_how_many_outputs_tell_them_apart():
    """Codes (1, 0) and (0, 1): the logit is z_1 - z_0, of mean μ_1 - μ_0 and variance 2 s²."""
    mean, variance = RNG.normal(size=(1, 4, 2)), RNG.uniform(0.1, 1, (1, 4))
    labels = np.array([0, 1, 1, 0])
    both = wide.class_losses(wide.Moments(mean, variance), labels, np.eye(2))
    one = wide.Moments((mean[..., 1:] - mean[..., :1]) / 2, variance / 2)
    alone = wide.class_losses(one, labels, np.array([-1.0, 1.0]))
    np.testing.assert_allclose(both.gibbs.value, alone.gibbs.value, rtol=1e-12)
    np.testing.assert_allclose(both.bayes.value, alone.bayes.value, rtol=1e-12)


def test_more_classes_are_sampled_with_an_error(moments):
    """Three classes, of which the third is out of reach, are two."""
    codes = np.array([[1.0, 0, 0], [0, 1.0, 0], [60.0, 60.0, 60.0]])
    labels = np.array([0, 1, 0, 1, 1])
    found = wide.class_losses(moments, labels, codes, key=jax.random.key(0), num_draws=4000)
    truth = wide.class_losses(moments, labels, codes[:2])
    for name in ("gibbs", "bayes"):
        estimate, exact = getattr(found, name), getattr(truth, name).value
        assert np.abs(estimate.value - exact)[:, 1:].max() < 4 * estimate.stderr[:, 1:].max()
        np.testing.assert_allclose(estimate.value[:, 0], exact[:, 0], rtol=1e-9)
    low, high = found.gibbs.interval(0.9999)
    assert np.all((low <= truth.gibbs.value + 1e-9) & (truth.gibbs.value <= high + 1e-9))
    assert np.all(found.bayes.value <= found.gibbs.value + 1e-9)


def test_a_loss_of_chance_is_the_log_of_the_number_of_classes(moments):
    flat = wide.Moments(np.zeros_like(moments.mean), np.full_like(moments.variance, 1e-16))
    found = wide.class_losses(flat, np.arange(5) % 3, CODES, key=jax.random.key(0))
    np.testing.assert_allclose(found.gibbs.value, np.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": np.zeros(4, int)}, ValueError, r"and labels \(5,\), got shapes .* \(4,\)"),
        ({"labels": np.full(5, 3)}, ValueError, r"labels must lie in 0 .. 2, got \[3\]"),
        ({"codes": np.eye(2)}, ValueError, r"codes must be \(C, 3\) with C >= 2"),
        ({"codes": np.ones((1, 3))}, ValueError, r"codes must be \(C, 3\) with C >= 2"),
        ({"key": None}, TypeError, "key must be a typed random key"),
        ({"num_draws": 1}, ValueError, "num_draws must be an integer of at least 2, got 1"),
    ],
)
def test_labels_that_do_not_fit_are_named(changes, error, message, moments):
    given = {"labels": np.zeros(5, int), "codes": CODES, "key": jax.random.key(0), **changes}
    with pytest.raises(error, match=message):
        wide.class_losses(moments, given.pop("labels"), given.pop("codes"), **given)


def test_logits_too_wide_for_the_integral_are_named():
    wide_apart = wide.Moments(np.zeros((1, 1, 1)), np.full((1, 1), 1e6))
    with pytest.raises(ValueError, match="must be at most 1820, got 2e\\+03"):
        wide.class_losses(wide_apart, [1], np.array([-1.0, 1.0]))


def test_targets_that_do_not_fit_are_named(moments):
    with pytest.raises(ValueError, match=r"targets must be \(M, k\) = \(5, 3\) .* shape \(5, 2\)"):
        wide.gibbs_loss(moments, np.zeros((5, 2)))

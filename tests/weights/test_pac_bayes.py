"""Bounds against each other, their definitions, and the true risks of many data sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import iw_jax as iw
from iw_jax.weights import pac_bayes
from iw_jax.weights.pac_bayes import KINDS, kl_inverse

RISKS, KLS = np.array([[0.0], [1e-3], [0.1], [0.4], [1.0]]), np.array([0.0, 1.0, 30.0, 400.0])
COMMON = {"risk": RISKS, "kl": KLS, "num_examples": 500}


def bound(kind, **options):
    return iw.pac_bayes_bound(kind, **{**COMMON, **options}).bound


def binary_kl(q, p):
    first = q * np.log(q / p) if q > 0 else 0.0
    return first + ((1 - q) * np.log((1 - q) / (1 - p)) if q < 1 else 0.0)


@pytest.mark.parametrize("q", [1e-8, 1e-3, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("c", [1e-6, 1e-3, 0.1, 2.0])
def test_kl_is_inverted(q, c):
    expected = optimize.brentq(lambda p: binary_kl(q, p) - c, q, 1 - 1e-16, xtol=1e-16, rtol=1e-15)
    np.testing.assert_allclose(kl_inverse(q, c), expected, atol=1e-10)
    np.testing.assert_allclose(jax.jit(kl_inverse)(q, c), expected, atol=1e-10)


def test_kl_is_inverted_at_the_ends():
    c = np.array([0.0, 1e-12, 0.3, 5.0])
    np.testing.assert_allclose(kl_inverse(0.0, c), -np.expm1(-c), rtol=1e-12)
    np.testing.assert_array_equal(kl_inverse(1.0, c), 1.0)
    np.testing.assert_allclose(kl_inverse(np.array([0.2, 0.9]), 0.0), [0.2, 0.9], rtol=1e-7)


def test_quadratic_is_thiemann_at_its_best_trade_off():
    B = (KLS + np.log(2 * np.sqrt(500) / 0.05)) / 1000
    best = 2 / (1 + np.sqrt(1 + RISKS / B))
    for at in np.ndindex(best.shape):
        one = {"risk": RISKS[at[0], 0], "kl": KLS[at[1]]}
        least = bound("thiemann", **one, trade_off=best[at])
        np.testing.assert_allclose(bound("quadratic", **one), least, rtol=1e-12)
        for other in (0.8 * best[at], (best[at] + 2) / 2):
            assert bound("thiemann", **one, trade_off=other) >= least
    np.testing.assert_array_equal(bound("thiemann"), bound("quadratic"))


@pytest.mark.parametrize(("risk", "kl"), [(0.02, 5.0), (0.3, 40.0), (0.6, 1.0)])
def test_catoni_at_its_best_price_inverts_kl(risk, kl):
    expected = kl_inverse(risk, (kl + np.log(1 / 0.05)) / 500)
    prices = np.geomspace(0.02, 50, 20001)
    least = bound("catoni", risk=risk, kl=kl, beta=prices).min()
    np.testing.assert_allclose(least, expected, rtol=1e-6)


def test_the_order_of_the_bounds():
    assert (bound("seeger") <= bound("quadratic") + 1e-12).all()
    for price in (0.6, 1.0, 5.0):
        assert (bound("catoni", beta=price) <= bound("linear", beta=price) + 1e-12).all()


def test_the_linear_bound_is_the_lagrangian():
    """(1/N) (C_β + β log 1/δ) / (1 - L_max/2β) for nats with a largest loss."""
    most, beta, loss, kl = np.log(10), 3.0, 250.0, 40.0
    expected = (loss + beta * kl + beta * np.log(1 / 0.05)) / 500 / (1 - most / (2 * beta))
    received = bound("linear", risk=loss / 500, kl=kl, beta=beta, max_loss=most)
    np.testing.assert_allclose(received, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_units_of_the_loss_do_not_matter(kind):
    beta = {"beta": 2.0} if kind in ("catoni", "linear") else {}
    large = {name: 7 * b for name, b in beta.items()}
    scaled = bound(kind, risk=7 * RISKS, max_loss=7.0, **large)
    np.testing.assert_allclose(scaled, 7 * bound(kind, **beta), rtol=1e-12)
    np.testing.assert_array_equal(jax.jit(lambda r: bound(kind, risk=r, **beta))(RISKS) <= 1, True)


def world(count, num_examples=60, hypotheses=12, seed=0):
    """Gibbs codes over few hypotheses whose errors are correlated, for many data sets."""
    rng = np.random.default_rng(seed)
    means = np.linspace(0.05, 0.6, hypotheses)
    shared = rng.random((count, num_examples, 1))
    own = rng.random((count, num_examples, hypotheses))
    errors = np.where(rng.random((count, num_examples, 1)) < 0.5, shared, own) < means
    empirical = errors.mean(1)
    log_q = -0.5 * num_examples * empirical  # β = 2
    q = np.exp(log_q - log_q.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    kl = (q * np.log(q * hypotheses)).sum(1)
    return empirical, q, kl, (q * empirical).sum(1), q @ means, rng


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delta", [0.05, 0.5])
def test_bounds_hold_for_the_data_sets_they_promise(kind, delta):
    _, _, kl, risk, truth, _ = world(1000)
    options = {"beta": 2.0} if kind in ("catoni", "linear") else {}
    certificate = iw.pac_bayes_bound(
        kind, risk=risk, kl=kl, num_examples=60, delta=delta, **options
    )
    failed = np.sum(truth > certificate.bound)
    assert stats.binom.sf(failed - 1, 1000, delta) > 0.01
    assert np.mean(truth > risk) > 0.5  # the training risk itself is no bound
    assert np.median(certificate.bound) < 0.75


def test_bounds_hold_where_risk_is_of_few_draws_and_the_best_price_is_chosen():
    empirical, q, kl, _, truth, rng = world(1000, seed=1)
    draws, prices = 30, np.array([0.5, 1.0, 2.0, 4.0])
    chosen = np.array([rng.choice(len(p), draws, p=p) for p in q])
    risk = np.take_along_axis(empirical, chosen, 1).mean(1)
    certificate = iw.pac_bayes_bound(
        "catoni",
        risk=risk[:, None],
        kl=kl[:, None],
        num_examples=60,
        delta=0.1,
        beta=prices,
        num_candidates=len(prices),
        num_draws=draws,
        draws_delta=0.1,
    )
    assert certificate.confidence == pytest.approx(0.8)
    failed = np.sum(truth > certificate.bound.min(1))
    assert stats.binom.sf(failed - 1, 1000, 0.2) > 0.01
    exact = np.take_along_axis(empirical, chosen, 1) @ np.ones(draws) / draws
    true_risk = (q * empirical).sum(1)
    assert np.mean(true_risk > certificate.risk[:, 0]) < 0.13  # the draws' own promise
    assert np.mean(true_risk > exact) > 0.3


PROFILES = {  # risks of 60 examples under fresh weights
    "equal": np.full(60, 0.1),
    "certain": np.repeat([0.0, 1.0], [54, 6]),
    "spread": np.linspace(0, 0.5, 60) ** 2,
    "rare": np.repeat([0.0, 0.05], [40, 20]),
}


@pytest.mark.parametrize("name", PROFILES)
def test_fresh_weights_for_every_example_count_one_by_one(name):
    """Hoeffding's bound needs independence, not equal means; shared weights are not independent."""
    risks, repeats, allowed, trials = PROFILES[name], 4, 0.05, 20_000
    rng = np.random.default_rng(2)
    m = risks.size * repeats

    def misses(uniform):
        found = (uniform < risks).mean((1, 2))
        certificate = iw.pac_bayes_bound(
            "seeger", risk=found, kl=0.0, num_examples=60, num_draws=m, draws_delta=allowed
        )
        return np.sum(risks.mean() > certificate.risk)

    failed = misses(rng.random((trials, repeats, risks.size)))
    assert stats.binom.sf(failed - 1, trials, allowed) > 0.01
    if name == "equal":  # Chernoff's price: a normal tail beyond sqrt(2 log 1/δ') standard errors
        tail = stats.norm.sf(np.sqrt(2 * np.log(1 / allowed)))
        assert failed > 0.7 * tail * trials
        assert misses(rng.random((trials, repeats, 1))) > 3 * allowed * trials


def test_accounting_of_delta():
    one = bound("seeger", delta=0.01)
    np.testing.assert_array_equal(bound("seeger", delta=0.04, num_candidates=4), one)
    by_draws = iw.pac_bayes_bound("seeger", **COMMON, num_draws=100, draws_delta=0.02)
    by_hand = bound("seeger", risk=kl_inverse(RISKS, np.log(50) / 100))
    np.testing.assert_allclose(by_draws.bound, by_hand, rtol=1e-12)
    assert by_draws.confidence == pytest.approx(0.93)


def test_nats_are_clipped_and_no_more():
    logits = jnp.array([[0.0, 0.0], [20.0, 0.0], [-20.0, 0.0]])
    task = iw.Task(lambda w, x: x * w, iw.Categorical(), logits, jnp.array([0, 0, 0]))
    received = pac_bayes.bounded_nll(task, 1.0, least=1e-3)
    np.testing.assert_allclose(received, [np.log(2), np.log1p(np.exp(-20)), np.log(1e3)], rtol=1e-6)


class Laplace:
    """A likelihood of a user's own: a density of scale 0.1."""

    def nll(self, outputs, targets):
        return jnp.abs(targets - outputs) / 0.1 + np.log(0.2)


@pytest.mark.parametrize(
    "likelihood", [iw.GaussianLikelihood(0.01), iw.GaussianLikelihood(1.0), Laplace()]
)
def test_a_density_has_no_bounded_loss(likelihood):
    """It may exceed 1, here or elsewhere: of scale 0.01 it is e^3.7 where the data are met."""
    task = iw.Task(lambda w, x: x * w, likelihood, jnp.ones(3), jnp.ones(3))
    name = type(likelihood).__name__
    with pytest.raises(ValueError, match=f"probabilities of discrete targets, got {name}"):
        iw.bounded_nll(task, 1.0)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_examples_that_do_not_count_once_have_no_certificate(weight):
    weights = jnp.array([1.0, weight, 1.0])
    logits = jnp.arange(6.0).reshape(3, 2)
    labels = jnp.array([0, 1, 0])
    task = iw.Task(lambda w, x: x * w, iw.Categorical(), logits, labels, weights)
    with pytest.raises(ValueError, match="weights of the task must be 1 for a certificate, got"):
        iw.bounded_nll(task, 1.0)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("hoeffding", {}, "kind must be one of"),
        ("seeger", {"delta": 0.0}, "delta must lie between 0 and 1, got 0"),
        ("seeger", {"delta": 1.0}, "delta must lie between 0 and 1"),
        ("seeger", {"risk": 2.3}, "risk must lie between 0 and max_loss = 1.0, got 2.3"),
        ("seeger", {"risk": np.nan}, "risk must lie between"),
        ("seeger", {"kl": -1.0}, "kl must be finite and not negative, got -1.0"),
        ("seeger", {"kl": np.inf}, "kl must be finite"),
        ("seeger", {"max_loss": np.inf}, "max_loss must be positive and finite"),
        ("seeger", {"num_examples": 0}, "num_examples must be an integer of at least 1"),
        ("seeger", {"beta": 1.0}, "beta must be given with 'catoni' and 'linear' only"),
        ("catoni", {}, "beta must be given"),
        ("catoni", {"beta": -1.0}, "beta must be positive"),
        ("linear", {"beta": 0.5}, "beta must be above max_loss/2 = 0.5"),
        ("quadratic", {"trade_off": 1.0}, "trade_off is l of 'thiemann'"),
        ("thiemann", {"trade_off": 2.0}, "trade_off must lie between 0 and 2"),
        ("seeger", {"num_draws": 10, "draws_delta": 1.5}, "draws_delta must lie between"),
        ("seeger", {"num_draws": 10, "delta": 0.5, "draws_delta": 0.5}, "must sum to less than 1"),
        ("seeger", {"num_candidates": 0}, "num_candidates must be an integer"),
    ],
)
def test_what_is_out_of_range_is_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        bound(kind, **options)

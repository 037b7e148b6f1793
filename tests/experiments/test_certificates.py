"""The accounting of `certificates` that its own checks cannot see."""

import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments import certificates
from experiments.certificates import PER_E_FOLD, SCALES, Config


def test_the_prior_and_the_certificate_share_no_example():
    first, rest = certificates.split(Config(prior_part=0.7), 200)
    assert (len(first), len(rest)) == (140, 60)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, rest])), np.arange(200))


def test_scales_are_moved_to_the_grid_and_no_further_than_half_a_step():
    scales = {"a": jnp.array(0.1234), "b": jnp.array(1e-9), "c": jnp.array(1e9)}
    moved = certificates._on_grid(iw.IsotropicGaussian(scales)).log_scale
    end = (SCALES - 1) / 2 / PER_E_FOLD
    assert abs(moved["a"] - np.log(0.1234)) <= 0.5 / PER_E_FOLD + 1e-6
    np.testing.assert_allclose([moved["b"], moved["c"]], [-end, end])
    steps = np.array(list(moved.values())) * PER_E_FOLD
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


def test_every_beta_pays_for_its_own_draws_and_the_prior_for_its_choice():
    config = Config(betas=(1.0, 2.0, 4.0, 8.0))
    rng = np.random.default_rng(0)
    seen = {"wrong": rng.random((5, 400)) < 0.1, "nats": rng.random((5, 400))}
    seen["clipped"] = seen["nats"]
    received = certificates._certified(config, seen, 30.0, 400, SCALES**2)
    expected = iw.pac_bayes_bound(
        "seeger",
        risk=seen["wrong"].mean(),
        kl=30.0 + 2 * np.log(SCALES),
        num_examples=400,
        delta=config.delta,
        num_draws=2000,
        draws_delta=config.draws_delta / 4,
    )
    np.testing.assert_allclose(received["certificate"], expected.bound, rtol=1e-9)
    assert received["certificate"] <= received["certificate_quadratic"]
    assert received["error"] < received["error_upper"] < received["certificate"]

"""One neuron: the integral against adaptive quadrature, the plateaus, and descent by hand."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from experiments import one_neuron


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.7])
@pytest.mark.parametrize("points", [[-0.8, -0.3, 0.2, 0.7], [-1.0, -0.999, -0.96, 0.98]])
def test_the_integral_is_that_of_adaptive_quadrature(points, sigma):
    points = np.array(points)

    def integrand(t):
        return special.entr(stats.norm.pdf(t, points, sigma).mean())

    edges = np.unique(np.concatenate([points + k * sigma for k in range(-10, 11, 2)]))
    whole = sum(
        integrate.quad(integrand, a, b, epsabs=1e-11, epsrel=1e-11)[0]
        for a, b in itertools.pairwise(edges)
    )
    expected = whole - stats.norm.entropy(scale=sigma)
    np.testing.assert_allclose(one_neuron.information(points, sigma), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("points", "nats"),
    [
        ([-1, -0.5, 0.5, 1], 1.3863),
        ([-1, -1, 0, 1], 1.0397),
        ([-1, -1, -1, 1], 0.5623),
        ([1, 1, 1, 1], 0.0),
    ],
)
def test_merged_points_are_one(points, nats):
    found = one_neuron.information(np.array(points, float), 0.01)
    np.testing.assert_allclose(found, nats, atol=5e-5)
    assert nats == 0 or any(abs(found - p) < 1e-9 for p in one_neuron.PLATEAUS.values())


def test_descent_is_the_chain_rule_by_hand():
    w, b = one_neuron.START
    for _ in range(7):
        s = np.tanh(w * one_neuron.X + b)
        slope = 0.5 * (s - one_neuron.TARGETS) * (1 - s**2)
        w, b = w - 0.1 * slope @ one_neuron.X, b - 0.1 * slope.sum()
    with jax.enable_x64(True):
        found = one_neuron.descend(jnp.array(one_neuron.START), jnp.array([0, 3, 4]), 0.1)
    np.testing.assert_allclose(found[-1], [w, b], rtol=1e-12)
    np.testing.assert_array_equal(found[0], one_neuron.START)


def test_noise_in_training_adds_its_variance_to_the_loss_and_nothing_else():
    rng = np.random.default_rng(0)
    params, sigma = np.array([0.7, -1.1]), 0.3
    s = np.tanh(params[0] * one_neuron.X + params[1])
    noisy = s + sigma * rng.normal(size=(400_000, 1))
    found = ((noisy - one_neuron.TARGETS) ** 2).mean()
    with jax.enable_x64(True):
        silent = float(one_neuron.loss(jnp.asarray(params)))
    np.testing.assert_allclose(found, silent + sigma**2, atol=2e-3)


def test_a_plateau_that_is_missed_is_told():
    """Rows as a run leaves them, but too short for the third plateau."""
    config = dataclasses.replace(one_neuron.PRESETS["quick"], num_steps=1000)
    steps = one_neuron.recorded(config)
    with jax.enable_x64(True):
        params = one_neuron.descend(
            jnp.array(one_neuron.START), jnp.asarray(np.diff(steps, prepend=0)), 0.1
        )
    params = np.asarray(params)
    points = np.tanh(params[:, :1] * one_neuron.X + params[:, 1:])
    rows = [
        {"sigma": sigma, "step": int(step), "information_nats": float(nats)}
        | {f"{route}_nats": float(nats) for route in one_neuron.ROUTES}
        | {f"{route}_nats_stderr": 0.01 for route in one_neuron.ROUTES}
        | {"bound_lower_nats": 0.0, "bound_upper_nats": 1.4}
        for sigma in config.sigmas
        for step, nats in zip(steps, one_neuron.information(points, sigma), strict=True)
    ]
    failed = [c for c in one_neuron.check(rows, config) if not c.passed]
    assert len(failed) == 1
    assert "three merged: never (train on)" in failed[0].message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sigmas", "0.1"], "sigmas must be at least two, positive, finite and increasing"),
        (["--sigmas", "0.1", "0.01"], "sigmas must be at least two, positive, finite and incr"),
        (["--sigmas", "0", "0.1"], "sigmas must be at least two, positive"),
        (["--learning-rate", "0.3"], "learning_rate must be below 0.2, from where the first"),
        (["--num-records", "1"], "num_records must be an integer of at least 2, got 1"),
        (["--num-points", "4"], "num_points must be an integer of at least 8, got 4"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags, words, command_line, never_run, tmp_path):
    never_run("one_neuron")
    status, text = command_line(
        "one_neuron", "--preset", "quick", "--results-dir", tmp_path, *flags
    )
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())

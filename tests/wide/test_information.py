"""Nats in weights and outputs: Gaussians in parameter space, limits, and data processing."""

import jax
import numpy as np
import pytest
from scipy import linalg

from iw_jax import wide

RNG = np.random.default_rng(0)
TIMES = np.array([1e-3, 0.05, 0.4, 3.0])
N, P = 7, 12


def gaussian_kl(mean, covariance):
    """KL(N(mean, covariance) ‖ N(0, I))."""
    size = len(mean)
    return (np.trace(covariance) + mean @ mean - size - np.linalg.slogdet(covariance)[1]) / 2


def linear(outputs, size=P):
    """A model linear in its weights: features J, Θ = K = J J', and an ensemble on targets Y."""
    j, y = RNG.normal(size=(N, size)) / 2, RNG.normal(size=(N, outputs))
    k = j @ j.T
    return j, y, wide.ensemble(wide.Kernels(k, k), y)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_kl_is_that_of_two_gaussians_in_parameter_space(outputs):
    j, y, e = linear(outputs)
    times = TIMES[:3]  # later, the determinant of e^-2tΘ is below its rounding
    for t, nats in zip(times, wide.weight_information(e, times), strict=True):
        left = linalg.expm(-t * j.T @ j)
        mean = np.linalg.pinv(j) @ (np.eye(N) - linalg.expm(-t * j @ j.T)) @ y
        expected = sum(gaussian_kl(m, left @ left) for m in mean.T)
        np.testing.assert_allclose(nats, expected, rtol=1e-8)


def test_the_kl_early_and_late():
    j, y, e = linear(3)
    k, early, late = j @ j.T, 1e-4, 400.0
    expected = early**2 * (3 * np.trace(k @ k) + np.trace(y.T @ k @ y) / 2)
    np.testing.assert_allclose(wide.weight_information(e, [early])[0], expected, rtol=1e-2)
    expected = 3 * late * np.trace(k) - 3 * N / 2 + np.trace(y.T @ np.linalg.solve(k, y)) / 2
    np.testing.assert_allclose(wide.weight_information(e, [late])[0], expected, rtol=1e-8)
    assert wide.weight_information(e, [0.0, np.inf]).tolist() == [0.0, np.inf]
    np.testing.assert_allclose(wide.fisher_trace(e), 3 * np.trace(k))


def test_where_weights_start_with_unequal_scales_its_parts_are_still_those():
    """θ0 ~ N(0, S), K = J S J': volume, and half the change of the mean square of θ."""
    scales = np.linspace(0.5, 2.0, P)
    j, y, _ = linear(2)
    within = wide.Kernels((j * scales**2) @ j.T, j @ j.T)
    found = wide.weight_information(wide.ensemble(within, y), TIMES)
    for t, nats in zip(TIMES, found, strict=True):
        left = linalg.expm(-t * j.T @ j)
        mean = np.linalg.pinv(j) @ (np.eye(N) - linalg.expm(-t * within.ntk)) @ y
        change = np.trace((left * scales**2) @ left) - (scales**2).sum()
        expected = 2 * t * np.trace(within.ntk) + change + (mean**2).sum() / 2
        np.testing.assert_allclose(nats, expected, rtol=1e-8)


@pytest.fixture(scope="module")
def gaussian_law():
    """A readout-only network with two outputs, and the covariance S of its random targets."""
    x, other = RNG.normal(size=(N, 4)), RNG.normal(size=(5, 4))
    network = wide.Network(1, "erf", 1.5, 0.3)
    within, across = wide.kernels(network, x).nngp, wide.kernels(network, other, x).nngp
    spread = x @ x.T + 0.3 * np.eye(N)
    e = wide.ensemble(wide.Kernels(within, within), np.zeros((N, 2)))
    return e, within, wide.Kernels(across, across), wide.kernels(network, other).nngp, spread


def test_weights_know_what_outputs_at_the_training_inputs_know(gaussian_law):
    e, k, _, _, spread = gaussian_law
    found = wide.target_information(e, TIMES, spread)
    for t, nats in zip(TIMES, found, strict=True):
        left = linalg.expm(-t * k)
        gain, noise = np.eye(N) - left, left @ k @ left
        whole = noise + gain @ spread @ gain
        logdet = np.linalg.slogdet(whole)[1] - np.linalg.slogdet(noise)[1]
        np.testing.assert_allclose(nats, 2 * logdet / 2, rtol=1e-7)


def test_the_bound_lies_above_what_weights_know_and_that_above_what_outputs_know(gaussian_law):
    e, k, across, prior, spread = gaussian_law
    times = np.array([0.01, 0.1, 1.0, 10.0])
    bound = wide.mean_weight_information(e, times, spread)
    exact = wide.target_information(e, times, spread)
    outputs = wide.output_information(e, times, across, prior, spread)
    assert np.all(bound > exact)
    assert np.all(exact > outputs)
    assert np.all(outputs > 0)
    assert np.all(np.diff(exact) > 0)
    # Both grow by k Tr Θ.
    late = np.array([1e4, 2e4])
    for f in (wide.mean_weight_information, wide.target_information):
        np.testing.assert_allclose(np.diff(f(e, late, spread)) / 1e4, 2 * np.trace(k), rtol=1e-8)


def test_the_mean_bound_is_the_mean_over_targets(gaussian_law):
    e, k, _, _, spread = gaussian_law
    root = np.linalg.cholesky(spread)
    draws = root @ RNG.normal(size=(4000, N, 2))
    found = [
        wide.weight_information(wide.ensemble(wide.Kernels(k, k), y), TIMES) for y in draws[:300]
    ]
    mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / np.sqrt(len(found))
    expected = wide.mean_weight_information(e, TIMES, spread)
    assert np.all(np.abs(mean - expected) < 4 * error)


def test_outputs_know_exactly_what_two_gaussians_share(gaussian_law):
    """I(f; Y) from the joint covariance of targets and outputs, any Θ."""
    _, k, across, prior, spread = gaussian_law
    ntk = k + 0.2 * np.eye(N)
    e = wide.ensemble(wide.Kernels(k, ntk), np.zeros(N))
    found = wide.output_information(e, TIMES, across, prior, spread)
    for t, nats in zip(TIMES, found, strict=True):
        a = across.ntk @ np.linalg.solve(ntk, np.eye(N) - linalg.expm(-t * ntk))
        cross = a @ across.nngp.T
        own = prior + a @ k @ a.T - cross - cross.T + a @ spread @ a.T
        joint = np.block([[own, a @ spread], [spread @ a.T, spread]])
        parts = [np.linalg.slogdet(m)[1] for m in (own, spread, joint)]
        np.testing.assert_allclose(nats, (parts[0] + parts[1] - parts[2]) / 2, rtol=1e-7)


def test_the_kl_of_outputs_is_that_of_two_gaussians(gaussian_law):
    _, k, across, prior, _ = gaussian_law
    e = wide.ensemble(wide.Kernels(k, k), RNG.normal(size=(N, 2)))
    moments = e.at(np.append(0.0, TIMES), across, np.diag(prior))
    found = wide.data_information(moments, np.diag(prior))
    np.testing.assert_allclose(found[0], 0, atol=1e-12)
    for i, mean in enumerate(moments.mean):
        for m in range(5):
            scale = prior[m, m]
            covariance = np.eye(2) * moments.variance[i, m] / scale
            np.testing.assert_allclose(
                found[i, m], gaussian_kl(mean[m] / np.sqrt(scale), covariance), atol=1e-10
            )
    known = wide.Moments(np.zeros((1, 1, 1)), np.zeros((1, 1)))
    assert wide.data_information(known, np.ones(1)) == np.inf


def test_the_alignment_of_a_network_takes_the_place_of_the_kernel():
    x = RNG.normal(size=(4, 3))
    network = wide.Network(2, "relu", 1.2)
    k, y = wide.kernels(network, x), RNG.normal(size=4)
    e, c, t = wide.ensemble(k, y), wide.alignment(network, x), 0.3
    reached = np.linalg.solve(k.ntk, np.eye(4) - linalg.expm(-t * k.ntk))
    expected = t * np.trace(k.ntk) - np.trace(c @ reached) + wide.distance_moved(e, [t])[0] / 2
    np.testing.assert_allclose(wide.weight_information(e, [t], c)[0], expected, rtol=1e-10)


def test_it_is_the_same_under_jit(gaussian_law):
    e, _, across, prior, spread = gaussian_law

    def all_of(e, times):
        return (
            wide.weight_information(e, times),
            wide.mean_weight_information(e, times, spread),
            wide.target_information(e, times, spread),
            wide.output_information(e, times, across, prior, spread),
            wide.data_information(e.at(times, across, np.diag(prior)), np.diag(prior)),
        )

    for a, b in zip(all_of(e, TIMES), jax.jit(all_of)(e, TIMES), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7)


def test_late_times_do_not_overflow(gaussian_law):
    e, k, _, _, spread = gaussian_law
    found = wide.target_information(e, np.array([1e6]), spread)
    np.testing.assert_allclose(found, 2e6 * np.trace(k), rtol=1e-3)


def test_what_has_no_information_is_named(gaussian_law):
    e, _, across, prior, spread = gaussian_law
    with pytest.raises(ValueError, match="times must be finite: exact outputs know an infinite"):
        wide.target_information(e, [np.inf], spread)
    with pytest.raises(ValueError, match=r"must be \(..., 7, 7\), got shape \(5, 5\)"):
        wide.target_information(e, TIMES, prior)
    twice = wide.Kernels(*(np.concatenate([m, m]) for m in (across.nngp, across.ntk)))
    with pytest.raises(ValueError, match="covariance of the outputs must have an inverse"):
        wide.output_information(e, TIMES, twice, np.block([[prior, prior], [prior, prior]]), spread)
    moments = e.at(TIMES, across, np.diag(prior))
    with pytest.raises(ValueError, match=r"prior_variance must be of shape \(5,\)"):
        wide.data_information(moments, np.ones(4))
    with pytest.raises(ValueError, match=r"prior_variance must be positive and finite, got 0.0"):
        wide.data_information(moments, np.diag(prior) * [1, 1, 0, 1, 1])


@pytest.mark.parametrize("measure", [wide.mean_weight_information, wide.target_information])
def test_a_network_whose_tangent_kernel_is_another_is_refused(measure, gaussian_law):
    _, k, _, _, spread = gaussian_law
    for ntk in (k + 1e-3 * np.eye(N), 2 * k):
        e = wide.ensemble(wide.Kernels(k, ntk), np.zeros(N))
        with pytest.raises(ValueError, match=r"ensemble must be one of Θ = K.*got kernels"):
            measure(e, TIMES, spread)
    rounded = np.asarray(k, np.float32)
    measure(wide.ensemble(wide.Kernels(rounded, rounded), np.zeros(N)), TIMES, spread)


def test_a_target_covariance_that_is_none_is_refused(gaussian_law):
    e, _, across, prior, spread = gaussian_law
    sheared = spread + np.triu(np.ones((N, N)), 1)
    indefinite = spread - 2 * np.linalg.eigvalsh(spread)[0] * np.eye(N)
    measures = (
        lambda s: wide.mean_weight_information(e, TIMES, s),
        lambda s: wide.target_information(e, TIMES, s),
        lambda s: wide.output_information(e, TIMES, across, prior, s),
    )
    for measure in measures:
        with pytest.raises(ValueError, match="target_covariance must be symmetric"):
            measure(sheared)
        with pytest.raises(ValueError, match="target_covariance must have no negative eigenvalue"):
            measure(indefinite)
        assert np.all(np.isfinite(measure(np.ones((N, N)))))  # of rank 1

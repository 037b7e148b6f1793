"""Means and covariances of ensembles: linear models in full, simulated ones, and limits."""

import jax
import numpy as np
import pytest
from scipy import linalg

from iw_jax import wide

TIMES = np.array([0.0, 0.01, 0.3, 2.0, 30.0])
RNG = np.random.default_rng(0)


def inputs(number, size=5, seed=0):
    return np.random.default_rng(seed).normal(size=(number, size))


@pytest.fixture(scope="module", params=["relu", "erf"])
def problem(request):
    """A network, 25 training inputs, 12 others, and three outputs."""
    network = wide.Network(2, request.param, 1.4, 0.2)
    return network, inputs(25), inputs(12, seed=1), inputs(25, 3, seed=2)


def solved(problem, times=TIMES):
    network, x, other, y = problem
    e = wide.ensemble(wide.kernels(network, x), y)
    across, prior = wide.kernels(network, other, x), wide.kernels(network, other).nngp
    return e, e.at(times, across, np.diag(prior)), across, prior


def test_it_is_the_matrix_exponential(problem):
    network, x, _, y = problem
    e, found, across, prior = solved(problem)
    within = wide.kernels(network, x)
    covariance = e.covariance(TIMES, across, prior)
    training = e.at_training(TIMES)
    for i, t in enumerate(TIMES):
        left = linalg.expm(-t * within.ntk)
        a = across.ntk @ np.linalg.solve(within.ntk, np.eye(25) - left)
        np.testing.assert_allclose(found.mean[i], a @ y, atol=1e-9)
        cross = a @ across.nngp.T
        dense = prior + a @ within.nngp @ a.T - cross - cross.T
        np.testing.assert_allclose(covariance[i], dense, atol=1e-9)
        np.testing.assert_allclose(found.variance[i], np.diag(dense), atol=1e-9)
        np.testing.assert_allclose(training.mean[i], y - left @ y, atol=1e-9)
        np.testing.assert_allclose(
            training.variance[i], np.diag(left @ within.nngp @ left), atol=1e-9
        )


def test_at_the_start_it_is_the_prior_and_at_the_end_it_fits(problem):
    network, x, _, y = problem
    e, found, across, prior = solved(problem, np.array([0.0, np.inf]))
    np.testing.assert_allclose(found.mean[0], 0, atol=1e-12)
    np.testing.assert_allclose(found.variance[0], np.diag(prior), rtol=1e-12)
    training = e.at_training(np.array([0.0, np.inf]))
    np.testing.assert_allclose(training.mean[1], y, atol=1e-12)
    np.testing.assert_allclose(training.variance[1], 0, atol=1e-12)
    late = e.at(np.array([1e9]), across, np.diag(prior))
    np.testing.assert_allclose(found.mean[1], late.mean[0], atol=1e-9)
    # Other inputs may be training inputs too.
    again = e.at(TIMES, wide.kernels(network, x, x), wide.prior_variance(network, x))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(e.at_training(TIMES)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_training_the_readout_only_ends_at_the_gaussian_process(problem):
    network, x, other, y = problem
    k, across = wide.kernels(network, x).nngp, wide.kernels(network, other, x).nngp
    prior = wide.prior_variance(network, other)
    e = wide.ensemble(wide.Kernels(k, k), y)
    found = e.at(np.append(TIMES, np.inf), wide.Kernels(across, across), prior)
    for i, t in enumerate(TIMES):
        gain = np.linalg.solve(k, np.eye(25) - linalg.expm(-2 * t * k))
        expected = prior - np.einsum("ij,jk,ik->i", across, gain, across)
        np.testing.assert_allclose(found.variance[i], expected, atol=1e-10)
    np.testing.assert_allclose(found.mean[-1], across @ np.linalg.solve(k, y), atol=1e-9)
    posterior = prior - np.einsum("ij,ji->i", across, np.linalg.solve(k, across.T))
    np.testing.assert_allclose(found.variance[-1], posterior, atol=1e-10)


def linear_model(members=20_000):
    """P random features, weights of unequal prior variances, trained by hand: all weights."""
    p, scales = 12, np.linspace(0.3, 2.0, 12)
    features, others, y = inputs(6, p, 3), inputs(4, p, 4), inputs(6, 2, 5)
    within = wide.Kernels((features * scales**2) @ features.T, features @ features.T)
    across = wide.Kernels((others * scales**2) @ features.T, others @ features.T)
    start = RNG.normal(size=(members, p, 2)) * scales[:, None]

    def flow(t):
        """θ_t = e^-tH θ_0 + H^-1 (1 - e^-tH) J'Y on the row space, H = J'J."""
        left = linalg.expm(-t * features.T @ features)
        reached = np.linalg.pinv(features) @ (np.eye(6) - linalg.expm(-t * within.ntk))
        return left @ start + reached @ y

    return within, across, ((others * scales) ** 2).sum(1), y, others, start, flow


def test_moments_are_those_of_a_simulated_linear_model():
    within, across, prior, y, others, start, flow = linear_model()
    e = wide.ensemble(within, y)
    times = np.array([0.02, 0.1, 1.0])
    found, moved = e.at(times, across, prior), wide.distance_moved(e, times)
    for i, t in enumerate(times):
        end = flow(t)
        outputs = others @ end  # (members, 4, 2)
        count = len(outputs)
        stderr = outputs.std(0, ddof=1) / np.sqrt(count)
        assert np.abs((outputs.mean(0) - found.mean[i]) / stderr).max() < 4
        variance = outputs.var(0, ddof=1)
        np.testing.assert_allclose(
            variance, found.variance[i][:, None] * np.ones(2), rtol=5 * np.sqrt(2 / count)
        )
        squares = ((end - start) ** 2).sum((1, 2))
        assert abs(squares.mean() - moved[i]) < 4 * squares.std() / np.sqrt(count)


def test_several_networks_at_once_are_those_one_by_one():
    x, other, y = inputs(15), inputs(8, seed=1), inputs(15, 2, seed=2)
    stds = np.array([0.7, 1.5])

    def moments(std):
        network = wide.Network(2, "erf", std, 0.1)
        e = wide.ensemble(wide.kernels(network, x), y)
        across, prior = wide.kernels(network, other, x), wide.kernels(network, other).nngp
        at = e.at(TIMES, across, wide.prior_variance(network, other))
        covariance = e.covariance(TIMES, across, prior)
        return at, e.at_training(TIMES), covariance, wide.weight_information(e, TIMES)

    together = jax.tree.leaves(moments(stds))
    for i, std in enumerate(stds):
        for whole, one in zip(together, jax.tree.leaves(moments(std)), strict=True):
            np.testing.assert_allclose(whole[:, i], one, rtol=1e-9, atol=1e-11)


def test_it_is_the_same_under_jit(problem):
    network, x, other, y = problem

    @jax.jit
    def traced(x, other, y, times):
        e = wide.ensemble(wide.kernels(network, x), y)
        across = wide.kernels(network, other, x)
        at = e.at(times, across, wide.prior_variance(network, other))
        return (
            at,
            e.at_training(times),
            wide.distance_moved(e, times),
            wide.gibbs_loss(at, at.mean[0]),
        )

    eager = traced.__wrapped__(x, other, y, TIMES)
    for a, b in zip(
        jax.tree.leaves(traced(x, other, y, TIMES)), jax.tree.leaves(eager), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_float64_whatever_the_users_flag(problem):
    with jax.enable_x64(False):
        narrow = solved(problem)[1]
    np.testing.assert_array_equal(narrow.mean, solved(problem)[1].mean)


def test_two_equal_inputs_have_finite_times_only():
    x = np.concatenate([inputs(6), inputs(1)])
    network = wide.Network(2, "relu")
    e = wide.ensemble(wide.kernels(network, x), np.arange(7.0))
    assert np.all(np.isfinite(e.at_training(TIMES).mean))
    late = e.at_training(np.array([1e6])).mean[0]  # both go to the mean of their targets
    np.testing.assert_allclose(late[[0, 6], 0], 3.0, rtol=1e-5)
    message = "times may be inf only where the tangent kernel of the training inputs has an inverse"
    with pytest.raises(ValueError, match=message):
        e.at_training(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match=message):
        wide.distance_moved(e, np.array([np.inf]))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([-1.0], "times must be at least 0, got -1.0"),
        ([0.0, np.nan], "times must be at least 0, got nan"),
        (1.0, r"times must be \(T,\), at least one, got shape \(\)"),
        ([], r"times must be \(T,\), at least one, got shape \(0,\)"),
    ],
)
def test_times_that_cannot_be_are_named(times, message, problem):
    e = solved(problem)[0]
    for measure in (e.at_training, lambda t: wide.weight_information(e, t)):
        with pytest.raises(ValueError, match=message):
            measure(times)


def test_shapes_that_do_not_fit_are_named(problem):
    network, x, _, y = problem
    within = wide.kernels(network, x)
    with pytest.raises(ValueError, match=r"both kernels within .*, got shapes \(24, 3\)"):
        wide.ensemble(within, y[1:])
    with pytest.raises(ValueError, match="targets must be finite"):
        wide.ensemble(within, np.full(25, np.nan))
    e, _, across, prior = solved(problem)
    with pytest.raises(ValueError, match=r"across.nngp must be .* M = 11 .* N = 25"):
        e.at(TIMES, across, np.diag(prior)[1:])
    with pytest.raises(ValueError, match=r"must be \(..., 25, 25\), got shape \(12, 12\)"):
        e.rotated(prior)


def test_kernels_that_are_none_are_named(problem):
    network, x, _, y = problem
    k = wide.kernels(network, x)
    sheared = k.ntk + np.triu(np.ones((25, 25)), 1)
    with pytest.raises(ValueError, match=r"within\.ntk must be symmetric, got entries 1 apart"):
        wide.ensemble(wide.Kernels(k.nngp, sheared), y)
    with pytest.raises(ValueError, match=r"within\.nngp must be symmetric"):
        wide.ensemble(wide.Kernels(sheared, k.ntk), y)
    indefinite = k.ntk - 1.1 * np.linalg.eigvalsh(k.ntk)[0] * np.eye(25)
    with pytest.raises(ValueError, match=r"within\.ntk must have no negative eigenvalue, got -"):
        wide.ensemble(wide.Kernels(k.nngp, indefinite), y)

"""The Gibbs code against Gaussian integrals and quadrature; what it says of stuck chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import iw_jax as iw
from iw_jax.weights import annealing
from tests import oracles

BETAS = np.array([3.0, 1.0, 0.3])


@pytest.fixture(scope="module")
def linear():
    world = oracles.linear_world(0)
    prior = iw.IsotropicGaussian(0.8, mean=jnp.array([0.5, -0.2, 0.1]))
    found = iw.gibbs_iw(
        world.task,
        jnp.zeros(3),
        prior,
        betas=BETAS,
        key=jax.random.key(0),
        num_chains=512,
        num_temperatures=600,
        num_leapfrog=10,
    )
    return world, prior, found


def _truth(world, prior, betas):
    mean, cov = np.asarray(prior.mean), np.exp(2 * float(prior.log_scale)) * np.eye(3)
    rows = []
    for beta in betas:
        own_mean, own_cov = world.gibbs(mean, cov, beta)
        rows.append(
            (
                world.free_energy(mean, cov, beta),
                oracles.gaussian_kl(own_mean, own_cov, mean, cov),
                world.expected_loss(own_mean, own_cov),
            )
        )
    return np.array(rows).T


def test_meets_the_evidence_of_a_linear_gaussian_world(linear):
    world, prior, found = linear
    lagrangian, kl, loss = _truth(world, prior, BETAS)
    assert found.mixed.all()
    np.testing.assert_allclose(found.lagrangian.value, lagrangian, rtol=5e-3)
    np.testing.assert_allclose(found.loss.value, loss, rtol=5e-3)
    np.testing.assert_allclose(found.nats.value, kl, rtol=2e-2)
    for estimate, truth in ((found.lagrangian, lagrangian), (found.nats, kl), (found.loss, loss)):
        lower, upper = estimate.interval(0.9999)
        assert np.all((lower < truth) & (truth < upper))


def test_annealed_weights_meet_it_too(linear):
    world, prior, found = linear
    z = (found.ais.value - _truth(world, prior, BETAS)[0]) / found.ais.stderr
    assert np.all(np.abs(z) < 4)
    assert np.all(found.ais_sample_size > 20)


@pytest.mark.slow
@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_intervals_cover_where_chains_lag_behind_their_rungs(condition):
    """Twenty weights of very different stiffness, sixteen chains: both sums are biased."""
    Q, spread = oracles.haar_orthogonal(1, 20), np.geomspace(1, condition, 20) ** 0.5
    x = (Q * spread) @ Q.T
    world = oracles.LinearWorld(x, x @ np.random.default_rng(2).normal(size=20), 0.5)
    exact = world.free_energy(np.zeros(20), np.eye(20), 0.3)
    held = []
    for seed in range(40):
        found = iw.gibbs_iw(
            world.task,
            jnp.zeros(20),
            iw.IsotropicGaussian(1.0),
            betas=[0.3],
            key=jax.random.key(seed),
        )
        lower, upper = found.lagrangian.interval()
        held.append(lower[0] <= exact <= upper[0])
    assert stats.binom.cdf(np.sum(held), 40, 0.95) > 0.02


def test_a_loss_that_never_varies_is_known(linear):
    world, prior, _ = linear
    task = iw.Task(
        oracles.linear,
        iw.GaussianLikelihood(1.0),
        world.task.inputs,
        world.task.targets,
        jnp.zeros(len(world.y)),
    )
    found = iw.gibbs_iw(task, jnp.zeros(3), prior, betas=[1.0], key=jax.random.key(0))
    assert found.mixed[0]
    assert found.nats.value[0] == 0
    assert found.lagrangian.interval() == (0, 0)


def test_no_code_is_better(linear):
    world, prior, found = linear
    for i, beta in enumerate(BETAS):
        fisher = iw.fisher_iw(
            world.task,
            jnp.asarray(world.minimum),
            prior,
            beta=beta,
            key=jax.random.key(0),
            num_matvecs=12,
        )
        assert fisher.lagrangian.value > found.lagrangian.interval(0.9999)[0][i]


@pytest.mark.slow
def test_a_logistic_regression_against_quadrature():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 2))
    y = (rng.random(12) < 0.5).astype(int)
    scale, mean = {"a": 0.7, "b": 1.5}, {"a": jnp.array([0.3]), "b": jnp.array([0.0])}
    apply_fn = lambda w, x: x[:, 0] * w["a"][0] + x[:, 1] * w["b"][0]  # noqa: E731
    weights = np.ones(12)
    weights[3] = 0
    task = iw.Task(apply_fn, iw.Bernoulli(), jnp.array(x), jnp.array(y), jnp.array(weights))
    betas = np.array([0.2, 1.0])  # in any order
    found = iw.gibbs_iw(
        task,
        mean,
        iw.IsotropicGaussian(scale, mean=mean),
        betas=betas,
        key=jax.random.key(1),
        num_chains=128,
        num_temperatures=150,
        num_leapfrog=10,
        batch_size=5,
    )
    nodes, share = oracles.gauss_hermite(120)
    a, b = 0.3 + 0.7 * nodes[:, None, None], 1.5 * nodes[None, :, None]
    logits = a * x[:, 0] + b * x[:, 1]
    loss = (weights * (np.logaddexp(0, logits) - y * logits)).sum(-1)
    prior = share[:, None] * share
    for i, beta in enumerate(betas):
        z = (prior * np.exp(-loss / beta)).sum()
        mean_loss = (prior * np.exp(-loss / beta) * loss).sum() / z
        kl = -np.log(z) - mean_loss / beta
        for estimate, truth in (
            (found.lagrangian, -beta * np.log(z)),
            (found.loss, mean_loss),
            (found.nats, kl),
        ):
            lower, upper = estimate.interval(0.9999)
            assert lower[i] < truth < upper[i]
        np.testing.assert_allclose(found.lagrangian.value[i], -beta * np.log(z), rtol=1e-2)


@pytest.mark.slow
def test_simulated_targets_are_bracketed():
    """C* of every data set from its Gaussian integral: each side holds, and they are close."""
    world = oracles.linear_world(2)
    prior = iw.IsotropicGaussian(0.6)
    settings = dict(num_chains=32, num_temperatures=60, num_held=10, num_leapfrog=6)
    gaps = []
    for seed in range(12):
        found = iw.simulated_bracket(
            world.task, jnp.zeros(3), prior, key=jax.random.key(seed), **settings
        )
        simulated = oracles.LinearWorld(world.x, np.asarray(found.targets), world.noise)
        truth = simulated.free_energy(np.zeros(3), 0.36 * np.eye(3), 1.0)
        assert found.lower.value - 4 * found.lower.stderr < truth
        assert truth < found.upper.value + 4 * found.upper.stderr
        gaps.append([truth - found.lower.value, found.upper.value - truth])
    assert np.abs(gaps).max() < 1
    bias = np.mean(gaps, 0)  # -log of the mean of unbiased weights: half their variance
    assert (np.abs(bias) < 0.25).all()
    assert (bias > -3 * np.std(gaps, 0, ddof=1) / np.sqrt(12)).all()


@pytest.mark.parametrize("weight", [2.0, 0.5])
def test_targets_of_half_a_probability_cannot_be_made(weight):
    world = oracles.linear_world(2)
    task = iw.Task(
        oracles.linear,
        iw.GaussianLikelihood(0.5),
        world.task.inputs,
        world.task.targets,
        jnp.ones(len(world.y)).at[3].set(weight).at[4].set(0.0),
    )
    with pytest.raises(ValueError, match=f"weights of the task must be 0 or 1 .*, got {weight:g}"):
        iw.simulated_bracket(task, jnp.zeros(3), iw.IsotropicGaussian(0.6), key=jax.random.key(0))


def test_chains_that_cannot_cross_are_called_unmixed():
    """Two wells a long way apart: chains that fall into either never change."""

    def wells(weight, inputs):
        return jnp.minimum((weight - 2) ** 2, (weight + 2) ** 2 + 0.2) + 0 * inputs[:, 0]

    task = iw.Task(wells, iw.GaussianLikelihood(0.05), jnp.zeros((1, 1)), jnp.zeros(1))
    found = iw.gibbs_iw(
        task,
        jnp.zeros(()),
        iw.IsotropicGaussian(1.0),
        betas=[100.0, 0.05],
        key=jax.random.key(0),
        num_temperatures=60,
    )
    assert found.mixed[0]
    assert not found.mixed[1]
    assert not found.lagrangian.converged[1]
    assert not found.nats.converged[1]


def test_a_stopped_climb_goes_on_to_the_same_numbers(linear):
    world, prior, _ = linear
    potential = annealing.Potential.of(world.task, jnp.zeros(3), prior, None)
    ladder = annealing.pilot(
        jax.random.key(0),
        potential,
        np.ones(1),
        num_chains=4,
        num_temperatures=30,
        num_held=6,
        num_leapfrog=3,
    )
    begin = annealing.start(jax.random.key(1), potential, ladder, 4)
    states = []
    whole = annealing.climb(begin, potential, ladder, states.append)
    assert len(states) == 2
    assert ladder.cost % (annealing._MOVES * 4 * (3 + 1)) == 0 < ladder.cost
    again = annealing.climb(jax.tree.map(jnp.asarray, states[0]), potential, ladder)
    np.testing.assert_array_equal(whole.loss, again.loss)
    assert np.isfinite(whole.loss).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"betas": [1.0, -1.0]}, "betas must be positive and finite, got -1"),
        ({"betas": []}, r"betas must be a vector of different numbers, at least one, got \[\]"),
        ({"betas": 1.0}, "betas must be a vector of different numbers"),
        ({"betas": [1.0, 1.0]}, "betas must be a vector of different numbers"),
        ({"num_chains": 1}, "num_chains must be an integer of at least 4, got 1"),
        ({"num_held": 2}, "num_held must be an integer of at least 4, got 2"),
        ({"num_temperatures": 0}, "num_temperatures must be an integer of at least 1, got 0"),
        ({"num_leapfrog": 0}, "num_leapfrog must be an integer of at least 1, got 0"),
        ({"prior": iw.IsotropicGaussian(1e200)}, "must be finite at draws from the prior"),
        ({"params": jnp.zeros(4)}, "params must fit apply_fn"),
    ],
)
def test_bad_input(changes, message):
    arguments = {"params": jnp.zeros(3), "prior": iw.IsotropicGaussian(1.0), "betas": [1.0]}
    arguments |= {"key": jax.random.key(0)} | changes
    params, prior = arguments.pop("params"), arguments.pop("prior")
    with pytest.raises(ValueError, match=message):
        iw.gibbs_iw(oracles.linear_world(0).task, params, prior, **arguments)


def test_only_gaussian_priors():
    with pytest.raises(TypeError, match="LogUniform"):
        iw.gibbs_iw(
            oracles.linear_world(0).task,
            jnp.zeros(3),
            iw.LogUniform(),
            betas=[1.0],
            key=jax.random.key(0),
        )

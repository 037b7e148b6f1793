import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import iw_jax as iw
from iw_jax import trees
from iw_jax.weights import sweeping
from tests import oracles

# Four weights: three whose columns are orthogonal, and one that no example sees.
_WORLD = oracles.linear_world(0, orthogonal=True)
WORLD = oracles.LinearWorld(np.pad(_WORLD.x, ((0, 0), (0, 1))), _WORLD.y, _WORLD.noise)
N, K = WORLD.x.shape
BETAS = np.array([0.05, 0.3, 0.98, 1.0, 1.02, 2.0, 20.0])
ONE, TWO = 3, 5  # where β is 1 and 2
MASK = np.arange(N) % 3 > 0
WEIGHTS = np.stack([np.ones(N), MASK, 2 * np.ones(N)])
CENTRE, LAMBDA = np.array([0.5, -0.5, 0.2, 0.3]), 0.8
STEPS = 500
# A short memory of squared gradients: these losses have no noise.
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.1, STEPS), b2=0.95)
KEYS = jax.random.split(jax.random.key(0), 2)


def start(key):
    mean = 0.1 * jax.random.normal(key, (K,))
    return iw.DiagonalGaussian(mean, 0.3), iw.IsotropicGaussian(LAMBDA, mean=jnp.array(CENTRE))


OPTIONS = dict(
    betas=BETAS,
    optimizer=OPTIMIZER,
    num_steps=STEPS,
    num_rounds=5,
    weights=WEIGHTS,
    estimator=oracles.exact_linear_loss,
)


@functools.cache
def swept():
    return iw.sweep(KEYS, WORLD.task, start, **OPTIONS)


def world_of(target_set):
    """Training on the examples with weight 1."""
    if target_set == 1:
        return oracles.LinearWorld(WORLD.x[MASK], WORLD.y[MASK], WORLD.noise)
    return WORLD


def mean_field(world, beta, prior_mean=CENTRE, scale=LAMBDA):
    """Mean and variances of the best factorised Gaussian: exact for a quadratic loss."""
    mean, _ = world.gibbs(prior_mean, scale**2 * np.eye(K), beta)
    return mean, beta / (np.diag(world.hessian) + beta / scale**2)


@pytest.mark.parametrize("index", range(len(BETAS)))
@pytest.mark.parametrize("target_set", [0, 1], ids=["all", "masked"])
def test_every_member_reaches_its_optimum(target_set, index):
    """A masked member reaches the optimum of the subset."""
    world, beta = world_of(target_set), BETAS[index]
    mean, variances = mean_field(world, beta)
    at = jax.tree.map(lambda x: np.asarray(x[target_set, index]), swept().code)  # both seeds
    np.testing.assert_allclose(at.mean, [mean, mean], atol=2e-4)
    np.testing.assert_allclose(at.scale, np.sqrt([variances, variances]), rtol=2e-4)
    kl = oracles.gaussian_kl(mean, np.diag(variances), CENTRE, LAMBDA**2 * np.eye(K))
    np.testing.assert_allclose(swept().lagrangian.kl.value[target_set, index], kl, rtol=1e-4)
    cost = world.expected_loss(mean, np.diag(variances)) + beta * kl
    measured = swept().lagrangian.value
    error = np.abs(measured.value[target_set, index] - cost)
    assert np.all(error < 4.5 * measured.stderr[target_set, index] + 1e-6)


def exact_costs(target_set=0):
    """C_β of the trained codes, E[L] in closed form: (B, S)."""
    world, code, kl = world_of(target_set), swept().code, swept().lagrangian.kl.value
    return np.array(
        [
            [
                world.expected_loss(
                    np.asarray(code.mean[target_set, b, s]),
                    np.diag(code.scale[target_set, b, s] ** 2),
                )
                + BETAS[b] * kl[target_set, b, s]
                for s in range(2)
            ]
            for b in range(len(BETAS))
        ]
    )


def test_the_minimum_is_the_free_energy():
    expected = [WORLD.free_energy(CENTRE, LAMBDA**2 * np.eye(K), b) for b in BETAS]
    np.testing.assert_allclose(exact_costs(), np.stack([expected] * 2, -1), rtol=1e-6)


def test_the_slope_of_the_minimum_in_beta_is_the_kl():
    """The envelope identity, by a central difference around β = 1."""
    costs = exact_costs()
    slope = (costs[ONE + 1] - costs[ONE - 1]) / (BETAS[ONE + 1] - BETAS[ONE - 1])
    np.testing.assert_allclose(slope, swept().lagrangian.kl.value[0, ONE], rtol=1e-3)


def test_kl_falls_and_loss_rises_with_beta():
    kl = np.asarray(swept().lagrangian.kl.value)
    assert np.all(np.diff(kl, axis=1) < 1e-6)
    draws = np.asarray(swept().loss_draws)  # shared along β, so that differences are paired
    rise = np.diff(draws, axis=2)
    error = rise.std(0, ddof=1) / np.sqrt(len(draws))
    assert np.all(rise.mean(0) > -4 * error)


def test_a_flat_direction_costs_nothing():
    code = swept().code
    mean, ratio = np.asarray(code.mean[..., -1]), np.asarray(code.scale[..., -1] / LAMBDA) ** 2
    kl = 0.5 * (ratio - 1 - np.log(ratio) + ((mean - CENTRE[-1]) / LAMBDA) ** 2)
    np.testing.assert_allclose(kl, 0, atol=1e-6)


def test_twice_the_data_at_twice_the_price_is_the_same_code():
    once, twice = (jax.tree.map(lambda x, i=i: x[i], swept().code) for i in ((0, ONE), (2, TWO)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), once, twice)


def test_a_sweep_has_the_axes_it_promises():
    result, shape = swept(), (3, len(BETAS), 2)
    assert result.lagrangian.value.value.shape == shape
    assert result.code.mean.shape == (*shape, K)
    assert result.prior.scale.shape == shape
    assert result.loss_draws.shape == (64, *shape)
    assert result.history.shape == (5, 2, *shape)
    assert np.all(np.isfinite(result.history))
    np.testing.assert_allclose(result.prior.scale, LAMBDA, rtol=1e-12)


def test_other_numbers_do_not_compile_again():
    swept()
    counts = lambda: (sweeping._round._cache_size(), sweeping._finish._cache_size())  # noqa: E731
    before = counts()
    other = oracles.linear_world(5, num_weights=K).task
    options = {**OPTIONS, "betas": BETAS * 2, "weights": WEIGHTS + 1}
    result = iw.sweep(jax.random.split(jax.random.key(9), 2), other, start, **options)
    assert counts() == before
    assert not np.allclose(result.lagrangian.kl.value, swept().lagrangian.kl.value, rtol=0.01)


def saved_and_restored(state):
    """Through NumPy arrays, as a checkpoint does."""
    data = trees.replace(state, keys=jax.random.key_data(state.keys))
    arrays = jax.tree.map(lambda x: jnp.asarray(np.array(x)), data)
    return trees.replace(arrays, keys=jax.random.wrap_key_data(arrays.keys))


def test_members_start_from_the_codes_they_are_given():
    """With a step of no length they stay there, every member at its own."""
    options = OPTIONS | dict(optimizer=optax.sgd(0.0), exchange=False)
    again = iw.sweep(KEYS, WORLD.task, start, codes=swept().code, **options)
    np.testing.assert_allclose(again.code.mean, swept().code.mean, rtol=1e-12)
    np.testing.assert_allclose(again.code.scale, swept().code.scale, rtol=1e-12)


def test_a_sweep_that_resumes_ends_bit_identically():
    problem, state = iw.make_sweep(KEYS, WORLD.task, start, **OPTIONS)
    for _ in range(problem.num_rounds):
        state = iw.sweep_step(problem, saved_and_restored(state))
    assert int(state.step) == STEPS
    resumed = iw.sweep_finish(problem, state)
    jax.tree.map(np.testing.assert_array_equal, resumed, swept())


def test_cells_in_batches_give_the_same_codes():
    result = iw.sweep(KEYS, WORLD.task, start, **OPTIONS, member_batch=4)  # 21 cells: one is over
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), result, swept()
    )


@pytest.mark.slow
def test_noise_and_minibatches_reach_about_the_same_optimum():
    options = {
        **OPTIONS,
        "estimator": iw.weight_noise,
        "batch_size": 8,
        "weights": None,
        "num_steps": 1500,
        "optimizer": optax.adam(optax.cosine_decay_schedule(0.05, 1500)),
        "betas": BETAS[[1, 3, 6]],
    }
    result = iw.sweep(KEYS, WORLD.task, start, **options)
    for index, beta in enumerate(options["betas"]):
        mean, variances = mean_field(WORLD, beta)
        kl = oracles.gaussian_kl(mean, np.diag(variances), CENTRE, LAMBDA**2 * np.eye(K))
        np.testing.assert_allclose(result.lagrangian.kl.value[0, index], kl, rtol=0.05, atol=0.1)


# ------------------------------------------------------------------------- empirical Bayes


def two_layers(weights, inputs):
    return inputs[:, :2] @ weights["a"] + inputs[:, 2:] @ weights["b"]


def exact_two_layers(key, task, code):
    mean, scale = (jnp.concatenate([t["a"], t["b"]]) for t in (code.mean, code.scale))
    return oracles.exact_linear_loss(key, task, iw.DiagonalGaussian(mean, scale))


FULL = oracles.linear_world(2, num_weights=4, orthogonal=True)


@pytest.mark.parametrize("scales", [1.0, {"a": 1.0, "b": 0.5}], ids=["global", "per layer"])
def test_a_learned_prior_is_that_of_empirical_bayes(scales):
    """λ² = (|μ|² + Σσ²)/k, and it is the λ with the lowest free energy."""
    task = trees.replace(FULL.task, apply_fn=two_layers)
    init = lambda key: (  # noqa: E731
        iw.DiagonalGaussian({"a": 0.1 * jax.random.normal(key, (2,)), "b": jnp.zeros(2)}, 0.3),
        iw.IsotropicGaussian(scales),
    )
    result = iw.sweep(
        KEYS[:1],
        task,
        init,
        betas=[0.5, 2.0],
        optimizer=OPTIMIZER,
        num_steps=STEPS,
        estimator=exact_two_layers,
        learn_prior=True,
        num_rounds=5,
    )
    second = jax.tree.map(lambda m, s: np.asarray(m**2 + s**2), result.code.mean, result.code.scale)
    squares = {"a": second["a"][0, :, 0], "b": second["b"][0, :, 0]}  # (B, 2)
    learned = jax.tree.map(lambda x: np.asarray(x[0, :, 0]), result.prior.scale)
    if isinstance(scales, dict):
        expected = {name: np.sqrt(x.mean(-1)) for name, x in squares.items()}
        parameters, spread = 2, lambda v: np.exp([v[0], v[0], v[1], v[1]])
        found = np.stack([learned["a"], learned["b"]], -1)
    else:
        expected = np.sqrt((squares["a"] + squares["b"]).mean(-1) / 2)
        parameters, spread = 1, lambda v: np.exp([v[0]] * 4)
        found = learned[:, None]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), learned, expected)
    for index, beta in enumerate([0.5, 2.0]):
        energy = lambda v, b=beta: FULL.free_energy(np.zeros(4), np.diag(spread(v) ** 2), b)  # noqa: E731
        best = optimize.minimize(energy, np.zeros(parameters), method="Nelder-Mead")
        np.testing.assert_allclose(found[index], np.exp(best.x), rtol=3e-3)


# ---------------------------------------------------------------------- branches and jumps

WELL = oracles.DoubleWell()
WELL_BETAS = np.array([0.3, 1.0, 2.0, 3.0, 5.0, 12.0])
WELL_OPTIMIZER = optax.adam(optax.cosine_decay_schedule(0.05, 800))
WELL_TASK = WELL.task
WELL_LOSS = WELL.exact_loss
DEEP, BROAD = (2.0, 0.05), (0.0, 0.2)


@functools.cache
def well_costs(begin, exchange):
    """C_β of every β, exact, after a start in one well."""
    init = lambda _: (  # noqa: E731
        iw.DiagonalGaussian(jnp.array(begin[0]), begin[1]),
        iw.IsotropicGaussian(1.0),
    )
    result = iw.sweep(
        KEYS[:1],
        WELL_TASK,
        init,
        betas=WELL_BETAS,
        optimizer=WELL_OPTIMIZER,
        num_steps=800,
        estimator=WELL_LOSS,
        exchange=exchange,
        num_rounds=10,
    )
    mean, scale = (np.asarray(x[0, :, 0]) for x in (result.code.mean, result.code.scale))
    return np.array([WELL.cost(*at) for at in zip(mean, scale, WELL_BETAS, strict=True)])


def branch_costs(begin):
    return np.array([WELL.branch(beta, begin)[0] for beta in WELL_BETAS])


def test_without_exchange_a_code_stays_in_the_well_it_starts_in():
    """Hysteresis: on each side of the jump one of the two starts ends in the wrong well."""
    for begin in (DEEP, BROAD):
        np.testing.assert_allclose(well_costs(begin, False), branch_costs(begin), atol=0.02)
    gap = well_costs(DEEP, False) - well_costs(BROAD, False)
    assert gap.min() < -1
    assert gap.max() > 1


def test_with_exchange_every_beta_ends_in_the_lower_well():
    lowest = np.minimum(branch_costs(DEEP), branch_costs(BROAD))
    np.testing.assert_allclose(well_costs(DEEP, True), lowest, atol=0.02)


NODES, NODE_WEIGHTS = oracles.gauss_hermite(32)


def quadrature_loss(key, task, code):
    """E_Q[L] of a network with one weight, by Gauss-Hermite quadrature."""
    del key
    losses = jax.vmap(lambda e: iw.nll(task, code.weights(e)))(jnp.array(NODES))
    return jnp.sum(losses * NODE_WEIGHTS)


def one_logit(weight, inputs):
    return inputs * weight


@pytest.mark.slow
def test_a_convex_model_has_one_branch():
    """Two starts far apart end in the same code at every β, and KL changes in small steps."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    y = (rng.random(30) < 1 / (1 + np.exp(-2 * x))).astype(int)
    task = iw.Task(one_logit, iw.Bernoulli(), jnp.array(x), jnp.array(y))
    betas = np.geomspace(0.1, 100, 24)
    sides = iter([-3.0, 3.0])
    runs = [
        iw.sweep(
            KEYS[:1],
            task,
            lambda _, m=m: (iw.DiagonalGaussian(m, 0.1), iw.IsotropicGaussian(1.0)),
            betas=betas,
            optimizer=OPTIMIZER,
            num_steps=STEPS,
            estimator=quadrature_loss,
            exchange=False,
            num_rounds=5,
        )
        for m in sides
    ]
    up, down = (np.asarray(r.lagrangian.kl.value[0, :, 0]) for r in runs)
    np.testing.assert_allclose(up, down, atol=1e-4)
    assert np.all(np.diff(up) < 1e-5)
    assert np.max(-np.diff(up)) < 0.25 * up.max()


# ---------------------------------------------------------------------------------- errors


def breaks_below_zero(weights, inputs):
    return inputs @ weights + jnp.sqrt(weights[0])


def test_a_run_that_diverges_names_the_step_and_keeps_the_last_good_state():
    """Plain descent moves w_0 by a known step a time, until its root does not exist."""
    task = iw.Task(breaks_below_zero, iw.GaussianLikelihood(), jnp.zeros((4, 2)), jnp.full(4, -1e3))
    init = lambda _: (  # noqa: E731
        iw.DiagonalGaussian(jnp.array([1.0, 0.0]), 1e-8),
        iw.IsotropicGaussian(1.0),
    )
    seen = []
    with pytest.raises(
        iw.Diverged, match=r"step \d+ of 40, for beta = 2, target set 0, seed 0"
    ) as error:
        iw.sweep(
            KEYS[:1],
            task,
            init,
            betas=[2.0],
            optimizer=optax.sign_sgd(0.1),
            num_steps=40,
            num_rounds=8,
            callback=seen.append,
        )
    step = int(str(error.value).split(" at step ")[1].split()[0])
    assert step in (11, 12)  # ten steps of 0.1 from 1 to 0
    assert int(error.value.state.step) == 5 * ((step - 1) // 5)
    assert trees.all_finite(error.value.state.members)
    jax.tree.map(
        np.testing.assert_array_equal, error.value.state.members.code, seen[-1].members.code
    )


LABELLED = iw.Task(
    oracles.logistic_features, iw.Categorical(), jnp.ones((4, 2)), jnp.array([0, 1, 2, 1])
)
SOFTMAX = iw.DiagonalGaussian({"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, 0.1)
GOOD = dict(
    keys=KEYS,
    task=LABELLED,
    init=lambda _: (SOFTMAX, iw.IsotropicGaussian(1.0)),
    betas=[1.0],
    optimizer=OPTIMIZER,
    num_steps=3,
)
LOG_NORMAL = iw.LogNormalNoise(SOFTMAX.mean, 0.1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"keys": jax.random.key(0)}, ValueError, r"keys must have shape \(number of seeds,\)"),
        ({"keys": 0}, TypeError, "keys must be a typed random key"),
        ({"betas": [1.0, 0.0]}, ValueError, "betas must be positive and finite, got 0.0"),
        ({"betas": [-1.0]}, ValueError, "betas must be positive and finite, got -1.0"),
        ({"betas": [np.nan]}, ValueError, "betas must be positive and finite, got nan"),
        ({"betas": [np.inf]}, ValueError, "betas must be positive and finite, got inf"),
        ({"betas": []}, ValueError, "betas must be"),
        ({"betas": 1.0}, ValueError, "betas must be a vector"),
        ({"num_steps": 0}, ValueError, "num_steps must be an integer of at least 1"),
        ({"num_rounds": 0}, ValueError, "num_rounds must be an integer of at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
        ({"member_batch": 0}, ValueError, "member_batch must be an integer of at least 1"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be an optax transformation, got str"),
        ({"targets": np.zeros(4, int)}, ValueError, r"targets must have shape \(T, 4\) or"),
        ({"targets": np.zeros((1, 3, 4), int)}, ValueError, r"\(T, 2, 4\), got \(1, 3, 4\)"),
        ({"targets": np.full((2, 4), 3)}, ValueError, "targets must be labels 0 .. 2"),
        ({"targets": np.zeros((2, 4))}, TypeError, "targets must be integer labels"),
        ({"weights": np.ones((1, 5))}, ValueError, r"weights must have shape \(T, 4\) or"),
        ({"weights": -np.ones((1, 4))}, ValueError, "weights must not be negative"),
        ({"weights": np.zeros((1, 4))}, ValueError, "nor all 0 for a member"),
        ({"weights": np.full((1, 4), np.nan)}, ValueError, "weights must be finite"),
        (
            {"weights": np.ones((2, 4)), "targets": np.zeros((3, 4), int)},
            ValueError,
            "the same number of target sets T, got 3 and 2",
        ),
        (
            {"init": lambda _: (SOFTMAX, SOFTMAX), "learn_prior": True},
            TypeError,
            "learn_prior needs an IsotropicGaussian prior",
        ),
        (
            {"init": lambda _: (LOG_NORMAL, iw.LogUniform()), "learn_prior": True},
            TypeError,
            "learn_prior needs an IsotropicGaussian prior",
        ),
        ({"codes": SOFTMAX}, ValueError, "codes must have the structure and shapes of the code of"),
        ({"init": lambda _: (SOFTMAX, iw.LogUniform())}, TypeError, "a prior of type LogUniform"),
        (
            {"init": lambda _: (iw.DiagonalGaussian(jnp.ones(2), 0.1), iw.IsotropicGaussian(1.0))},
            ValueError,
            "params must fit apply_fn",
        ),
    ],
)
def test_bad_arguments_are_named_before_anything_is_compiled(changes, error, message):
    given = {**GOOD, **changes}
    before = sweeping._round._cache_size()
    with pytest.raises(error, match=message):
        iw.sweep(given.pop("keys"), given.pop("task"), given.pop("init"), **given)
    assert sweeping._round._cache_size() == before

"""Variational bottlenecks in worlds that are known: Gaussians, quadrature, and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import iw_jax as iw
from iw_jax import bottleneck as ib

KEY = jax.random.key(0)


def linear(params, x):
    """e(z|x) = N(x A, s²)."""
    mean = x @ params["A"]
    return mean, jnp.broadcast_to(params["scale"], mean.shape)


def logits(params, z):
    return z @ params["W"] + params["b"]


def by_class(params, targets):
    return params["centres"][targets], params["widths"][targets]


VIB = ib.VariationalBottleneck(linear, logits)
CEB = ib.VariationalBottleneck(linear, logits, by_class)


@pytest.fixture(scope="module")
def problem():
    """Inputs (N, 3) in three classes and parameters of a bottleneck of two dimensions."""
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=200)
    inputs = rng.normal(size=(200, 3)) + 2 * np.eye(3)[targets]
    params = {
        "A": rng.normal(size=(3, 2)) / 2,
        "scale": np.array([0.5, 0.8]),
        "W": rng.normal(size=(2, 3)),
        "b": rng.normal(size=3),
        "centres": rng.normal(size=(3, 2)),
        "widths": np.exp(rng.normal(size=(3, 2)) / 4),
    }
    return jax.tree.map(jnp.asarray, params), jnp.asarray(inputs), jnp.asarray(targets)


# --------------------------------------------------------------------------------- the terms


def test_the_kl_is_that_of_monte_carlo_and_of_one_dimension_by_quadrature():
    rng = np.random.default_rng(0)
    m, s, m2, s2 = rng.normal(size=4), np.array([0.1, 0.5, 1, 2]), rng.normal(size=4), np.ones(4)
    s2 = s2 * [1, 0.3, 2, 1.5]
    z = m + s * rng.normal(size=(200_000, 4))

    def log_density(x, mean, scale):
        return (-(((x - mean) / scale) ** 2) / 2 - np.log(scale)).sum(-1)

    told = log_density(z, m, s) - log_density(z, m2, s2)
    error = told.std() / np.sqrt(len(told))
    assert abs(ib.gaussian_kl(m, s, m2, s2) - told.mean()) < 4 * error

    nodes, weights = special.roots_hermitenorm(20)  # exact for quadratics
    for i in range(4):
        at = (m[i] + s[i] * nodes)[:, None]
        ratio = log_density(at, m[i], s[i]) - log_density(at, m2[i], s2[i])
        exact = weights @ ratio / weights.sum()
        found = ib.gaussian_kl(m[i : i + 1], s[i : i + 1], m2[i : i + 1], s2[i : i + 1])
        np.testing.assert_allclose(found, exact, rtol=1e-10)


def test_the_terms_are_the_formula_by_hand(problem):
    params, x, y = problem
    found = ib.bottleneck_terms(KEY, VIB, params, x, y, beta=0.3, num_samples=4)
    noise = jax.random.normal(KEY, (4, 200, 2))
    z = x @ params["A"] + params["scale"] * noise
    log_q = z @ params["W"] + params["b"]
    log_q = log_q - special.logsumexp(log_q, axis=-1, keepdims=True)
    distortion = -np.take_along_axis(np.asarray(log_q), np.asarray(y)[None, :, None], -1).mean()
    m, s = np.asarray(x @ params["A"]), np.asarray(params["scale"])
    rate = (m**2 + s**2 - 1 - np.log(s**2)).sum(1).mean() / 2
    np.testing.assert_allclose(found.distortion, distortion, rtol=1e-12)
    np.testing.assert_allclose(found.rate, rate, rtol=1e-12)
    np.testing.assert_allclose(found.objective, distortion + 0.3 * rate, rtol=1e-12)
    assert found.dual_distortion == 0


def test_ceb_with_one_backward_encoder_for_all_classes_is_vib(problem):
    params, x, y = problem
    same = {**params, "centres": jnp.zeros((3, 2)), "widths": jnp.ones((3, 2))}
    gamma = 5.0
    vib = ib.bottleneck_terms(KEY, VIB, same, x, y, beta=1 / gamma)
    ceb = ib.bottleneck_terms(KEY, CEB, same, x, y, beta=1 / gamma)
    papers = ceb.rate + gamma * ceb.distortion  # Fischer's CEB
    np.testing.assert_allclose(papers, gamma * vib.objective, rtol=1e-12)
    # And so do their gradients, in what they share.
    slopes = [
        jax.grad(lambda p, m=m: ib.bottleneck_terms(KEY, m, p, x, y, beta=0.2).objective)(same)["A"]
        for m in (VIB, CEB)
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-10)


def test_the_best_backward_encoder_leaves_the_rate_of_each_class(problem):
    """E KL(e(z|x) ‖ b(z|y)) is least where b has the moments of z in its class."""
    params, x, y = problem
    m = x @ params["A"]
    centres = jnp.stack([m[y == c].mean(0) for c in range(3)])
    widths = jnp.stack([jnp.sqrt(m[y == c].var(0) + params["scale"] ** 2) for c in range(3)])
    best = {**params, "centres": centres, "widths": widths}

    def rate(b):
        return ib.bottleneck_terms(KEY, CEB, {**best, **b}, x, y, beta=1.0).rate

    slope = jax.grad(rate)({"centres": centres, "widths": widths})
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0, atol=1e-12)


def test_the_dual_distortion_is_zero_at_its_own_noise_and_else_a_kl(problem):
    params, x, y = problem
    flat = {**params, "W": jnp.zeros((2, 3))}  # q(y|z) is the same for every z
    q = special.softmax(np.asarray(params["b"]))
    own = jnp.broadcast_to(jnp.log(q), (200, 3))
    found = ib.bottleneck_terms(KEY, CEB, flat, x, y, beta=0.5, dual=1.0, log_noise=own)
    np.testing.assert_allclose(found.dual_distortion, 0, atol=1e-14)
    np.testing.assert_allclose(found.objective, 0.5 * found.rate, rtol=1e-12)

    noise = ib.log_label_noise(ib.label_smoothing(3, 0.1), y)
    found = ib.bottleneck_terms(KEY, CEB, flat, x, y, beta=0.5, dual=0.4, log_noise=noise)
    rows = np.exp(np.asarray(noise))
    expected = (q * np.log(q / rows)).sum(1).mean()
    np.testing.assert_allclose(found.dual_distortion, expected, rtol=1e-12)
    parts = 0.6 * found.distortion + 0.4 * found.dual_distortion + 0.5 * found.rate
    np.testing.assert_allclose(found.objective, parts, rtol=1e-12)


def test_vdualib_of_the_paper_is_the_objective_times_its_prices(problem):
    """L = R + β D + γ D* (Piran et al.) against J at beta = 1/(β + γ), dual = γ/(β + γ)."""
    params, x, y = problem
    noise = ib.log_label_noise(ib.gaussian_label_noise(3, 0.7), y)
    b, g = 2.0, 3.0
    found = ib.bottleneck_terms(
        KEY, CEB, params, x, y, beta=1 / (b + g), dual=g / (b + g), log_noise=noise
    )
    papers = found.rate + b * found.distortion + g * found.dual_distortion
    np.testing.assert_allclose(papers, (b + g) * found.objective, rtol=1e-12)


def test_gradients_by_reparameterisation_are_those_of_quadrature():
    """One dimension, two classes: the expectation over z as an integral that is differentiated."""
    params = {
        "A": jnp.array([[0.7]]),
        "scale": jnp.array([0.4]),
        "W": jnp.array([[-1.0, 1.5]]),
        "b": jnp.array([0.2, -0.1]),
    }
    x, y, beta = jnp.array([[1.0], [-0.5], [0.3]]), jnp.array([1, 0, 1]), 0.2
    nodes, weights = special.roots_hermitenorm(60)

    def exact(p):
        z = (x @ p["A"])[None] + p["scale"] * nodes[:, None, None]
        log_q = jax.nn.log_softmax(z @ p["W"] + p["b"])
        nll = -jnp.take_along_axis(log_q, y[None, :, None], -1)[..., 0]
        kl = ((x @ p["A"]) ** 2 + p["scale"] ** 2 - 1 - jnp.log(p["scale"] ** 2)).sum(1) / 2
        return (weights @ nll / weights.sum() + beta * kl).mean()

    def drawn(p, key):
        return ib.bottleneck_terms(key, VIB, p, x, y, beta=beta, num_samples=200).objective

    keys = jax.random.split(KEY, 200)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(drawn), (None, 0)))(params, keys)
    truth, slope = jax.value_and_grad(exact)(params)
    for found, expected in zip(
        jax.tree.leaves((values, slopes)), jax.tree.leaves((truth, slope)), strict=True
    ):
        error = found.std(0, ddof=1) / np.sqrt(len(keys))
        np.testing.assert_array_less(abs(found.mean(0) - expected), 4 * error + 1e-12)
        np.testing.assert_array_less(error, 0.01)


def test_members_of_a_sweep_are_the_single_ones(problem):
    params, x, y = problem
    betas = jnp.array([0.0, 0.1, 1.0])

    def one(beta):
        return ib.bottleneck_terms(KEY, VIB, params, x, y, beta=beta)

    for i, beta in enumerate(betas):
        for a, b in zip(
            jax.tree.leaves(jax.vmap(one)(betas)), jax.tree.leaves(one(float(beta))), strict=True
        ):
            np.testing.assert_allclose(a[i], b, rtol=1e-12)


# ------------------------------------------------------------------------- the Gaussian frontier

SNR = np.array([8.0, 2.0])  # of two independent components


def frontier(rate):
    """Most nats about Y that a code of so many nats about X can have (Chechik et al. 2005).

    At β the components with (β - 1) snr > 1 are on: I(X;Z) = ½ Σ log (β - 1) snr, and
    I(Y;Z) = I(X;Z) - ½ Σ log β (1 - λ), λ = 1/(1 + snr).
    """
    beta = 1 + np.exp(np.linspace(-6, 12, 200_001))[:, None]
    on = (beta - 1) * SNR > 1
    nats = np.where(on, np.log((beta - 1) * SNR), 0).sum(1) / 2
    about_y = nats - np.where(on, np.log(beta * SNR / (1 + SNR)), 0).sum(1) / 2
    return np.interp(rate, nats, about_y)


def gaussian_model(params):
    likelihood = iw.GaussianLikelihood(jnp.exp(params["log_noise"]))
    return ib.VariationalBottleneck(noisy_linear, regression, likelihood=likelihood)


def noisy_linear(params, x):
    mean = x @ params["A"]
    return mean, jnp.broadcast_to(jnp.exp(params["log_scale"]), mean.shape)


def regression(params, z):
    return z @ params["W"]


def jointly_gaussian(number, seed=1):
    """Y = X sqrt(snr) + noise, X standard; h(Y) in nats."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, 2))
    y = x * np.sqrt(SNR) + rng.normal(size=(number, 2))
    return x, y, np.log(2 * np.pi * np.e * (1 + SNR)).sum() / 2


def population(params):
    """R and E log q(y|z) in closed form, of a linear bottleneck of this law."""
    a, s = np.asarray(params["A"]), np.exp(np.asarray(params["log_scale"]))
    w, noise = np.asarray(params["W"]), np.exp(np.asarray(params["log_noise"]))
    rate = ((a**2).sum(0) + s**2 - 1 - np.log(s**2)).sum() / 2
    residual = np.diag(np.sqrt(SNR)) - a @ w
    squared = (residual**2).sum(0) + 1 + (s[:, None] ** 2 * w**2).sum(0)
    distortion = (squared / noise**2 / 2 + np.log(noise) + np.log(2 * np.pi) / 2).sum()
    return rate, distortion


def test_terms_of_linear_gaussians_are_their_closed_form():
    rng = np.random.default_rng(2)
    params = {
        "A": rng.normal(size=(2, 2)),
        "log_scale": np.array([-0.5, 0.1]),
        "W": rng.normal(size=(2, 2)),
        "log_noise": np.array([0.3, 0.8]),
    }
    x, y, _ = jointly_gaussian(200_000)
    found = ib.bottleneck_terms(KEY, gaussian_model(params), params, x, y, beta=0.1)
    np.testing.assert_allclose((found.rate, found.distortion), population(params), rtol=0.01)


@pytest.mark.parametrize(
    "beta",
    [
        pytest.param(0.9, marks=pytest.mark.slow),
        pytest.param(0.75, marks=pytest.mark.slow),
        0.5,
        0.1,
    ],
)
def test_no_code_lies_above_the_gaussian_frontier_and_training_reaches_it(beta):
    """The frontier's β is 1/beta: at 0.9 both components are off, at 0.75 one is on, else both."""
    x, y, entropy = jax.tree.map(jnp.asarray, jointly_gaussian(4096))
    params = {
        "A": 0.3 * jax.random.normal(KEY, (2, 2)),
        "log_scale": jnp.zeros(2),
        "W": 0.3 * jax.random.normal(jax.random.key(1), (2, 2)),
        "log_noise": jnp.ones(2),
    }
    rate, distortion = population(params)
    assert entropy - distortion < frontier(rate)
    steps = 3000
    adam = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    @jax.jit
    def train(params):
        def step(state, key):
            params, moving = state
            drawing, choosing = jax.random.split(key)
            rows = jax.random.randint(choosing, (256,), 0, 4096)

            def objective(p):
                return ib.bottleneck_terms(
                    drawing, gaussian_model(p), p, x[rows], y[rows], beta=beta
                ).objective

            updates, moving = adam.update(jax.grad(objective)(params), moving)
            return (optax.apply_updates(params, updates), moving), None

        return jax.lax.scan(step, (params, adam.init(params)), jax.random.split(KEY, steps))[0][0]

    rate, distortion = population(train(params))
    told = entropy - distortion
    assert told <= frontier(rate) + 1e-9
    assert told > frontier(rate) - 0.02
    # Where on the frontier: as the price says.
    on = (1 / beta - 1) * SNR > 1
    assert abs(rate - np.where(on, np.log((1 / beta - 1) * SNR), 0).sum() / 2) < 0.12


# ------------------------------------------------------------------------- information, two-sided


def linear_gaussian(seed, number=600, gain=1.0):
    """X ~ N(0, I) in three dimensions, z = xA + noise; I(X;Z) and R, exact for the population."""
    a, s = gain * np.array([[1.0, 0.2], [0.3, -0.6], [0.0, 0.5]]), np.array([0.5, 0.8])
    x = np.random.default_rng(seed).normal(size=(number, 3))
    covariance = a.T @ a + np.diag(s**2)
    exact = (np.linalg.slogdet(covariance)[1] - np.log(s**2).sum()) / 2
    rate = ((a**2).sum(0) + s**2 - 1 - np.log(s**2)).sum() / 2
    gap = (np.trace(covariance) - 2 - np.linalg.slogdet(covariance)[1]) / 2
    np.testing.assert_allclose(rate - exact, gap, rtol=1e-12)
    params = {
        "A": a,
        "scale": s,
        "W": np.zeros((2, 3)),
        "b": np.zeros(3),
        "centres": np.zeros((3, 2)),
        "widths": np.ones((3, 2)),
    }
    return params, x, exact, rate, gap


def test_a_linear_gaussian_encoder_has_the_information_and_the_gap_of_its_closed_form():
    params, x, exact, rate, gap = linear_gaussian(0, gain=2.0)
    assert gap > 1
    y = np.arange(600) % 3  # tells nothing
    found = ib.evaluate_bottleneck(KEY, VIB, params, x, y, beta=0.1)
    low, high = found.information.interval()
    assert low <= exact <= high
    assert high - low < 0.4
    low, high = found.rate.interval()
    assert low <= rate <= high
    # R - I(X;Z) = KL(p(z) ‖ r(z)), from either side.
    error = np.hypot(found.rate.stderr, found.information.stderr)
    assert found.rate.value - found.information.bracket_upper < gap + 3 * error
    assert found.rate.value - found.information.value > gap - 3 * error
    assert 3 * error < gap / 2
    low, high = found.conditional_information.interval()
    assert low <= exact <= high  # the classes tell nothing
    assert found.num_contrasted == 600
    np.testing.assert_allclose(found.label_information.value, 0, atol=1e-6)


def test_codes_without_overlap_tell_all_there_is_to_tell_and_no_more():
    x = np.arange(600.0)[:, None] * np.ones(3)
    params = {**linear_gaussian(0)[0], "A": np.eye(3)[:, :2], "scale": np.full(2, 1e-3)}
    found = ib.contrastive_information(KEY, x[:, :2], np.full((600, 2), 1e-3))
    np.testing.assert_allclose(found.value, np.log(600), rtol=1e-12)
    assert found.bracket_upper > 1e5  # the population's may be anything
    found = ib.evaluate_bottleneck(KEY, VIB, params, x, np.arange(600) % 3, beta=0.1)
    np.testing.assert_allclose(found.information.value, np.log(600), rtol=1e-12)
    np.testing.assert_allclose(found.conditional_information.value, np.log(200), rtol=1e-12)
    np.testing.assert_allclose(found.information.bracket_upper, found.rate.value, rtol=1e-12)


def test_an_input_alone_in_its_group_leaves_the_upper_end_open():
    rng = np.random.default_rng(0)
    groups = np.array([0] * 9 + [1])
    found = ib.contrastive_information(KEY, rng.normal(size=(10, 2)), np.ones((10, 2)), groups)
    assert np.isinf(found.bracket_upper)
    assert np.isfinite(found.value)


def test_small_scales_keep_their_digits_in_float32():
    """Distances of one scale between means of size 1 are told apart at a scale of 1e-5."""
    rng = np.random.default_rng(0)
    apart = rng.integers(4, size=(400, 1)) + 0.0
    with jax.enable_x64(False):
        mean, scale = np.float32(1 + 1e-5 * apart), np.full((400, 1), 1e-5, np.float32)
        small = ib.contrastive_information(KEY, mean, scale)
        large = ib.contrastive_information(KEY, np.float32(apart), np.ones_like(scale))
    assert abs(small.value - large.value) < 0.05  # 1 + 1e-5 is rounded to a hundredth of the scale


def covered(runs, number=600):
    """How often intervals hold I(X;Z), R, and the error of a coin."""
    hits = np.zeros(3)
    for seed in range(runs):
        params, x, exact, rate, _ = linear_gaussian(seed, number)
        y = np.random.default_rng((seed, 1)).integers(3, size=number)
        found = ib.evaluate_bottleneck(jax.random.key(seed), VIB, params, x, y, beta=0.1)
        truths = exact, rate, 2 / 3
        estimates = found.information, found.rate, found.error
        for i, (e, truth) in enumerate(zip(estimates, truths, strict=True)):
            low, high = e.interval()
            hits[i] += low <= truth <= high
    return hits / runs


@pytest.mark.slow
def test_intervals_cover_where_the_rate_is_the_information_and_more_than_log_n():
    """z = 0.97 x + noise of variance 1 - 0.97² in six dimensions: p(z) = r(z), so I(X;Z) = R."""
    noise = np.sqrt(1 - 0.97**2)
    model = ib.VariationalBottleneck(lambda _, x: (0.97 * x, jnp.full_like(x, noise)), logits)
    params = {"W": jnp.zeros((6, 3)), "b": jnp.zeros(3)}
    hits, exact, runs = 0, -6 * np.log(noise), 200
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(200, 6)), rng.integers(3, size=200)
        found = ib.evaluate_bottleneck(jax.random.key(seed), model, params, x, y, beta=0.1)
        low, high = found.information.interval()
        hits += low <= exact <= high
    assert hits / runs > 0.92


@pytest.mark.slow
def test_intervals_cover():
    assert np.all(covered(300) > 0.92)


def test_intervals_mostly_cover():
    assert np.all(covered(30) > 0.8)


# --------------------------------------------------------------------------------- evaluation


def test_an_evaluation_is_the_terms_of_many_draws_whatever_the_chunks(problem):
    params, x, y = problem
    noise = ib.log_label_noise(ib.label_smoothing(3, 0.1), y)
    options = {"beta": 0.3, "dual": 0.5, "log_noise": noise, "num_samples": 400}
    whole = ib.evaluate_bottleneck(KEY, CEB, params, x, y, **options)
    parts = ib.evaluate_bottleneck(KEY, CEB, params, x, y, **options, batch_size=64)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    terms = ib.bottleneck_terms(jax.random.key(5), CEB, params, x, y, **options)
    np.testing.assert_allclose(whole.rate.value, terms.rate, rtol=1e-12)
    for name in ("distortion", "dual_distortion", "objective"):
        np.testing.assert_allclose(getattr(whole, name).value, getattr(terms, name), rtol=0.01)
    shares = np.bincount(y) / 200
    np.testing.assert_allclose(
        whole.label_information.value + whole.distortion.value,
        special.entr(shares).sum(),
        rtol=1e-10,
    )
    # By the chain rule I(X;Z) = I(Y;Z) + I(X;Z|Y); labels tell at most H(Y).
    between = whole.information.value - whole.conditional_information.value
    assert 0 < between < special.entr(shares).sum()


def test_predictions_are_averaged_over_draws(problem):
    params, x, y = problem
    found = ib.predictive(KEY, VIB, params, x, num_samples=50)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-12)
    z = x @ params["A"] + params["scale"] * jax.random.normal(KEY, (50, 200, 2))
    p = special.softmax(np.asarray(z @ params["W"] + params["b"]), axis=-1).mean(0)
    np.testing.assert_allclose(np.exp(found), p, rtol=1e-10)
    # Errors of an evaluation: those of averaged predictions, and of single ones.
    sure = {**params, "scale": jnp.full(2, 1e-6)}
    told = ib.evaluate_bottleneck(KEY, VIB, sure, x, y, beta=0.1)
    named = np.asarray(x @ params["A"] @ params["W"] + params["b"]).argmax(1)
    wrong = np.mean(named != np.asarray(y))
    np.testing.assert_allclose((told.error.value, told.single_error.value), wrong, rtol=1e-12)
    noisy = ib.evaluate_bottleneck(KEY, VIB, {**params, "scale": jnp.full(2, 3.0)}, x, y, beta=0.1)
    assert noisy.single_error.value > noisy.error.value


def test_an_attack_moves_every_pixel_where_the_loss_of_a_linear_model_rises(problem):
    params, x, y = problem
    sure = {**params, "scale": jnp.full(2, 1e-9)}
    moved = ib.fast_gradient_sign(KEY, VIB, sure, x, y, epsilon=0.1)
    q = special.softmax(np.asarray(x @ params["A"] @ params["W"] + params["b"]), axis=1)
    slope = (q - np.eye(3)[np.asarray(y)]) @ np.asarray(params["A"] @ params["W"]).T
    np.testing.assert_allclose(moved, x + 0.1 * np.sign(slope), rtol=1e-12)
    kept = ib.fast_gradient_sign(KEY, VIB, sure, x, y, epsilon=10.0, low=-1.0, high=2.0)
    assert np.all((kept == -1) | (kept == 2))
    still = ib.fast_gradient_sign(KEY, VIB, sure, x, y, epsilon=0.0)
    np.testing.assert_array_equal(still, x)


# ------------------------------------------------------------------------------------ label noise


def test_noise_models_are_laws_and_a_gaussian_one_is_smoothing():
    smooth, gauss = ib.label_smoothing(10, 0.02), ib.gaussian_label_noise(10, 0.5)
    for rows in (smooth, gauss):
        np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(smooth[3, 3], 0.982)
    e = np.exp(-1 / 0.5**2)
    np.testing.assert_allclose(gauss, ib.label_smoothing(10, 10 * e / (1 + 9 * e)), rtol=1e-12)
    # Densities of a Gaussian at the ten one-hot labels, brought to sum to one.
    apart = ((np.eye(10)[:, None] - np.eye(10)) ** 2).sum(-1)
    density = np.exp(-apart / (2 * 0.5**2))
    np.testing.assert_allclose(gauss, density / density.sum(1, keepdims=True), rtol=1e-12)


def test_rows_of_a_confusion_matrix_go_to_their_labels():
    confusion = np.array([[0.7, 0.3], [0.1, 0.9]])
    found = ib.log_label_noise(confusion, [1, 0, 1])
    np.testing.assert_allclose(np.exp(found), confusion[[1, 0, 1]], rtol=1e-12)


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beta": -1.0}, ValueError, "beta must be at least 0 and finite, got -1.0"),
        ({"beta": np.nan}, ValueError, "beta must be at least 0 and finite, got nan"),
        ({"beta": np.inf}, ValueError, "beta must be at least 0 and finite, got inf"),
        ({"dual": 1.5}, ValueError, "dual must be from 0 to 1, got 1.5"),
        ({"dual": 0.5}, ValueError, "log_noise must be given unless dual is 0"),
        ({"num_samples": 0}, ValueError, "num_samples must be an integer of at least 1, got 0"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key must be a typed random key"),
        ({"log_noise": np.zeros((200, 3))}, ValueError, "sum to one, got a sum of 3"),
        ({"log_noise": np.log([[0.5, 0.5]])}, ValueError, r"log_noise must be \(N, K\) = \(200, 3"),
        ({"log_noise": np.full((200, 3), -np.inf)}, ValueError, "sum to one, got a sum of 0"),
        ({"targets": np.zeros(7, int)}, ValueError, "targets must"),
        ({"targets": np.full(200, 3)}, ValueError, "targets must be labels 0 .. 2"),
        ({"targets": np.zeros(200)}, TypeError, "targets must be integer labels"),
        ({"scale": np.array([0.5, 0.0])}, ValueError, "second that encode returns, must be positi"),
        ({"scale": np.array([0.5, -1.0])}, ValueError, "encode returns, must be positive and fini"),
    ],
)
@pytest.mark.parametrize("function", [ib.bottleneck_terms, ib.evaluate_bottleneck])
def test_what_is_no_bottleneck_is_named(problem, function, changes, error, message):
    params, x, y = problem
    given = {"key": KEY, "params": params, "inputs": x, "targets": y, "beta": 0.1, **changes}
    if "scale" in given:
        given["params"] = {**params, "scale": given.pop("scale")}
    with pytest.raises(error, match=message):
        function(
            given.pop("key"),
            VIB,
            *(given.pop(name) for name in ("params", "inputs", "targets")),
            **given,
        )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            ib.VariationalBottleneck(lambda p, x: (x @ p["A"], x), logits),
            r"\(200, d\) each, got \(200, 2\) and ",
        ),
        (
            ib.VariationalBottleneck(lambda _, x: (x[0], x[0]), logits),
            r"\(200, d\) each, got \(3,\) and",
        ),
        (
            ib.VariationalBottleneck(linear, logits, lambda *_: (jnp.zeros((200, 5)), 1.0)),
            r"broadcasts to the codes' \(200, 2\), got \(200, 5\)",
        ),
    ],
)
def test_functions_that_do_not_fit_are_named(problem, model, message):
    params, x, y = problem
    for function in (ib.bottleneck_terms, ib.evaluate_bottleneck):
        with pytest.raises(ValueError, match=message):
            function(KEY, model, params, x, y, beta=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ib.label_smoothing(10, 0.0), "amount must lie between 0.0 and 1.0, got 0.0"),
        (lambda: ib.label_smoothing(1, 0.1), "num_classes must be an integer of at least 2, got 1"),
        (lambda: ib.gaussian_label_noise(3, -1.0), "scale must be positive and finite, got -1.0"),
        (
            lambda: ib.log_label_noise([[0.5, 0.6], [0.5, 0.5]], [0]),
            "confusion rows must sum to one, got 1.1 in row 0",
        ),
        (lambda: ib.log_label_noise(np.eye(2), [0]), "confusion must be positive and finite"),
        (lambda: ib.log_label_noise(np.ones((2, 3)), [0]), r"confusion must be \(K, K\), got"),
        (lambda: ib.contrastive_information(KEY, np.ones((1, 2)), np.ones((1, 2))), "n >= 2"),
        (
            lambda: ib.fast_gradient_sign(KEY, VIB, {}, np.ones((1, 2)), [0], epsilon=-0.1),
            "epsilon must be at least 0 and finite, got -0.1",
        ),
        (lambda: ib.contrastive_information(KEY, np.ones((4, 2)), np.zeros((4, 2))), "scale must"),
        (
            lambda: ib.contrastive_information(KEY, np.ones((4, 2)), np.ones((4, 2)), [0, 1]),
            r"groups must be \(4,\)",
        ),
    ],
)
def test_noise_and_codes_that_cannot_be_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

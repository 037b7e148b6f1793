"""I(X; T) and I(Y; T) of noisy layers: dense quadrature, limits of the noise, symmetries.

The layers are linear or tanh by a parameter, and one shape serves nearly all: it compiles once.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import iw_jax as iw
from iw_jax.activations.linearised import linearised_spread

KEY = jax.random.key(0)
NUM, SIZE, DEPTH = 8, 2, 3
LABELS = np.arange(NUM) % 3
SIGMA = 0.4
BUDGET = {"num_draws": 40, "num_probed": 128, "num_replicas": 100}


def layer(i):
    def apply(params, t):
        kernel, bias, bend = params[i]
        z = t @ kernel + bias
        return jnp.where(bend, jnp.tanh(z), z)

    return apply


LAYERS = tuple(layer(i) for i in range(DEPTH))


def network(seed, bend=False, scale=1.0):
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.normal(size=(SIZE, SIZE)), 0.3 * rng.normal(size=SIZE), bend) for _ in LAYERS
    ]


LINEAR, TANH = network(0), network(1, bend=True, scale=1.5)
INPUTS = np.random.default_rng(2).normal(size=(NUM, SIZE))
WEIGHTS = np.random.default_rng(3).uniform(0.5, 1.5, size=NUM)


def measure(seed=0, params=LINEAR, inputs=INPUTS, labels=LABELS, **options):
    options = {"sigma": SIGMA, "weights": WEIGHTS, **BUDGET, **options}
    return iw.noisy_mutual_information(
        jax.random.key(seed), LAYERS, params, inputs, labels, **options
    )


# ------------------------------------------------------------------------------ dense quadrature


def entropy(centres, weights, covariance, nodes=250):
    """h of a mixture of Gaussians with this covariance, by a sum over a grid of the plane."""
    reach = 8 * np.sqrt(np.diag(covariance))
    axes = [
        np.linspace(c.min() - r, c.max() + r, nodes) for c, r in zip(centres.T, reach, strict=True)
    ]
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2) @ whiten.T
    density = np.zeros(len(grid))
    for centre, weight in zip(centres @ whiten.T, weights / weights.sum(), strict=True):
        density += weight * np.exp(-0.5 * np.square(grid - centre).sum(1))
    density *= np.linalg.det(whiten) / (2 * np.pi)
    cell = np.prod([x[1] - x[0] for x in axes])
    np.testing.assert_allclose(density.sum() * cell, 1.0, rtol=1e-9)
    return special.entr(density).sum() * cell


def gaussian_entropy(covariance):
    return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]


def moments(params, sigma):
    """Of T_l given each input, in a linear network: means (N, d), covariance (d, d)."""
    mean, covariance = INPUTS, np.zeros((SIZE, SIZE))
    for kernel, bias, _ in params:
        mean = mean @ kernel + bias
        covariance = kernel.T @ covariance @ kernel + sigma**2 * np.eye(SIZE)
        yield mean, covariance


@functools.cache
def linear_truth(sigma):
    """I(X;T), I(Y;T), h(T), h(T|X) of every layer, (4, L)."""
    found = []
    for mean, covariance in moments(LINEAR, sigma):
        whole, given_input = entropy(mean, WEIGHTS, covariance), gaussian_entropy(covariance)
        given_label = 0.0
        for label in range(3):
            own = label == LABELS
            share = WEIGHTS[own].sum() / WEIGHTS.sum()
            given_label += share * entropy(mean[own], WEIGHTS[own], covariance)
        found.append((whole - given_input, whole - given_label, whole, given_input))
    return np.array(found).T


def parts(found):
    return found.nats, found.labels, found.entropy, found.conditional_entropy


def inside(estimate, truth, slack=1e-9):
    low, high = estimate.interval()
    return (low - slack <= truth) & (truth <= high + slack)


def hits(found, sigma):
    """Of every quantity and layer, how many runs have an interval that covers it."""
    truth = linear_truth(sigma)
    return sum(
        np.array([inside(e, t) for e, t in zip(parts(f), truth, strict=True)]) for f in found
    )


@pytest.fixture(scope="module")
def runs():
    return [measure(seed) for seed in range(25)]


@pytest.mark.slow
def test_intervals_cover_what_quadrature_finds(runs):
    """92 % of 25 runs, less twice the error of counting."""
    assert np.all(hits(runs, SIGMA) >= 0.92 * 25 - 2 * np.sqrt(25 * 0.92 * 0.08))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.1, SIGMA])
def test_intervals_cover_it_in_the_long_run(sigma):
    assert np.all(hits([measure(seed, sigma=sigma) for seed in range(100)], sigma) >= 92)


def test_brackets_hold_the_bias_and_are_narrow(runs):
    """The value of a hundred replicas is wrong on average, by less than the bracket says."""
    for estimates, truth in zip(
        zip(*map(parts, runs), strict=True), linear_truth(SIGMA), strict=True
    ):
        error = np.sqrt(np.mean([np.square(e.stderr) for e in estimates], 0) / len(runs))
        lower, upper = (
            np.mean([getattr(e, f"bracket_{end}") for e in estimates], 0)
            for end in ("lower", "upper")
        )
        slack = 3 * error + 1e-6
        assert np.all((lower - slack < truth) & (truth < upper + slack))
        # Information is at most log 8 = 2.08; its lower end leaves a point's own replica out.
        assert np.all(upper - lower < 0.3)


def test_the_first_layer_and_linear_layers_have_exact_conditional_entropies():
    found, (_, _, _, given_input) = measure(), linear_truth(SIGMA)
    np.testing.assert_allclose(found.conditional_entropy.value[0], given_input[0], rtol=1e-12)
    assert found.conditional_entropy.stderr[0] == 0.0
    np.testing.assert_allclose(found.entropy.value - found.linearised.value, given_input, rtol=1e-6)
    assert np.all(inside(found.linearised, linear_truth(SIGMA)[0]))


def test_the_spread_of_a_bent_network_follows_its_jacobians():
    rows = jnp.array([5, 1])
    found = linearised_spread(LAYERS, TANH, jnp.array(INPUTS), rows)
    for at, row in enumerate(rows):
        mean, covariance = INPUTS[row], np.zeros((SIZE, SIZE))
        for spread, (kernel, bias, _) in zip(found, TANH, strict=True):
            mean = np.tanh(mean @ kernel + bias)
            jacobian = (1 - mean**2)[:, None] * kernel.T
            covariance = jacobian @ covariance @ jacobian.T + np.eye(SIZE)
            np.testing.assert_allclose(spread[at], 0.5 * np.linalg.slogdet(covariance)[1])


def test_tanh_layers_agree_with_quadrature():
    """The second layer: its centres by a Gauss-Hermite rule over the noise of the first."""
    nodes, share = np.polynomial.hermite_e.hermegauss(20)
    noise = SIGMA * np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    share = np.outer(share, share).ravel() / share.sum() ** 2
    (kernel, bias, _), (second, second_bias, _) = TANH[:2]
    first = np.tanh(INPUTS @ kernel + bias)
    centres = np.tanh((first[:, None] + noise) @ second + second_bias)
    covariance = SIGMA**2 * np.eye(SIZE)
    p = WEIGHTS / WEIGHTS.sum()
    whole = entropy(centres.reshape(-1, SIZE), np.outer(p, share).ravel(), covariance, nodes=70)
    given = [entropy(c, share, covariance, nodes=70) for c in centres]
    found = measure(params=TANH)
    assert inside(found.nats, whole - p @ given)[1]
    assert inside(found.entropy, whole)[1]
    assert inside(found.conditional_entropy, p @ given)[1]
    layer_1 = entropy(first, WEIGHTS, covariance) - gaussian_entropy(covariance)
    assert inside(found.nats, layer_1)[0]


# ------------------------------------------------------------------------------ limits


def shannon(p):
    return special.entr(np.asarray(p) / np.sum(p)).sum()


def test_the_first_layer_without_noise_to_speak_of_knows_the_input():
    found = measure(sigma=1e-4, weights=np.ones(NUM))
    np.testing.assert_allclose(found.nats.value[0], np.log(NUM), rtol=1e-12)
    np.testing.assert_allclose(found.ceiling, np.log(NUM), rtol=1e-12)
    assert found.nats.stderr[0] < 1e-9
    # Every input is probed equally often, so the classes are too.
    shares = np.bincount(LABELS)
    np.testing.assert_allclose(found.labels.value[0], shannon(shares), rtol=1e-12)
    # The ratio of densities knows it at every layer, however few the replicas.
    np.testing.assert_allclose(found.nats.value, np.log(NUM), rtol=1e-9)


def test_unequal_inputs_are_known_up_to_their_entropy():
    found = measure(sigma=1e-4)
    np.testing.assert_allclose(found.ceiling, shannon(WEIGHTS), rtol=1e-12)
    # -log p(x) of the probed inputs, drawn by p(x).
    assert np.all(np.abs(found.nats.value - found.ceiling) < 3 * found.nats.stderr)
    assert np.all(found.nats.stderr < 0.05)
    shares = [WEIGHTS[label == LABELS].sum() for label in range(3)]
    assert np.all(np.abs(found.labels.value - shannon(shares)) < 3 * found.labels.stderr)


def test_a_neuron_knows_the_plateaus_it_separates():
    """Inputs on four, three and two places; the second unit of every layer is noise only."""
    kernel = np.array([[1.0, 0.0], [0.0, 0.0]])
    params = [(kernel, np.zeros(SIZE), False)] * DEPTH
    for places, nats in (
        ([0, 1, 2, 3], np.log(4)),
        ([0, 1, 2, 2], 1.0397),
        ([0, 1, 1, 1], 0.5623),
    ):
        inputs = np.stack([np.repeat(places, 2), np.arange(NUM)], 1) * 1.0
        found = measure(params=params, inputs=inputs, sigma=0.01, weights=np.ones(NUM))
        np.testing.assert_allclose(found.nats.value[0], nats, atol=5e-5)


def test_inputs_at_one_place_are_not_known():
    params = [(np.zeros((SIZE, SIZE)), np.ones(SIZE), False)] * DEPTH
    found = measure(params=params)
    for estimate in (found.nats, found.labels):
        np.testing.assert_allclose(estimate.value, 0.0, atol=1e-9)
    assert np.all(np.abs(found.linearised.value) < 3 * found.linearised.stderr)


def test_labels_of_separate_places_are_known_and_labels_within_a_place_are_not():
    place = np.arange(NUM) // 4
    inputs = 20.0 * place[:, None] * np.ones(SIZE)
    inputs = inputs + 1e-6 * INPUTS  # no two the same
    params = [(np.eye(SIZE), np.zeros(SIZE), False)] * DEPTH
    given = {"params": params, "inputs": inputs, "weights": np.ones(NUM), "num_classes": 3}
    told = measure(labels=place, **given).labels
    np.testing.assert_allclose(told.value, np.log(2), rtol=1e-6)
    untold = measure(labels=np.arange(NUM) % 2, **given).labels
    np.testing.assert_allclose(untold.value[0], 0.0, atol=1e-5)
    assert np.all(np.abs(untold.value) < 0.05)


# -------------------------------------------------------------------------- symmetries, order


def test_names_and_signs_of_units_carry_no_information():
    (k1, b1, _), (k2, b2, _), (k3, b3, _) = TANH
    swapped = [(k1[:, ::-1], b1[::-1], True), (k2[::-1], b2, True), (k3, b3, True)]
    sign = np.array([1.0, -1.0])
    flipped = [(k1, b1, True), (k2 * sign, b2 * sign, True), (sign[:, None] * k3, b3, True)]
    found = measure(params=TANH)
    for seed, params in ((1, swapped), (2, flipped)):
        other = measure(seed, params=params)
        for a, b in zip(parts(found), parts(other), strict=True):
            # The law is the same, replicas and draws are not: the bracket says how far they move.
            error = 3 * np.hypot(a.stderr, b.stderr)
            assert np.all(a.bracket_lower - error <= b.bracket_upper)
            assert np.all(b.bracket_lower - error <= a.bracket_upper)
            assert np.all(np.abs(a.value - b.value) < error + 0.05)


@pytest.mark.parametrize("params", [LINEAR, TANH], ids=["linear", "tanh"])
def test_no_layer_knows_more_than_the_one_before(params):
    found = measure(params=params)
    for estimate in (found.nats, found.labels):
        error = 3 * np.hypot(estimate.stderr[1:], estimate.stderr[:-1])
        assert np.all(estimate.bracket_lower[1:] <= estimate.bracket_upper[:-1] + error)
    below = 3 * np.hypot(found.nats.stderr, found.labels.stderr)
    assert np.all(found.labels.value <= found.nats.value + below)
    assert np.all(found.nats.value <= found.ceiling + 3 * found.nats.stderr)


def test_weights_are_multiplicities():
    """Against quadrature over a law in which patterns are there several times."""
    multiplicity = np.array([1, 3, 1, 2, 1, 1, 4, 1])
    mean, covariance = next(moments(LINEAR, SIGMA))
    repeated = np.repeat(mean, multiplicity, axis=0)
    truth = entropy(repeated, np.ones(len(repeated)), covariance) - gaussian_entropy(covariance)
    found = measure(weights=multiplicity)
    assert inside(found.nats, truth)[0]
    scaled = measure(weights=7.0 * multiplicity)
    np.testing.assert_allclose(scaled.nats.value, found.nats.value, rtol=1e-9)


def one_layer(params, t):
    return t @ params


def test_a_bootstrap_of_all_patterns_has_the_ceiling_of_binomial_counts():
    """4096 patterns drawn 4096 times: 8.318 - 0.573 nats on average, less where more repeat."""
    number = 4096
    counts = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=20)
    drawn = np.arange(1, 30)
    share = np.exp(
        special.gammaln(number) - special.gammaln(drawn) - special.gammaln(number - drawn + 1)
        - (drawn - 1) * np.log(number) + (number - drawn) * np.log1p(-1 / number)
    )  # fmt: skip
    expected = np.log(number) - share @ np.log(drawn)  # 1 + Binomial(n - 1, 1/n)
    np.testing.assert_allclose(expected, 7.744, atol=1e-3)
    np.testing.assert_allclose(np.mean([shannon(c) for c in counts]), expected, atol=0.01)

    own = counts[0][counts[0] > 0]
    inputs = np.arange(len(own), dtype=float)[:, None]
    found = iw.noisy_mutual_information(
        KEY, [one_layer], np.ones((1, 1)), inputs, sigma=0.01, weights=own, num_probed=2048,
        num_replicas=4, num_draws=4, num_points=1,
    )  # fmt: skip
    np.testing.assert_allclose(found.ceiling, expected, atol=0.02)
    np.testing.assert_allclose(found.nats.value[0], found.ceiling, atol=3 * found.nats.stderr[0])
    assert found.labels is None


# ------------------------------------------------------------------------- how it is computed

SMALL = {"num_draws": 4, "num_probed": 33, "num_replicas": 8, "num_points": 1}  # 33 points: odd


def small(key, sigma=SIGMA, **options):
    return iw.noisy_mutual_information(
        key, LAYERS[:2], LINEAR, INPUTS, sigma=sigma, **{**SMALL, **options}
    )


@pytest.fixture(scope="module")
def eager():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return small(KEY)


def agree(found, expected, rtol):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-9)


@pytest.mark.slow
def test_it_is_the_same_under_jit(eager):
    agree(jax.jit(small)(KEY, SIGMA), eager, rtol=1e-8)


@pytest.mark.slow
def test_devices_share_the_points(eager):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        agree(small(KEY, mesh=iw.make_mesh(data=2)), eager, rtol=1e-6)


def test_other_weights_noise_parameters_and_keys_compile_nothing_new(caplog):
    measure()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        measure(1, params=TANH, inputs=2 * INPUTS, weights=np.arange(1.0, NUM + 1), sigma=0.3)
    assert not [said for said in caplog.messages if "Finished XLA compilation" in said]


@pytest.mark.slow
def test_float32_knows_the_input_too():
    """At the width of the papers' noise, with inputs on a circle that every layer keeps."""
    angle = 2 * np.pi * np.arange(NUM) / NUM
    inputs = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    params = [(np.eye(SIZE, dtype=np.float32), np.zeros(SIZE, np.float32), False)] * DEPTH
    with jax.enable_x64(False):
        found = iw.noisy_mutual_information(
            KEY, LAYERS[:2], params, jnp.asarray(inputs), sigma=0.005, **SMALL
        )
    assert found.nats.value.dtype == np.float32
    np.testing.assert_allclose(found.nats.value, np.log(NUM), rtol=1e-4)
    assert np.all(found.nats.converged)


def test_replicas_that_are_too_few_for_the_dimension_are_warned_of():
    """Forty units: every replica is alone, and with its own the input seems to be known."""
    rng = np.random.default_rng(0)
    params = [
        (rng.normal(size=s) / np.sqrt(s[0]), np.zeros(40), False) for s in ((SIZE, 40), (40, 40))
    ]
    with pytest.warns(UserWarning, match="layer 2: 8 replicas of an input are too few in 40 dim"):
        found = iw.noisy_mutual_information(KEY, LAYERS[:2], params, INPUTS, sigma=3.0, **SMALL)
    np.testing.assert_array_equal(found.nats.converged, [True, False])
    assert found.nats.value[1] > found.nats.value[0] + 0.5  # which is no information
    assert found.nats.bracket_lower[1] < found.nats.value[0]  # and the interval says so


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key must be a typed random key"),
        ({"sigma": 0.0}, ValueError, "sigma must be positive and finite, got 0.0"),
        ({"sigma": -0.1}, ValueError, "sigma must be positive"),
        ({"sigma": np.ones(2)}, ValueError, r"sigma must be a scalar, got shape \(2,\)"),
        ({"num_replicas": 0}, ValueError, "num_replicas must be a positive multiple of 4, got 0"),
        ({"num_replicas": 3}, ValueError, "num_replicas must be a positive multiple of 4, got 3"),
        ({"num_draws": 6}, ValueError, "num_draws must be a positive multiple of 4, got 6"),
        ({"num_probed": 1}, ValueError, "num_probed must be an integer of at least 2"),
        ({"num_points": 0}, ValueError, "num_points must be an integer of at least 1"),
        ({"inputs": INPUTS[:1]}, ValueError, "inputs must hold at least 2 rows, got 1"),
        ({"inputs": INPUTS * np.nan}, ValueError, "inputs must be finite"),
        ({"layers": ()}, ValueError, "layers must hold at least one hidden layer"),
        ({"labels": LABELS[:3]}, ValueError, r"labels must be \(8,\), one for each input"),
        ({"labels": LABELS * 1.0}, TypeError, "labels must be integers, got float64"),
        ({"labels": LABELS - 1}, ValueError, "labels must lie from 0 to 1, got -1 to 1"),
        ({"labels": LABELS, "num_classes": 2}, ValueError, "from 0 to 1, got 0 to 2"),
        ({"weights": np.ones(3)}, ValueError, r"weights must be \(8,\), one for each input"),
        ({"weights": WEIGHTS - 1}, ValueError, "weights must be at least 0 and finite"),
    ],
)
def test_what_cannot_be_measured_is_named(changes, error, message):
    given = {"key": KEY, "layers": LAYERS, "inputs": INPUTS, "sigma": SIGMA, **changes}
    with pytest.raises(error, match=message):
        iw.noisy_mutual_information(
            given.pop("key"), given.pop("layers"), LINEAR, given.pop("inputs"), **given
        )


def test_traced_labels_need_the_number_of_classes():
    with pytest.raises(ValueError, match="num_classes must be given where labels are traced"):
        jax.eval_shape(lambda labels: measure(labels=labels), LABELS)


def image_layer(params, t):
    """As the first layer, but its activations are images."""
    return LAYERS[0](params, t).reshape(len(t), -1, 1, 2)


def flattening_layer(params, t):
    return LAYERS[1](params, t.reshape(len(t), -1))


def wide_layer(_, t):
    return jnp.tile(t, (1, 150))


def test_activations_may_be_images():
    if SIZE % 2:
        pytest.skip("the small network has an odd number of units")
    arguments = (LINEAR, INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = iw.noisy_mutual_information(
            KEY, (image_layer, flattening_layer), *arguments, sigma=SIGMA, **SMALL
        )
        agree(found, small(KEY), rtol=1e-9)


def test_wide_layers_are_not_linearised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = iw.noisy_mutual_information(
            KEY, (wide_layer,), LINEAR, INPUTS, sigma=SIGMA, **SMALL
        )
    assert found.linearised is None
    assert found.nats.value.shape == (1,)


def test_activations_too_large_for_float32_are_warned_of():
    with jax.enable_x64(False), pytest.warns(UserWarning, match="layer 1.*compute in float64"):
        found = iw.noisy_mutual_information(
            jax.random.key(0),
            LAYERS[:1],
            jax.tree.map(np.float32, [(100 * k, b, bend) for k, b, bend in LINEAR]),
            np.float32(INPUTS),
            sigma=0.005,
            **SMALL,
        )
    assert not found.nats.converged[0]

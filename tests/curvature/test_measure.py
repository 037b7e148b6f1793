from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import Operator, dense_measure, eigenvalues, ggn, logdet, spectral_measure
from iw_jax.likelihoods import Categorical
from iw_jax.task import Task
from tests.curvature.known_spectra import NETWORK_LIKE, operator, product

KEY = jax.random.key(0)
GRID = np.array([1e-3, 1.0, 1e2, 1e5])
INDEFINITE = np.concatenate([np.linspace(-3, -0.5, 7), np.logspace(-3, 2, 43)])


def exact_logdet(spectrum, c):
    return np.log1p(np.asarray(c)[..., None] * spectrum).sum(-1)


def exact_gamma(spectrum, c):
    s = np.asarray(c)[..., None] * spectrum
    return (s / (1 + s)).sum(-1)


def test_zero_and_multiples_of_the_identity():
    zero = spectral_measure(operator(np.zeros(60)), key=KEY, num_matvecs=20, num_probes=5)
    assert zero.logdet(3.0).interval() == (0.0, 0.0)
    three = spectral_measure(operator(np.full(60, 3.0)), key=KEY, num_matvecs=20, num_probes=5)
    np.testing.assert_allclose(three.logdet(2.0).interval(), 60 * np.log(7.0), rtol=1e-10)


def test_few_weights_are_measured_exactly():
    spectrum = np.logspace(-3, 2, 30)
    for measure in (
        spectral_measure(operator(spectrum), key=KEY, num_matvecs=30),
        dense_measure(operator(spectrum)),
    ):
        assert measure.cost == 30
        received = measure.logdet(GRID)
        np.testing.assert_allclose(received.value, exact_logdet(spectrum, GRID), rtol=1e-10)
        np.testing.assert_allclose(received.interval()[0], received.interval()[1])
        np.testing.assert_allclose(measure.trace().value, spectrum.sum(), rtol=1e-12)
        assert received.converged.all()
    np.testing.assert_allclose(eigenvalues(operator(spectrum)), spectrum, rtol=1e-9)
    assert eigenvalues(operator(spectrum, dtype=jnp.float32)).dtype == np.float64


def test_the_default_plan_spends_what_is_allowed_on_five_probes_or_more():
    A = operator(NETWORK_LIKE)
    for allowed, shape in ((60, (5, 12)), (120, (5, 24)), (199, (5, 39))):
        measure = spectral_measure(A, key=KEY, num_matvecs=allowed)
        assert measure.gauss.nodes.shape == shape
        assert measure.cost == shape[0] * shape[1] <= allowed
    large = Operator(product_of_diagonal, jnp.ones(300), like=jnp.zeros(300))
    assert spectral_measure(large, key=KEY).gauss.nodes.shape == (6, 40)


def product_of_diagonal(v, d):
    return d * v


def test_the_information_is_half_of_logdet_minus_gamma():
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=100)
    information = measure.information(GRID)
    half = (measure.logdet(GRID).value - measure.effective_dimension(GRID).value) / 2
    np.testing.assert_allclose(information.value, half, rtol=1e-12)
    assert (information.bracket_lower <= information.value).all()
    assert (information.value <= information.bracket_upper).all()


def test_gamma_is_the_logarithmic_slope_of_logdet():
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=100)
    h = 1e-5
    for ends in ("bracket_upper", "bracket_lower"):
        up, down = (getattr(measure.logdet(GRID * np.exp(t)), ends) for t in (h, -h))
        slope = getattr(measure.effective_dimension(GRID), ends)
        np.testing.assert_allclose((up - down) / (2 * h), slope, rtol=1e-6)


def test_trace_and_any_function():
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=180, num_probes=90)
    lower, upper = measure.trace().interval(0.999)
    assert lower <= NETWORK_LIKE.sum() <= upper
    np.testing.assert_allclose(measure.integrate(np.ones_like).value, 200)


def test_the_same_key_gives_the_same_numbers_and_another_does_not():
    A = operator(NETWORK_LIKE)
    one, same, other = (logdet(A, c=1.0, key=jax.random.key(k), num_matvecs=60) for k in (0, 0, 1))
    assert one.value == same.value != other.value


def test_scalar_and_grid_agree():
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=60)
    grid = measure.logdet(GRID.reshape(2, 2))
    assert grid.value.shape == grid.stderr.shape == grid.interval()[0].shape == (2, 2)
    np.testing.assert_allclose(measure.logdet(GRID[3]).value, grid.value[1, 1])


def test_indefinite_operators_are_refused_by_default():
    for plan in ({"num_matvecs": 40}, {"num_matvecs": 100}):
        with pytest.raises(ValueError, match=r"positive semi-definite.*policy='clip'"):
            spectral_measure(operator(INDEFINITE), key=KEY, **plan)


@pytest.mark.parametrize(
    ("policy", "mapped"), [("clip", np.maximum(INDEFINITE, 0)), ("abs", np.abs(INDEFINITE))]
)
def test_clip_and_abs_are_the_dense_values_at_full_depth(policy, mapped):
    n, probes = len(INDEFINITE), 400
    dense = dense_measure(operator(INDEFINITE), policy=policy)
    np.testing.assert_allclose(dense.logdet(GRID).value, exact_logdet(mapped, GRID), rtol=1e-9)
    full = spectral_measure(
        operator(INDEFINITE), key=KEY, num_matvecs=n * probes, num_probes=probes, policy=policy
    )
    for received, expected in (
        (full.logdet(GRID), exact_logdet(mapped, GRID)),
        (full.effective_dimension(GRID), exact_gamma(mapped, GRID)),
        (full.negative_count, 7),
        (full.negative_trace, INDEFINITE[INDEFINITE < 0].sum()),
        (full.trace(), INDEFINITE.sum()),
    ):
        lower, upper = received.interval(0.999)
        assert (lower <= expected).all()
        assert (expected <= upper).all()
        np.testing.assert_allclose(received.bracket_lower, received.bracket_upper)
    assert dense.negative_count.value == 7
    np.testing.assert_allclose(dense.negative_trace.value, INDEFINITE[INDEFINITE < 0].sum())
    np.testing.assert_allclose([full.smallest, dense.smallest], -3, rtol=1e-9)


def test_truncated_indefinite_measures_hold_no_nan():
    for policy in ("clip", "abs"):
        measure = spectral_measure(operator(INDEFINITE), key=KEY, num_matvecs=40, policy=policy)
        for estimate in (measure.logdet(GRID), measure.information(GRID), measure.negative_trace):
            assert np.isfinite(estimate.interval()).all()


@pytest.mark.parametrize("spectrum", [NETWORK_LIKE, INDEFINITE, np.zeros(60)])
def test_float32_agrees_with_float64(spectrum):
    wide, narrow = (
        spectral_measure(operator(spectrum, dtype=dtype), key=KEY, num_matvecs=40, policy="clip")
        for dtype in (jnp.float64, jnp.float32)
    )
    # Other random numbers in float32: only the intervals can be compared.
    for c in (1e-3, 1.0, 1e2):
        (a, b), (d, e) = wide.logdet(c).interval(0.999), narrow.logdet(c).interval(0.999)
        assert max(a, d) <= min(b, e) + 1e-3


def test_float32_dense_agrees_with_float64():
    A, B = (dense_measure(operator(NETWORK_LIKE, dtype=d)) for d in (jnp.float64, jnp.float32))
    np.testing.assert_allclose(A.logdet(1.0).value, B.logdet(1.0).value, rtol=1e-4)
    np.testing.assert_allclose(A.information(1.0).value, B.information(1.0).value, rtol=1e-4)


def test_jit_gives_what_the_host_gives_and_reports_negative_mass():
    def f(A, key):
        measure = spectral_measure(A, key=key, num_matvecs=60)
        return measure.logdet(GRID), measure.information(2.0)

    A = operator(NETWORK_LIKE)
    host, traced = f(A, KEY), jax.jit(f)(A, KEY)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8), host, traced)
    values, _ = jax.jit(f)(operator(np.r_[INDEFINITE, np.ones(20)]), KEY)
    assert not values.converged.any()


def test_products_that_are_not_finite_are_named():
    A = Operator(product, jnp.full((60, 60), jnp.nan), like=jnp.zeros(60))
    for plan in ({"num_matvecs": 20}, {}):
        with pytest.raises(ValueError, match="products A v must be finite"):
            spectral_measure(A, key=KEY, **plan)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_matvecs": 3}, ValueError, "num_matvecs must be an integer of at least 4, got 3"),
        ({"num_matvecs": 8, "num_probes": 5}, ValueError, "num_probes must be at most"),
        ({"policy": "ignore"}, ValueError, "policy must be one of"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
    ],
)
def test_plans_out_of_range_are_named(options, error, message):
    with pytest.raises(error, match=message):
        spectral_measure(operator(NETWORK_LIKE), **{"key": KEY, **options})


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_a_c_out_of_range_is_named(c):
    with pytest.raises(ValueError, match=f"c must be positive and finite, got {c}"):
        logdet(operator(NETWORK_LIKE), c=c, key=KEY)


def test_one_compile_serves_all_parameters_and_keys():
    traces = []

    def counted(params, x):
        traces.append(1)
        return x @ params

    inputs, targets = jnp.ones((8, 30)), jnp.zeros(8, int)
    task = Task(counted, Categorical(), inputs, targets)
    for seed in range(4):
        params = jax.random.normal(jax.random.key(seed), (30, 10))
        A = ggn(task, params)
        before = len(traces)
        spectral_measure(A, key=jax.random.key(seed), num_matvecs=60)
        if seed > 0:
            assert len(traces) == before


def intervals(spectrum, c, seeds, num_matvecs, num_probes):
    """Combined 95 % intervals of log det, and the SEM-only ones around the Gauss value."""
    A = operator(spectrum)

    def run(key):
        measure = spectral_measure(A, key=key, num_matvecs=num_matvecs, num_probes=num_probes)
        return measure.logdet(c)

    estimates = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(7), seeds))
    lower, upper = estimates.interval()
    high = np.asarray(estimates.bracket_upper)
    reach = 1.96 * np.asarray(estimates.stderr)
    return (lower, upper), (high - reach, high + reach)


def coverage(interval, truth):
    return np.mean((interval[0] <= truth) & (truth <= interval[1]))


TRUNCATED = {"c": 1e4, "num_matvecs": 60, "num_probes": 6}  # c * largest = 1e7, depth 10
SAMPLED = {"c": 1e-2, "num_matvecs": 150, "num_probes": 6}  # c * largest = 10, depth 25


@pytest.mark.parametrize("plan", [TRUNCATED, SAMPLED], ids=["truncation", "sampling"])
@pytest.mark.parametrize(
    ("seeds", "least"),
    [(60, 0.95), pytest.param(400, 0.95, marks=pytest.mark.slow)],
)
def test_combined_intervals_cover(plan, seeds, least):
    combined, _ = intervals(NETWORK_LIKE, seeds=seeds, **plan)
    assert coverage(combined, exact_logdet(NETWORK_LIKE, plan["c"])) >= least


def test_an_interval_from_sampling_alone_fails_where_truncation_dominates():
    _, sampling_only = intervals(NETWORK_LIKE, seeds=60, **TRUNCATED)
    assert coverage(sampling_only, exact_logdet(NETWORK_LIKE, TRUNCATED["c"])) < 0.2

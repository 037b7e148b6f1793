from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import (
    Operator,
    Plan,
    default_plan,
    dense_measure,
    eigenvalues,
    ggn,
    spectral_measure,
)
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
    zero = spectral_measure(operator(np.zeros(60)), key=KEY, plan=Plan(1, 0, 5, 4))
    assert zero.logdet(3.0).interval() == (0.0, 0.0)
    three = spectral_measure(operator(np.full(60, 3.0)), key=KEY, plan=Plan(1, 0, 5, 4))
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


def test_an_exact_measure_has_no_eigenvalue_that_is_not_there():
    for spectrum in (np.arange(1.0, 31), -np.arange(1.0, 31)):
        measure = dense_measure(operator(spectrum), policy="abs")
        np.testing.assert_allclose(measure.smallest, spectrum.min())
        np.testing.assert_allclose(measure.largest, spectrum.max())


def test_plans_spend_what_is_allowed():
    for allowed in (4, 5, 8, 23, 24, 60, 100, 120, 240, 480, 1000, 4000):
        plan = default_plan(allowed)
        assert 0.8 * allowed <= plan.cost <= allowed
        assert plan.probes >= 2
        assert plan.depth >= 2
    assert default_plan(240) == Plan(4, 20, 8, 20)
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=120)
    assert measure.cost == default_plan(120).cost
    assert measure.gauss.probes.shape[0] == default_plan(120).probes
    assert measure.rank == 40
    assert measure.ended == "budget"


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
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, plan=Plan(2, 5, 40, 4))
    lower, upper = measure.trace().interval(0.999)
    assert lower <= NETWORK_LIKE.sum() <= upper
    np.testing.assert_allclose(measure.integrate(np.ones_like).value, 200)


def test_the_same_key_gives_the_same_numbers_and_another_does_not():
    A = operator(NETWORK_LIKE)
    one, same, other = (
        spectral_measure(A, key=jax.random.key(k), num_matvecs=60).logdet(1.0) for k in (0, 0, 1)
    )
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
    n = len(INDEFINITE)
    dense = dense_measure(operator(INDEFINITE), policy=policy)
    np.testing.assert_allclose(dense.logdet(GRID).value, exact_logdet(mapped, GRID), rtol=1e-9)
    full = spectral_measure(operator(INDEFINITE), key=KEY, plan=Plan(1, 0, n, 1), policy=policy)
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
        # The space is everything: no truncation, though each probe was multiplied once only.
        np.testing.assert_allclose(received.bracket_lower, received.bracket_upper)
    assert dense.negative_count.value == 7
    np.testing.assert_allclose(dense.negative_trace.value, INDEFINITE[INDEFINITE < 0].sum())
    np.testing.assert_allclose([full.smallest, dense.smallest], -3, rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_indefinite_measures_know_no_units(dtype):
    spectrum = np.r_[np.logspace(-4, 2, 100), -np.logspace(-4, 1, 100)]
    found = []
    for unit in (1e-9, 1.0, 1e9):
        A = operator(unit * spectrum, dtype=dtype)
        m = spectral_measure(A, key=KEY, plan=Plan(2, 4, 4, 8), policy="abs")
        found.append([m.trace().dof, m.trace().stderr / unit, m.logdet(1 / unit).stderr])
    np.testing.assert_allclose(found, found[1:2] * 3, rtol=1e-2)
    assert found[1][0] > 4  # one node of the corner must not stand for all


def test_a_traced_c_is_taken_by_a_measure_on_the_host():
    m = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=60)
    value, slope = jax.jit(jax.value_and_grad(lambda c: m.logdet(c).value))(1e-2)
    np.testing.assert_allclose(value, m.logdet(1e-2).value, rtol=1e-9)
    np.testing.assert_allclose(1e-2 * slope, m.effective_dimension(1e-2).value, rtol=1e-3)


def test_truncated_indefinite_measures_hold_no_nan():
    for policy in ("clip", "abs"):
        measure = spectral_measure(operator(INDEFINITE), key=KEY, num_matvecs=40, policy=policy)
        for estimate in (measure.logdet(GRID), measure.information(GRID), measure.negative_trace):
            assert np.isfinite(estimate.interval()).all()


@pytest.mark.parametrize(
    "spectrum", [pytest.param(NETWORK_LIKE, marks=pytest.mark.slow), INDEFINITE, np.zeros(60)]
)
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


@pytest.mark.slow
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
        ({"plan": Plan(1, 0, 0, 0)}, ValueError, "plan.cost must be an integer of at least 1"),
        (
            {"plan": Plan(50, 5, 2, 3)},
            ValueError,
            "plan must not deflate more than the 200 weights",
        ),
        ({"plan": Plan(1, -1, 2, 3)}, ValueError, "plan.blocks must be an integer of at least 0"),
        ({"quantities": ("gamma",)}, ValueError, r"quantities must be some of .*, got \('gamma',"),
        ({"quantities": ()}, ValueError, "quantities must be some of"),
        ({"rtol": 0.1}, ValueError, "rtol needs to know where it holds: give c too"),
        ({"c": 1.0, "rtol": -0.1}, ValueError, "rtol must be finite and not negative, got -0.1"),
        ({"c": -1.0}, ValueError, "c must be positive and finite, got -1.0"),
        ({"policy": "ignore"}, ValueError, "policy must be one of"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
    ],
)
def test_plans_out_of_range_are_named(options, error, message):
    with pytest.raises(error, match=message):
        spectral_measure(operator(NETWORK_LIKE), **{"key": KEY, **options})


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_a_c_out_of_range_is_named(c):
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=40)
    for method in (measure.logdet, measure.effective_dimension, measure.information):
        with pytest.raises(ValueError, match=f"c must be positive and finite, got {c}"):
            method(c)


def test_the_density_integrates_to_n_and_finds_outliers():
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=100)
    grid = np.linspace(-100, 1200, 2601)
    density = measure.density(grid, 5.0)
    assert density.value.shape == (2601,)
    np.testing.assert_allclose(density.value.sum() * 0.5, 200, rtol=1e-6)
    for outlier in (1e3, 4e2, 1e2):
        near = np.abs(grid - outlier) < 25
        np.testing.assert_allclose(density.value[near].sum() * 0.5, 1, rtol=1e-3)
        assert density.stderr[near].max() < 1e-4
    with pytest.raises(ValueError, match="width must be positive"):
        measure.density(grid, 0.0)


def test_the_density_per_decade_counts_eigenvalues():
    measure = dense_measure(operator(np.r_[np.zeros(30), NETWORK_LIKE]))
    decades = np.linspace(-10, 4, 1401)
    density = measure.log_density(10.0**decades, 0.02)
    counted = NETWORK_LIKE[measure.tolerance < NETWORK_LIKE]
    np.testing.assert_allclose(density.value.sum() * 0.01, len(counted), rtol=1e-6)
    near = np.abs(decades - 3) < 0.25
    np.testing.assert_allclose(density.value[near].sum() * 0.01, 1, rtol=1e-6)


def test_one_compile_serves_all_parameters_and_keys():
    traces = []

    def counted(params, x):
        traces.append(1)
        return x @ params

    inputs, targets = jnp.ones((8, 30)), jnp.zeros(8, int)
    task = Task(counted, Categorical(), inputs, targets)
    for seed in range(2):
        params = jax.random.normal(jax.random.key(seed), (30, 10))
        A = ggn(task, params)
        before = len(traces)
        spectral_measure(A, key=jax.random.key(seed), num_matvecs=30)
        if seed > 0:
            assert len(traces) == before

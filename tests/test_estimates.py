import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import iw_jax as iw
from iw_jax import Estimate
from iw_jax.estimates import left_out


def estimate(value, stderr, dof, lower=None, upper=None):
    lower, upper = value if lower is None else lower, value if upper is None else upper
    return Estimate(value, stderr, dof, lower, upper, 1, True)


def test_an_exact_value_has_no_width():
    exact = Estimate.exact(2.5, cost=3)
    assert exact.interval() == (2.5, 2.5)
    assert exact.stderr == 0
    assert exact.dof == jnp.inf
    assert exact.cost == 3
    assert bool(exact.converged)


def test_the_mean_and_its_error_are_those_of_scipy():
    samples = np.random.default_rng(0).normal(size=(7, 2))
    mean = Estimate.mean_of(samples)
    np.testing.assert_allclose(mean.value, samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(mean.stderr, stats.sem(samples), rtol=1e-12)
    low, high = stats.t.interval(0.9, 6, loc=samples.mean(0), scale=stats.sem(samples))
    np.testing.assert_allclose(mean.interval(0.9), (low, high), rtol=1e-9)
    assert mean.cost == 7


def test_a_mean_that_is_not_finite_has_not_converged():
    found = Estimate.mean_of(np.array([[1.0, np.nan], [2.0, 3.0]]))
    assert found.converged.tolist() == [True, False]


def test_the_jackknife_of_a_variance_is_the_unbiased_one():
    x = np.random.default_rng(0).normal(size=9)
    without = np.array([np.delete(x, i).var() for i in range(9)])
    np.testing.assert_allclose(without, left_out(x**2) - left_out(x) ** 2, rtol=1e-12)
    found = Estimate.jackknife(x.var(), without)
    np.testing.assert_allclose(found.value, x.var(ddof=1), rtol=1e-12)
    np.testing.assert_allclose(
        found.stderr, np.sqrt(8 / 9 * ((without - without.mean()) ** 2).sum()), rtol=1e-12
    )
    assert found.dof == 8


def test_one_sample_leaves_the_error_unknown():
    single = Estimate.mean_of(jnp.array([1.5]))
    assert single.dof == 0
    assert np.isnan(single.stderr)
    assert single.interval() == (-np.inf, np.inf)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_interval_covers_as_often_as_it_says(count):
    samples = jax.random.normal(jax.random.key(count), (count, 4000)) + 3.0
    low, high = Estimate.mean_of(samples).interval(0.9)
    covered = np.mean((low < 3.0) & (high > 3.0))
    assert abs(covered - 0.9) < 4 * np.sqrt(0.9 * 0.1 / 4000)


def test_the_interval_adds_truncation_to_sampling():
    low, high = estimate(1.0, 0.1, np.inf, lower=0.5, upper=2.0).interval(0.95)
    np.testing.assert_allclose([low, high], [0.5 - 0.1959964, 2.0 + 0.1959964], rtol=1e-6)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, np.nan])
def test_a_level_outside_0_1_is_named(level):
    with pytest.raises(ValueError, match="level must lie between"):
        Estimate.exact(1.0).interval(level)


def test_independent_errors_add_in_squares():
    both = iw.combine_independent([estimate(1.0, 0.3, 10), estimate(2.0, 0.4, 20)], [2.0, -1.0])
    assert both.value == pytest.approx(0.0)
    assert both.stderr == pytest.approx(np.hypot(0.6, 0.4))
    assert both.dof == pytest.approx(0.52**2 / (0.36**2 / 10 + 0.16**2 / 20))
    assert both.cost == 2


def test_a_negative_coefficient_swaps_the_ends_of_a_bracket():
    both = iw.combine_independent(
        [estimate(1.0, 0.0, np.inf, 0.0, 3.0), Estimate.exact(1.0)], [-2.0, 1.0]
    )
    assert (both.bracket_lower, both.bracket_upper) == (-5.0, 1.0)


def test_the_combined_interval_covers_as_often_as_it_says():
    key_a, key_b = jax.random.split(jax.random.key(1))
    a = Estimate.mean_of(1.0 + jax.random.normal(key_a, (4, 4000)))
    b = Estimate.mean_of(2.0 + 3 * jax.random.normal(key_b, (6, 4000)))
    low, high = iw.combine_independent([a, b], [1.0, -0.5]).interval(0.9)
    # Welch-Satterthwaite is an approximation, good to about a percent at these sizes.
    assert abs(np.mean((low < 0.0) & (high > 0.0)) - 0.9) < 0.03


@pytest.mark.parametrize("size", [1e-60, 1.0, 1e60])
def test_combined_degrees_of_freedom_do_not_depend_on_the_unit(size):
    with jax.enable_x64(False):  # 1e-60 is 0 in float32, its square root is not
        unit = np.float32(np.sqrt(np.sqrt(size)))
        parts = [estimate(unit, unit, 3.0), estimate(unit, unit, 3.0)]
        assert iw.combine_independent(parts, [1.0, 1.0]).dof == pytest.approx(6.0, rel=1e-5)


def test_what_has_an_unknown_part_is_unknown():
    both = iw.combine_independent(
        [Estimate.mean_of(jnp.ones(1)), Estimate.mean_of(jnp.arange(3.0))], [1.0, 1.0]
    )
    assert both.dof == 0
    assert both.interval() == (-np.inf, np.inf)


def test_arrays_and_scalars_combine():
    both = iw.combine_independent(
        [Estimate.mean_of(jnp.ones((4, 3))), Estimate.exact(2.0)], [1.0, 1.0]
    )
    np.testing.assert_array_equal(both.value, [3.0, 3.0, 3.0])
    assert both.converged.shape == (3,)


def test_a_sum_of_exact_values_is_exact():
    total = iw.combine_independent([Estimate.exact(1.0), Estimate.exact(2.0)], [1.0, 3.0])
    assert total.interval() == (7.0, 7.0)
    assert total.dof == np.inf


def test_coefficients_must_be_as_many_as_estimates():
    with pytest.raises(ValueError, match="zip"):
        iw.combine_independent([Estimate.exact(1.0)], [1.0, 2.0])


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Estimate.exact(1.25), "1.25 (exact)"),
        (Estimate.mean_of(jnp.array([1.0])), "1 [-inf, inf]"),
        (estimate(1.0, 0.1, np.inf), "1 [0.804004, 1.196]"),
        (Estimate.exact(jnp.arange(3.0)), "Estimate of shape (3,), 0 ... 2"),
    ],
)
def test_an_estimate_prints_with_its_interval(made, text):
    assert str(made) == text


def test_an_estimate_goes_through_jit():
    made = jax.jit(Estimate.mean_of)(jnp.arange(4.0))
    assert made.interval()[0] < 1.5 < made.interval()[1]

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import Plan, growing, spectral_measure
from iw_jax.curvature.operators import blocked, structure_of
from tests.curvature.known_spectra import NETWORK_LIKE, operator

KEY = jax.random.key(0)
QUANTITIES = {
    "logdet": lambda s: np.log1p(s),
    "effective_dimension": lambda s: s / (1 + s),
    "information": lambda s: (np.log1p(s) - s / (1 + s)) / 2,
}


def exact(name, spectrum, c):
    return QUANTITIES[name](np.asarray(c)[..., None] * spectrum).sum(-1)


@pytest.mark.parametrize("c", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("rtol", [pytest.param(0.1, marks=pytest.mark.slow), 0.02])
def test_a_tolerance_is_met_by_what_it_needs(c, rtol):
    A = operator(NETWORK_LIKE)
    measure = spectral_measure(A, key=KEY, num_matvecs=180, c=c, rtol=rtol)
    assert measure.ended == "tolerance"
    for name in QUANTITIES:
        lower, upper = (estimate := getattr(measure, name)(c)).interval()
        assert (upper - lower) / 2 <= rtol * estimate.value
        assert abs(estimate.value - exact(name, NETWORK_LIKE, c)) <= 2 * rtol * estimate.value
    loose = spectral_measure(A, key=KEY, num_matvecs=180, c=c, rtol=0.3)
    assert loose.cost <= measure.cost < 180


@pytest.mark.slow
def test_a_budget_ends_what_no_tolerance_does():
    A = operator(NETWORK_LIKE)
    for options in ({"c": 1.0}, {"c": 1e4, "rtol": 1e-6}, {"c": 1.0, "atol": 1e-9}, {}):
        for allowed in (9, 60):
            measure = spectral_measure(A, key=KEY, num_matvecs=allowed, **options)
            assert measure.ended == "budget"
            assert 0.8 * allowed <= measure.cost <= allowed


def test_an_absolute_tolerance_is_one_in_nats():
    measure = spectral_measure(operator(NETWORK_LIKE), key=KEY, num_matvecs=180, c=1.0, atol=2.0)
    lower, upper = measure.logdet(1.0).interval()
    assert measure.ended == "tolerance"
    assert (upper - lower) / 2 <= 2.0


@pytest.mark.slow
def test_a_grid_costs_what_its_hardest_c_costs():
    A, grid = operator(NETWORK_LIKE), np.logspace(-3, 1, 30)
    run = partial(spectral_measure, A, key=KEY, num_matvecs=150, rtol=0.05)
    assert run(c=grid).cost <= max(run(c=c).cost for c in (grid[0], grid[15], grid[-1])) + 12
    fixed = [spectral_measure(A, key=KEY, num_matvecs=100).cost for _ in range(2)]
    assert fixed[0] == fixed[1] <= 100


def test_products_are_spent_on_what_is_asked_for_only():
    run = partial(spectral_measure, operator(NETWORK_LIKE), key=KEY, num_matvecs=180, c=1.0)
    every, one = run(rtol=0.05), run(rtol=0.05, quantities=("information",))
    lower, upper = one.information(1.0).interval()
    assert (upper - lower) / 2 <= 0.05 * one.information(1.0).value
    assert one.cost < every.cost


def test_a_tolerance_that_was_missed_is_not_converged():
    options = {"key": KEY, "num_matvecs": 24, "c": 1e-2, "rtol": 1e-6}
    missed = spectral_measure(operator(NETWORK_LIKE), **options)
    assert missed.ended == "budget"
    assert not missed.logdet(1e-2).converged
    assert (
        spectral_measure(operator(NETWORK_LIKE), **options | {"rtol": 0.2}).logdet(1e-2).converged
    )


def test_a_fixed_plan_says_whether_it_met_the_tolerance():
    run = partial(spectral_measure, operator(NETWORK_LIKE), key=KEY, plan=Plan(4, 8, 8, 6), c=1e-2)
    assert run(rtol=0.2).logdet(1e-2).converged
    assert not run(rtol=1e-6).logdet(1e-2).converged


def test_a_state_with_another_kind_of_key_is_restored():
    A, key = operator(NETWORK_LIKE), jax.random.key(0, impl="rbg")
    plan = Plan(2, 2, 2, 2)
    state = growing.step(A, growing.init(A, key=key, plan=plan))
    stored = growing.pack(state)
    whole = spectral_measure(A, key=key, plan=plan)
    resumed = spectral_measure(A, key=key, plan=plan, stored=stored)
    np.testing.assert_array_equal(resumed.gauss.nodes, whole.gauss.nodes)


def test_empty_rows_are_no_directions():
    """Whatever dimension the head has in the end, probes stand for all the others."""
    measure = spectral_measure(operator(np.full(60, 3.0)), key=KEY, plan=Plan(2, 10, 4, 3))
    assert measure.rank <= 20  # 2 in exact arithmetic; rounding may find more
    np.testing.assert_allclose(measure.integrate(np.ones_like).value, 60)
    np.testing.assert_allclose(measure.trace().interval(), 180, rtol=1e-10)


@pytest.mark.slow
def test_deeper_for_large_c_and_more_probes_for_small():
    A = operator(NETWORK_LIKE)
    small, large = (spectral_measure(A, key=KEY, num_matvecs=120, c=c) for c in (1e-2, 1e4))
    assert small.gauss.probes.shape[0] > 2 * large.gauss.probes.shape[0]


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"c": (0.1, 10.0), "rtol": 0.02}, marks=pytest.mark.slow)],
    ids=["plan", "adaptive"],
)
def test_a_state_that_was_stored_goes_on_to_the_same_numbers(options):
    A = operator(NETWORK_LIKE)
    options = {"key": KEY, "num_matvecs": 100, **options}
    states = []
    whole = spectral_measure(A, callback=lambda s: states.append(growing.pack(s)), **options)
    for stored in (states[0], states[len(states) // 2], states[-2]):
        state = growing.unpack(growing.init(A, **options), stored)
        while not state.ended:
            state = growing.step(A, state)
        again = growing.finish(state)
        np.testing.assert_array_equal(again.gauss.nodes, whole.gauss.nodes)
        np.testing.assert_array_equal(again.gauss.probes, whole.gauss.probes)
        assert again.ended == whole.ended
    assert growing.step(A, state) is state
    with pytest.raises(ValueError, match="must be a state of the same measurement"):
        growing.unpack(growing.init(A, key=KEY, num_matvecs=50), states[0])


def test_before_the_first_probe_no_interval_is_given():
    A = operator(NETWORK_LIKE)
    state = growing.step(A, growing.init(A, key=KEY, num_matvecs=100))
    estimate = growing.finish(state).logdet(1.0)
    assert np.all(np.isinf(estimate.interval()))
    assert not estimate.converged


@pytest.mark.slow
def test_ranks_above_the_dimension_and_spaces_that_end_are_exact():
    for spectrum in (np.zeros(60), np.full(60, 3.0), np.r_[np.zeros(55), np.arange(1.0, 6)]):
        for options in (
            {"num_matvecs": 40},
            {"num_matvecs": 40, "c": 2.0},
            {"plan": Plan(3, 12, 4, 15)},
        ):
            measure = spectral_measure(operator(spectrum), key=KEY, **options)
            lower, upper = measure.logdet(2.0).interval()
            np.testing.assert_allclose(lower, np.log1p(2 * spectrum).sum(), rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(upper, lower, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_products_come_in_blocks_and_every_one_is_counted():
    widths = []

    def counted(V, m):
        jax.debug.callback(partial(widths.append, len(V)))
        return V @ m

    m = operator(NETWORK_LIKE).leaves[0]
    A = blocked(counted, m, structure=structure_of(jnp.zeros(200)))
    for options in ({}, {"c": 1.0}, {"c": 1.0, "rtol": 0.1}):
        widths.clear()
        measure = spectral_measure(A, key=KEY, num_matvecs=60, **options)
        jax.effects_barrier()
        assert sum(widths) == measure.cost
        assert max(widths) >= 4


# Spectra of the benchmark, smaller: (spectrum, c) with few and with many eigenvalues above 1/c.
DECADES = np.concatenate([np.logspace(1, 3, 6), np.logspace(-8, 0, 294)])
CASES = {
    "few above": (DECADES, 1e-1),
    "many above": (DECADES, 1e3),
    "power law": (1e2 * np.arange(1.0, 301) ** -1.5, 1.0),
    "outlier": (np.r_[np.full(299, 1e-3), 1e3], 1.0),
    "truncated": (DECADES, 1e6),
}


DEFLATED = Plan(2, 12, 5, 10)


@cache
def run_many(case, seeds, plan):
    spectrum, c = CASES[case]
    A = operator(spectrum)

    def run(key):
        measure = spectral_measure(A, key=key, plan=plan)
        return {name: getattr(measure, name)(c) for name in QUANTITIES}

    keys = jax.random.split(jax.random.key(7), seeds)
    runs = jax.jit(lambda keys: jax.lax.map(run, keys, batch_size=10))(keys)
    return {name: (runs[name], exact(name, spectrum, c)) for name in QUANTITIES}


def coverage(estimates, truth):
    lower, upper = estimates.interval()
    return np.mean((lower <= truth) & (truth <= upper))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["few above", "many above", "power law"])
@pytest.mark.parametrize(("seeds", "least"), [(120, 0.88), (800, 0.925)])
@pytest.mark.parametrize("plan", [DEFLATED, Plan(1, 0, 2, 2)], ids=str)
def test_intervals_cover(case, seeds, least, plan):
    # 0.88 and 0.925 lie 3.5 and 3.2 standard deviations of so many runs below 0.95.
    for name, (estimates, truth) in run_many(case, seeds, plan).items():
        assert coverage(estimates, truth) >= least, name


@pytest.mark.parametrize(
    "case", ["few above", pytest.param("many above", marks=pytest.mark.slow), "power law"]
)
def test_the_standard_error_is_the_spread_and_the_mean_is_unbiased(case):
    estimates, truth = run_many(case, 120, DEFLATED)["logdet"]
    middle = np.asarray(estimates.value)
    spread = middle.std(ddof=1)
    typical = np.sqrt(np.mean(np.asarray(estimates.stderr) ** 2))
    assert 0.8 < typical / spread < 1.3  # the spread of 120 runs is known to 6.5 %
    bias = abs(middle.mean() - truth)
    half_bracket = np.mean(np.asarray(estimates.bracket_upper - estimates.bracket_lower)) / 2
    assert bias <= half_bracket + 4 * spread / np.sqrt(120)


def test_a_missed_outlier_is_known_to_the_interval():
    """Few probes, one eigenvector: the probes' spread alone would cover in some 70 % of runs."""
    estimates, truth = run_many("outlier", 200, Plan(1, 0, 3, 4))["logdet"]
    assert coverage(estimates, truth) >= 0.94
    lower, upper = estimates.interval()
    ideal = 1.96 * np.std(np.asarray(estimates.value), ddof=1)
    assert np.median((upper - lower) / 2) < 3 * ideal


def test_an_interval_from_sampling_alone_fails_where_truncation_dominates():
    estimates, truth = run_many("truncated", 60, Plan(1, 0, 6, 6))["logdet"]
    high, reach = np.asarray(estimates.bracket_upper), 1.96 * np.asarray(estimates.stderr)
    assert np.mean((high - reach <= truth) & (truth <= high + reach)) < 0.2
    assert coverage(estimates, truth) > 0.95


def test_deflation_beats_probes_alone_at_equal_products():
    errors = []
    for seeds, plan in ((120, DEFLATED), (40, Plan(1, 0, 4, 18))):
        estimates, truth = run_many("few above", seeds, plan)["logdet"]
        errors.append(np.sqrt(np.mean((np.asarray(estimates.value) - truth) ** 2)))
    assert errors[0] < errors[1] / 5


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_both_precisions_meet_the_exact_value(dtype):
    for c in (1e-3, 1.0, 1e2):
        measure = spectral_measure(operator(NETWORK_LIKE, dtype=dtype), key=KEY, num_matvecs=100)
        lower, upper = measure.logdet(c).interval(0.999)
        truth = exact("logdet", NETWORK_LIKE, c)
        assert lower <= truth <= upper


# What is asked for, of which spectrum: shallow probes, one outlier, exhausted spaces, a power law.
ASKED = {
    "small c": (NETWORK_LIKE, {"c": 0.01, "rtol": 0.1}),
    "decades": (np.r_[np.logspace(1, 3, 6), np.logspace(-8, 0, 294)], {"c": 0.1, "rtol": 0.1}),
    "outlier": (np.r_[np.full(299, 1e-3), 1e3], {"c": 1.0, "rtol": 0.3}),
    "few above": (np.r_[np.full(280, 1e-3), np.full(20, 3.0)], {"c": 1.0, "rtol": 0.2}),
    "no tolerance": (NETWORK_LIKE, {"c": 0.01, "num_matvecs": 60}),
}


@pytest.mark.parametrize(
    "asked",
    [pytest.param(name, marks=pytest.mark.slow) if name != "outlier" else name for name in ASKED],
)
def test_intervals_cover_where_the_measure_decides_when_to_stop(asked):
    spectrum, options = ASKED[asked]
    A, c, runs = operator(spectrum), options["c"], 60
    held = dict.fromkeys(QUANTITIES, 0)
    for seed in range(runs):
        measure = spectral_measure(A, key=jax.random.key(seed), **{"num_matvecs": 150, **options})
        for name in held:
            lower, upper = getattr(measure, name)(c).interval()
            held[name] += lower <= exact(name, spectrum, c) <= upper
    # Fewer than 51 of 60 has a probability of 0.1 % at 95 % coverage.
    assert min(held.values()) >= 51


def test_shallow_probes_know_how_far_they_are_off():
    """z'Az alone says little of |Az|: the residual of the one product belongs to it."""
    spectrum = 100 * np.arange(1.0, 301) ** -1.5
    A, plan = operator(spectrum), Plan(4, 4, 4, 1)
    keys = jax.random.split(jax.random.key(3), 100)
    run = jax.jit(lambda k: spectral_measure(A, key=k, plan=plan).trace())
    estimates = jax.lax.map(run, keys, batch_size=10)
    rms = np.sqrt(np.mean((estimates.value - spectrum.sum()) ** 2))
    np.testing.assert_allclose(np.sqrt(np.mean(estimates.stderr**2)), rms, rtol=0.3)

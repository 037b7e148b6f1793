"""Laws with known entropies: by other routes, and what estimators make of what is easy."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from experiments import smoothed_entropy
from experiments.common import smoothed_laws as laws
from experiments.common import smoothed_panels as panels

# ------------------------------------------------------------------------------------ the laws


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(("spread", "sigma"), [(0.1, 0.1), (0.1, 0.5), (0.25, 0.05)])
def test_the_entropy_of_a_coordinate_is_that_of_a_convolution(spread, sigma, truncated):
    """p(s) N(t; s, σ²) integrated over s by Gauss and Legendre, at every t."""
    nodes, weights = special.roots_legendre(600)
    reach = 9 * spread / 2  # of half an interval that ends, or is centred, at 1
    s = 1 - reach + reach * nodes if truncated else 1 + 2 * reach * nodes
    mass = weights * stats.norm.pdf(s, 1, spread) * reach * 2  # one half twice, or two halves
    wide = 9 * np.hypot(spread, sigma)
    t = np.linspace(-1 - wide, 1 + wide, 4001)
    near = stats.norm.pdf(t[:, None], s, sigma) @ mass
    expected = integrate.simpson(special.entr((near + near[::-1]) / 2), x=t)
    found = laws.coordinate_entropy(spread, sigma, truncated)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_samples_at_the_corners_have_the_moments_of_their_components():
    rng = np.random.default_rng(0)
    inside = laws.corners(3, 0.1, truncated=True).draw(rng, 50_000)
    assert np.abs(inside).max() <= 1
    np.testing.assert_allclose(np.abs(inside).mean(0), 1 - 0.1 * np.sqrt(2 / np.pi), atol=2e-3)
    whole = laws.corners(3, 0.1).draw(rng, 50_000)
    np.testing.assert_allclose(np.square(whole).mean(0), 1.01, atol=5e-3)
    for samples in (inside, whole):
        np.testing.assert_allclose(np.corrcoef(samples.T), np.eye(3), atol=0.02)


@pytest.mark.parametrize(("order", "variables"), [(0, 3), (1, 3), (1, 4), (2, 4), (3, 3)])
def test_words_have_the_number_and_the_distance_of_a_reed_muller_code(order, variables):
    rows = laws.generator(order, variables)
    dimension = sum(int(special.comb(variables, i)) for i in range(order + 1))
    assert rows.shape == (dimension, 2**variables)
    bits = np.arange(2**dimension)[:, None] >> np.arange(dimension) & 1
    weights = (bits @ rows % 2).sum(1)
    assert np.count_nonzero(weights == 0) == 1  # so that all words differ
    assert weights[weights > 0].min() == 2 ** (variables - order)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_a_code_of_two_words_is_one_coordinate(sigma):
    """RM(0, m), ±(1, ..., 1): across, noise alone; along, ±1 in noise of σ/√d."""
    size = 8
    found, stderr = laws.reed_muller(0, 3).entropy(sigma)
    along = laws.coordinate_entropy(0.0, sigma / np.sqrt(size)) + np.log(size) / 2
    expected = along + (size - 1) * stats.norm.entropy(scale=sigma)
    assert abs(found - expected) < 4 * stderr < 0.02


def test_a_code_of_all_words_is_its_words():
    """The known words of RM(3, 3), against what its coordinates say."""
    law = laws.reed_muller(3, 3)
    words = np.unique(law.draw(np.random.default_rng(0), 20_000), axis=0)
    assert words.shape == (256, 8)
    z = np.random.default_rng(1).normal(size=(4000, 8))
    away = words[0] + z - words[:, None]
    density = special.logsumexp(-0.5 * (away**2).sum(-1), axis=0) - np.log(256)
    # Less -log N(z), whose mean is known, for the noise that both have.
    told = -density - 0.5 * (z**2).sum(1)
    found = told.mean() + 8 * stats.norm.entropy()
    np.testing.assert_allclose(law.entropy(1.0)[0], found, atol=4 * told.std() / np.sqrt(4000))


# ------------------------------------------------------------------------------ the estimators


@pytest.mark.parametrize("name", laws.RIVALS)
def test_rivals_know_a_gaussian_of_two_dimensions(name):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000, 2)) * 0.3
    found = laws.RIVALS[name](points, rng)
    assert abs(found - 2 * stats.norm.entropy(scale=0.3)) < 0.1


def test_rivals_move_with_the_scale_as_an_entropy_does():
    points = np.random.default_rng(0).normal(size=(400, 3))
    for estimate in laws.RIVALS.values():
        small, large = (estimate(s * points, np.random.default_rng(1)) for s in (1.0, 5.0))
        np.testing.assert_allclose(large - small, 3 * np.log(5), rtol=1e-6)


# ----------------------------------------------------------------------------------- the checks


@pytest.fixture(scope="module")
def config():
    return smoothed_entropy.PRESETS["quick"]


def told(config, *, bias=-0.01, width=0.1, power=-0.5):
    """The table of a run whose estimates all have one bias and interval."""
    about = {"law": "corners", "dimension": 5, "sigma": 0.5}
    blank = dict.fromkeys(smoothed_entropy.COLUMNS, "")
    rows = []
    for number in config.numbers:
        for repeat in range(2):
            cell = blank | about | {"num_samples": number, "repeat": repeat, "kind": "corners"}
            cell |= {"exact_nats": 7.0, "exact_stderr_nats": 0.0}
            value = 7.0 + bias * 256 / number
            ends = {"lower_nats": value - width, "upper_nats": value + width}
            sp = {"estimator": "sp", "nats": value, "stderr_nats": 0.002, "converged": 1}
            rows += [cell | sp | ends]
            rows += [cell | {"estimator": name, "nats": 7.1} for name in laws.RIVALS]
    rows += [
        blank | about | {"kind": "monte_carlo", "num_draws": n} | {"bound_nats": 1.0}
        | {"rmse_nats": 0.1 * n**power} for n in config.draws
    ]  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, set()),
        ({"bias": -0.3}, {"nine intervals"}),
        ({"bias": 0.05}, {"iw.smoothed_entropy comes"}),
        ({"bias": -0.9, "width": 1.0}, {"at d >= 5"}),
        ({"power": -0.25}, {"the Monte-Carlo error"}),
        ({"power": 1.0}, {"the Monte-Carlo error", "and stays"}),
    ],
)
def test_checks_see_what_they_are_there_for(changes, failing, config):
    found = smoothed_entropy.check(told(config, **changes), config)
    failed = {c.name for c in found if not c.passed}
    assert len(failed) == len(failing)
    assert all(any(name.startswith(start) for name in failed) for start in failing)


def test_the_slope_is_that_of_a_power(config):
    rows = told(config, power=-0.4)
    (cell,) = panels.cells(rows, "monte_carlo")
    found, stderr = smoothed_entropy.slope(rows, cell, config.num_trials)
    np.testing.assert_allclose(found, -0.4, rtol=1e-9)
    assert stderr > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--numbers", "64"], "numbers must be at least 2, positive, finite, increasing"),
        (["--numbers", "64", "32"], "numbers must be positive, finite and increasing"),
        (["--numbers", "8", "64"], "increasing and not below 16, got (8, 64)"),
        (["--sigmas", "0"], "sigmas must be at least 1, positive"),
        (["--code-sigmas"], "code_sigmas must be at least 1, positive"),
        (["--draws", "4", "1"], "draws must be at least 2, positive"),
        (["--codes", "2", "6"], "codes must be at least one pair 0 <= r <= m <= 10"),
        (["--spread", "0.5"], "spread must be between 0 and 0.3, got 0.5"),
        (["--num-repeats", "1"], "num_repeats must be an integer of at least 2, got 1"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags, words, command_line, never_run, tmp_path):
    never_run("smoothed_entropy")
    arguments = ["--preset", "quick", "--results-dir", tmp_path, *flags]
    status, text = command_line("smoothed_entropy", *arguments)
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())

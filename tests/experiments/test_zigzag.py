"""One weight on a zigzag: its integrals against plain quadrature, and what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from experiments import zigzag

SETS, RUNS = 12, 32
PIECES = 2 * zigzag.PIECES


@pytest.fixture(scope="module")
def codes():
    return zigzag.codes_of(np.linspace(-0.9, 0.8, SETS)[:, None], num_examples=100)


def pieces(seed):
    shares = np.random.default_rng(seed).dirichlet(np.ones(PIECES))
    return np.random.default_rng(seed).choice(PIECES, size=(SETS, RUNS), p=shares)


def test_the_integrals_are_those_of_a_fine_grid(codes):
    own = np.random.default_rng(0).dirichlet(np.ones(PIECES), size=SETS)
    theta = np.linspace(-2, 2, 20_001)
    density = sum(
        own[:, [k]] * stats.norm.pdf(theta, codes.minima[:, [k]], codes.scales[k])
        for k in range(PIECES)
    )
    entropy = lambda p: integrate.trapezoid(special.entr(p), theta)  # noqa: E731
    whole = entropy(density.mean(0))
    naive, shannon = zigzag.information(own, codes)
    single = own @ stats.norm.entropy(scale=codes.scales)
    np.testing.assert_allclose(naive.mean(), whole - single.mean(), rtol=1e-9)
    np.testing.assert_allclose(shannon.mean(), whole - entropy(density).mean(), rtol=1e-9)


def test_pieces_that_ignore_the_data_add_nothing_whatever_they_are(codes):
    """φ maps the code of every piece to N(mean of x, 1/N); chance is not taken for the data."""
    found = [zigzag.by_data_set(pieces(seed), codes, seed=0) for seed in range(12)]
    position, plug_in, chance = (
        np.array([each[f"{name}_nats"].mean() for each in found])
        for name in ("position", "plug_in", "piece")
    )
    np.testing.assert_allclose(position, position[0], atol=1e-3)
    assert plug_in.min() > position.max() + 0.1
    assert abs(chance.mean()) < 3 * chance.std(ddof=1) / np.sqrt(12) < 0.02


def test_pieces_that_tell_the_data_add_what_they_tell(codes):
    """Half the data sets end right of 0, half left: ln 2, less what the position told of that."""
    rng = np.random.default_rng(0)
    side = rng.permutation(SETS)[:, None] % 2
    ends = zigzag.PIECES * side + rng.integers(zigzag.PIECES, size=(SETS, 2000))
    found = zigzag.by_data_set(ends, codes, seed=0)
    _, exact = zigzag.information(
        np.repeat(np.stack([side[:, 0] == 0, side[:, 0] == 1], 1) / zigzag.PIECES, 10, axis=1),
        codes,
    )
    assert exact.mean() > found["position_nats"].mean() + 0.1
    np.testing.assert_allclose(found["shannon_nats"].mean(), exact.mean(), atol=0.01)


def test_without_noise_runs_stay_in_their_piece():
    start = jax.random.uniform(jax.random.key(0), (3, 200), minval=-1.5, maxval=1.5)
    centre, silent = jnp.array([[-0.8], [0.1], [0.8]]), jnp.zeros((3, 1))
    ends = zigzag.descend(jax.random.key(1), start, centre, silent, 1e-5, False, 50)
    assert np.array_equal(ends, zigzag.pieces_of(start))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batches", "100", "1"], "batches must be at least two, increasing and between 1 and"),
        (["--batches", "1", "101"], "num_examples = 100, got (1, 101)"),
        (["--batches"], "batches must be at least two, increasing"),
        (["--temperatures", "-1"], "temperatures must be at least one, positive, finite and"),
        (["--temperatures"], "temperatures must be at least one"),
        (["--learning-rate", "2e-4"], "learning_rate must be below 0.000115, from where steps"),
        (["--num-examples", "1"], "num_examples must be an integer of at least 2, got 1"),
        (["--num-runs", "1"], "num_runs must be an integer of at least 2, got 1"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags, words, command_line, never_run, tmp_path):
    never_run("zigzag")
    status, text = command_line("zigzag", "--preset", "quick", "--results-dir", tmp_path, *flags)
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())

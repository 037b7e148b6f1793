"""Mean passage times against closed forms; escapes of the experiment against Eyring and Kramers."""

from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import escape
from experiments.common import landscapes, passage
from experiments.common.results import Folder

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "escape"
SIMULATED = "mean escape times are the exact ones", "flat/sharp is the exact one"
EQUAL = tuple(
    f"equal loss, isotropic noise: {words}" for words in ("flat/sharp is the root", "hotter noise")
)


@pytest.mark.parametrize("side", [1, -1])
def test_diffusion_between_a_mirror_and_a_trap(side):
    """τ = (c² - x0²)/(2D)."""
    found = passage.mean_passage_time(
        lambda x: 0 * x, lambda x: 0.3 + 0 * x, side * 0.4, side * 2.0, 0.0
    )
    np.testing.assert_allclose(found, (2.0**2 - 0.4**2) / 0.6, rtol=1e-9)


def test_geometric_brownian_motion_in_the_sense_of_ito():
    """d log x = (μ - D) dt + ..., so that τ = log(c/x0)/(μ - D)."""
    found = passage.mean_passage_time(lambda x: 0.5 * x, lambda x: 0.1 * x**2, 1.0, 2.0, 0.01)
    np.testing.assert_allclose(found, np.log(2) / 0.4, rtol=1e-5)


def test_a_valley_of_one_width_is_one_dimensional():
    def slope(x):
        return -4 * x * (1 - x**2)

    one = passage.mean_passage_time(lambda x: -slope(x), lambda x: 0.3 + 0 * x, 1.0, -1.0, 2.4)
    two = passage.mean_passage_time_2d(
        lambda x, y: (1 - x**2) ** 2 + 4 * y**2, 0.3, 1.0, -1.0, 2.4, width=2.0, cells=40
    )
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_spells_that_are_not_exponential_and_cut_off_at_the_end():
    """Gamma spells of mean 1: no bias once the start is forgotten; the error is right."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.gamma(3.0, 1 / 3, size=(400, 50, 60)), axis=-1)
    escapes = ((ends > 5) & (ends < 17)).sum(-1)
    found = np.array([passage.mean_spell(each, 12.0) for each in escapes])
    assert abs(found[:, 0].mean() - 1) < 4 * found[:, 0].std() / 20
    np.testing.assert_allclose(found[:, 1].mean(), found[:, 0].std(), rtol=0.15)


@pytest.mark.parametrize("name", landscapes.LANDSCAPES)
@pytest.mark.parametrize("start", landscapes.STARTS)
def test_exact_times_become_those_of_eyring_and_kramers(name, start):
    dimension = 2 if name.startswith("valley") else 1
    gaps = []
    for temperature in (0.2, 0.1):
        found = landscapes.exact(landscapes.LANDSCAPES[name], dimension, temperature, start)
        gaps.append(found["exact"] / found["kramers"] - 1)
    assert 0 < gaps[1] < gaps[0] < 0.3
    assert 1.5 < gaps[0] / gaps[1] < 3.5  # of order T, with a part of order T²


@pytest.mark.parametrize("name", ["isotropic", "tilted"])
def test_both_minima_are_minima_of_the_loss_that_is_said(name):
    world = landscapes.LANDSCAPES[name]
    at = np.array([landscapes.weight(phi, world.bend) for phi in (-1.0, 1.0)])
    np.testing.assert_allclose(landscapes.output(at, world.bend), [-1, 1], atol=1e-12)
    np.testing.assert_allclose(landscapes.slope(at, world, 1), 0, atol=1e-12)
    losses = jax.vmap(landscapes.loss, (0, None))(at[:, None], world)
    np.testing.assert_allclose(losses, [0, world.tilt], atol=1e-12)
    assert (
        landscapes.curvatures(at[0], world, 1)[0] > 2.5 * landscapes.curvatures(at[1], world, 1)[0]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": (0.5, 0.3)}, "temperatures must be"),
        ({"temperatures": (0.01, 0.3)}, "temperatures must be"),
        ({"num_escapes": 1}, "num_escapes must be"),
        ({"max_walkers": 2}, "max_walkers must be"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        escape.Config(**changes)


@pytest.mark.parametrize(
    ("landscape", "column", "claim"),
    [
        (None, None, set()),
        ("valley 4", "mean_escape", {*SIMULATED}),
        ("isotropic", "mean_escape_exact", {*SIMULATED, *EQUAL}),
    ],
)
def test_a_time_that_is_wrong_is_found(landscape, column, claim):
    """The committed table, with the hottest times of a flat minimum 1.5 times as long."""
    rows = Folder(RESULTS).read_rows("metrics.csv")
    for row in rows:
        if (row["landscape"], row["start"]) == (landscape, "flat") and row["temperature"] >= 0.4:
            row[column] *= 1.5
    failed = {c.name for c in escape.check(rows, escape.Config()) if not c.passed}
    assert len(failed) == len(claim)
    assert all(any(name.startswith(words) for name in failed) for words in claim)

"""Occluded images against squares written out by hand."""

import numpy as np
import pytest

from iw_jax import data


def images(number=4, height=5, width=6):
    return np.random.default_rng(0).normal(size=(number, height, width, 1)).astype(np.float32)


def test_the_square_lies_at_its_place_and_nothing_else_changes():
    given = images()
    before = given.copy()
    found = data.occlude(given, np.array([0, 1, 2, 3]), grid=2, side=2)
    expected = given.copy()
    for i, (row, column) in enumerate([(0, 0), (0, 4), (3, 0), (3, 4)]):
        expected[i, row : row + 2, column : column + 2] = given.max()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(given, before)
    assert found.dtype == np.float32


@pytest.mark.parametrize("grid", [3, 6])  # 6 is all there is room for
def test_all_places_differ_and_cover_equally_much(grid):
    blank = np.zeros((grid**2, 8, 8, 1), np.float32)
    blank[0, 7, 7] = 1.0  # the brightest
    found = data.occlude(blank, np.arange(grid**2), grid=grid, side=3)
    assert len({image.tobytes() for image in found}) == grid**2
    np.testing.assert_array_equal(found[1:].sum((1, 2, 3)), 9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": 1}, "grid must be in 2 .. 4, the places of a square of 2 along 5 pixels, got 1"),
        ({"grid": 5}, "grid must be in 2 .. 4, the places of a square of 2 along 5 pixels, got 5"),
        ({"side": 5}, "side must be in 1 .. 4, got 5"),
        ({"places": np.array([0, 1, 2])}, "places must be 4 integers, got int64 of shape"),
        ({"places": np.array([0, 1, 2, 4])}, "places must lie in 0 .. 3, got 0 .. 4"),
        ({"images": np.zeros((4, 5))}, "images must have shape"),
    ],
)
def test_what_cannot_be_is_named(changes, words):
    arguments = {"images": images(), "places": np.arange(4), "grid": 2, "side": 2, **changes}
    with pytest.raises(ValueError, match=words):
        data.occlude(arguments.pop("images"), arguments.pop("places"), **arguments)

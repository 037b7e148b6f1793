"""Binned entropies: limits of the bin's width, the conventions of two papers, plain counting."""

import collections

import numpy as np
import pytest
from scipy import stats

import iw_jax as iw

NUM = 300
SZT = {"low": -1.0, "high": 1.0, "width": 2 / 30}


@pytest.fixture(scope="module")
def activations():
    return np.tanh(np.random.default_rng(0).normal(size=(NUM, 3)))


def counted(activations, width, low=0.0):
    """The same by a dictionary of tuples."""
    cells = [tuple(np.floor((row - low) / width)) for row in np.asarray(activations)]
    return stats.entropy(list(collections.Counter(cells).values()))


@pytest.mark.parametrize("width", [0.07, 0.3, 1.0])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_it_is_the_entropy_of_the_counts(activations, width, low):
    found = iw.binned_entropy(activations, width, low=low)
    np.testing.assert_allclose(found, counted(activations, width, low), rtol=1e-12)


def test_small_bins_tell_all_rows_apart(activations):
    np.testing.assert_allclose(iw.binned_entropy(activations, 1e-9), np.log(NUM), rtol=1e-12)
    twice = np.repeat(activations, 2, axis=0)
    np.testing.assert_allclose(iw.binned_entropy(twice, 1e-9), np.log(NUM), rtol=1e-12)


def test_one_bin_tells_nothing(activations):
    assert iw.binned_entropy(activations, 2.0, low=-1.0) == 0.0


def test_halving_the_bins_never_lowers_the_entropy(activations):
    found = [iw.binned_entropy(activations, 2.0 ** (1 - k), low=-1.0) for k in range(12)]
    assert np.all(np.diff(found) >= -1e-12)
    assert found[-1] > found[0] + 5


def test_thirty_bins_from_one_bound_to_the_other():
    """SZT: the bound itself, which saturated units reach, is in the last bin and makes no other."""
    edges = np.linspace(-1, 1, 31)
    middles = (edges[:-1] + edges[1:]) / 2
    np.testing.assert_allclose(iw.binned_entropy(middles[:, None], **SZT), np.log(30), rtol=1e-12)
    assert iw.binned_entropy([[1.0], [middles[-1]], [np.nextafter(1, 0)]], **SZT) == 0.0
    assert iw.binned_entropy([[-1.0], [middles[0]]], **SZT) == 0.0
    np.testing.assert_allclose(iw.binned_entropy([[1.0], [middles[-2]]], **SZT), np.log(2))
    ends = np.concatenate([middles, [-1.0, 1.0]])
    bins = np.histogram(ends, edges)[0]  # NumPy's last bin is closed too
    np.testing.assert_allclose(iw.binned_entropy(ends[:, None], **SZT), stats.entropy(bins))


def test_without_an_upper_bound_the_bound_has_a_bin_of_its_own():
    found = iw.binned_entropy([[1.0], [0.99]], 0.5)
    np.testing.assert_allclose(found, np.log(2))


def test_both_zeros_are_one():
    assert iw.binned_entropy([[0.0, 1.0], [-0.0, 1.0]], 0.1) == 0.0
    # Bins of number 0 below zero: floor(-0.0) is -0.0.
    assert iw.binned_entropy([[-0.0], [0.05]], 0.1) == 0.0


def test_float32_activations_are_binned_like_the_numbers_they_are(activations):
    single = activations.astype(np.float32)
    found = iw.binned_entropy(single, 0.07)
    np.testing.assert_allclose(found, counted(single.astype(float), 0.07), rtol=1e-12)


def test_repeats_without_noise_tell_as_much_as_there_is_to_tell(activations):
    repeats = np.repeat(activations[None], 5, axis=0)
    found = iw.binned_information(repeats, 0.3)
    np.testing.assert_allclose(found, iw.binned_entropy(activations, 0.3), rtol=1e-12)


def test_noise_within_a_bin_of_its_own_tells_nothing_less():
    """Two inputs, each over two bins: apart log 2 is known, on the same two bins nothing."""
    apart = np.array([[0.1, 2.1], [1.1, 3.1]])[:, :, None]
    same = np.array([[0.1, 0.1], [1.1, 1.1]])[:, :, None]
    np.testing.assert_allclose(iw.binned_information(apart, 1.0), np.log(2))
    np.testing.assert_allclose(iw.binned_information(same, 1.0), 0.0, atol=1e-15)


def test_information_is_that_of_the_table_of_inputs_and_bins():
    rng = np.random.default_rng(1)
    activations = rng.normal(size=(50, 4, 1)) + np.arange(4)[:, None]
    table = np.array([np.histogram(activations[:, i, 0], np.arange(-9, 15))[0] for i in range(4)])
    joint = table / table.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = stats.entropy(joint.ravel(), product.ravel())
    np.testing.assert_allclose(iw.binned_information(activations, 1.0), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0.0}, "width must be positive"),
        ({"width": -1.0}, "width must be positive"),
        ({"activations": np.ones(4)}, r"activations must be \(N, d\)"),
        ({"activations": np.ones((0, 4))}, "at least one number"),
        ({"activations": np.full((2, 2), np.nan)}, "activations must be finite"),
        ({"low": 1.0, "high": 1.0}, "high must be above low = 1.0, got 1.0"),
    ],
)
def test_what_cannot_be_binned_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        iw.binned_entropy(**{"activations": np.ones((4, 2)), "width": 1.0, **changes})


def test_information_needs_repeats():
    with pytest.raises(ValueError, match=r"activations must be \(R, N, d\)"):
        iw.binned_information(np.ones((4, 2)), 1.0)

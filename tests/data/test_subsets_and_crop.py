import numpy as np
import pytest

from iw_jax.data import Dataset, average_pool, central_crop, load, subset


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_subsets_are_nested_without_repetition(digits):
    small, large = subset(digits, 50, seed=3), subset(digits, 400, seed=3)
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:50])
    np.testing.assert_array_equal(small.train_targets, large.train_targets[:50])
    whole = subset(digits, 1437, seed=3).train_inputs.reshape(1437, -1)
    flat = digits.train_inputs.reshape(1437, -1)
    np.testing.assert_array_equal(np.unique(whole, axis=0), np.unique(flat, axis=0))


def test_a_subset_keeps_the_test_set_and_depends_on_the_seed(digits):
    first, second = subset(digits, 50, seed=0), subset(digits, 50, seed=1)
    np.testing.assert_array_equal(first.test_inputs, digits.test_inputs)
    assert np.any(first.train_inputs != second.train_inputs)


@pytest.mark.parametrize("n", [0, -3, 1438, 10.0, True])
def test_an_impossible_size_is_named(digits, n):
    with pytest.raises(ValueError, match=rf"n must be an integer in 1 \.\. 1437 .* got {n}"):
        subset(digits, n, seed=0)


def test_crop_keeps_the_middle():
    images = np.arange(2 * 4 * 5 * 1, dtype=np.float32).reshape(2, 4, 5, 1)
    labels = np.zeros(2, np.int32)
    cut = central_crop(Dataset("toy", images, labels, images[:1], labels[:1], 2), 2)
    np.testing.assert_array_equal(cut.train_inputs, images[:, 1:3, 1:3])
    np.testing.assert_array_equal(cut.test_inputs, images[:1, 1:3, 1:3])


@pytest.mark.parametrize("size", [0, 9])
def test_a_crop_that_does_not_fit_is_named(digits, size):
    with pytest.raises(ValueError, match=rf"size must be in 1 \.\. 8, got {size}"):
        central_crop(digits, size)


def test_a_crop_of_no_image_is_refused():
    flat, labels = np.zeros((2, 64), np.float32), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=r"dataset must hold images .* \(2, 64\)"):
        central_crop(Dataset("toy", flat, labels, flat, labels, 2), 2)


def test_images_are_averaged_by_the_least_factor_that_suffices():
    images, labels = np.arange(72, dtype=np.float32).reshape(2, 6, 6, 1), np.zeros(2, np.int32)
    toy = Dataset("toy", images, labels, images[:1], labels[:1], 2)
    assert average_pool(toy, 6).checksum == toy.checksum
    received = average_pool(toy, 4).train_inputs  # 3 divides 6, 4 does not
    assert received.shape == (2, 3, 3, 1)
    expected = images[:, :2, :2].mean((1, 2)), images[:, 4:, 2:4].mean((1, 2))
    np.testing.assert_array_equal((received[:, 0, 0], received[:, 2, 1]), expected)
    assert average_pool(toy, 1).test_inputs == images[0].mean()


def test_images_that_cannot_be_averaged_are_named(digits):
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        average_pool(digits, 0)
    wide, labels = np.zeros((2, 4, 5, 1), np.float32), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=r"dataset must hold square images .* \(2, 4, 5, 1\)"):
        average_pool(Dataset("toy", wide, labels, wide, labels, 2), 2)

import itertools

import numpy as np
import pytest

from iw_jax.data import corrupt_labels, random_labels

TRUE = np.arange(2000, dtype=np.int32) % 10


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.2, 0.5, 1.0])
def test_exactly_the_stated_number_is_redrawn(fraction):
    # With 10,000 classes a draw hits the true label once in 10,000 times, here never.
    corrupted = corrupt_labels(TRUE, fraction, 10_000, seed=4)
    assert np.sum(corrupted != TRUE) == round(fraction * 2000)


def test_new_labels_are_uniform_over_all_classes_the_true_one_too():
    corrupted = corrupt_labels(np.repeat(TRUE, 20), 1.0, 10, seed=0)
    counts = np.bincount(corrupted, minlength=10)
    chi2 = np.sum((counts - 4000) ** 2 / 4000)
    assert chi2 < 27.9  # 9 degrees of freedom, 99.9 %
    agree = np.mean(corrupted == np.repeat(TRUE, 20))
    assert abs(agree - 0.1) < 4 * np.sqrt(0.09 / 40_000)


def test_corruption_is_nested_in_the_fraction():
    fractions = [0.1, 0.2, 0.4, 0.8, 1.0]
    labels = [corrupt_labels(TRUE, fraction, 10, seed=1) for fraction in fractions]
    for fewer, more in itertools.pairwise(labels):
        changed = fewer != TRUE
        np.testing.assert_array_equal(more[changed], fewer[changed])


def test_seeds_differ_and_repeat_and_the_argument_is_left_alone():
    before = TRUE.copy()
    first, again = (corrupt_labels(TRUE, 0.5, 10, seed=2) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(TRUE, before)
    assert np.any(first != corrupt_labels(TRUE, 0.5, 10, seed=3))
    assert first.dtype == np.int32


def test_random_labels_are_uniform_and_a_prefix_of_more():
    labels = random_labels(0, 40_000, 10)
    chi2 = np.sum((np.bincount(labels, minlength=10) - 4000) ** 2 / 4000)
    assert chi2 < 27.9
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(random_labels(0, 777, 10), labels[:777])


def test_random_labels_advance_a_generator():
    rng = np.random.default_rng(0)
    first, second = random_labels(rng, 50, 10), random_labels(rng, 50, 10)
    assert np.any(first != second)
    np.testing.assert_array_equal(first, random_labels(np.random.default_rng(0), 50, 10))


def test_one_root_seed_gives_unrelated_draws():
    labels = random_labels(7, 20_000, 10)
    corrupted = corrupt_labels(np.zeros(20_000, np.int32), 1.0, 10, seed=7)
    assert abs(np.mean(labels == corrupted) - 0.1) < 4 * np.sqrt(0.09 / 20_000)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_0_1_is_named(fraction):
    with pytest.raises(ValueError, match=rf"fraction must be in \[0, 1\], got {fraction}"):
        corrupt_labels(TRUE, fraction, 10, seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: corrupt_labels(TRUE, 0.1, 9, seed=0), r"in 0 \.\. 8, got 0 \.\. 9"),
        (lambda: corrupt_labels(TRUE * 1.0, 0.1, 10, seed=0), "targets must be integers"),
        (lambda: corrupt_labels(TRUE, 0.1, 10, seed=-1), "seed must be a non-negative .* got -1"),
        (lambda: random_labels(0, 0, 10), "num_examples must be at least 1, got 0"),
        (lambda: random_labels(0, 5, 1), "num_classes must be at least 2, got 1"),
        (lambda: random_labels(0.5, 5, 10), "seed must be a non-negative integer, got 0.5"),
    ],
)
def test_other_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

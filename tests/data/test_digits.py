import subprocess
import sys

import numpy as np
import pytest

from iw_jax.data import load


def test_split_and_moments():
    digits = load("digits")
    assert digits.train_inputs.shape == (1437, 8, 8, 1)
    assert digits.test_inputs.shape == (360, 8, 8, 1)
    assert digits.num_classes == 10
    assert abs(digits.train_inputs.mean(dtype=float)) < 1e-6
    assert abs(digits.train_inputs.std(dtype=float) - 1) < 1e-6


def test_every_image_of_scikit_learn_is_there_once():
    from sklearn.datasets import load_digits

    digits = load("digits")
    ours = np.concatenate([digits.train_inputs, digits.test_inputs]).reshape(1797, 64)
    # Undo the scaling by ranks: black is the smallest value, one grey level the smallest step.
    black, white = ours.min(), ours.max()
    ours = np.rint((ours - black) / (white - black) * 16)
    labels = np.concatenate([digits.train_targets, digits.test_targets])
    theirs = load_digits()
    expected = np.column_stack([theirs.data, theirs.target])
    received = np.column_stack([ours, labels])
    assert sorted(map(tuple, received)) == sorted(map(tuple, expected))


def test_the_split_is_the_one_of_every_earlier_run():
    assert load("digits").checksum == "15903cbe23432b53"


def test_the_seed_moves_the_subset_and_not_the_test_set():
    first, second = (load("digits", num_examples=100, seed=seed) for seed in (0, 1))
    assert np.any(first.train_inputs != second.train_inputs)
    np.testing.assert_array_equal(first.test_inputs, second.test_inputs)


def test_fewer_test_examples_are_nested_and_may_be_none():
    few = load("digits", num_test_examples=20, seed=5).test_inputs
    more = load("digits", num_test_examples=60, seed=6).test_inputs
    np.testing.assert_array_equal(few, more[:20])
    assert len(load("digits", num_test_examples=0).test_inputs) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_examples": 0}, r"num_examples must be an integer in 1 \.\. 1437 .* got 0"),
        ({"num_examples": 1438}, r"num_examples must be .* got 1438"),
        ({"num_test_examples": 361}, r"num_test_examples must be .* 0 \.\. 360 .* got 361"),
        ({"num_examples": 5, "seed": -1}, "seed must be a non-negative integer, got -1"),
    ],
)
def test_impossible_numbers_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


def test_unknown_names_get_the_list():
    with pytest.raises(ValueError, match="digits, cifar10, fashion_mnist, mnist, got 'minst'"):
        load("minst")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir must be a folder .*nowhere"):
        load("digits", data_dir=tmp_path / "nowhere")


def test_importing_reads_no_heavy_package():
    code = (
        "import sys; before = set(sys.modules); import iw_jax; import iw_jax.data; "
        "new = set(sys.modules) - before; "
        "assert not new & {'sklearn', 'tensorflow_datasets', 'tensorflow', 'array_record'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

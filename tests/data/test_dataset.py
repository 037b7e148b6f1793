import dataclasses

import numpy as np
import pytest

from iw_jax.data import Dataset


def make(**changes) -> Dataset:
    fields = {
        "name": "toy",
        "train_inputs": np.arange(12, dtype=np.float32).reshape(3, 2, 2),
        "train_targets": np.array([0, 1, 2], np.int32),
        "test_inputs": np.ones((1, 2, 2), np.float32),
        "test_targets": np.array([1], np.int32),
        "num_classes": 3,
    }
    return Dataset(**(fields | changes))


def test_checksum_is_stable():
    # A number from another session: manifests of different days must be comparable.
    assert make().checksum == "26cb45396a539fe2"
    assert make(name="other").checksum == make().checksum


@pytest.mark.parametrize(
    "change",
    [
        {"train_targets": np.array([0, 1, 1], np.int32)},
        {"test_targets": np.array([0], np.int32)},
        {"test_inputs": np.full((1, 2, 2), np.nextafter(np.float32(1), 2), np.float32)},
    ],
)
def test_checksum_sees_every_array(change):
    assert make(**change).checksum != make().checksum


def test_arrays_cannot_be_written_but_the_callers_can():
    mine = np.array([0, 1, 2], np.int32)
    dataset = make(train_targets=mine)
    with pytest.raises(ValueError, match="read-only"):
        dataset.train_targets[0] = 2
    mine[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


def test_an_empty_test_set_is_fine():
    empty = make(test_inputs=np.ones((0, 2, 2), np.float32), test_targets=np.zeros(0, np.int32))
    assert len(empty.test_inputs) == 0


INFINITE = np.zeros((3, 2, 2), np.float32)
INFINITE[1, 0, 1] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_inputs": INFINITE}, "train_inputs must be finite, got NaN or inf in example 1"),
        ({"train_inputs": np.zeros((3, 2, 2))}, "train_inputs must be a float32.*got float64"),
        ({"train_inputs": [[1.0]]}, "train_inputs must be a float32.*got list"),
        ({"train_targets": np.zeros(3)}, "train_targets must be an int32.*got float64"),
        ({"train_targets": np.zeros(2, np.int32)}, "one label for each of the 3 .* got 2"),
        ({"train_targets": np.array([0, 1, 3], np.int32)}, r"in 0 \.\. 2, got 3 in example 2"),
        ({"test_targets": np.array([-1], np.int32)}, r"test_targets must lie .*, got -1"),
        ({"test_inputs": np.ones((1, 4), np.float32)}, r"test_inputs must have shape \(M, \*"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        (
            {"train_inputs": np.zeros((0, 2), np.float32), "train_targets": np.zeros(0, np.int32)},
            "at least one example, got 0",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)

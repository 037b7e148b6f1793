"""The 12-bit problem: the built-in rule against what is known of it, and files of the original."""

import numpy as np
import pytest
from scipy import io
from scipy.linalg import hadamard

from iw_jax import data
from iw_jax.data import twelve_bits

# Squared Walsh coefficients of (-1)^y, summed over those of each order; of the rule and, to within
# 0.08 in all, of the original.
ENERGY = [0.0012, 0.5613, 0.0976, 0.0824, 0.0488, 0.0470, 0.0588]
ENERGY += [0.0301, 0.0419, 0.0115, 0.0129, 0.0022, 0.0045]


def test_the_rule_is_the_documented_one():
    labels = twelve_bits.rule()
    assert labels.sum() == twelve_bits.NUM_ONES
    assert np.flatnonzero(labels).sum() == 5_274_486
    coefficients = hadamard(4096) @ (1.0 - 2 * labels) / 4096
    order = twelve_bits.all_patterns().sum(1)
    energy = np.bincount(order, coefficients**2)
    np.testing.assert_allclose(energy, ENERGY, atol=5.1e-5)


def test_the_rule_is_not_the_same_read_backwards(monkeypatch):
    """As it would be with the points half a step apart from the poles: labels would leak."""
    reverse = twelve_bits.all_patterns()[:, ::-1] @ (1 << np.arange(12)[::-1])
    labels = twelve_bits.rule()
    assert (labels[reverse] != labels).mean() > 0.01
    monkeypatch.setattr(twelve_bits, "_OFFSET", 0.5)
    labels = twelve_bits.rule()
    np.testing.assert_array_equal(labels[reverse], labels)


def test_train_and_test_are_all_patterns():
    dataset = data.szt(seed=3)
    inputs = np.concatenate([dataset.train_inputs, dataset.test_inputs])
    assert dataset.train_inputs.shape == (3277, 12)
    assert len(np.unique(inputs, axis=0)) == 4096
    places = (inputs @ (1 << np.arange(12)[::-1])).astype(int)
    targets = np.concatenate([dataset.train_targets, dataset.test_targets])
    np.testing.assert_array_equal(targets, twelve_bits.rule()[places])
    assert data.szt(seed=4).checksum != dataset.checksum == data.szt(seed=3).checksum


@pytest.fixture
def original(tmp_path):
    """What the authors' file looks like, with labels of our own."""
    labels = np.roll(twelve_bits.rule(), 7).astype(np.uint8)
    path = tmp_path / "var_u.mat"

    def write(**changes):
        content = {"F": twelve_bits.all_patterns().astype(np.uint8), "y": labels[None]} | changes
        io.savemat(path, {k: v for k, v in content.items() if v is not None})
        return path, labels

    return write


def test_labels_come_from_the_file_where_there_is_one(original):
    path, labels = original()
    dataset = data.szt(path)
    places = (dataset.train_inputs @ (1 << np.arange(12)[::-1])).astype(int)
    np.testing.assert_array_equal(dataset.train_targets, labels[places])
    assert dataset.name == "szt"
    assert data.szt().name == "szt_rule"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, "path must be a MATLAB file with F and y"),
        ({"F": twelve_bits.all_patterns()[::-1]}, "F in path must be the 4096 patterns"),
        ({"y": np.zeros((1, 4096))}, "2118 of them 1, got .* with 0"),
        ({"y": np.zeros((1, 12))}, r"y in path must be 4096 labels .* got \(12,\)"),
    ],
)
def test_another_file_is_refused(original, changes, message):
    path, _ = original(**changes)
    with pytest.raises(ValueError, match=message):
        data.szt(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be a file that exists, got"):
        data.szt(tmp_path / "nowhere.mat")
    (tmp_path / "text.mat").write_text("no MATLAB " * 100)
    with pytest.raises(ValueError, match="path must be a MATLAB file with F and y"):
        data.szt(tmp_path / "text.mat")

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from iw_jax.data import load, prepared, subset

NOISELESS = """
import sys
from iw_jax.data import load
load("mnist", data_dir=sys.argv[1], num_examples=5, num_test_examples=5)
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [("mnist", (28, 28, 1), (60_000, 10_000)), ("cifar10", (32, 32, 3), (50_000, 10_000))],
)
def test_a_few_records_of_the_real_sets(tfds_dir, name, shape, sizes):
    source = prepared.source(name, tfds_dir)
    assert (source.train.size, source.test.size) == sizes
    few = load(name, data_dir=tfds_dir, num_examples=1500, num_test_examples=10)
    assert few.train_inputs.shape == (1500, *shape)
    assert few.test_inputs.shape == (10, *shape)
    # Scaled by the moments of the whole set: those of 1,500 images differ by a few per cent.
    channels = few.train_inputs.reshape(-1, shape[-1])
    np.testing.assert_allclose(channels.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(channels.std(0), 1, atol=0.05)
    assert np.bincount(few.train_targets).min() > 100


def test_a_direct_draw_is_the_subset_of_a_larger_one(tfds_dir):
    large = load("mnist", data_dir=tfds_dir, num_examples=200, num_test_examples=10, seed=2)
    small = load("mnist", data_dir=tfds_dir, num_examples=30, num_test_examples=10, seed=2)
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:30])
    np.testing.assert_array_equal(small.train_targets, large.train_targets[:30])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_whole_set_has_the_moments_that_are_written_down(tfds_dir, name):
    whole = load(name, data_dir=tfds_dir)
    channels = whole.train_inputs.reshape(-1, whole.train_inputs.shape[-1])
    # Four printed digits of the moments, and for cifar10 a copy that went through JPEG.
    np.testing.assert_allclose(channels.mean(0, dtype=float), 0, atol=1e-3)
    np.testing.assert_allclose(channels.std(0, dtype=float), 1, atol=1e-2)
    direct = load(name, data_dir=tfds_dir, num_examples=100, seed=1)
    assert direct.checksum == subset(whole, 100, seed=1).checksum


def test_reading_is_silent_and_without_tensorflow(tfds_dir):
    done = subprocess.run(
        [sys.executable, "-c", NOISELESS, str(tfds_dir)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_is_said_at_once(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(prepared, "answers", lambda _: False)
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda _: None)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        load("fashion_mnist", data_dir=tmp_path)
    assert time.monotonic() - start < 10
    message = str(caught.value)
    for part in (
        "'fashion_mnist' is not prepared in",
        str(tmp_path),
        "TensorFlow is not installed",
        "the network does not reach http://fashion-mnist",
        "--data-dir PATH",
        "pip install -e '.[prepare]'",
    ):
        assert part in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_with_tensorflow_and_a_network_it_is_prepared_for_reading_without(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    asked = []

    def download_and_prepare(builder, **options):
        asked.append((builder.name, options))
        raise KeyboardInterrupt  # as if stopped by the user: nothing is written

    monkeypatch.setattr(prepared, "answers", lambda _: True)
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare)
    with pytest.raises(KeyboardInterrupt):
        load("mnist", data_dir=tmp_path)
    assert asked == [("mnist", {"file_format": "array_record"})]


def test_a_format_that_needs_tensorflow_is_named(tfds_dir, tmp_path):
    origin = tfds_dir / "mnist" / "3.0.1"
    copy = tmp_path / "mnist" / "3.0.1"
    copy.mkdir(parents=True)
    shutil.copy(origin / "features.json", copy)
    info = json.loads((origin / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match=r"is prepared as tfrecord.*only array_record can"):
        load("mnist", data_dir=tmp_path)


def test_a_package_that_is_not_installed_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "importlib_resources", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package 'importlib_resources'.*exp"):
        load("mnist", data_dir=tmp_path)

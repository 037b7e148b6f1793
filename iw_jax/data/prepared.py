"""Image sets that TensorFlow Datasets has prepared, read without TensorFlow.

TFDS writes a data set once, which needs TensorFlow and the network; `tfds.data_source` over
`array_record` files then reads single records by index and imports no TensorFlow.
"""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iw_jax.data.network import answers
from iw_jax.data.packages import missing_package
from iw_jax.data.source import Source, Split


class _Facts(NamedTuple):
    """What is fixed for a set: moments of its training pixels in [0, 1], where it comes from."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str


# Moments over all training pixels, per channel. Constants instead of the moments of the examples
# read: so an example looks the same whatever subset it comes in.
FACTS = {
    "mnist": _Facts((0.1307,), (0.3081,), "https://storage.googleapis.com"),
    "fashion_mnist": _Facts(
        (0.2860,), (0.3530,), "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    ),
    "cifar10": _Facts(
        (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "https://www.cs.toronto.edu"
    ),
}

_CHUNK = 4096


def source(name: str, data_dir: Path | None) -> Source:
    """Opens the prepared data set, and prepares it first where that is possible.

    Args:
      name: one of `FACTS`.
      data_dir: the folder that holds TFDS data sets; None is TFDS' own default.

    Raises:
      ModuleNotFoundError: if tensorflow-datasets or what it needs is not installed.
      FileNotFoundError: if the set is not prepared and cannot be prepared here.
      ValueError: if it is prepared in a format that needs TensorFlow to be read.
    """
    with _quiet():
        try:
            # tfds 4.9.10 needs importlib_resources and does not say so on Python >= 3.9.
            import importlib_resources  # noqa: F401
            import tensorflow_datasets as tfds
        except ModuleNotFoundError as error:
            raise missing_package(name, error) from error
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            _check_can_prepare(name, builder.data_dir)
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            _prepare(builder, tfds)
        facts = FACTS[name]
        return Source(
            train=_split(builder, "train", name),
            test=_split(builder, "test", name),
            num_classes=builder.info.features["label"].num_classes,
            white=255.0,
            mean=facts.mean,
            std=facts.std,
        )


def _check_can_prepare(name: str, folder: str) -> None:
    missing = []
    # find_spec, because importing TensorFlow takes longer than the whole answer may.
    if importlib.util.find_spec("tensorflow") is None:
        missing.append("TensorFlow is not installed (needed once to prepare, never to read)")
    origin = FACTS[name].origin
    if not answers(origin):
        missing.append(f"the network does not reach {origin}")
    if missing:
        raise FileNotFoundError(
            f"{name!r} is not prepared in {folder}, and it cannot be prepared here: "
            f"{' and '.join(missing)}. Either point to a folder that holds it prepared with "
            "`--data-dir PATH` (`data_dir=` in Python), or, on a machine with network access, "
            "run `pip install -e '.[prepare]'` and then this again. The data set 'digits' "
            "needs neither."
        )


def _prepare(builder: Any, tfds: Any) -> None:
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(file_format="array_record")
    finally:
        tfds.enable_progress_bar()


def _split(builder: Any, split: str, name: str) -> Split:
    try:
        records = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise ValueError(
            f"{name!r} in {builder.data_dir} is prepared as {builder.info.file_format.value}, "
            "which cannot be read without TensorFlow; only array_record can. Give another "
            "folder with `--data-dir PATH`"
        ) from error
    shape = builder.info.features["image"].shape

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.empty((len(indices), *shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        with _quiet():
            for start in range(0, len(indices), _CHUNK):
                # Many records a call: 2.4 times as fast as one by one.
                chunk = records.__getitems__(indices[start : start + _CHUNK].tolist())
                for offset, record in enumerate(chunk, start):
                    pixels[offset], labels[offset] = record["image"], record["label"]
        return pixels, labels

    return Split(len(records), read)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS' advice (OpenCV, folders it looked into) from the terminal, errors excepted."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

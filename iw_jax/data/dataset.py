"""The one object that this package hands out: inputs and class labels, train and test."""

import dataclasses
import functools
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory, checked once when it is made.

    The arrays are kept as read-only views, so that `checksum` stays true. To exchange one of
    them: `dataclasses.replace(dataset, train_targets=...)`.

    Attributes:
      name: what it is called in tables and file names.
      train_inputs: (N, ...) float32; images are (N, H, W, C).
      train_targets: (N,) int32, class labels in 0 .. num_classes - 1.
      test_inputs: (M, ...) float32, each of the shape of a training input; M may be 0.
      test_targets: (M,) int32.
      num_classes: K, at least 2.

    Raises:
      ValueError: if a dtype, a shape or a length does not fit, an input is not finite, or a
        label is out of range.
    """

    name: str
    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    num_classes: int

    def __post_init__(self):
        """Checks every array and replaces it by a read-only view of itself."""
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")
        for split in ("train", "test"):
            inputs, targets = f"{split}_inputs", f"{split}_targets"
            _check_inputs(inputs, getattr(self, inputs))
            _check_targets(targets, getattr(self, targets), self.num_classes)
            lengths = len(getattr(self, inputs)), len(getattr(self, targets))
            if lengths[0] != lengths[1]:
                raise ValueError(
                    f"{targets} must have one label for each of the {lengths[0]} {inputs}, "
                    f"got {lengths[1]}"
                )
        if len(self.train_inputs) == 0:
            raise ValueError("train_inputs must hold at least one example, got 0")
        if self.train_inputs.shape[1:] != self.test_inputs.shape[1:]:
            raise ValueError(
                f"test_inputs must have shape (M, *{self.train_inputs.shape[1:]}) like "
                f"train_inputs, got {self.test_inputs.shape}"
            )
        for field in _ARRAYS:
            view = getattr(self, field).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    @functools.cached_property
    def checksum(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the four arrays, their names and shapes.

        The same arrays give the same digits on every machine; `name` does not enter.
        """
        digest = hashlib.sha256()
        for field in _ARRAYS:
            array = getattr(self, field)
            little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{field} {array.dtype.name} {array.shape};".encode())
            digest.update(little_endian.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()[:16]


_ARRAYS = ("train_inputs", "train_targets", "test_inputs", "test_targets")


def _check_inputs(field: str, inputs: np.ndarray) -> None:
    if not isinstance(inputs, np.ndarray) or inputs.dtype != np.float32 or inputs.ndim < 2:
        raise ValueError(f"{field} must be a float32 NumPy array (N, ...), got {_describe(inputs)}")
    finite = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1) if len(inputs) else True
    if not np.all(finite):
        raise ValueError(f"{field} must be finite, got NaN or inf in example {np.argmin(finite)}")


def _check_targets(field: str, targets: np.ndarray, num_classes: int) -> None:
    if not isinstance(targets, np.ndarray) or targets.dtype != np.int32 or targets.ndim != 1:
        raise ValueError(f"{field} must be an int32 NumPy array (N,), got {_describe(targets)}")
    outside = (targets < 0) | (targets >= num_classes)
    if outside.any():
        where = int(np.argmax(outside))
        raise ValueError(
            f"{field} must lie in 0 .. {num_classes - 1}, got {targets[where]} in example {where}"
        )


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__

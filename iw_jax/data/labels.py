"""Labels that carry no, or less, information about the inputs."""

import math

import numpy as np

from iw_jax.data.seeds import generator


def random_labels(
    seed: int | np.random.Generator, num_examples: int, num_classes: int
) -> np.ndarray:
    """Independent labels, uniform over the classes: num_examples * log(num_classes) nats.

    Args:
      seed: a non-negative integer, or a generator, which is advanced. For one integer the
        labels of fewer examples are the first ones of the labels of more.
      num_examples: N, at least 1.
      num_classes: K, at least 2.

    Returns:
      (N,) int32 in 0 .. K - 1.

    Raises:
      ValueError: if a count is too small, or `seed` neither a generator nor a non-negative
        integer.
    """
    if num_examples < 1:
        raise ValueError(f"num_examples must be at least 1, got {num_examples}")
    _check_num_classes(num_classes)
    rng = seed if isinstance(seed, np.random.Generator) else generator(seed, "random labels")
    return rng.integers(num_classes, size=num_examples).astype(np.int32)


def corrupt_labels(targets: np.ndarray, fraction: float, num_classes: int, seed: int) -> np.ndarray:
    """Labels of which round(fraction * N) are replaced by draws uniform over ALL classes.

    A draw may give the true label again, so about fraction * (1 - 1/K) of the labels change,
    and fraction 1 gives labels that are independent of the inputs. (Python's `round`: a half
    goes to the even number.)

    Nested: for one seed the examples corrupted at 0.2 are among those corrupted at 0.4, and
    carry the same new labels there.

    Args:
      targets: (N,) integers in 0 .. K - 1; not changed.
      fraction: share of the examples, in [0, 1].
      num_classes: K, at least 2.
      seed: a non-negative integer.

    Returns:
      (N,) int32.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Zhang, Bengio, Hardt, Recht & Vinyals, arXiv:1611.03530, Sec. 2 ("partially corrupted
      labels"; there each label is replaced with a probability, here the number is exact).
    """
    targets = np.asarray(targets)
    _check_num_classes(num_classes)
    if not (math.isfinite(fraction) and 0 <= fraction <= 1):
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"targets must be integers of shape (N,), got {targets.dtype} of {targets.shape}"
        )
    if targets.size and (targets.min() < 0 or targets.max() >= num_classes):
        raise ValueError(
            f"targets must lie in 0 .. {num_classes - 1}, got {targets.min()} .. {targets.max()}"
        )
    # Order and new labels are drawn for all N examples whatever the fraction: hence the nesting.
    order = generator(seed, "which labels").permutation(targets.size)
    drawn = generator(seed, "new labels").integers(num_classes, size=targets.size)
    chosen = order[: round(fraction * targets.size)]
    corrupted = targets.astype(np.int32)
    corrupted[chosen] = drawn[chosen]
    return corrupted


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")

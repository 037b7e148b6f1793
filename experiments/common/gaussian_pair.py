"""Jointly Gaussian X and Y, whose every information is known: Y = w·X + N(0, 1), X ~ N(0, I)."""

import math

import numpy as np

from iw_jax import data

SIZE = 10  # features of X
NATS = 1.38  # I(X; Y)
SNR = math.expm1(2 * NATS)  # |w|², since the noise has unit variance
NUM_TRAIN, NUM_TEST = 4000, 1000
TARGET_ENTROPY = (math.log(2 * math.pi * math.e) + 2 * NATS) / 2  # h(Y), nats


def load(num_examples: int, seed: int) -> data.Dataset:
    """Inputs, with the sign of the target as class."""
    sizes = {"train": num_examples or NUM_TRAIN, "test": NUM_TEST}
    drawn = [
        np.random.default_rng((seed, i)).normal(size=(size, SIZE)).astype(np.float32)
        for i, size in enumerate(sizes.values())
    ]
    signs = [np.int32(targets(x, seed, part) > 0) for x, part in zip(drawn, sizes, strict=True)]
    return data.Dataset("gaussian", drawn[0], signs[0], drawn[1], signs[1], num_classes=2)


def targets(x: np.ndarray, seed: int, part: str) -> np.ndarray:
    """Y of the first inputs of a part, train or test; real numbers."""
    noise = np.random.default_rng((seed, 2 + (part == "test"))).normal(size=len(x))
    return x.astype(float) @ np.full(SIZE, math.sqrt(SNR / SIZE)) + noise

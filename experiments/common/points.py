"""Points in the plane, two classes: two spiral arms, one the other turned by half a turn."""

import numpy as np

from iw_jax import data

NUM_TRAIN, NUM_TEST = 1000, 1000
TURNS, NOISE = 0.75, 0.08  # of an arm; standard deviation of a point around it, the arm's end at 2


def load() -> data.Dataset:
    """1,000 training and 1,000 test points (N, 2), the same ones always."""
    rng = np.random.default_rng(1905)
    count = NUM_TRAIN + NUM_TEST
    targets = rng.integers(2, size=count).astype(np.int32)
    along = np.sqrt(rng.uniform(0.02, 1, size=count))  # as many points a unit of length
    angle = 2 * np.pi * TURNS * along + np.pi * targets
    inputs = 2 * along * np.stack([np.cos(angle), np.sin(angle)]) + NOISE * rng.normal(
        size=(2, count)
    )
    inputs = np.float32(inputs.T)
    train, test = slice(NUM_TRAIN), slice(NUM_TRAIN, None)
    return data.Dataset(
        "points", inputs[train], targets[train], inputs[test], targets[test], num_classes=2
    )

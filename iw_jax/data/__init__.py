"""Data sets for the experiments: plain NumPy out, seeded, nothing global.

Importing this package reads no file and imports neither scikit-learn nor TensorFlow Datasets.
"""

from iw_jax.data.crop import central_crop
from iw_jax.data.dataset import Dataset
from iw_jax.data.labels import corrupt_labels, random_labels
from iw_jax.data.loading import NAMES, load
from iw_jax.data.nuisances import occlude
from iw_jax.data.pooling import average_pool
from iw_jax.data.subsets import subset
from iw_jax.data.twelve_bits import szt

__all__ = [
    "NAMES",
    "Dataset",
    "average_pool",
    "central_crop",
    "corrupt_labels",
    "load",
    "occlude",
    "random_labels",
    "subset",
    "szt",
]

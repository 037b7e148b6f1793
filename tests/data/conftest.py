"""Where the prepared copies of the TFDS sets are, if this machine has them."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tfds"


@pytest.fixture(scope="session")
def tfds_dir() -> Path:
    folder = Path(os.environ.get("IW_DATA_DIR", SHARED))
    pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    if not folder.is_dir():
        pytest.skip("no prepared TFDS sets: set IW_DATA_DIR, or put them in ../shared/data/tfds")
    return folder

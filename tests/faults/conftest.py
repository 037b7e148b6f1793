"""The run that nothing happens to, and the same command after a fault."""

import shutil
import time

import pytest

from tests.faults import processes


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """What the sweep compiles, so that the runs below do not have to."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, programs):
    """What the run finds that nothing happens to, and the seconds from its folder to its end."""
    place = tmp_path_factory.mktemp("unbroken")
    for name in ("compiling", "compiled"):
        sweep = processes.Sweep(place / name, programs)
        process = sweep.start()
        processes.until(process, (sweep.folder / "config.json").exists)
        start = time.monotonic()
        status, said = processes.ended(process)
        assert status == 0, said
    return sweep.numbers(), time.monotonic() - start


@pytest.fixture
def sweep(tmp_path, programs, unbroken):  # noqa: ARG001  (which compiles the programs)
    return processes.Sweep(tmp_path / "results", shutil.copytree(programs, tmp_path / "programs"))


@pytest.fixture
def goes_on(sweep, unbroken):
    """Gives the same command again: it must end as if nothing had happened."""

    def check():
        status, said = sweep.run()
        assert status == 0, said
        assert "Traceback" not in said, said
        assert sweep.numbers() == unbroken[0]
        return said

    return check

"""The fault table: a run meets a fault, then the same command is given again.

Each test is a row, its name the fault and what must happen. docs/experiments.md has the same table
for readers. `make faults` runs it; faults that a kernel will not make here are skipped, and say so.
"""

import contextlib
import os
import random
import resource
import signal
import stat
import subprocess
import threading
import time

import pytest

from tests.experiments import tiny
from tests.faults import processes

pytestmark = pytest.mark.faults

KILLS = 20
_draw = random.Random(KILLS)
MOMENTS = [_draw.random() for _ in range(KILLS)]  # parts of a run's time


def mishap(status, said):
    """One paragraph, no traceback, and a status that says that it failed."""
    assert status == 1, said
    assert "Traceback" not in said, said
    paragraph = said.rsplit("\nerror: ", 1)[1]
    assert paragraph.strip().count("\n") == 0, paragraph
    return paragraph


@pytest.mark.parametrize("moment", MOMENTS, ids="{:.3f}".format)
def test_kill_9_at_a_random_moment_and_the_run_goes_on_to_the_same_bytes(
    moment, sweep, goes_on, unbroken
):
    sweep.killed_after(moment * unbroken[1])
    goes_on()


def test_sigterm_finishes_the_round_saves_and_exits_with_143(sweep, goes_on):
    process = sweep.start()
    processes.until(process, sweep.steps_saved)
    before = max(sweep.steps_saved())
    process.send_signal(signal.SIGTERM)
    status, said = processes.ended(process)
    assert status == 143, said
    assert "stopped by SIGTERM; the same command goes on from the last checkpoint" in said
    assert "Traceback" not in said
    assert max(sweep.steps_saved()) > before, "the round under way was not saved"
    goes_on()


@pytest.mark.parametrize("damage", tiny.DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_with_a_warning(
    damage, sweep, goes_on
):
    process = sweep.start()
    processes.until(process, lambda: len(sweep.steps_saved()) > 1)
    process.kill()
    processes.ended(process)
    *_, before, newest = sweep.steps_saved()
    damage(tiny.files_of(sweep.training / str(newest)))
    said = goes_on()
    assert f"is damaged; going on from step {before}" in said


def test_nan_in_training_names_the_step_and_keeps_the_checkpoints(sweep, goes_on):
    status, said = sweep.run("iw.sweep_step = tiny.poisoned(iw.sweep_step, 23)")
    assert "at step 231 of 400" in mishap(status, said)
    assert sweep.steps_saved()
    goes_on()


@pytest.fixture
def small_disk(sweep):
    """The results are on a disk of two megabytes."""
    sweep.place.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            disk = processes.mounted(sweep.place, "-t", "tmpfs", "-o", "size=2m", "none")
            stack.enter_context(disk)
        except (PermissionError, FileNotFoundError) as error:
            pytest.skip(f"no disk can be mounted: {error}")
        yield sweep.place


def fill(disk):
    """Writes until nothing more fits."""
    with open(disk / "filler", "ab", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(256))


def keep_full(disk, process):
    """Fills what a running process makes room for, too."""
    while process.poll() is None:
        fill(disk)
        time.sleep(0.01)


def test_a_full_disk_is_told_before_anything_is_computed(small_disk, sweep, goes_on):
    fill(small_disk)
    status, said = sweep.run("beta_sweep.run = None")
    assert "No space left on device" in mishap(status, said)
    (small_disk / "filler").unlink()
    goes_on()


def test_a_disk_that_fills_up_costs_checkpoints_then_the_results_with_an_error(
    small_disk, sweep, goes_on
):
    process = sweep.start()
    processes.until(process, sweep.steps_saved)
    filling = threading.Thread(target=keep_full, args=(small_disk, process))
    filling.start()
    status, said = processes.ended(process)
    filling.join()
    assert said.count("no checkpoint could be saved") == 1, said
    assert "make room, then give the same command again" in mishap(status, said)
    assert sweep.steps_saved(), "what was saved before is lost"
    (small_disk / "filler").unlink()
    goes_on()


def test_files_that_cannot_grow_cost_checkpoints_then_the_results_with_an_error(sweep, goes_on):
    """A quota, or a full disk as a user without rights can make it."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("this system limits no other process")
    process = sweep.start()
    processes.until(process, sweep.steps_saved)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
    status, said = processes.ended(process)
    assert said.count("no checkpoint could be saved") == 1, said
    assert "File too large" in mishap(status, said)
    goes_on()


@pytest.fixture
def read_only():
    """Makes a folder one that cannot be written; the superuser is bound by mounts alone."""
    with contextlib.ExitStack() as stack:

        def lock(folder):
            if os.geteuid():
                mode = folder.stat().st_mode
                folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
                stack.callback(folder.chmod, mode)
                return
            try:
                stack.enter_context(processes.mounted(folder, "--bind", str(folder)))
            except (PermissionError, FileNotFoundError) as error:
                pytest.skip(f"no folder can be made read-only: {error}")
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)

        yield lock, stack.close


def test_a_read_only_folder_is_told_before_anything_is_computed(sweep, goes_on, read_only):
    process = sweep.start()
    processes.until(process, sweep.steps_saved)
    process.kill()
    processes.ended(process)
    lock, unlock = read_only
    lock(sweep.folder)
    status, said = sweep.run("beta_sweep.run = None")
    assert "cannot be written" in mishap(status, said)
    unlock()
    goes_on()

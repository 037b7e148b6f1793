"""Runs of the smallest sweep as users start them, each in a process of its own."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from experiments.common.results import Folder
from tests.experiments import tiny

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds; a run takes ten, to miss a process a hundred
# Checkpoints as often as they can be written, so that a fault meets one at any moment; no figure,
# which would take longer than the rest. A fault that is in the program is one more line.
PROGRAM = """
import jax
import matplotlib.pyplot as plt
import iw_jax as iw
from experiments import beta_sweep
from experiments.common import checkpoint, command
from experiments.common.results import Folder
from tests.experiments import tiny
checkpoint.SECONDS_BETWEEN, checkpoint.LARGEST_SHARE = 0, float("inf")
beta_sweep.plot = lambda *_: plt.figure()
if jax.config.jax_enable_x64:
    beta_sweep.load = tiny.in_double_precision(beta_sweep.load)
{fault}
command.main("experiments.beta_sweep")
"""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One results folder, and the command that fills it.

    Attributes:
      place: what `--results-dir` names.
      programs: compiled programs; a copy of its own, since a kill may leave half of one behind.
      x64: whether to compute in double precision.
    """

    place: Path
    programs: Path
    x64: bool = False

    @property
    def folder(self):
        return self.place / "beta_sweep" / "tiny"

    @property
    def training(self):
        return self.folder / "checkpoints" / "training"

    def start(self, fault="", flags=(), devices=1):
        words = ["--preset", "quick", *tiny.FLAGS, "--results-dir", str(self.place), *flags]
        own = {
            "JAX_COMPILATION_CACHE_DIR": str(self.programs),
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_ENABLE_X64": str(int(self.x64)),
        }
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(fault=fault), *words, "--name", "tiny"],
            cwd=ROOT,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, fault=""):
        """Runs the command to its end: (exit status, what it said)."""
        return ended(self.start(fault))

    def start_together(self, count, flags=((), (), (), ())):
        """The run in so many processes on the loopback interface, with flags for each."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{found.getsockname()[1]}"
        run = "--coordinator", coordinator, "--num-processes", str(count), "--process-id"
        return [self.start(flags=(*run, str(i), *flags[i])) for i in range(count)]

    def rows(self):
        """The table that the run wrote."""
        return Folder(self.folder).read_rows("metrics.csv")

    def numbers(self):
        """What the run found, byte for byte."""
        return {n: (self.folder / n).read_bytes() for n in ("metrics.csv", "summary.json")}

    def killed_after(self, seconds):
        """kill -9, so many seconds after the run made its folder; in a shorter run, sooner."""
        process = self.start()
        until(process, (self.folder / "config.json").exists)
        time.sleep(seconds)
        process.kill()
        if ended(process)[0] != -signal.SIGKILL:  # it was there first
            shutil.rmtree(self.folder)
            self.killed_after(seconds / 2)

    def steps_saved(self):
        return sorted(int(p.name) for p in self.training.glob("*") if p.name.isdigit())


def until(process, condition):
    """Waits for what a running process does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, ended(process)
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def ended(process):
    """Waits for the end: (exit status, what it said)."""
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


@contextlib.contextmanager
def mounted(place, *options):
    """A disk of its own at a folder; raises PermissionError where that takes more rights."""
    done = subprocess.run(
        ["mount", *options, str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)

"""Experiments as users run them: float32, real folders, the real command line."""

import importlib
import sys

import jax
import pytest


@pytest.fixture(autouse=True)
def single_precision():
    """Users run in float32; the float64 of the other tests would hide what that does."""
    with jax.enable_x64(False):
        yield


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs `python -m experiments.NAME ...` in this process: (exit status, what it said)."""
    from experiments.common import command

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.setattr(command, "plain_warnings", lambda: None)  # pytest looks at warnings
        status = 0
        try:
            command.main(f"experiments.{name}")
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        text = said.out + said.err
        if isinstance(status, str):
            status, text = 1, text + status
        # A box drawn by tyro breaks lines where it likes.
        return status, " ".join(text.replace("│", " ").split())

    return call


@pytest.fixture
def never_run(monkeypatch):
    """Fails the test if the experiment gets as far as computing something."""

    def forbid(name):
        module = importlib.import_module(f"experiments.{name}")
        monkeypatch.setattr(module, "run", lambda *_: pytest.fail("it started to compute"))

    return forbid

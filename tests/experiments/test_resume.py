"""Stopping a run at any moment, then the same command: the same table, byte for byte."""

import dataclasses
import errno
import os

import jax
import matplotlib.pyplot as plt
import pytest

import iw_jax as iw
from experiments import beta_sweep, curvature
from experiments.common import command, measures, results
from experiments.common.checkpoint import Checkpoints
from iw_jax.curvature import growing
from tests.experiments import tiny


class Stop(BaseException):
    """A stop that no error handling expects."""


@pytest.fixture
def save_every_round(monkeypatch):
    real = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *args, **_: real(*args, force=True))


@pytest.fixture(autouse=True)
def draw_nothing(monkeypatch):
    """The figure takes longer than the rest of so small a run."""
    for experiment in (beta_sweep, curvature):
        monkeypatch.setattr(experiment, "plot", lambda *_: plt.figure())


def run(place, experiment=beta_sweep, config=tiny.CONFIG):
    options = command.Options(results_dir=place, name="tiny")
    return command.execute(experiment, config, options, preset="quick", show_progress=False)


def table(place, experiment="beta_sweep"):
    return (place / experiment / "tiny" / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    place = tmp_path_factory.mktemp("unbroken")
    with jax.enable_x64(False):
        run(place)
    return table(place)


def stop_at(monkeypatch, holder, name, call, error=Stop):
    """The `call`-th call of `holder.name` raises."""
    real, calls = getattr(holder, name), []

    def stopping(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(holder, name, stopping)
    return calls


@pytest.mark.parametrize(
    ("holder", "name", "call"),
    [
        (iw, "sweep_step", 7),
        (measures, "accuracies", 1),
    ],
)
def test_a_stopped_run_ends_with_the_same_table(
    holder, name, call, unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_at(patch, holder, name, call)
        with pytest.raises(Stop):
            run(tmp_path)
    folder = run(tmp_path)
    assert table(tmp_path) == unbroken
    assert not (folder.path / "checkpoints").exists()


def test_rounds_and_fisher_values_are_not_computed_twice(unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, iw, "fisher_iw", 3)
        with pytest.raises(Stop):
            run(tmp_path)
    steps = stop_at(monkeypatch, iw, "sweep_step", 0)
    fishers = stop_at(monkeypatch, iw, "fisher_iw", 0)
    run(tmp_path)
    assert len(steps) == 0
    assert len(fishers) == 2 * len(tiny.CONFIG.betas) - 2
    assert table(tmp_path) == unbroken


def test_a_full_disk_at_the_end_costs_no_training(unbroken, tmp_path, monkeypatch):
    real = os.replace

    def full(source, target):
        if str(target).endswith("metrics.csv"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(results.ResultsError, match=r"No space left.*make room"):
            run(tmp_path)
    left = {p.name for p in (tmp_path / "beta_sweep" / "tiny").iterdir()}
    assert left == {"config.json", "checkpoints", "partial"}, "half a file is left behind"
    steps = stop_at(monkeypatch, iw, "sweep_step", 0)
    run(tmp_path)
    assert not steps
    assert table(tmp_path) == unbroken


@pytest.mark.slow
@pytest.mark.usefixtures("save_every_round")
def test_a_nan_in_training_names_the_step_and_keeps_the_checkpoints(
    unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(iw, "sweep_step", tiny.poisoned(iw.sweep_step, 2))
        with pytest.raises(FloatingPointError, match=r"at step 21 of 400.*lower the learning rate"):
            run(tmp_path)
    steps = stop_at(monkeypatch, iw, "sweep_step", 0)
    run(tmp_path)
    assert len(steps) == 38, "the two good rounds were saved"
    assert table(tmp_path) == unbroken


@pytest.mark.slow
@pytest.mark.usefixtures("save_every_round")
def test_a_truncated_checkpoint_costs_one_round_and_is_told(unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, iw, "sweep_step", 7)
        with pytest.raises(Stop):
            run(tmp_path)
    saved = tmp_path / "beta_sweep" / "tiny" / "checkpoints" / "training"
    assert sorted(p.name for p in saved.iterdir() if p.is_dir()) == ["50", "60"]
    tiny.truncate(tiny.files_of(saved / "60"))
    steps = stop_at(monkeypatch, iw, "sweep_step", 0)
    with pytest.warns(UserWarning, match="damaged; going on from step 50"):
        run(tmp_path)
    assert len(steps) == 35
    assert table(tmp_path) == unbroken


@pytest.mark.slow
@pytest.mark.usefixtures("save_every_round")
def test_training_steps_and_curvature_products_are_not_computed_twice(tmp_path, monkeypatch):
    config = dataclasses.replace(
        curvature.PRESETS["quick"],
        num_examples=60,
        widths=(5,),
        num_steps=8,
        num_matvecs=60,
        rtol=0.01,
    )
    blocks = stop_at(monkeypatch, growing, "step", 0)
    run(tmp_path / "unbroken", curvature, config)
    expected, whole = table(tmp_path / "unbroken", "curvature"), len(blocks)

    with monkeypatch.context() as patch:
        stop_at(patch, growing, "step", 5)
        with pytest.raises(Stop):
            run(tmp_path, curvature, config)
    blocks.clear()
    steps = stop_at(monkeypatch, iw, "nll", 0)  # traced in the first training step
    run(tmp_path, curvature, config)
    assert not steps
    assert len(blocks) == whole - 4
    assert table(tmp_path, "curvature") == expected

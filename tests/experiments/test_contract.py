"""What every experiment promises, whatever it measures."""

import importlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.common import command, cost
from experiments.common.config import TrainingConfig

ROOT = Path(__file__).parents[2]
NAMES = sorted(p.stem for p in (ROOT / "experiments").glob("[!_]*.py"))
# The others' quick runs are slow tests: they share all but their settings with one of these, or
# compile for as long as the tests of the library that they call.
QUICK = ("zigzag",)
RUN = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
# Of each kind of run one; the others differ in what they count.
REHEARSED = ("beta_sweep", "noisy_szt", "zigzag")
REHEARSE = [n if n in REHEARSED else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
FILES = {"config.json", "metrics.csv", "summary.json", "manifest.json", "figure.png", "figure.pdf"}
# Of one weight or two, or with next to no training in it: nothing to estimate.
WITHOUT_NETWORKS = (
    "bottleneck",
    "escape",
    "fisher_features",
    "one_neuron",
    "smoothed_entropy",
    "wide",
    "zigzag",
)
# Columns that may be nan: the Fisher code is Gaussian and has no log-normal counterpart.
MAY_BE_NAN = ("fisher_",)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """name -> (module, config, options, finished folder) of its quick run, made once."""
    finished = {}

    def run(name):
        if name not in finished:
            module = importlib.import_module(f"experiments.{name}")
            config = module.PRESETS["quick"]
            options = command.Options(results_dir=tmp_path_factory.mktemp(name))
            with jax.enable_x64(False):
                folder = command.execute(
                    module, config, options, preset="quick", show_progress=False
                )
            finished[name] = module, config, options, folder
        return finished[name]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_it_exposes_the_protocol(name):
    module = importlib.import_module(f"experiments.{name}")
    for part in ("load", "run", "check", "summarize", "table", "plot"):
        assert callable(getattr(module, part)), part
    assert set(module.PRESETS) == {"quick", "default", "paper"}
    assert all(isinstance(c, module.Config) for c in module.PRESETS.values())
    assert module.PRESETS["default"] == module.Config()
    assert module.__doc__.split("\n")[0].endswith(".")


def test_importing_them_computes_nothing_and_leaves_no_file(tmp_path):
    program = (
        "import importlib, sys\n"
        f"for name in {NAMES}: importlib.import_module('experiments.' + name)\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was started'\n"
        "for heavy in ('matplotlib', 'orbax', 'tyro', 'tensorflow', 'tensorflow_datasets'):\n"
        "    assert heavy not in sys.modules, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_help_names_every_setting_with_its_meaning(name, command_line):
    status, text = command_line(name, "--help")
    assert status == 0
    module = importlib.import_module(f"experiments.{name}")
    assert f"python -m experiments.{name}" in text
    assert module.__doc__.split("\n")[0] in text
    assert "--preset {quick,default,paper}" in text
    for setting in (*vars(module.Config()), "data_dir", "results_dir", "name", "overwrite"):
        assert re.search(rf"--{setting.replace('_', '-')}\b", text), setting


@pytest.mark.parametrize("name", REHEARSE)
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    name, command_line, never_run, monkeypatch, tmp_path
):
    never_run(name)
    monkeypatch.setattr(cost, "measured_rate", lambda _: 1e9)
    arguments = ["--dry-run", "--preset", "quick", "--results-dir", tmp_path]
    status, text = command_line(name, *arguments)
    assert status == 0, text
    assert f"experiment: {name}, preset quick" in text
    assert f"{jax.device_count()} x cpu" in text
    assert f"{tmp_path}/{name}/quick, where there is no run yet" in text
    estimated = re.search(r"weights, .* steps of .* examples: .* FLOP, .* FLOP/s", text)
    assert bool(estimated) == (name not in WITHOUT_NETWORKS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", RUN)
def test_a_quick_run_passes_its_own_checks_and_leaves_its_files(name, quick):
    _, config, _, folder = quick(name)
    assert {p.name for p in folder.path.iterdir()} == FILES
    assert all(p.stat().st_size > 0 for p in folder.path.iterdir())
    failed = [c for c in folder.read_json("summary.json")["checks"] if not c["passed"]]
    assert not failed
    manifest = folder.read_json("manifest.json")
    assert manifest["root_seed"] == config.seed
    assert {"command", "devices", "versions", "git", "seconds", "data"} <= set(manifest)


@pytest.mark.parametrize("name", RUN)
def test_the_summary_is_strict_json(name, quick):
    def forbid(constant):
        pytest.fail(f"{constant} is not JSON")

    folder = quick(name)[-1]
    for file in ("config.json", "summary.json", "manifest.json"):
        json.loads((folder.path / file).read_text(), parse_constant=forbid)


@pytest.mark.parametrize("name", RUN)
def test_the_table_is_tidy(name, quick):
    _, config, _, folder = quick(name)
    rows = folder.read_rows("metrics.csv")
    text = (folder.path / "metrics.csv").read_text().splitlines()
    assert len({line.count(",") for line in text}) == 1
    assert len(set(text)) == len(text), "a cell is told twice"
    if isinstance(config, TrainingConfig):  # a sweep: every member has its rows
        assert {row["beta"] for row in rows} == set(config.betas)
        assert {row["seed"] for row in rows} == set(range(config.num_seeds))
    for row in rows:
        for column, value in row.items():
            if not isinstance(value, str) and not column.startswith(MAY_BE_NAN):
                assert math.isfinite(value), (column, row)
            # Times and places would differ from run to run; they belong to the manifest.
            assert not any(w in column for w in ("time", "second", "date", "host", "path")), column
    for column in rows[0]:
        if "accuracy" in column:
            assert all(0 <= row[column] <= 1 for row in rows)


@pytest.mark.parametrize("name", RUN)
def test_a_finished_run_is_not_repeated(name, quick, monkeypatch):
    module, config, options, folder = quick(name)
    before = {p.name: p.stat().st_mtime_ns for p in folder.path.iterdir()}
    monkeypatch.setattr(module, "run", lambda *_: pytest.fail("it ran again"))
    again = command.execute(module, config, options, preset="quick", show_progress=False)
    assert again == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.path.iterdir()} == before


@pytest.mark.parametrize("name", RUN)
def test_the_report_shows_table_checks_and_paths(name, quick, capsys):
    module, _, _, folder = quick(name)
    command.report(module, folder)
    said = capsys.readouterr().out
    assert module.table(folder.read_rows("metrics.csv")) in said
    assert "pass  " in said
    assert "FAIL" not in said
    assert f"{folder.path}/figure.png" in said

"""Mistakes and mishaps: one paragraph that names the cause and the mend, before any compile."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import beta_by_samples, beta_sweep, corruption, gibbs_limit
from experiments.common import command
from experiments.common.config import TrainingConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--betas", "0", "1"], "betas must be positive, finite and increasing, got (0.0, 1.0)"),
        (["--betas", "-1"], "betas must be positive"),
        (["--betas", "0.1", "nan"], "betas must be positive, finite"),
        (["--betas", "0.1", "inf"], "betas must be positive, finite"),
        (["--betas", "1", "0.1"], "increasing, got (1.0, 0.1)"),
        (["--betas", "0.1", "0.1"], "increasing, got (0.1, 0.1)"),
        (["--betas"], "betas must be positive"),
        (["--initial-noise", "0"], "initial_noise must be positive and finite, got 0.0"),
        (["--learning-rate", "nan"], "learning_rate must be positive and finite, got nan"),
        (["--num-examples", "-3"], "num_examples must be an integer of at least 0, got -3"),
        (["--num-examples", "5000"], "num_examples must be an integer in 1 .. 1437"),
        (["--num-seeds", "0"], "num_seeds must be an integer of at least 1, got 0"),
        (["--num-draws", "1"], "num_draws must be an integer of at least 2, got 1"),
        (["--num-steps", "0"], "num_steps must be an integer of at least 1, got 0"),
        (["--seed", "-1"], "seed must be an integer of at least 0, got -1"),
        (["--widths", "0"], "widths must be at least 1 each, got (0,)"),
        (["--dataset", "cifra"], "dataset must be one of digits, cifar10, fashion_mnist, mnist"),
        (["--network", "mpl"], "network must be one of mlp, small_alexnet, all_cnn, resnet18"),
        (["--code", "dense"], "invalid choice 'dense'"),
        (["--num-exampels", "5"], "--num-examples"),
        (["--dataset", "mnist", "--data-dir", "/no/such/place"], "data_dir must be a folder that"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags, words, command_line, never_run, tmp_path):
    never_run("beta_sweep")
    status, text = command_line(
        "beta_sweep", "--preset", "quick", "--results-dir", tmp_path, *flags
    )
    assert status != 0
    assert words in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir()), "a folder was made for a run that cannot be"


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("certificates", ["--delta", "1"], "delta must lie between 0 and 1, got 1.0"),
        ("certificates", ["--draws-delta", "0.99"], "delta + draws_delta must be below 1"),
        ("certificates", ["--prior-part", "0.9999"], "prior_part must leave examples"),
        ("certificates", ["--side", "0"], "side must be an integer of at least 1, got 0"),
        ("generalization", ["--widths"], "widths must be positive and finite, got ()"),
        ("generalization", ["--noises"], "noises must be at least one in [0, 1), got ()"),
        ("generalization", ["--num-test", "-5"], "num_test must be 0 or at least 2, got -5"),
        ("generalization", ["--num-seeds", "1"], "num_seeds must be an integer of at least 2, got"),
        ("gibbs_limit", ["--codes"], "codes must be at least one of isotropic, diagonal,"),
        ("gibbs_limit", ["--num-chains", "3"], "num_chains must be an integer of at least 4, got"),
        ("gibbs_limit", ["--num-held", "0"], "num_held must be an integer of at least 4, got 0"),
        ("sample_information", ["--beta", "-1"], "beta must be positive and finite, got -1.0"),
        ("sample_information", ["--wrong", "1"], "wrong must lie between 0 and 1, got 1.0"),
        ("sample_information", ["--wrong", "1e-4"], "wrong must leave num_retrained/2 = 10"),
        ("sample_information", ["--num-retrained", "1"], "num_retrained must be an integer of at"),
        ("sample_information", ["--polish-steps", "-3"], "polish_steps must be an integer of at"),
        ("sample_information", ["--dataset", "points"], "dataset must be one of digits, cifar10,"),
        ("corruption", ["--fractions", "0.5"], "fractions must be at least two increasing"),
        ("corruption", ["--fractions", "0", "1.5"], "fractions must be at least two increasing"),
        ("corruption", ["--fractions", "nan", "1"], "fractions must be at least two increasing"),
        ("beta_by_samples", ["--numbers", "0", "9"], "numbers must be positive"),
        ("beta_by_samples", ["--numbers", "90"], "numbers must be at least two"),
        ("beta_by_samples", ["--betas", "1"], "betas must be at least two"),
        ("beta_by_samples", ["--numbers", "90", "2000"], "1 .. 1437"),
        ("batch_size", ["--batches", "20", "200"], "batches must be at most 100, the number of ex"),
        ("class_count", ["--num-examples", "3"], "num_examples must be so large that all 10 cl"),
        ("sgd_pairs", ["--num-examples", "0"], "num_examples must be at least 1, got 0"),
        ("bias_variance", ["--factors", "1"], "factors must be at least two, positive and"),
        ("bias_variance", ["--factors", "1", "0.5"], "factors must be at least two, positive"),
        ("bias_variance", ["--corrupted-fraction", "2"], "corrupted_fraction must be in [0, 1]"),
        ("bias_variance", ["--network", "resnet18"], "network must be mlp or all_cnn, got 'res"),
        ("bias_variance", ["--betas", "1", "2"], "betas must be at least three"),
        ("clusters", ["--sigmas", "0.2", "0.1"], "sigmas must be at least one, increasing, got"),
        ("clusters", ["--dropout", "1"], "dropout must be between 0 and 1, got 1.0"),
        ("clusters", ["--side", "4"], "side must be odd, got 4"),
        ("clusters", ["--num-compared", "5"], "num_compared must be 0 or above 10, got 5"),
        ("clusters", ["--batch-size", "500"], "batch_size must be at most 300, the examples"),
        ("nuisances", ["--network", "all_cnn"], "network must be an mlp with a hidden layer"),
        ("nuisances", ["--num-probed", "3"], "num_probed must be an integer of at least 10, got"),
        ("nuisances", ["--side", "8"], "side must be in 1 .. 7, got 8"),
        ("nuisances", ["--grid", "100"], "grid must be in 2 .. 6, the places of a square of 3"),
        ("nuisances", ["--num-seeds", "1"], "num_seeds must be an integer of at least 2, got 1"),
        ("task_complexity", ["--labels", "real", "real"], "labels must be at least one of real,"),
        ("task_complexity", ["--datasets", "cifra"], "datasets must be at least one of digits,"),
        ("task_complexity", ["--side", "0"], "side must be an integer of at least 1, got 0"),
        ("task_complexity", ["--betas", "0.1", "0.5"], "betas must reach 1, got (0.1, 0.5)"),
    ],
)
def test_the_other_experiments_name_their_own(
    name, flags, words, command_line, never_run, tmp_path
):
    never_run(name)
    status, text = command_line(name, "--preset", "quick", "--results-dir", tmp_path, *flags)
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [beta_sweep, beta_by_samples, corruption])
def test_a_config_made_in_python_is_checked_too(module):
    with pytest.raises(ValueError, match="code must be one of"):
        module.Config(code="dense")
    with pytest.raises(ValueError, match="prior must be one of"):
        module.Config(prior="wide")


def test_a_list_made_in_python_is_checked_too():
    with pytest.raises(ValueError, match="codes must be at least one of isotropic"):
        gibbs_limit.Config(codes=("foo",))


def test_the_common_config_stands_alone():
    assert TrainingConfig(num_steps=5).num_steps == 5


def test_a_set_that_is_not_prepared_is_told_within_ten_seconds(
    command_line, never_run, tmp_path, monkeypatch
):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr("iw_jax.data.prepared.answers", lambda _: False)
    never_run("beta_sweep")
    start = time.monotonic()
    status, text = command_line(
        "beta_sweep", "--dataset", "mnist", "--data-dir", tmp_path, "--results-dir", tmp_path / "r"
    )
    assert status != 0
    assert "'mnist' is not prepared" in text
    assert "--data-dir PATH" in text
    assert time.monotonic() - start < 20  # of which importing TFDS on a busy machine is most


def test_a_file_in_the_way_of_the_results_is_named(command_line, never_run, tmp_path):
    never_run("beta_sweep")
    (tmp_path / "file").write_text("precious")
    status, text = command_line(
        "beta_sweep", "--preset", "quick", "--results-dir", tmp_path / "file" / "below"
    )
    assert status == 1
    assert "cannot be written (Not a directory)" in text
    assert "--results-dir" in text
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place nobody can write to")
def test_an_unwritable_results_folder_is_named(command_line, never_run):
    never_run("beta_sweep")
    status, text = command_line("beta_sweep", "--preset", "quick", "--results-dir", "/proc/iw_jax")
    assert status == 1
    assert "/proc/iw_jax/beta_sweep/quick cannot be written" in text


def test_a_folder_of_another_config_is_left_alone(command_line, never_run, tmp_path):
    never_run("beta_sweep")
    place = tmp_path / "beta_sweep" / "mine"
    place.mkdir(parents=True)
    dataset = beta_sweep.load(beta_sweep.PRESETS["quick"], None)
    theirs = {"experiment": "beta_sweep", "config": {"num_steps": 7}}
    (place / "config.json").write_text(json.dumps({**theirs, "data_checksum": dataset.checksum}))
    (place / "metrics.csv").write_text("precious")
    flags = ["--preset", "quick", "--results-dir", tmp_path, "--name", "mine"]
    status, text = command_line("beta_sweep", *flags)
    assert status == 1
    assert "holds a run of another configuration" in text
    assert "num_steps was 7, now 300" in text
    assert "--overwrite" in text
    assert (place / "metrics.csv").read_text() == "precious"


def test_a_config_file_that_is_no_json_is_named(command_line, never_run, tmp_path):
    never_run("beta_sweep")
    place = tmp_path / "beta_sweep" / "quick"
    place.mkdir(parents=True)
    (place / "config.json").write_text('{"experiment": "be')
    status, text = command_line("beta_sweep", "--preset", "quick", "--results-dir", tmp_path)
    assert status == 1
    assert "config.json cannot be read" in text
    assert "--overwrite" in text


def test_changed_flags_get_a_folder_of_their_own():
    quick = beta_sweep.PRESETS["quick"]
    changed, _, preset = command.parse(beta_sweep, ["--preset", "quick", "--num-steps", "7"])
    assert command.default_name(beta_sweep, quick, "quick") == "quick"
    assert command.default_name(beta_sweep, changed, preset).startswith("quick-")


def test_the_real_command_says_one_paragraph_and_fails():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.beta_sweep", "--results-dir", "/dev/null/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "/dev/null/x" in done.stderr

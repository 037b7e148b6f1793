"""What a run says before it starts: the machine, and FLOPs and time that it will take."""

import types

import jax
import jax.numpy as jnp
import optax
import pytest

import iw_jax as iw
from experiments import beta_sweep
from experiments.common import command, cost, machine
from iw_jax import data, nets

INPUTS, HIDDEN, CLASSES, BATCH = 64, 100, 10, 200
# Multiply and add: forward, and backward to weights and inputs; but nobody asks for the slope in
# the network's own inputs.
STEP = 2 * BATCH * (2 * INPUTS * HIDDEN + 3 * HIDDEN * CLASSES)


@pytest.fixture
def stage():
    """Two networks that are trained for five steps on 400 examples."""
    net = nets.mlp(CLASSES, widths=(HIDDEN,))
    inputs = jnp.zeros((2 * BATCH, INPUTS))
    task = iw.Task(net.apply_fn, iw.Categorical(), inputs, jnp.zeros(2 * BATCH, int))
    params = net.init(jax.random.key(0), inputs[:1])
    return cost.training(task, params, optax.sgd(0.1), batch=BATCH, steps=5, networks=2)


def changed(stage, **values):
    return type(stage)(**{**vars(stage), **values})


def flops(stage):
    return stage.flops(cost.unit(stage))


def test_the_flops_of_a_step_are_those_of_its_matrix_products(stage):
    assert cost.step_flops(stage, BATCH) == pytest.approx(STEP, rel=0.05)
    assert flops(stage) == 2 * 5 * cost.step_flops(stage, BATCH)


def test_a_backend_that_knows_nothing_before_it_compiles_counts_the_same(stage, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda _: None)
    assert cost.step_flops(stage, BATCH) == pytest.approx(STEP, rel=0.05)


def test_a_look_is_a_forward_pass_and_a_product_goes_forward_and_back_twice(stage):
    examples, weights = 2 * BATCH, INPUTS * HIDDEN + HIDDEN * CLASSES
    more = {
        name: flops(changed(stage, steps=0, **numbers)) / (2 * examples)
        for name, numbers in {"look": {"looks": 1.0}, "product": {"num_matvecs": 1}}.items()
    }
    assert more["look"] == pytest.approx(2 * weights, rel=0.1)
    assert 6 * weights < more["product"] < 12 * weights


def test_there_are_no_more_products_than_weights(stage):
    exact = flops(changed(stage, num_matvecs=stage.weights))
    assert flops(changed(stage, num_matvecs=10**9)) == exact


@pytest.mark.parametrize(("noise", "draws"), [("weight", 1), ("antithetic", 2)])
def test_a_sweep_pays_for_every_draw_of_every_member(noise, draws):
    dataset = data.load("digits")
    config = beta_sweep.Config(noise=noise, betas=(0.1, 1.0, 10.0), num_seeds=2)
    stage = cost.sweep(config, dataset, target_sets=2)
    assert stage.networks == 12
    # What noise, KL and prior take is little beside it.
    assert cost.step_flops(stage, BATCH) == pytest.approx(draws * STEP, rel=0.3)
    # Means and scales, and two moments of Adam for each; the prior's and the counter are few.
    floats = stage.state_bytes / 4 / 12
    assert floats == pytest.approx(6 * stage.weights, rel=0.01)


def test_the_estimate_is_flops_over_the_measured_rate(stage, monkeypatch):
    monkeypatch.setattr(cost, "measured_rate", lambda _: 1e4)
    said = cost.estimate([stage, changed(stage, steps=7)])
    assert "4 networks of 7,510 weights, 5 to 7 steps of 200 of 400 examples" in said
    seconds = 24 * cost.step_flops(stage, BATCH) / 1e4
    assert f"about 1.5e8 FLOP, {seconds / 3600:.2g} hours on this device" in said
    assert "(measured: 1.0e4 FLOP/s)" in said
    assert "at most 6.4e7 FLOP" in cost.estimate([changed(stage, at_most=True)])


def test_the_rate_is_that_of_a_whole_step_where_it_takes_no_longer_than_a_moment(
    stage, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        cost, "_rate", lambda _, networks, batch: seen.append((networks, batch)) or 1e12
    )
    cost.measured_rate(changed(stage, networks=1000, abreast=500))
    assert seen == [(int(cost.FIRST / cost.step_flops(stage, BATCH)), BATCH), (500, BATCH)]


def test_a_slow_device_is_asked_for_a_part_of_a_step_only(stage, monkeypatch):
    seen = []
    monkeypatch.setattr(cost, "FIRST", STEP / BATCH * 10)
    monkeypatch.setattr(
        cost, "_rate", lambda _, networks, batch: seen.append((networks, batch)) or 1.0
    )
    cost.measured_rate(stage)
    ((networks, batch),) = seen
    assert networks == 1
    assert 8 <= batch <= 10


def test_a_measured_rate_is_one_that_computers_have(stage):
    assert 1e7 < cost.measured_rate(changed(stage, networks=1)) < 1e16


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.42, "0.42 seconds"),
        (89, "89 seconds"),
        (240, "4 minutes"),
        (86400 * 4, "4 days"),
        (5e8, "16 years"),
    ],
)
def test_times_are_said_in_words(seconds, words):
    assert cost.in_words(seconds) == words


def test_the_report_names_devices_and_memory():
    said = machine.report()
    assert said.startswith(f"{jax.device_count()} x cpu, ")
    assert "processes" not in said
    if machine.MEMORY.exists():
        assert "of memory free" in said


def test_the_report_of_several_accelerators_and_processes(monkeypatch):
    device = types.SimpleNamespace(
        platform="gpu",
        device_kind="H200",
        memory_stats=lambda: {"bytes_limit": 2**37, "bytes_in_use": 2**36},
    )
    monkeypatch.setattr(jax, "devices", lambda: [device] * 8)
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert machine.report() == "8 x gpu H200, 2 processes, 64 GiB of memory free a device"


def test_a_device_that_tells_no_memory_is_not_asked_twice(monkeypatch):
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert machine.free_memory() is None


# ------------------------------------------------------------------------------------- dry runs


def test_a_dry_run_says_what_the_run_finds_in_its_folder(command_line, never_run, tmp_path):
    def dry(*flags):
        return command_line("zigzag", "--dry-run", "--results-dir", tmp_path, *flags)

    never_run("zigzag")
    status, text = dry()
    assert status == 0
    assert "where there is no run yet" in text
    assert not list(tmp_path.iterdir())

    folder = tmp_path / "zigzag" / "default"
    module = __import__("experiments.zigzag", fromlist=["zigzag"])
    config = module.Config()
    identity = command._identity(module, config, module.load(config, None))
    command.Folder.open(folder, identity, overwrite=False)
    assert "an unfinished run, to be gone on with" in dry()[1]
    (folder / "manifest.json").write_text("{}")
    assert "a finished run, to be shown again" in dry()[1]
    assert "a finished run, to be thrown away" in dry("--overwrite")[1]

    status, text = dry("--seed", "3", "--name", "default")
    assert status != 0
    assert "holds a run of another configuration (seed was 0, now 3)" in text
    assert {path.name for path in folder.iterdir()} == {"config.json", "manifest.json"}


def test_a_dry_run_refuses_what_the_run_would(command_line, tmp_path):
    status, text = command_line(
        "beta_sweep", "--dry-run", "--betas", "0", "--results-dir", tmp_path
    )
    assert status != 0
    assert "betas must be positive" in text


@pytest.mark.parametrize(("preset", "estimated"), [("default", False), ("paper", True)])
def test_a_run_says_where_it_computes_and_a_paper_run_what_it_takes(
    preset, estimated, monkeypatch, tmp_path, capsys
):
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    monkeypatch.setattr(beta_sweep, "run", stop)
    monkeypatch.setattr(cost, "measured_rate", lambda _: 1e9)
    options = command.Options(results_dir=tmp_path)
    for show in (True, False):
        with pytest.raises(Stopped):
            command.execute(
                beta_sweep, beta_sweep.Config(), options, preset=preset, show_progress=show
            )
        said = capsys.readouterr().err
        assert ("x cpu" in said) == show
        assert ("paper: 120 networks of 7,510 weights" in said) == (show and estimated)

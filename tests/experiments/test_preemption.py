"""SIGTERM: the piece under way is finished and kept, and nothing is computed twice."""

import os
import signal

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import pytest

import iw_jax as iw
from experiments import beta_sweep
from experiments.common import preemption
from experiments.common.context import Context
from experiments.common.results import Folder
from tests.experiments import tiny


@pytest.fixture
def context(tmp_path):
    """Makes the surroundings of a run; one that begins anew in the same folder at each call."""
    return lambda: Context(Folder(tmp_path), show_progress=False)


def test_a_signal_makes_the_request_and_a_second_one_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.listening() as request:
        request.heed()
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.made
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(preemption.Stopped):
            request.heed()
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_error_handling_takes_it_for_a_mishap():
    assert not issubclass(preemption.Stopped, Exception)


def test_an_iteration_saves_and_stops_after_the_step_under_way(context):
    first, steps = context(), []

    def step(i, state):
        steps.append(i)
        first.stop.made = i == 3
        return state + i

    with pytest.raises(preemption.Stopped):
        first.iterate(step, jnp.zeros(()), 9, "adding")
    assert context().iterate(step, jnp.zeros(()), 9, "adding") == sum(range(9))
    assert steps == list(range(9))


def test_curvature_products_are_saved(context):
    operator = iw.Operator(
        lambda scales, block: scales * block, jnp.arange(1.0, 65.0), like=jnp.zeros(64)
    )
    first = context()
    spent = []

    def measure(stored, callback):
        def told(state):
            spent.append(state.spent)
            first.stop.made = len(spent) == 2
            callback(state)

        options = {"key": jax.random.key(0), "num_matvecs": 32, "stored": stored}
        return iw.spectral_measure(operator, callback=told, **options).logdet(1.0).value

    with pytest.raises(preemption.Stopped):
        first.measured(measure, 32)
    resumed, both = context().measured(measure, 32), tuple(spent)
    spent.clear()
    assert resumed == measure(None, lambda _: None)
    assert both == tuple(spent), "products were computed twice"


def test_a_loop_stops_between_its_items(context):
    running, seen = context(), []

    def loop():
        for item in running.track(range(5), "items"):
            seen.append(item)
            running.stop.made = item == 2

    with pytest.raises(preemption.Stopped):
        loop()
    assert seen == [0, 1, 2]


def test_a_ledger_keeps_the_value_before_it_stops(context):
    first = context()

    def compute():
        first.stop.made = True
        return 7

    with pytest.raises(preemption.Stopped):
        first.ledger("values").get("a", compute)
    assert context().ledger("values").get("a", lambda: pytest.fail("computed twice")) == 7


@pytest.mark.slow
def test_the_command_says_so_in_one_line_and_goes_on_later(command_line, tmp_path, monkeypatch):
    words = ("--preset", "quick", *tiny.FLAGS, "--results-dir", tmp_path, "--name", "tiny")
    real, steps = iw.sweep_step, []

    def interrupted(problem, state):
        steps.append(int(state.step))
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(problem, state)

    monkeypatch.setattr(iw, "sweep_step", interrupted)
    monkeypatch.setattr(beta_sweep, "plot", lambda *_: plt.figure())
    status, text = command_line("beta_sweep", *words)
    assert status == 143
    assert text.endswith("stopped by SIGTERM; the same command goes on from the last checkpoint")
    assert "Traceback" not in text
    saved = tmp_path / "beta_sweep" / "tiny" / "checkpoints" / "training"
    assert "50" in {p.name for p in saved.iterdir()}
    status, _ = command_line("beta_sweep", *words)
    assert status == 0
    assert steps == list(range(0, 400, 10))

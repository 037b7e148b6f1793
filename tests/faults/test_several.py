"""Rows of the fault table for several devices and processes: the numbers may differ by rounding.

In double precision: 400 steps of so small a sweep make 3e-3 of the 1e-7 that single precision
rounds off, whatever the devices; and 1e-12 of what double precision does.
"""

import shutil
import signal

import numpy as np
import pytest

from tests.faults import processes

pytestmark = pytest.mark.faults


@pytest.fixture(scope="session")
def whole(tmp_path_factory, programs):
    """The table of one process with one device."""
    sweep = processes.Sweep(tmp_path_factory.mktemp("whole"), programs, x64=True)
    status, said = sweep.run()
    assert status == 0, said
    return sweep.rows()


@pytest.fixture
def sweep(tmp_path, programs, whole):  # noqa: ARG001  (which compiles the programs)
    copied = shutil.copytree(programs, tmp_path / "programs")
    return processes.Sweep(tmp_path / "results", copied, x64=True)


def assert_same(rows, others):
    """Headline numbers; what is next to nothing, next to nothing."""
    for row, other in zip(rows, others, strict=True):
        for name in ("loss_nats", "kl_nats", "lagrangian_nats", "fisher_nats"):
            np.testing.assert_allclose(row[name], other[name], rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 2)])
def test_a_stopped_run_goes_on_with_another_number_of_devices(sweep, before, after, whole):
    process = sweep.start(devices=before)
    processes.until(process, sweep.steps_saved)
    process.send_signal(signal.SIGTERM)
    status, said = processes.ended(process)
    assert status == 143, said
    status, said = processes.ended(sweep.start(devices=after))
    assert status == 0, said
    assert_same(sweep.rows(), whole)


@pytest.mark.parametrize("killed", [0, 1])
def test_one_of_two_processes_is_killed_the_other_ends_and_both_go_on(sweep, killed, whole):
    both = sweep.start_together(2)
    processes.until(both[0], sweep.steps_saved)
    both[killed].kill()
    ends = [processes.ended(process) for process in both]
    assert all(status != 0 for status, _ in ends), ends
    again = [processes.ended(process) for process in sweep.start_together(2)]
    assert [status for status, _ in again] == [0, 0], again
    assert_same(sweep.rows(), whole)


def test_one_of_two_processes_cannot_start_and_both_end_in_a_paragraph(sweep):
    with_data = [(), ("--dataset", "mnist", "--data-dir", "nowhere")]
    both = sweep.start_together(2, with_data)
    (status, said), (other, why) = (processes.ended(process) for process in both)
    assert (status, other) == (1, 1), (said, why)
    assert "error: another process of the run could not do it" in said
    assert "error: data_dir must be a folder that exists, got 'nowhere'" in why
    assert "Traceback" not in said + why


@pytest.mark.parametrize("count", [2, 4])
def test_sigterm_to_one_process_stops_all_of_them_and_they_go_on(sweep, count, whole):
    together = sweep.start_together(count)
    processes.until(together[0], sweep.steps_saved)
    together[-1].send_signal(signal.SIGTERM)
    ends = [processes.ended(process) for process in together]
    assert [status for status, _ in ends] == [143] * count, ends
    again = [processes.ended(process) for process in sweep.start_together(count)]
    assert [status for status, _ in again] == [0] * count, again
    assert_same(sweep.rows(), whole)

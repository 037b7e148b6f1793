"""The parts that experiments share: checks of a sweep, tables, the ledger, folders."""

import errno
import json
import os

import numpy as np
import pytest

from experiments.common import checks, ledger, measures, results, tables
from experiments.common.preemption import Request

BETA = np.logspace(-2, 2, 21)


def ideal(noise=0.0, seed=0, draws=16):
    """The exact minimum of E[L] + β KL with KL = k, E[L] = 100 exp(-k/10): a convex trade-off."""
    rng = np.random.default_rng(seed)
    kl = np.maximum(0, 10 * np.log(10 / BETA))
    samples = noise * rng.standard_normal((draws, len(BETA)))
    steps = np.diff(samples, axis=1).std(0, ddof=1) / np.sqrt(draws)
    loss = 100 * np.exp(-kl / 10) + samples.mean(0)
    return checks.Curve("ideal", BETA, loss, kl, np.concatenate([[0], steps]), draws - 1)


def with_changes(**columns):
    curve = ideal()
    values = {n: getattr(curve, n).copy() for n in ("loss", "kl")}
    for name, changes in columns.items():
        for i, change in changes.items():
            values[name][i] += change
    return checks.Curve("spoiled", BETA, values["loss"], values["kl"], 0.01 + 0 * BETA, 15)


def failed(curve):
    return {c.name for c in checks.check_curves([curve]) if not c.passed}


def test_exact_minima_pass_every_check():
    assert failed(ideal()) == set()


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"kl": {8: +20}}, "KL does not increase with beta"),
        ({"loss": {8: -5}}, "E_Q[L] does not decrease with beta"),
        ({"kl": {8: +20}}, "KL(beta+) <= dC/dbeta (envelope, lower secant)"),
        ({"loss": {8: +5}}, "dC/dbeta <= KL(beta-) (envelope, upper secant)"),
        ({"loss": {8: -5}}, "C is concave in beta"),
    ],
)
def test_a_violated_claim_is_found_and_named(changes, claim):
    assert claim in failed(with_changes(**changes))


def test_a_failed_check_says_where_and_what_to_do():
    (verdict,) = [
        c
        for c in checks.check_curves([ideal(), with_changes(kl={8: +20})])
        if c.name == "KL does not increase with beta"
    ]
    assert "1 of 40 steps" in verdict.message
    assert f"spoiled, beta {BETA[7]:.3g} to {BETA[8]:.3g}" in verdict.message
    assert "--num-steps" in verdict.message


def test_monte_carlo_noise_alone_raises_no_alarm():
    runs = 1000
    alarms = sum(
        any(not c.passed for c in checks.check_curves([ideal(0.5, seed=s)])) for s in range(runs)
    )
    # 1 % by design, and conservative; 2.3 % is 1 % and four standard errors.
    assert alarms / runs < 0.023


def rises(values):
    return checks.check_rises("rises", np.asarray(values, float), "do more")


def test_a_rise_is_judged_by_the_spread_over_seeds():
    assert rises([[0], [1], [2]]).passed
    falls = rises([[0], [1], [0.9]])
    assert not falls.passed
    assert falls.message.endswith("do more")
    noisy = np.array([[0, 0.3, -0.3], [1, 0.7, 1.2], [0.9, 1.4, 0.5]])
    assert rises(noisy).passed
    assert not rises(noisy - [[0], [0], [20]]).passed
    # Every step falls within its allowance, all of them together do not.
    slope = np.random.default_rng(0).standard_normal((30, 3)) - 0.3 * np.arange(30)[:, None]
    assert not rises(slope).passed
    assert rises([[0]]).message == "nothing to compare: one setting"


def test_a_level_quantity_raises_no_alarm():
    rng = np.random.default_rng(0)
    runs = 1000
    alarms = sum(not rises(rng.standard_normal((7, 3))).passed for _ in range(runs))
    # 1 % by design; 2.3 % is 1 % and four standard errors.
    assert alarms / runs < 0.023


def test_a_curve_of_one_beta_has_nothing_to_violate():
    one = checks.Curve("one", BETA[:1], np.ones(1), np.ones(1), np.zeros(1), 15)
    assert all(c.passed for c in checks.check_curves([one]))


def test_steps_along_beta_are_compared_draw_by_draw():
    shared = np.random.default_rng(0).standard_normal((8, 1, 1, 1))
    draws = shared + np.arange(3.0)[None, None, :, None]
    np.testing.assert_allclose(measures.step_stderr(draws), np.zeros((1, 3, 1)), atol=1e-15)
    only_one = measures.step_stderr(draws[:, :, :1])
    np.testing.assert_array_equal(only_one, np.zeros((1, 1, 1)))


# ------------------------------------------------------------------------------------ tables


def test_the_critical_beta_is_interpolated_in_the_logarithm():
    beta, loss = np.array([0.1, 1.0, 10.0]), np.array([0.0, 0.5, 2.0])
    # Half-way is 1; it lies a third of the way from 1 to 10 in log β.
    assert tables.critical_beta(beta, loss, chance=2.0) == pytest.approx(10 ** (1 / 3))


@pytest.mark.parametrize(
    ("loss", "ends"),
    [
        ([2.0, 2.0, 2.0], (0.0, 0.1)),  # not learned at any β
        ([0.0, 0.1, 0.2], (10.0, np.inf)),  # not given up at any
        ([np.nan] * 3, (np.nan, np.nan)),
    ],
)
def test_a_curve_without_a_crossing_has_no_critical_beta(loss, ends):
    beta, loss = np.array([0.1, 1, 10]), np.array(loss)
    assert np.isnan(tables.critical_beta(beta, loss, chance=2.0))
    np.testing.assert_array_equal(tables.edge(beta, loss, chance=2.0), ends)


def test_an_edge_lies_between_neighbours_of_the_grid():
    """However the loss gets from one to the other: a jump at 0.3 looks the same."""
    beta, loss = np.array([0.1, 0.2, 0.4, 1.0]), np.array([0.0, 1.2, 4.0, 4.0])
    assert tables.edge(beta, loss, chance=4.0) == (0.2, 0.4)
    assert tables.edge(beta, loss, chance=4.0, part=0.25) == (0.1, 0.2)
    assert tables.edge(beta, loss, chance=4.0, part=0.3) == (0.1, 0.2)  # reached, not passed


def test_the_structure_function_is_the_legendre_transform_of_the_lagrangian():
    """S(R) = 1/R has C_β = min_R S + βR = 2 sqrt(β), at R = 1/sqrt(β)."""
    beta = np.geomspace(0.1, 10, 30)
    nats = 1 / np.sqrt(beta)
    found = tables.structure_function(beta, 2 * np.sqrt(beta), nats)
    np.testing.assert_allclose(found, 1 / nats)
    between = tables.structure_function(beta, 2 * np.sqrt(beta), np.sqrt(nats[1:] * nats[:-1]))
    assert np.all(between < 1 / np.sqrt(nats[1:] * nats[:-1]))  # a bound from below


def test_a_grid_is_sorted_filtered_and_nan_where_a_cell_is_missing():
    rows = [
        {"labels": "real", "beta": 1.0, "seed": 0, "x": 3},
        {"labels": "real", "beta": 0.1, "seed": 1, "x": 2},
        {"labels": "real", "beta": 0.1, "seed": 0, "x": 1},
        {"labels": "random", "beta": 0.1, "seed": 0, "x": 9},
    ]
    np.testing.assert_array_equal(tables.grid(rows, "x", labels="real"), [[1, 2], [3, np.nan]])


def test_numbers_that_are_not_known_are_null_in_a_summary():
    assert tables.rounded(float("nan")) is None
    assert tables.rounded(1.23456) == 1.235
    nothing = {"mean": None, "lowest": None, "highest": None}
    assert tables.spread(np.array([np.nan])) == nothing
    assert tables.spread(np.array([1, np.nan, 3])) == {"mean": 2, "lowest": 1, "highest": 3}
    assert np.isnan(tables.mean_known(np.array([np.nan])))


# ------------------------------------------------------------------------------------ ledger


def never():
    pytest.fail("it was computed again")


def test_a_ledger_computes_each_value_once_and_keeps_every_digit(tmp_path):
    values = [0.1 + 0.2, float("nan"), -1e-300]
    path = tmp_path / "partial" / "a.jsonl"
    assert ledger.Ledger(path, Request()).get("k", lambda: values) is values
    np.testing.assert_array_equal(ledger.Ledger(path, Request()).get("k", never), values)


@pytest.mark.parametrize("end", [b'["c", [3', b'["c", [3]]', b"\xff\xfe", b"7\n"])
def test_a_line_cut_off_by_a_crash_is_dropped_and_the_others_stay(end, tmp_path):
    path = tmp_path / "a.jsonl"
    whole = b'["a", [1]]\n["b", [2]]\n'
    path.write_bytes(whole + end)
    again = ledger.Ledger(path, Request())
    assert (again.get("a", never), again.get("b", never)) == ([1], [2])
    assert again.get("c", lambda: [4]) == [4]
    assert path.read_bytes() == whole + b'["c", [4]]\n'


def test_a_full_disk_in_the_ledger_is_told(tmp_path):
    (tmp_path / "partial").write_text("a file in the way")
    with pytest.raises(results.ResultsError, match=r"could not be written.*same command again"):
        ledger.Ledger(tmp_path / "partial" / "a.jsonl", Request()).get("k", lambda: 1)


# ------------------------------------------------------------------------------------ folders

IDENTITY = {"experiment": "e", "config": {"betas": (1.0, 2.0)}, "data_checksum": "abc"}


def test_a_folder_opens_again_for_the_same_run_only(tmp_path):
    folder = results.Folder.open(tmp_path / "r", IDENTITY, overwrite=False)
    assert results.Folder.open(tmp_path / "r", IDENTITY, overwrite=False) == folder
    for other, words in [
        ({"config": {"betas": (1.0,)}}, r"betas was \[1.0, 2.0\], now \[1.0\]"),
        ({"experiment": "f"}, "experiment e, not f"),
        ({"data_checksum": "abd"}, "other data"),
    ]:
        with pytest.raises(results.ResultsError, match=words):
            results.Folder.open(tmp_path / "r", {**IDENTITY, **other}, overwrite=False)


def test_overwriting_takes_the_run_and_leaves_other_files(tmp_path):
    folder = results.Folder.open(tmp_path, IDENTITY, overwrite=False)
    for name in ("metrics.csv", "manifest.json", "figure.png", "figure.pdf", "notes.txt"):
        folder.write_text(name, "{}")
    (tmp_path / "checkpoints" / "training").mkdir(parents=True)
    new = {**IDENTITY, "experiment": "f"}
    folder = results.Folder.open(tmp_path, new, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "notes.txt"}
    assert folder.read_json("config.json")["experiment"] == "f"
    assert not folder.finished


def test_a_table_comes_back_as_it_was(tmp_path):
    rows = [{"a": "real", "b": 0.1 + 0.2, "c": 3}, {"a": "x,y", "b": 1e-300, "c": -1}]
    folder = results.Folder(tmp_path)
    folder.write_rows("metrics.csv", rows)
    assert folder.read_rows("metrics.csv") == rows


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(broken, tmp_path, monkeypatch):
    folder = results.Folder(tmp_path)
    folder.write_json("a.json", 1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(results.ResultsError, match="No space left on device"):
        folder.write_json("a.json", 2)
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]

"""The checks of `task_complexity` on its committed table, and on tables that are wrong."""

from pathlib import Path

import numpy as np
import pytest

from experiments import task_complexity
from experiments.common.results import Folder
from experiments.task_complexity import Config

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "task_complexity"


def failed(rows):
    return [c.name for c in task_complexity.check(rows, Config()) if not c.passed]


def table():
    return Folder(RESULTS).read_rows("metrics.csv")


def test_the_committed_table_passes():
    assert not failed(table())


def test_a_code_that_compresses_random_labels_is_found():
    """A twentieth of the nats, at the smallest β, where next to nothing is left of the loss."""
    rows = table()
    for row in rows:
        if row["labels"] == "random" and row["beta"] == rows[0]["beta"]:
            row["kl_nats"] /= 20
    assert any("compresses random labels" in name for name in failed(rows))


@pytest.mark.parametrize("number", [1, 2])
def test_random_labels_that_are_kept_as_long_as_true_ones_are_found(number):
    """One seed of those with two classes, kept up to the last β but `number`."""
    rows = table()
    kept = sorted({row["beta"] for row in rows})[-number]
    for row in rows:
        if (row["labels"], row["seed"]) == ("random_two", 0) and row["beta"] < kept:
            row["loss_nats_per_label"] = 0.0
    assert any("not kept to a larger beta" in name for name in failed(rows))


def test_a_jump_is_known_to_the_neighbours_and_its_width_from_nothing_on():
    rows = [
        {"dataset": "toy", "labels": "real", "label_entropy_nats": 1.0, "beta": beta, "seed": 0}
        | {"loss_nats_per_label": loss, "kl_nats_per_label": kl}
        for beta, loss, kl in ((0.1, 0.0, 5.0), (1.0, 0.1, 2.7), (10.0, 1.0, 0.0))
    ]
    task = {"dataset": "toy", "labels": "real"}
    np.testing.assert_array_equal(task_complexity.edges(rows, task), [[1.0], [10.0]])
    np.testing.assert_allclose(task_complexity.edge_width(rows, task), [[0.0], [1.0]])
    np.testing.assert_allclose(task_complexity.prices(rows, task), [3.0])

"""What probes may find, and the check that notices when they find more, or nothing."""

from pathlib import Path

import numpy as np
import pytest

from experiments import nuisances
from experiments.common.results import Folder
from experiments.nuisances import REDRAWN, Config

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "nuisances"


def test_what_a_place_tells_of_its_copy_is_the_sum_over_their_joint_law():
    places = 9
    joint = np.full((places, places), REDRAWN / places**2) + np.eye(places) * (1 - REDRAWN) / places
    expected = np.sum(joint * np.log(joint * places**2))
    np.testing.assert_allclose(nuisances.control_information(places), expected, rtol=1e-12)


def test_the_copy_is_that_of_the_place_and_half_of_the_time_drawn_anew():
    config = Config(num_examples=200, num_probed=200, num_noises=8)
    _, (places, labels, control) = nuisances._probed(config, nuisances.load(config, None))
    same = np.mean(places == control)
    assert abs(same - (0.5 + 0.5 / 9)) < 4 * np.sqrt(0.25 / places.size)
    assert np.all(labels == labels[:, :1])


@pytest.mark.parametrize(
    ("column", "change", "passes"),
    [
        ("control_lower_nats", 0.0, True),
        ("control_lower_nats", 0.6, False),  # more than there is
        ("control_image_lower_nats", -0.6, False),  # probes that see nothing
    ],
)
def test_probes_that_find_what_is_not_there_or_nothing_are_found_out(column, change, passes):
    rows = Folder(RESULTS).read_rows("metrics.csv")
    for row in rows:
        row[column] += change
    (control,) = [c for c in nuisances.check(rows, Config()) if "half of the time" in c.name]
    assert control.passed == passes


def test_the_error_over_seeds_is_that_of_their_mean():
    rows = [
        {"beta": beta, "seed": seed, "label_lower_nats": x, "label_stderr_nats": 0.3}
        for beta, values in ((0.1, (1.0, 2.0, 3.0)), (1.0, (1.0, 1.0, 1.0)))
        for seed, x in enumerate(values)
    ]
    expected = [[2.0, 1.0], [1 / np.sqrt(3), 0.0], [0.3, 0.3]]
    np.testing.assert_allclose(nuisances.estimate(rows, "label"), expected)
    np.testing.assert_allclose(nuisances.lost(rows, "label")[1], [0, 1 / 2, 2 / 3])

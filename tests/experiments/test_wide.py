"""The problem, the frontier, and real networks beside the theory."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import linalg, stats

from experiments import wide as experiment
from experiments.common import finite_width, gaussian_pair, tables
from iw_jax import bottleneck, wide

TINY = dataclasses.replace(
    experiment.PRESETS["quick"],
    dataset="gaussian",
    numbers=(12, 24),
    weight_stds=(0.7,),
    num_test=40,
    num_times=9,
    widths=(16,),
    num_members=8,
)


class Surroundings:
    """A run without a folder."""

    def ledger(self, _):
        return self

    def get(self, _, compute):
        return compute()

    def track(self, items, _):
        return items


@pytest.fixture(scope="module")
def rows():
    with jax.enable_x64(False):
        return experiment.run(TINY, experiment.load(TINY, None), Surroundings())


def test_a_gaussian_run_passes_its_checks_and_draws_its_figure(rows):
    failed = [c for c in experiment.check(rows, TINY) if not c.passed]
    assert not failed
    assert len({tuple(row) for row in rows}) == 1
    assert len(experiment.table(rows).splitlines()) == 1 + 2 + 2
    assert experiment.summarize(rows, TINY)["numbers"][1]["num_examples"] == 24


def test_a_curve_above_the_frontier_is_told(rows):
    better = [{**row, "label_information_nats": 30.0} for row in rows if row["part"] == "infinite"]
    better += [row for row in rows if row["part"] != "infinite"]
    failed = [c.name for c in experiment.check(better, TINY) if not c.passed]
    assert failed == ["I(Z;Y) lies below the frontier of the Gaussian bottleneck, and below I(X;Y)"]


def test_draws_that_disagree_with_the_integral_are_told(rows):
    biased = [
        {**row, "drawn_lower_nats": row["drawn_lower_nats"] + 0.2}
        if row["part"] == "infinite"
        else row
        for row in rows
    ]
    failed = [c.name for c in experiment.check(biased, TINY) if not c.passed]
    assert failed == ["I(X;Z|D): draws agree with the integral"]


def test_the_gaussian_pair_is_as_known_as_it_says():
    dataset = gaussian_pair.load(0, seed=3)
    x = dataset.train_inputs
    y = gaussian_pair.targets(x, 3, "train")
    # I(X;Y) = ½ log (Var Y/Var (Y|X)), 4,000 pairs.
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert abs(np.log(y.var() / residual.var()) / 2 - gaussian_pair.NATS) < 0.06
    assert abs(stats.norm.entropy(scale=y.std()) - gaussian_pair.TARGET_ENTROPY) < 0.05
    np.testing.assert_array_equal(dataset.train_targets, y > 0)
    fewer = gaussian_pair.load(50, seed=3)
    np.testing.assert_array_equal(fewer.train_inputs, x[:50])
    np.testing.assert_allclose(gaussian_pair.targets(x[:50], 3, "train"), y[:50], rtol=1e-12)
    assert not np.array_equal(gaussian_pair.targets(x[:50], 3, "test"), y[:50])


def test_the_frontier_is_what_a_noisy_copy_of_the_signal_reaches():
    """Z = w·X + noise of variance v: both informations of a jointly Gaussian triple."""
    signal = gaussian_pair.SNR
    for v in (0.1, 3.0, 40.0):
        known = np.log1p(signal / v) / 2
        correlation = signal**2 / ((signal + 1) * (signal + v))  # squared, of Y and Z
        found = bottleneck.gaussian_frontier([signal], known)
        np.testing.assert_allclose(found, -np.log1p(-correlation) / 2, rtol=1e-12)
    all_of_it = bottleneck.gaussian_frontier([signal], 50.0)
    np.testing.assert_allclose(all_of_it, gaussian_pair.NATS)


def test_a_network_linear_in_its_weights_flows_as_the_matrix_exponential():
    """Depth 0: every member is solved in closed form from where it starts."""
    network = wide.Network(0, "identity", 1.3)
    rng = np.random.default_rng(0)
    x, y, other = rng.normal(size=(6, 4)), rng.normal(size=6), rng.normal(size=(3, 4))
    ntk = wide.kernels(network, x).ntk
    times, key = np.array([0.1, 1.0, 4.0]), jax.random.key(0)
    steepest = np.linalg.eigvalsh(ntk)[-1]
    z = finite_width.outputs(key, network, 8, (x, y, other), times, steepest, members=3)
    for member, k in zip(z, jax.random.split(key, 3), strict=True):
        w = np.asarray(finite_width.init(k, (4, 1))[0][0], float)[:, 0]
        j = 1.3 * x / 2
        for i, t in enumerate(times):
            left = linalg.expm(-t * j.T @ j)
            w_t = left @ w + np.linalg.pinv(j) @ (np.eye(6) - linalg.expm(-t * ntk)) @ y
            np.testing.assert_allclose(member[i], 1.3 * other @ w_t / 2, atol=2e-3)


def test_steps_are_small_enough_for_narrow_networks(monkeypatch):
    """Whose tangent kernel outgrows that of infinite width, from which the first step is."""
    network = wide.Network(2, "erf", 1.0, 0.1)
    dataset = gaussian_pair.load(20, 0)
    x, y = dataset.train_inputs, gaussian_pair.targets(dataset.train_inputs, 0, "train")
    steepest = np.linalg.eigvalsh(wide.kernels(network, x).ntk)[-1]
    data, times = (x, y, dataset.test_inputs[:10]), np.array([0.1, 1.0])

    def outputs():
        key = jax.random.key(8)
        return finite_width.outputs(key, network, 8, data, times, steepest, members=16)

    found = outputs()
    with monkeypatch.context() as changed:
        changed.setattr(finite_width, "STEP", finite_width.STEP / 32)
        np.testing.assert_allclose(found, outputs(), atol=2e-3)
    monkeypatch.setattr(finite_width, "HALVINGS", 1)
    with pytest.raises(ArithmeticError, match="outputs of networks of width 8 still change by"):
        outputs()


@pytest.mark.slow
def test_an_ensemble_of_wide_networks_has_the_mean_and_variance_of_the_theory():
    network, members = wide.Network(1, "erf", 1.4, 0.3), 1000
    rng = np.random.default_rng(0)
    x, y, other = rng.normal(size=(8, 3)), rng.normal(size=8), rng.normal(size=(20, 3))
    e = wide.ensemble(wide.kernels(network, x), y)
    times, steepest = np.array([0.01, 0.1, 0.5, 2.0]), e.eigenvalues[-1]
    data, key = (x, y, other), jax.random.key(1)
    z = finite_width.outputs(key, network, 1024, data, times, steepest, members)
    theory = e.at(times, wide.kernels(network, other, x), wide.prior_variance(network, other))
    error = np.sqrt(theory.variance / members)
    assert np.abs((z.mean(0) - theory.mean[..., 0]) / (4.5 * error + 0.02)).max() < 1
    ratio = z.var(0, ddof=1) / theory.variance
    assert np.abs(ratio - 1).max() < 4.5 * np.sqrt(2 / members) + 0.05


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--depth", "0"], "depth must be an integer of at least 1, got 0"),
        (["--dataset", "letters"], "dataset must be one of digits"),
        (["--numbers", "100", "20"], "numbers must be positive, finite and increasing"),
        (["--numbers", "5000"], "num_examples must be an integer in 1 .. 1437"),
        (["--numbers", "5000", "--dataset", "gaussian"], "numbers must be at most 4000"),
        (["--num-test", "2000", "--dataset", "gaussian"], "num_test must be at most 1000"),
        (["--weight-std", "0"], "weight_std must be positive and finite, got 0.0"),
        (
            ["--weight-stds", "1", "1"],
            "weight_stds must be at least one, positive, finite and incr",
        ),
        (["--widths", "0", "4"], "widths must be at least 1 each"),
        (["--widths", "8", "4"], "widths must be at least one, positive, finite and increasing"),
        (["--bias-std", "-1"], "bias_std must be finite and at least 0, got -1.0"),
        (["--num-draws", "1"], "num_draws must be an integer of at least 2, got 1"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags, words, command_line, never_run, tmp_path):
    never_run("wide")
    status, text = command_line("wide", "--preset", "quick", "--results-dir", tmp_path, *flags)
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())


def test_rows_of_different_parts_share_their_columns(rows):
    finite = [row for row in rows if row["part"] == "finite"]
    assert all(row["exact_nats"] == "" for row in finite)
    assert np.all(np.isfinite(tables.column(finite, "mean_excess")))

"""Fisher flow: known informations, training sets that nest, errors by hand, bad flags."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iw_jax as iw
from experiments import fisher_features, fisher_flow
from experiments.common import fisher_problems as fisher
from experiments.common.results import Folder

QUICK = fisher_flow.PRESETS["quick"]
PUBLISHED = Path(__file__).parents[2] / "docs/results/fisher_features"


@pytest.mark.parametrize("name", list(fisher.PROBLEMS))
def test_a_linear_readout_finds_what_the_closed_form_says(name):
    problem = fisher.PROBLEMS[name]
    keys = jax.random.split(jax.random.key(0))
    thetas = -problem.delta, problem.delta
    pair = [fisher.SAMPLERS[name](k, t, 20_000) for k, t in zip(keys, thetas, strict=True)]
    found = iw.linear_fisher_information(*pair, problem.delta)
    assert abs(found.value - problem.linear) < 4 * found.stderr
    if name == "lognormal":  # u is there, behind exp and M
        u = [np.linalg.solve(np.float64(fisher.MIXING), np.log(x).T).T for x in pair]
        found = iw.linear_fisher_information(*u, problem.delta)
        assert abs(found.value - problem.information) < 4 * found.stderr


@pytest.mark.parametrize("problem", ["lognormal", "gaussian"])
def test_the_smaller_training_set_is_the_beginning_of_the_larger(problem):
    config = dataclasses.replace(QUICK, problem=problem, numbers=(2, 50))
    dataset = fisher_flow.load(config, None)
    assert len(dataset.train_inputs) == 50 * config.num_thetas
    first = dataset.train_targets[: 2 * config.num_thetas]
    assert np.bincount(first).tolist() == [2] * config.num_thetas
    # Each sample belongs to its θ: the mean of log x, or of x, follows it.
    x = np.log(dataset.train_inputs) if problem == "lognormal" else dataset.train_inputs
    slope = fisher.MIXING.sum(1) if problem == "lognormal" else np.ones(256)
    theta = fisher_flow.grid(config)[dataset.train_targets]
    estimate = x @ slope / (slope @ slope)
    assert abs(np.polyfit(theta, estimate, 1)[0] - 1) < 0.05


def test_layers_are_the_network_and_steps_are_adams():
    config = dataclasses.replace(QUICK, num_steps=300, num_records=2, weight_decay=0.01)
    dataset = fisher_flow.load(config, None)
    own = fisher.network(config.widths)
    x = jnp.asarray(dataset.train_inputs[:5])
    params = own.init(jax.random.key(1), x)
    t = x
    for layer in fisher.layers(len(config.widths)):
        t = layer(params, t)
    np.testing.assert_allclose(t, own.apply_fn(params, x), rtol=1e-6)

    adam = fisher_flow.optimizer(config.learning_rate, config.weight_decay)
    targets = jnp.asarray(fisher_flow.grid(config) / 7, jnp.float32)[dataset.train_targets]
    pool = jnp.asarray(dataset.train_inputs), targets
    key, count = jax.random.key(2), jnp.array([11])
    state = jax.tree.map(lambda w: w[None], (params, adam.init(params)))
    found, _ = fisher_flow._train(own.apply_fn, adam, 4, key[None], count, pool, state, 0, 1)
    rows = jax.random.randint(jax.random.fold_in(key, 0), (4,), 0, 11)
    slope = jax.grad(
        lambda p: jnp.mean((own.apply_fn(p, pool[0][rows])[:, 0] - targets[rows]) ** 2)
    )(params)
    # Adam's first step is the rate, against the sign of the gradient (with its weight decay).
    for w, new, g in zip(*map(jax.tree.leaves, (params, found, slope)), strict=True):
        g = g + config.weight_decay * w
        clear = jnp.abs(g) > 1e-4
        moved = jnp.where(clear, w - new[0] - config.learning_rate * jnp.sign(g), 0.0)
        np.testing.assert_allclose(moved, 0, atol=1e-5)


def test_bias_and_errors_are_those_of_a_known_estimate():
    """f = 0.8 x + 0.1 of x ~ N(θ, 1)."""
    found = fisher_flow._errors(
        lambda _, x: 0.8 * x + 0.1,
        lambda key, theta, number: theta + jax.random.normal(key, (number, 1)),
        50_000,
        (),
        jax.random.key(0),
        0.5,
        0.1,
        1.0,
    )
    for name, truth in (("bias", 0.0), ("bias_slope", -0.2), ("mse_at_theta", 0.64)):
        assert abs(found[name] - truth) < 4 * found[f"{name}_stderr"], name
    row = {k: float(v) for k, v in found.items()}
    least, stderr = fisher_flow.lowest(row, 1.0)
    assert abs(least - 0.64) < 4 * stderr  # efficient, given its bias


def row(step, layer, train, test, output, theta_mse=0.2, lost=3.0):
    return {
        "number": 50, "seed": 0, "step": step, "layer": layer, "problem": "lognormal",
        "train_mse": train, "test_mse": test, "information": output if layer else 10.0,
        "information_stderr": 0.1, "mse_at_theta": theta_mse, "mse_at_theta_stderr": 1e-3,
        "bias": 0.0, "bias_stderr": 1e-3, "bias_slope": 0.0, "bias_slope_stderr": 1e-3,
        "converged": 1, "lost": lost if layer else "", "lost_stderr": 0.05 if layer else "",
    }  # fmt: skip


CURVES = ((0, 9.0, 9.0, 0.1), (10, 0.2, 0.3, 7.0), (100, 0.09, 0.2, 6.0), (1000, 0.01, 0.4, 4.0))


def test_where_the_training_error_passes_the_bound_is_found():
    rows = [row(step, layer, *rest) for step, *rest in CURVES for layer in (0, 1)]
    turns = fisher_flow.crossing(rows, 50)
    assert {k: v.tolist() for k, v in turns.items()} == {
        "train_below_bound": [100],
        "least_test_mse": [100],
        "largest_information": [10],
        "test_mse_then": [1.0],
    }
    assert [c.name for c in fisher_flow.check(rows, QUICK) if not c.passed] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": [0.1, 7.0, 11.0, 11.0]}, "no layer has more information than the input"),
        ({"lost": -0.4}, "than one before"),
        ({"theta_mse": 0.05}, "Cramér-Rao"),
        ({"output": [0.1, 0.3, 2.4, 2.0]}, "training raises"),
        ({"test": [9.0, 0.3, 0.08, 0.09]}, "below 1/I"),
    ],
)
def test_a_law_that_is_broken_is_told(changes, words):
    rows = []
    for i, (step, train, test, output) in enumerate(CURVES):
        train, test = (changes.get(n, [v] * 4)[i] for n, v in (("train", train), ("test", test)))
        output = changes.get("output", [output] * 4)[i]
        other = {k: v for k, v in changes.items() if k in ("theta_mse", "lost")}
        rows += [row(step, layer, train, test, output, **other) for layer in (0, 1)]
    failed = [c.name for c in fisher_flow.check(rows, QUICK) if not c.passed]
    assert len(failed) == 1
    assert words in failed[0]


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("fisher_flow", ["--theta", "7"], "theta must be inside the grid from -7 to 7, with neig"),
        ("fisher_flow", ["--theta", "nan"], "theta must be inside the grid"),
        ("fisher_flow", ["--num-thetas", "1"], "num_thetas must be an integer of at least 2, got"),
        ("fisher_flow", ["--num-features", "0", "9"], "num_features must be at least three, incr"),
        ("fisher_flow", ["--num-samples", "40"], "num_samples must be an integer of at le"),
        ("fisher_flow", ["--weight-decay", "-1"], "weight_decay must be at least 0, got -1.0"),
        ("fisher_flow", ["--numbers", "9", "9"], "numbers must be positive, finite and increasi"),
        ("fisher_features", ["--num-samples", "200"], "num_samples must be at least 291, the mos"),
        ("fisher_features", ["--num-repeats", "0"], "num_repeats must be an integer of at least"),
    ],
)
def test_a_flag_that_cannot_be_is_named(name, flags, words, command_line, never_run, tmp_path):
    never_run(name)
    status, text = command_line(name, "--preset", "quick", "--results-dir", tmp_path, *flags)
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())


def test_features_of_a_variance_are_known_in_closed_form():
    assert fisher_features.VARIANCE.information == 0.5
    x = fisher_features.variance(jax.random.key(0), 4.0, 20_000)
    np.testing.assert_allclose(jnp.var(x), 4.0, rtol=0.05)


@pytest.mark.parametrize(
    ("where", "factor", "words"),
    [
        ({}, 1.0, None),
        ({"problem": "lognormal", "features": "softplus"}, 1.05, "lognormal: the input's"),
        ({"problem": "variance", "features": "paper"}, 1.06, "of a variance"),
        ({"problem": "variance", "features": "softplus"}, 0.94, "of a variance"),
        ({"problem": "relu", "layer": 1}, 1.8, "random linear layers"),
        ({"problem": "relu", "layer": 3}, 3.5, "random linear layers"),  # below the projection
    ],
)
def test_a_known_information_that_is_missed_is_told(where, factor, words):
    """In the published table, which passes as it is."""
    rows = Folder(PUBLISHED).read_rows("metrics.csv")
    for row in rows:
        if where and all(row[k] == v for k, v in where.items()):
            row["information"] *= factor
    checks = fisher_features.check(rows, fisher_features.PRESETS["default"])
    failed = [c.name for c in checks if not c.passed]
    assert len(failed) == bool(words)
    assert all(words in name for name in failed)

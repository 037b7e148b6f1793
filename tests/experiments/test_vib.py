"""What vib and dual_vib share: the training of many networks at once, and how tables are read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import dual_vib, vib
from experiments.common import coders, epochs


def square(params, key, batch, target):
    """Pulls one number to the mean of a batch times a setting; noise of the key is added."""
    x, own = batch if isinstance(batch, tuple) else (batch, jnp.zeros_like(batch))
    return jnp.mean(jnp.square(params - target * x - own)) + 1e-3 * params * jax.random.normal(key)


def train(settings, optimizer, **options):
    start = jnp.zeros((2, len(settings)))
    state = start, jax.vmap(jax.vmap(optimizer.init))(start)
    keys = jax.random.split(jax.random.key(0))
    examples = jnp.arange(12.0)
    return epochs.train_epoch(
        *(square, keys, jnp.asarray(settings), examples, state),
        optimizer=optimizer,
        batch_size=3,
        **options,
    )


def test_members_take_the_steps_that_each_would_take_alone():
    sgd = optax.sgd(0.1)
    together, _ = train([1.0, -2.0], sgd)
    for i, setting in enumerate((1.0, -2.0)):
        np.testing.assert_allclose(together[:, i], train([setting], sgd)[0][:, 0], rtol=1e-6)
    assert np.abs(together[0] - together[1]).min() > 1e-3  # seeds have their own batches


def test_seeds_see_only_their_rows_and_what_is_their_own():
    rows = jnp.array([[0, 1, *[5] * 10], [7, *[5] * 11]])
    sizes = jnp.array([2, 1])
    own = jnp.stack([jnp.zeros(12), 100.0 * (jnp.arange(12) == 7)])
    found, _ = train([1.0], optax.sgd(0.5), rows=rows, sizes=sizes, own=own)
    assert -0.1 < found[0, 0] < 1.1
    np.testing.assert_allclose(found[1, 0], 107, rtol=1e-3)


def test_an_epoch_goes_round_few_rows_from_a_place_of_its_own():
    """Steps of one along -gradient count how often an example has come."""

    def count(params, key, batch, setting):
        del key, setting
        return -params[batch].sum()

    sgd, start = optax.sgd(1.0), jnp.zeros((1, 1, 14))
    found = np.zeros(14)
    for epoch in range(200):
        keys = jax.random.split(jax.random.key(epoch), 1)
        seen, _ = epochs.train_epoch(
            *(count, keys, jnp.zeros(1), jnp.arange(14), (start, sgd.init(start))),
            optimizer=sgd,
            batch_size=3,
            rows=jnp.arange(14)[None, ::-1],
            sizes=jnp.array([5]),
        )
        seen = np.asarray(seen[0, 0])
        assert sorted(seen[-5:]) == [2, 2, 2, 3, 3]
        assert np.all(seen[:-5] == 0)
        found += seen
    # 2.4 an epoch, each with a standard deviation of 0.49.
    np.testing.assert_allclose(found[-5:] / 200, 2.4, atol=4 * 0.49 / 200**0.5)


def test_the_average_is_that_of_all_steps_while_they_are_few_and_then_forgets():
    optimizer = optax.chain(optax.sgd(1.0), epochs.averaging(0.9))
    params, state, path = jnp.zeros(()), optimizer.init(jnp.zeros(())), []
    for i in range(50):
        updates, state = optimizer.update(jnp.asarray(-1.0), state, params)
        params = optax.apply_updates(params, updates)
        path.append(float(params))
        if i < 10:
            np.testing.assert_allclose(epochs.averaged(state), np.mean(path), rtol=1e-5)
    expected = np.mean(path[:10])
    for value in path[10:]:
        expected = 0.9 * expected + 0.1 * value
    np.testing.assert_allclose(epochs.averaged(state), expected, rtol=1e-5)


def test_without_its_flag_a_backward_encoder_is_the_prior_of_vib():
    coder = coders.coder(3, (4,), 2, conditional=True)
    params = coder.init(jax.random.key(0), jnp.zeros((1, 5)))
    params["backward"] = jax.tree.map(lambda leaf: leaf + 0.7, params["backward"])
    labels = jnp.array([0, 2])
    mean, scale = coder.model.backward(params | {"conditional": 0.0}, labels)
    np.testing.assert_array_equal((mean, scale), (np.zeros((2, 2)), np.ones((2, 2))))
    mean, scale = coder.model.backward(params | {"conditional": 1.0}, labels)
    np.testing.assert_allclose((mean, scale), (np.full((2, 2), 0.7), np.exp(np.full((2, 2), 0.7))))


def test_codes_in_the_table_are_read_back():
    codes = np.random.default_rng(0).normal(size=(7, 5))
    codes[:, 4] = np.arange(7)
    np.testing.assert_allclose(vib._codes_of(vib._hex(codes)), codes, rtol=1e-3)


def test_a_rate_below_what_codes_tell_is_told():
    config = dataclasses.replace(vib.PRESETS["quick"], betas=(0.1, 1.0))
    rows = [
        {"latent": 2, "seed": seed, "beta": beta, "part": part, "num_classes": 10, "error": 0.1}
        | {f"{name}_nats_stderr": 0.01 for name in ("rate", "information", "label_information")}
        | {"rate_nats": 2.0 - beta, "information_nats": 1.5, "label_information_nats": 0.5}
        for seed in range(2)
        for beta in config.betas
        for part in ("train", "test")
    ]
    failed = [c for c in vib.check(rows, config) if not c.passed]
    assert [c.name[:20] for c in failed] == ["I(X;Z) by contrast i"]


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("vib", ["--betas", "-1", "1"], "betas must be positive, finite and increasing, got (-1.0"),
        ("vib", ["--latents", "0"], "latents must be at least one, positive increasing whole numb"),
        ("vib", ["--epsilons", "0.2", "0.1"], "epsilons must be at least one, positive increasing"),
        ("vib", ["--decay", "1"], "decay must be in [0, 1), got 1.0"),
        ("vib", ["--num-evaluated", "1"], "num_evaluated must be 0 or at least 2, got 1"),
        ("vib", ["--batch-size", "500"], "batch_size must be at most 360, the examples, got 500"),
        (
            "dual_vib",
            ["--methods", "vib", "vib"],
            "methods must be at least one of vib, ceb,",
        ),
        ("dual_vib", ["--numbers", "2"], "numbers must be at least 4 each, got (2,)"),
        ("dual_vib", ["--numbers", "500"], "numbers must be at most 360, the examples, got (500,)"),
        ("dual_vib", ["--smoothing", "1"], "smoothing must be between 0 and 1, got 1.0"),
        ("dual_vib", ["--label-scale", "0"], "label_scale must be positive and finite, got 0.0"),
    ],
)
def test_a_flag_that_cannot_be_is_named(name, flags, words, command_line, never_run, tmp_path):
    never_run(name)
    status, text = command_line(name, "--preset", "quick", "--results-dir", tmp_path, *flags)
    assert status != 0
    assert words in text
    assert not list(tmp_path.iterdir())


def test_every_method_is_drawn():
    assert set(dual_vib.LOOKS) == set(dual_vib.METHODS)

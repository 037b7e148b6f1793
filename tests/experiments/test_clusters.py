"""The noisy network, what is counted of pairs of its activations, and how histograms compare."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import clusters
from experiments.common import epochs, noisy_cnn, pairs


@pytest.fixture
def network():
    """Parameters of a small network, 12 images and their labels."""
    params = noisy_cnn.initial_params(
        jax.random.key(0), (8, 8, 2), 3, channels=(3, 4), side=3, width=5
    )
    images = jax.random.normal(jax.random.key(1), (12, 8, 8, 2))
    return params, images, jnp.arange(12) % 3


def reference(params, images):
    """The logits, by XLA's convolution and Flax's pooling."""
    from flax import linen as nn

    t = images
    for name in ("conv_1", "conv_2"):
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel = params[name]["kernel"]
        t = jax.lax.conv_general_dilated(t, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        t = nn.max_pool(jnp.tanh(t + params[name]["bias"]), (2, 2), strides=(2, 2))
    t = t.reshape(len(t), -1)
    t = jnp.tanh(t @ params["dense_1"]["kernel"] + params["dense_1"]["bias"])
    return t @ params["dense_2"]["kernel"] + params["dense_2"]["bias"]


def test_it_is_the_network_of_two_convolutions_and_two_dense_layers(network):
    params, images, _ = network
    np.testing.assert_allclose(
        noisy_cnn.logits(params, images), reference(params, images), rtol=1e-5, atol=1e-6
    )


def test_noise_has_its_standard_deviation_and_dropout_keeps_the_mean():
    s = jnp.full((200, 500), 0.7)
    key = jax.random.key(2)
    noisy, dropped = (noisy_cnn.noise(key, *kind)(1, s) for kind in ((0.3, 0.0), (0.0, 0.2)))
    np.testing.assert_allclose([noisy.mean(), noisy.std()], [0.7, 0.3], atol=0.004)
    assert set(np.unique(dropped).round(5)) == {0.0, 0.875}
    np.testing.assert_allclose([dropped.mean(), (dropped == 0).mean()], [0.7, 0.2], atol=0.004)
    np.testing.assert_array_equal(noisy_cnn.noise(key, 0.0, 0.0)(1, s), s)


@pytest.mark.slow
def test_kinds_beside_each_other_take_the_steps_that_each_would_take_alone(network):
    params, images, labels = network
    optimizer = optax.sgd(0.1)
    kinds = jnp.array([(0.0, 0.0), (0.3, 0.0), (0.0, 0.5)])
    state = jax.tree.map(lambda w: jnp.stack([w] * 3)[None], params), optimizer.init(params)
    keys = jax.random.split(jax.random.key(3), 1)

    def after(kinds, params):
        moving = jax.vmap(jax.vmap(optimizer.init))(params)
        return epochs.train_epoch(
            *(noisy_cnn.loss, keys, kinds, (images, labels), (params, moving)),
            optimizer=optimizer,
            batch_size=12,
        )[0]

    together = after(kinds, state[0])
    for i in range(3):
        alone = after(kinds[i : i + 1], jax.tree.map(lambda w, i=i: w[:, i : i + 1], state[0]))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[0, i], b[0, 0], rtol=1e-4, atol=1e-6),
            together,
            alone,
        )

    def loss(w):  # without noise and in one batch: gradient descent
        out = reference(w, images)
        return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()

    expected = jax.tree.map(lambda w, g: w - 0.1 * g, params, jax.grad(loss)(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0, 0], b, rtol=1e-4, atol=1e-6),
        together,
        expected,
    )


def test_errors_are_counted_image_by_image_across_chunks(network, monkeypatch):
    params, images, labels = network
    monkeypatch.setattr(noisy_cnn, "CHUNK", 5)
    two = jax.tree.map(lambda w: jnp.stack([w, -w]), params)
    found = noisy_cnn.wrong(jax.random.key(0), two, jnp.zeros((2, 2)), images, labels)
    for own, sign in zip(found, (1, -1), strict=True):
        out = reference(jax.tree.map(lambda w, sign=sign: sign * w, params), images)
        np.testing.assert_array_equal(own, out.argmax(1) != labels)


@pytest.mark.slow
def test_layers_of_other_widths_share_a_program_and_distances_have_unit_mean_square():
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(3, size=40))
    layers = [jnp.asarray(rng.normal(size=(40, *d)), jnp.float32) for d in ((2, 3), (11,))]
    found = pairs.measure(layers, labels)
    for i, layer in enumerate(layers):
        rows = layer.reshape(40, -1)
        alone = pairs.layer_columns(rows, labels)
        for name, value in alone.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-4, atol=1e-5, err_msg=name)
        squares = np.square(np.asarray(rows)[:, None] - np.asarray(rows)[None]).sum(-1)
        expected = np.sqrt(squares.sum() / (40 * 39))
        np.testing.assert_allclose(alone["rms_distance"], expected, rtol=1e-5)


def histograms(kind, place, width=3):
    """Rows of a layer and two seeds: all pairs spread over bins from `place` on."""
    rows = []
    for seed in range(2):
        row = {"kind": kind, "layer": 1, "seed": seed}
        for name in ("cosine_within", "cosine_between"):
            density = np.zeros(40)
            density[place + seed : place + seed + width] = 20 / width
            row |= pairs.flat({f"{name}_density": density})
        rows.append(row)
    return rows


def test_histograms_that_are_shifted_are_apart_by_the_shift():
    rows = histograms("deterministic", 10) + histograms("dropout", 14)
    np.testing.assert_allclose(pairs.moved(rows, "deterministic", "dropout"), 4 * 0.05, rtol=1e-3)
    np.testing.assert_allclose(pairs.moved(rows, "dropout", "dropout"), 0, atol=1e-9)
    shifted = pairs.moved(rows, "deterministic", "dropout", shift=1)
    np.testing.assert_allclose(shifted, [[5 * 0.05, 3 * 0.05]], rtol=1e-3)


def test_the_part_of_the_way_is_0_without_noise_and_1_at_dropout():
    config = clusters.Config(sigmas=(0.1, 0.2, 0.3), num_seeds=2)
    places = {"deterministic": 10, "noisy_0.1": 10, "noisy_0.2": 13, "noisy_0.3": 14}
    rows = [row for kind, place in places.items() for row in histograms(kind, place)]
    found = clusters.resemblance(rows + histograms("dropout", 14), config)
    np.testing.assert_allclose(found["part_of_the_way"][:, 0], [0, 0.75, 1], atol=1e-3)
    # Closest: none and little noise; noise and dropout by 3 - 1 bins; by 4 - 0.
    np.testing.assert_allclose(found["margin"][:, 0], [-0.2, 0.1, 0.2], atol=1e-3)

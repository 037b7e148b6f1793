"""What every network keeps; what differs between them is in the tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax import nets

KEY = jax.random.key(0)

# Hand counts, kernels + biases layer by layer.
MLP = (784 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
ALEXNET = (
    (75 * 64 + 64)
    + (1600 * 64 + 64)
    + (7 * 7 * 64 * 384 + 384)
    + (384 * 192 + 192)
    + (192 * 10 + 10)
)
ALL_CNN = (
    (27 * 96 + 96)
    + 2 * (9 * 96 * 96 + 96)
    + (9 * 96 * 192 + 192)
    + 3 * (9 * 192 * 192 + 192)
    + (192 * 192 + 192)
    + (192 * 10 + 10)
)
# With gains and shifts instead of biases it has the well-known 11,173,962: two numbers instead
# of one for each of the 4,800 channels that are normalized.
RESNET = 11_173_962 - 4_800

SIZES = {
    "mlp": ((28, 28, 1), MLP),
    "small_alexnet": ((28, 28, 3), ALEXNET),
    "all_cnn": ((32, 32, 3), ALL_CNN),
    "resnet18": ((32, 32, 3), RESNET),
}
BLOCKS = [f"Conv_block_{index}" for index in range(8)]
LAYERS = {
    "mlp": ["Dense_0", "Dense_1", "Dense_2"],
    "small_alexnet": ["Conv_0", "Conv_1", "Dense_0", "Dense_1", "Dense_2"],
    "all_cnn": [f"Conv_{index}" for index in range(9)],
    "resnet18": ["Conv_0", *BLOCKS, "Dense_0"],
}
CONVOLUTIONAL = ["small_alexnet", "all_cnn", "resnet18"]
EVERY = pytest.mark.parametrize("name", nets.NAMES)


def inputs_of(dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), (3, 8, 8, 1), jnp.float32).astype(dtype)


@functools.cache
def params_of(name):
    return nets.make(name, 10).init(KEY, inputs_of())


@functools.cache
def compiled(name):
    """(params, inputs) -> (loss, logits), gradient: one compile serves all tests of a network."""
    apply_fn = nets.make(name, 10).apply_fn

    def loss(params, inputs):
        logits = apply_fn(params, inputs)
        return -jax.nn.log_softmax(logits)[:, 0].sum(), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def logits_and_gradient(name):
    (_, logits), gradient = compiled(name)(params_of(name), inputs_of())
    return logits, gradient


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@EVERY
def test_number_of_weights(name):
    shape, expected = SIZES[name]
    example = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params = jax.eval_shape(nets.make(name, 10).init, KEY, example)
    assert count(params) == expected


def test_the_numbers_that_are_quoted():
    assert (MLP, ALEXNET, ALL_CNN) == (269_322, 1_387_786, 1_369_738)


@EVERY
def test_keys_are_the_layers_in_order(name):
    params = params_of(name)
    assert list(params) == LAYERS[name]
    for layer in params.values():
        paths = jax.tree.leaves_with_path(layer)
        assert {path[-1].key for path, _ in paths} == {"kernel", "bias"}


@EVERY
def test_kernels_start_normal_and_biases_at_zero(name):
    scaled = []
    for path, leaf in jax.tree.leaves_with_path(params_of(name)):
        if path[-1].key == "bias":
            np.testing.assert_array_equal(leaf, 0)
        else:
            scaled.append(leaf.ravel() * np.sqrt(leaf.size / leaf.shape[-1]))
    last = scaled[-1]  # the layer in front of the logits: LeCun, all others He
    hidden = np.concatenate(scaled[:-1])
    for values, variance in ((last, 1.0), (hidden, 2.0)):
        root = np.sqrt(len(values))
        assert abs(values.mean() / np.sqrt(variance)) * root < 4
        assert abs(np.mean(values**2) / variance - 1) * root / np.sqrt(2) < 4


@EVERY
def test_logits_are_finite_and_of_order_one(name):
    logits, _ = logits_and_gradient(name)
    assert logits.shape == (3, 10)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert 0.1 < np.std(logits) < 10


@EVERY
def test_every_gradient_is_finite_and_reaches_every_kernel(name):
    _, gradient = logits_and_gradient(name)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert path[-1].key == "bias" or np.any(leaf != 0), path


@EVERY
def test_made_twice_is_the_same_function(name):
    first, second = nets.make(name, 10), nets.make(name, 10)
    assert first.init is second.init
    assert first.apply_fn is second.apply_fn
    assert nets.make(name, 9).apply_fn is not first.apply_fn


@EVERY
def test_an_example_does_not_see_its_batch(name):
    others = inputs_of().at[jnp.array([0, 2])].multiply(-3.0)
    (_, logits), _ = compiled(name)(params_of(name), others)
    np.testing.assert_allclose(logits[1], logits_and_gradient(name)[0][1], rtol=1e-5, atol=1e-5)
    assert np.abs(logits[0] - logits_and_gradient(name)[0][0]).max() > 1e-2


@EVERY
def test_applying_it_changes_no_parameter(name):
    before = jax.tree.map(np.array, params_of(name))
    first, second = (compiled(name)(params_of(name), inputs_of())[0][1] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    jax.tree.map(np.testing.assert_array_equal, before, params_of(name))


@EVERY
def test_the_dtype_of_the_inputs_is_the_dtype_of_all(name):
    network = nets.make(name, 10)
    with jax.enable_x64(True):
        example = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float64)
        params = jax.eval_shape(network.init, KEY, example)
        logits = jax.eval_shape(network.apply_fn, params, example)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float64")}
    assert logits.dtype == np.float64


def test_float64_computes_the_same_function_from_the_same_start():
    network = nets.make("mlp", 10)
    with jax.enable_x64(True):
        wide_inputs = inputs_of(jnp.float64)
        wide = network.init(KEY, wide_inputs)
        jax.tree.map(np.testing.assert_array_equal, wide, params_of("mlp"))
        logits = jax.jit(network.apply_fn)(wide, wide_inputs)
    np.testing.assert_allclose(logits, logits_and_gradient("mlp")[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_only_images_can_be_convolved(name):
    with pytest.raises(ValueError, match=r"inputs must be images .* got shape \(2, 64\)"):
        nets.make(name, 10).init(KEY, jnp.zeros((2, 64)))


@EVERY
def test_integer_pixels_are_refused(name):
    with pytest.raises(ValueError, match=r"inputs must be floating-point .* got uint8"):
        nets.make(name, 10).apply_fn({}, jnp.zeros((2, 8, 8, 1), jnp.uint8))


@EVERY
def test_num_classes_must_be_positive(name):
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        nets.make(name, 0)


def test_unknown_names_get_the_list():
    with pytest.raises(ValueError, match="mlp, small_alexnet, all_cnn, resnet18, got 'vgg'"):
        nets.make("vgg", 10)

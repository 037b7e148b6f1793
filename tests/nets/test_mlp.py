import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax import nets

KEY = jax.random.key(0)
FUNCTIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": jax.nn.gelu,
    "identity": lambda z: z,
}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_is_the_formula(activation):
    network = nets.mlp(3, widths=(5, 4), activation=activation)
    inputs = jax.random.normal(jax.random.key(1), (6, 2, 3))
    params = network.init(KEY, inputs)
    h = np.asarray(inputs).reshape(6, 6)
    for layer in ("Dense_0", "Dense_1"):
        h = FUNCTIONS[activation](h @ params[layer]["kernel"] + params[layer]["bias"])
    expected = h @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]
    np.testing.assert_allclose(network.apply_fn(params, inputs), expected, atol=1e-5)


def test_images_and_flat_inputs_are_the_same():
    network = nets.mlp(3, widths=(5,))
    inputs = jax.random.normal(KEY, (6, 4, 4, 1))
    params = network.init(KEY, inputs)
    flat = network.apply_fn(params, inputs.reshape(6, 16))
    np.testing.assert_array_equal(network.apply_fn(params, inputs), flat)


def test_no_hidden_layer_is_a_linear_model():
    network = nets.mlp(3, widths=())
    params = network.init(KEY, jnp.zeros((1, 7)))
    assert jax.tree.map(jnp.shape, params) == {"Dense_0": {"kernel": (7, 3), "bias": (3,)}}


def test_a_list_of_widths_is_the_same_network():
    assert nets.mlp(3, widths=[5, 4]) is nets.mlp(3, widths=(5, 4))


def test_made_again_it_is_not_traced_again():
    traces = 0

    def logits(params, inputs, apply_fn):
        nonlocal traces
        traces += 1
        return apply_fn(params, inputs)

    compiled = jax.jit(logits, static_argnames="apply_fn")
    inputs = jnp.ones((2, 4))
    for _ in range(2):
        network = nets.mlp(3, widths=(5,))
        compiled(network.init(KEY, inputs), inputs, apply_fn=network.apply_fn)
    assert traces == 1


def test_scale_per_layer_is_a_prefix_of_the_parameters():
    params = nets.mlp(3, widths=(5,)).init(KEY, jnp.ones((2, 4)))
    scales = {"Dense_0": 0.1, "Dense_1": 0.2}
    scaled = jax.tree.map(lambda s, layer: jax.tree.map(lambda w: s * w, layer), scales, params)
    expected = 0.2 * params["Dense_1"]["kernel"]
    np.testing.assert_array_equal(scaled["Dense_1"]["kernel"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (5, 0)}, r"widths must be positive, got \(5, 0\)"),
        ({"activation": "swish"}, "one of relu, gelu, tanh, identity, got 'swish'"),
    ],
)
@pytest.mark.parametrize("maker", [nets.mlp, nets.mlp_local])
def test_wrong_arguments_are_named(maker, options, message):
    with pytest.raises(ValueError, match=message):
        maker(3, **options)

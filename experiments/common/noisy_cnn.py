"""A small convolutional network whose hidden layers may be noisy, as pure functions.

    T_0 = X,    S_l = f_l(T_{l-1}),    T_l = S_l + noise,    l = 1, 2, 3

Two convolutions and two dense layers, tanh, so that S_l lies in [-1, 1] and cannot outgrow the
noise; the logits have none. The shapes are those of the parameters.

A kind of network is (σ, part of the units that dropout sets to 0). Networks of several kinds are
trained side by side (`epochs`), and those of a seed share start, minibatches and noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

LAYERS = ("conv_1", "conv_2", "dense_1")  # hidden; then dense_2, the logits
CHUNK = 256  # images that pass at once where errors are counted


def initial_params(
    key: jax.Array,
    shape: tuple[int, int, int],
    num_classes: int,
    *,
    channels: tuple[int, int],
    side: int,
    width: int,
) -> Any:
    """Kernels ~ N(0, 1/inputs of a unit), biases 0; a tree of {'kernel', 'bias'} by layer.

    Args:
      key: random key.
      shape: of an image, (H, W, C).
      num_classes: K, logits.
      channels: of the two convolutions.
      side: pixels along each side of their kernels; odd.
      width: units of the dense hidden layer.
    """
    height, breadth, colours = shape
    first, second = channels
    window = side, side
    shapes = {
        "conv_1": (*window, colours, first),
        "conv_2": (*window, first, second),
        "dense_1": ((height // 4) * (breadth // 4) * second, width),
        "dense_2": (width, num_classes),
    }
    params = {}
    for own, (name, size) in zip(jax.random.split(key, 4), shapes.items(), strict=True):
        kernel = jax.random.normal(own, size) / np.sqrt(np.prod(size[:-1]))
        params[name] = {"kernel": kernel, "bias": jnp.zeros(size[-1])}
    return params


def hidden_layer(name: str, params: Any, t: jax.Array) -> jax.Array:
    """S_l from T_{l-1}: tanh of a dense layer, or of the largest of 2 x 2 of a convolution."""
    kernel, bias = params[name]["kernel"], params[name]["bias"]
    if kernel.ndim == 2:
        return jnp.tanh(t.reshape(len(t), -1) @ kernel + bias)
    return jnp.tanh(_pool(_convolve(t, kernel)) + bias)


def _convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """(N, H, W, I), (k, k, I, O) -> (N, H, W, O), padded: one product, for kernels side by side.

    XLA would make one grouped convolution of networks that are `vmap`ped, which is slow on CPUs.
    """
    side = len(kernel)
    height, width = images.shape[1:3]
    around = (side // 2, side // 2)
    padded = jnp.pad(images, ((0, 0), around, around, (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _pool(images: jax.Array) -> jax.Array:
    """Largest of 2 x 2."""
    number, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(number, height // 2, 2, width // 2, 2, channels).max((2, 4))


def passed(
    params: Any,
    inputs: jax.Array,
    disturb: Callable[[int, jax.Array], jax.Array] = lambda _, s: s,
) -> tuple[jax.Array, list[jax.Array]]:
    """Logits (N, K), and S_l of every hidden layer; `disturb(l, S_l)` is T_l."""
    t, centres = inputs, []
    for i, name in enumerate(LAYERS):
        centres.append(hidden_layer(name, params, t))
        t = disturb(i, centres[-1])
    return t @ params["dense_2"]["kernel"] + params["dense_2"]["bias"], centres


def logits(params: Any, inputs: jax.Array) -> jax.Array:
    """Without noise, (N, K)."""
    return passed(params, inputs)[0]


def noise(key: jax.Array, sigma: Any, dropout: Any) -> Callable[[int, jax.Array], jax.Array]:
    """T = S + σZ with a part of the units set to 0 and the others scaled up; keys share draws."""

    def disturb(layer: int, s: jax.Array) -> jax.Array:
        gaussian, dropping = jax.random.split(jax.random.fold_in(key, layer))
        kept = jax.random.uniform(dropping, s.shape) >= dropout
        return (s + sigma * jax.random.normal(gaussian, s.shape)) * kept / (1 - dropout)

    return disturb


def loss(params: Any, key: jax.Array, batch: Any, kind: jax.Array) -> jax.Array:
    """Mean loss of (images, labels) under the noise of a kind (σ, dropout); nats a label."""
    images, labels = batch
    out, _ = passed(params, images, noise(key, *kind))
    return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()


@jax.jit
def wrong(
    key: jax.Array, params: Any, kinds: jax.Array, inputs: jax.Array, targets: jax.Array
) -> jax.Array:
    """Which images networks (M, ...) with (σ, dropout) (M, 2) get wrong, (M, N)."""
    count = len(inputs)
    numbers = jnp.arange(-(-count // CHUNK))

    def of_network(own: Any) -> jax.Array:
        weights, (sigma, dropout) = own

        def of_chunk(number: jax.Array) -> jax.Array:
            at = (number * CHUNK + jnp.arange(CHUNK)) % count
            out, _ = passed(
                weights, inputs[at], noise(jax.random.fold_in(key, number), sigma, dropout)
            )
            return out.argmax(1) != targets[at]

        return jax.lax.map(of_chunk, numbers).ravel()[:count]

    return jax.lax.map(of_network, (params, kinds))

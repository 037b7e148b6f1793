"""Noisy networks on the 12-bit problem: trained side by side over seeds, weights kept on the way.

The network has Gaussian noise of standard deviation σ on every hidden layer, in training too;
losses and accuracies are those without it. σ = 0 gives the deterministic network.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import config as common
from experiments.common import cost
from experiments.common.context import Context
from iw_jax import checks, data
from iw_jax.normals import standard_normal

Params = list[dict[str, jax.Array]]  # kernel (in, out) and bias (out,) of every layer
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": partial(jax.nn.leaky_relu, negative_slope=0.1),
    "linear": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How the networks are trained; the common part of the experiments on the 12-bit problem.

    Attributes:
      szt_file: var_u.mat, for the original labels; empty for the built-in rule.
      widths: units of the hidden layers.
      activation: tanh, relu, leaky_relu or linear.
      sigma: standard deviation of the noise on every hidden layer.
      orthonormal: pull the weights of the hidden layers towards orthonormal rows after every step.
      orthonormal_rate: α of that pull; the paper's is unknown.
      shuffled_labels: give the patterns each other's labels.
      num_epochs: passes over the training patterns.
      num_times: epochs at which the network is looked at, evenly in the logarithm.
      batch_size: patterns a step; what an epoch leaves over is left out, other patterns each time.
      learning_rate: Adam's.
      num_seeds: networks, which differ in first weights, noise and minibatches.
      seed: root of all randomness.
    """

    szt_file: str = ""
    widths: tuple[int, ...] = (10, 7, 5, 4, 3)
    activation: Literal["tanh", "relu", "leaky_relu", "linear"] = "tanh"
    sigma: float = 0.005
    orthonormal: bool = False
    orthonormal_rate: float = 1e-3
    shuffled_labels: bool = False
    num_epochs: int = 10_000
    num_times: int = 40
    batch_size: int = 256
    learning_rate: float = 4e-4
    num_seeds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a value that no run could use, before anything is computed."""
        common.check_fields(self)
        common.at_least(self, num_epochs=1, num_times=2)
        checks.positive("sigma", self.sigma)
        checks.between("orthonormal_rate", self.orthonormal_rate, 0, 0.5)
        common.require(len(self.widths) > 0, "widths", "at least one layer", self.widths)
        common.require(
            self.activation in ACTIVATIONS,
            "activation",
            f"one of {', '.join(ACTIVATIONS)}",
            self.activation,
        )
        train = data.szt().train_inputs
        common.require(
            self.batch_size <= len(train), "batch_size", f"at most {len(train)}", self.batch_size
        )


def load(config: Config, data_dir: Path | None) -> data.Dataset:
    """The patterns and their labels."""
    del data_dir
    dataset = data.szt(config.szt_file or None)
    if not config.shuffled_labels:
        return dataset
    rng = np.random.default_rng((config.seed, 0))
    return dataclasses.replace(
        dataset,
        train_targets=rng.permutation(dataset.train_targets),
        test_targets=rng.permutation(dataset.test_targets),
    )


def all_of(dataset: data.Dataset) -> tuple[jax.Array, jax.Array]:
    """All 4,096 patterns and labels: the law of X."""
    inputs = np.concatenate([dataset.train_inputs, dataset.test_inputs])
    return jnp.asarray(inputs), jnp.asarray(
        np.concatenate([dataset.train_targets, dataset.test_targets])
    )


def epochs(config: Config) -> list[int]:
    """At which networks are looked at: 1 and the last among them, increasing."""
    spaced = np.geomspace(1, config.num_epochs, config.num_times)
    return sorted({round(e) for e in spaced})


# ---------------------------------------------------------------------------------- the network


@cache  # static arguments are known by identity
def hidden_layers(activation: str, number: int) -> tuple[Callable[..., jax.Array], ...]:
    """f_l(params, t) of every hidden layer, without its noise; as `iw.noisy_mutual_information`."""
    function = ACTIVATIONS[activation]

    def layer(i: int, params: Params, t: jax.Array) -> jax.Array:
        return function(t @ params[i]["kernel"] + params[i]["bias"])

    return tuple(partial(layer, i) for i in range(number))


def activations(config: Config, params: Params, inputs: jax.Array) -> list[jax.Array]:
    """Of every hidden layer without noise, (N, d_l)."""
    found = []
    for layer in hidden_layers(config.activation, len(config.widths)):
        inputs = layer(params, inputs)
        found.append(inputs)
    return found


def logits(params: Params, activation: str, t: jax.Array, noises: list[Any]) -> jax.Array:
    """(N, 2), with these numbers added to the hidden layers."""
    for layer, noise in zip(hidden_layers(activation, len(params) - 1), noises, strict=True):
        t = layer(params, t) + noise
    return t @ params[-1]["kernel"] + params[-1]["bias"]


def initial(config: Config, key: jax.Array) -> Params:
    """Kernels and biases U(-1/√in, 1/√in)."""
    sizes = [data.szt().train_inputs.shape[1], *config.widths, 2]
    params = []
    for i, (size, width) in enumerate(itertools.pairwise(sizes)):
        reach = size**-0.5
        kernel, bias = (
            jax.random.uniform(
                jax.random.fold_in(key, 2 * i + j), shape, minval=-reach, maxval=reach
            )
            for j, shape in enumerate([(size, width), (width,)])
        )
        params.append({"kernel": kernel, "bias": bias})
    return params


# ------------------------------------------------------------------------------------- training


def stage(config: Config, dataset: data.Dataset) -> cost.Stage:
    """What training will take; see `common.cost`."""
    hidden = len(config.widths)

    def apply_fn(params: Params, t: jax.Array) -> jax.Array:
        return logits(params, config.activation, t, [0.0] * hidden)

    inputs, targets = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    return cost.training(
        iw.Task(apply_fn, iw.Categorical(), inputs, targets),
        initial(config, jax.random.key(0)),
        optax.adam(config.learning_rate),
        batch=config.batch_size,
        steps=config.num_epochs * (len(inputs) // config.batch_size),
        networks=config.num_seeds,
    )


def train(
    config: Config, dataset: data.Dataset, context: Context, sigma: float, stage: str = "training"
) -> Params:
    """Weights at `epochs(config)`, leaves (E, S, ...); resumes.

    Args:
      config: how.
      dataset: what on.
      context: of the run.
      sigma: σ; 0 for the deterministic network.
      stage: name of the bar and of the checkpoints.
    """
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(config.seed)))(
        jnp.arange(config.num_seeds)
    )
    params = jax.vmap(partial(initial, config))(keys)
    optimizer = optax.adam(config.learning_rate)
    state = params, jax.vmap(optimizer.init)(params)
    stops = epochs(config)
    bounds = [0, *stops]
    history = jax.tree.map(lambda w: jnp.zeros((len(stops), *w.shape), w.dtype), params)
    patterns = jnp.asarray(dataset.train_inputs), jnp.asarray(dataset.train_targets)
    pull = config.orthonormal_rate if config.orthonormal else 0.0
    settings = config.activation, config.batch_size, config.learning_rate, pull

    def advance(i: int, carry: Any) -> Any:
        state, history = carry
        state = _train(keys, state, patterns, sigma, bounds[i], bounds[i + 1], settings)
        return state, jax.tree.map(lambda h, w: h.at[i].set(w), history, state[0])

    return context.iterate(advance, (state, history), len(stops), stage)[1]


@partial(jax.jit, static_argnames="settings")
def _train(
    keys: jax.Array,
    state: Any,
    patterns: tuple[jax.Array, jax.Array],
    sigma: Any,
    first: Any,
    last: Any,
    settings: tuple,
) -> Any:
    """Epochs `first` to `last` - 1 of every seed."""
    activation, batch_size, learning_rate, pull = settings
    inputs, targets = patterns
    optimizer = optax.adam(learning_rate)
    steps = len(inputs) // batch_size

    def loss(params: Params, x: jax.Array, y: jax.Array, noises: list[jax.Array]) -> jax.Array:
        z = logits(params, activation, x, [sigma * n for n in noises])
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    def epoch(key: jax.Array, i: jax.Array, state: Any) -> Any:
        shuffling, drawing = jax.random.split(jax.random.fold_in(key, i))
        order = jax.random.permutation(shuffling, len(inputs))[: steps * batch_size]

        def step(state: Any, at: Any) -> Any:
            params, adam = state
            rows, own = at
            like = [jnp.zeros((batch_size, len(p["bias"]))) for p in params[:-1]]
            gradient = jax.grad(loss)(
                params, inputs[rows], targets[rows], standard_normal(own, like)
            )
            change, adam = optimizer.update(gradient, adam)
            params = optax.apply_updates(params, change)
            if pull:
                params = [*(_pulled(layer, pull) for layer in params[:-1]), params[-1]]
            return (params, adam), None

        batches = order.reshape(steps, batch_size), jax.random.split(drawing, steps)
        return jax.lax.scan(step, state, batches)[0]

    def one(key: jax.Array, state: Any) -> Any:
        return jax.lax.fori_loop(first, last, partial(epoch, key), state)

    return jax.vmap(one)(keys, state)


def _pulled(layer: dict[str, jax.Array], rate: float) -> dict[str, jax.Array]:
    """W <- W - α (W W' W - W), W = kernel': rows become orthonormal (Parseval networks)."""
    K = layer["kernel"]
    return {**layer, "kernel": K - rate * (K @ (K.T @ K) - K)}


@partial(jax.jit, static_argnames="activation")
def fits(
    params: Params, activation: str, inputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean loss in nats, and accuracy, without noise; (E, S) for weights (E, S, ...)."""

    def one(params: Params) -> tuple[jax.Array, jax.Array]:
        z = logits(params, activation, inputs, [0.0] * (len(params) - 1))
        loss = optax.softmax_cross_entropy_with_integer_labels(z, targets).mean()
        return loss, (z.argmax(1) == targets).mean()

    return jax.lax.map(jax.vmap(one), params)

"""Encoders and decoders of variational bottlenecks, their training, and what they keep."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from experiments.common import config as common
from experiments.common import cost, epochs, tables
from experiments.common.context import Context
from iw_jax import bottleneck, data, nets

SHIFT = 5.0  # scale = softplus(rho - SHIFT): codes begin with little noise
MEASURED = ("information", "conditional_information", "label_information", "rate", "distortion")


class Coder(NamedTuple):
    """A bottleneck of dense layers.

    Attributes:
      init: (key, inputs) -> params.
      model: what the library measures.
    """

    init: Callable[[jax.Array, jax.Array], Any]
    model: bottleneck.VariationalBottleneck


@functools.cache  # static arguments are known by identity
def coder(num_classes: int, widths: tuple[int, ...], latent: int, conditional: bool) -> Coder:
    """An mlp to mean and scale of e(z|x), a linear decoder, and one b(z|y) for each class.

    Args:
      num_classes: K.
      widths: hidden units of the encoder.
      latent: dimensions of z.
      conditional: whether there are b(z|y). Each is N(0, I) where params["conditional"] is 0, so
        that VIB is a member of a sweep like the others.
    """
    body = nets.mlp(2 * latent, widths=widths)
    head = nets.mlp(num_classes, widths=())

    def init(key: jax.Array, inputs: jax.Array) -> Any:
        encoding, decoding = jax.random.split(key)
        params = {
            "encoder": body.init(encoding, inputs),
            "decoder": head.init(decoding, jnp.zeros((1, latent))),
        }
        if conditional:
            params["backward"] = {
                "mean": jnp.zeros((num_classes, latent)),
                "log_scale": jnp.zeros((num_classes, latent)),
            }
        return params

    def encode(params: Any, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, rho = jnp.split(body.apply_fn(params["encoder"], inputs), 2, axis=-1)
        return mean, jax.nn.softplus(rho - SHIFT)

    def decode(params: Any, z: jax.Array) -> jax.Array:
        return head.apply_fn(params["decoder"], z)

    def backward(params: Any, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = jax.tree.map(lambda leaf: params["conditional"] * leaf[targets], params["backward"])
        return own["mean"], jnp.exp(own["log_scale"])

    model = bottleneck.VariationalBottleneck(encode, decode, backward if conditional else None)
    return Coder(init, model)


def check_config(config: Any) -> None:
    """Raises ValueError for what neither training nor evaluation could use."""
    common.at_least(config, num_epochs=1, num_evaluated=0, num_contrasted=2)
    common.require(config.num_evaluated != 1, "num_evaluated", "0 or at least 2", 1)
    common.require(0 <= config.decay < 1, "decay", "in [0, 1)", config.decay)


def stage(
    config: Any,
    dataset: data.Dataset,
    model: Coder,
    loss: Callable[[jax.Array, iw.Task, Any], jax.Array],
    *,
    networks: int,
    abreast: int,
) -> cost.Stage:
    """What `train` will take; see `common.cost`.

    Args:
      config: as for `train`.
      dataset: of the run.
      model: whose weights are trained.
      loss: (key, batch, weights) -> what a step differentiates.
      networks: of all seeds.
      abreast: side by side.
    """
    inputs, targets = scaled(dataset)["train"]
    encode, decode, likelihood = model.model.encode, model.model.decode, model.model.likelihood
    per_epoch = len(inputs) // config.batch_size
    params = model.init(jax.random.key(0), inputs[:1])
    mean = lambda own, x: decode(own, encode(own, x)[0])  # noqa: E731
    return cost.Stage(
        iw.Task(mean, likelihood, inputs, targets),
        params,
        loss,
        params,
        optimizer(config.learning_rate, per_epoch, config.decay),
        batch=config.batch_size,
        steps=config.num_epochs * per_epoch,
        networks=networks,
        abreast=abreast,
        looks=1.0,
        shared=True,
    )


@functools.cache
def optimizer(
    learning_rate: float, steps_an_epoch: int, decay: float
) -> optax.GradientTransformation:
    """Adam of the VIB paper: β1 = 0.5, the rate times 0.97 every two epochs; weights averaged."""
    rate = optax.exponential_decay(learning_rate, 2 * steps_an_epoch, 0.97, staircase=True)
    return optax.chain(optax.adam(rate, b1=0.5), epochs.averaging(decay))


def train(
    loss: epochs.Loss,
    start: Any,
    settings: Any,
    examples: Any,
    context: Context,
    config: Any,
    *,
    keys: jax.Array,
    stage: str,
    own: Any = None,
    subsets: list[np.ndarray] | None = None,
) -> Any:
    """Averaged weights, leaves (S, M, ...), of starts (S, ...); resumes epoch by epoch.

    Args:
      loss: of a batch.
      start: weights, leaves (S, ...); members of a seed begin at the same ones.
      settings: leaves (M, ...).
      examples: as for `epochs.train_epoch`, like `own`.
      context: of the run.
      config: with `num_epochs`, `batch_size`, `learning_rate` and `decay`.
      keys: (S,).
      stage: name of the bar and of the checkpoints.
      own: see `examples`.
      subsets: the examples that each seed has; None for all.
    """
    members = len(jax.tree.leaves(settings)[0])
    count = len(jax.tree.leaves(examples)[0])
    steps = count // config.batch_size
    few = {}
    if subsets is not None:
        few["rows"] = jnp.asarray([np.resize(places, count) for places in subsets])
        few["sizes"] = jnp.asarray([len(places) for places in subsets])
    adam = optimizer(config.learning_rate, steps, config.decay)
    params = jax.tree.map(lambda w: jnp.repeat(w[:, None], members, axis=1), start)

    def epoch(number: int, state: Any) -> Any:
        return epochs.train_epoch(
            loss,
            jax.vmap(jax.random.fold_in, (0, None))(keys, number),
            settings,
            examples,
            state,
            optimizer=adam,
            batch_size=config.batch_size,
            own=own,
            **few,
        )

    state = params, jax.jit(jax.vmap(jax.vmap(adam.init)))(params)
    return epochs.averaged(context.iterate(epoch, state, config.num_epochs, stage)[1])


def scaled(dataset: data.Dataset) -> dict[str, tuple[jax.Array, jax.Array]]:
    """'train' and 'test' -> (inputs, targets); pixels from -1, black, to 1, white."""
    low, high = dataset.train_inputs.min(), dataset.train_inputs.max()
    return {
        part: (jnp.asarray(2 * (inputs - low) / (high - low) - 1), jnp.asarray(targets))
        for part, inputs, targets in (
            ("train", dataset.train_inputs, dataset.train_targets),
            ("test", dataset.test_inputs, dataset.test_targets),
        )
    }


def columns(found: bottleneck.BottleneckInformation) -> list[dict[str, float]]:
    """The columns of every member, of an evaluation with leaves (M, ...)."""
    found = jax.tree.map(np.asarray, found)
    values = {}
    for name in (*MEASURED, "error", "single_error"):
        estimate, unit = getattr(found, name), "_nats" if name in MEASURED else ""
        values[f"{name}{unit}"] = estimate.value
        values[f"{name}{unit}_stderr"] = estimate.stderr
        if name.endswith("information") and name != "label_information":
            values[f"{name}_upper_nats"] = estimate.bracket_upper
    return [
        {name: float(value[i]) for name, value in values.items()}
        for i in range(len(found.error.value))
    ]


def mean_and_stderr(values: np.ndarray) -> list[float | None]:
    """[mean, standard error] over seeds; of one seed the error is not known."""
    if len(values) > 1:
        return tables.mean_and_stderr(values)
    return [tables.rounded(values.mean()), None]


def label_entropy(rows: tables.Rows) -> float:
    """H(Y) of the test labels, nats: what distortion and the bound of I(Z;Y) add up to."""
    row = next(row for row in rows if row["part"] == "test")
    return row["label_information_nats"] + row["distortion_nats"]

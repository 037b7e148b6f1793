"""Networks trained by SGD side by side for so many steps, and the Fisher of each of them.

The members of a family share a pool of examples and one compiled program, whatever their data sets,
batch size, learning rate or outputs: all of these are data. (`fitting` has the SGD that ends where
a network fits, with momentum, for networks whose labels differ.)
"""

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iw_jax as iw
from experiments.common.checks import Check
from experiments.common.context import Context
from experiments.common.tables import Rows
from iw_jax import data, nets, trees
from iw_jax.task import take

ABSENT = -1e9  # added to the logit of an output that is not there: its probability is exactly 0
CHUNK = 250  # examples in a chunk of a curvature product
SPECTRA = 2  # of a network: as it is, and at the matched temperature
HALF = 0.5  # mean entropy of the predictions at the matched temperature, in units of ln K


@trees.record
class Family:
    """S networks, each with a data set and outputs of its own.

    Attributes:
      params: weights, leaves (S, ...).
      start: the weights that they began with, leaves (S, ...).
      keys: (S,), of the minibatches; members with equal keys draw the same places of `examples`.
      examples: (S, M), a member's examples as indices into the pool.
      counts: (S,), N; the first N of a member's examples are its data set.
      absent: (S, K), added to its logits: 0 for an output that there is, else `ABSENT`.
    """

    params: Any
    start: Any
    keys: jax.Array
    examples: jax.Array
    counts: jax.Array
    absent: jax.Array

    def member(self, index: int) -> "Family":
        """One of them: leaves without the leading axis."""
        return jax.tree.map(lambda leaf: leaf[index], self)

    def task(self, index: int, pool: iw.Task) -> iw.Task:
        """What a member learns: the pool, each example as often as the data set has it."""
        own = self.member(index)
        weights = np.bincount(
            np.asarray(own.examples)[: int(own.counts)], minlength=pool.num_examples
        )
        task = _with_outputs(pool, own.absent)
        return dataclasses.replace(task, weights=jnp.asarray(weights, jnp.float32))


def family(
    key: jax.Array,
    network: nets.Network,
    pool: iw.Task,
    examples: Any,
    counts: Any,
    outputs: Any = True,
) -> Family:
    """Networks at their initialisations; a member's depends on the key and its number only.

    Args:
      key: random key.
      network: of all.
      pool: the examples.
      examples: (S, M), indices into the pool.
      counts: N; for all, or (S,).
      outputs: whether there is each of the K outputs; (), (K,) or (S, K).
    """
    size = len(examples)
    starting, drawing = (
        jax.vmap(partial(jax.random.fold_in, k))(jnp.arange(size)) for k in jax.random.split(key)
    )
    params = jax.vmap(lambda k: network.init(k, pool.inputs["x"][:1]))(starting)
    present = np.broadcast_to(outputs, (size, pool.inputs["absent"].shape[1]))
    return Family(
        params=params,
        start=params,
        keys=drawing,
        examples=jnp.asarray(examples),
        counts=jnp.asarray(np.broadcast_to(counts, size)),
        absent=jnp.where(present, 0.0, ABSENT),
    )


def pool(network: nets.Network, dataset: data.Dataset) -> iw.Task:
    """The task of all training examples, with all outputs of a network."""
    inputs = jnp.asarray(dataset.train_inputs)
    with_outputs = {"x": inputs, "absent": jnp.zeros((len(inputs), dataset.num_classes))}
    targets = jnp.asarray(dataset.train_targets)
    return iw.Task(_masked(network), iw.Categorical(), with_outputs, targets)


@cache  # static arguments are known by identity
def _masked(network: nets.Network) -> Any:
    return lambda params, inputs: network.apply_fn(params, inputs["x"]) + inputs["absent"]


def _with_outputs(task: iw.Task, absent: jax.Array) -> iw.Task:
    shape = (task.num_examples, len(absent))
    return trees.replace(task, inputs={**task.inputs, "absent": jnp.broadcast_to(absent, shape)})


# ------------------------------------------------------------------------------------ descent


@partial(jax.jit, static_argnames="micro")
def descend(
    task: iw.Task,
    members: Family,
    first: int,
    last: int,
    *,
    micro: int,
    parts: int = 1,
    rate: float,
    horizon: float = np.inf,
    pull: float = 0.0,
) -> Family:
    """SGD steps `first` to `last` - 1 on the mean loss + pull/2 |w - start|², of every member.

    A batch is drawn with replacement, in `parts` of `micro` examples whose gradients are added up,
    so that one program serves all batch sizes; the k-th part holds the same examples in each.

    Args:
      task: the pool.
      members: where they are.
      first: number of the first step.
      last: number of the step after the last.
      micro: examples a part.
      parts: of a batch.
      rate: learning rate at step 0.
      horizon: the step at which the rate is 0, along a cosine; inf keeps it.
      pull: towards the start, per squared weight.
    """

    def train(own: Family) -> Any:
        own_task = _with_outputs(task, own.absent)

        def add_part(j: jax.Array, state: Any) -> Any:
            total, params = state
            drawn = jax.random.randint(jax.random.fold_in(own.keys, j), (micro,), 0, own.counts)
            batch = take(own_task, own.examples[drawn], 1 / (micro * parts))
            gradient = jax.grad(lambda p: iw.nll(batch, p))(params)
            return jax.tree.map(jnp.add, total, gradient), params

        def step(i: jax.Array, params: Any) -> Any:
            zero = jax.tree.map(jnp.zeros_like, params)
            gradient, _ = jax.lax.fori_loop(i * parts, (i + 1) * parts, add_part, (zero, params))
            pace = rate * (1 + jnp.cos(jnp.pi * jnp.minimum(i / horizon, 1))) / 2
            return jax.tree.map(
                lambda w, g, w0: w - pace * (g + pull * (w - w0)), params, gradient, own.start
            )

        return jax.lax.fori_loop(first, last, step, own.params)

    return dataclasses.replace(members, params=jax.vmap(train)(members))


def path(
    context: Context, task: iw.Task, members: Family, stops: Sequence[int], **settings: Any
) -> Any:
    """Weights after so many steps, leaves (len(stops), S, ...); resumes.

    Args:
      context: of the run.
      task: the pool.
      members: where they start.
      stops: numbers of steps, increasing.
      **settings: as for `descend`.
    """
    bounds = [0, *stops]

    def advance(i: int, state: Any) -> Any:
        params, history = state
        here = dataclasses.replace(members, params=params)
        params = descend(task, here, bounds[i], bounds[i + 1], **settings).params
        return params, jax.tree.map(lambda h, w: h.at[i].set(w), history, params)

    history = jax.tree.map(lambda w: jnp.zeros((len(stops), *w.shape), w.dtype), members.params)
    return context.iterate(advance, (members.params, history), len(stops), "training")[1]


# ------------------------------------------------------------------------------------- Fisher


def half_logdet(prior_scale: float) -> str:
    """The column of ½ log det(I + λ²F), β = 1."""
    return f"half_logdet_nats_scale_{prior_scale:g}"


def fisher_columns(
    task: iw.Task,
    params: nets.Params,
    *,
    prior_scales: Sequence[float],
    key: jax.Array,
    num_matvecs: int,
) -> dict[str, Any]:
    """Trace and log-determinants of the Fisher of one network, and how well it fits.

    Exact where there are at most `num_matvecs` weights, else with 95 % intervals. Traces are those
    of F/N, of the mean loss, as papers have them; log-determinants those of F, of the summed loss.

    The matched trace is that of the network with the weights of its last layer divided by the T at
    which its predictions have half the entropy that K equal ones have. No decision changes by it,
    and it undoes any scaling of the logits: what falls of it is not saturation of the softmax.

    Args:
      task: of one network, with its data set.
      params: its weights.
      prior_scales: λ of the log-determinants.
      key: random key, for the probes.
      num_matvecs: curvature products allowed.
    """
    weights = np.asarray(task.weights, np.float64)
    number = float(weights.sum())
    logits, loss = (np.asarray(x, np.float64) for x in _outputs(task, params))
    live = weights > 0
    temperature = matched_temperature(logits[live], weights[live])
    spectrum, matched = (
        iw.spectral_measure(iw.ggn(task, w, batch_size=CHUNK), key=key, num_matvecs=num_matvecs)
        for w in (params, with_logits_divided(params, temperature))
    )
    right = logits.argmax(1) == np.asarray(task.targets)
    columns: dict[str, Any] = {
        "num_weights": spectrum.size,
        "num_examples": int(number),
        "num_outputs": int(np.sum(logits[0] > ABSENT / 2)),
        "products": int(spectrum.cost),
        "ended_by": spectrum.ended,
        "loss_nats_per_label": float(loss) / number,
        "accuracy": float(right @ weights / number),
        "temperature": temperature,
    }
    columns |= _interval("trace_per_label", spectrum.trace(), number)
    columns |= _interval("matched_trace_per_label", matched.trace(), number)
    for scale in prior_scales:
        columns |= _interval(half_logdet(scale), spectrum.logdet(scale**2), 2.0)
    return columns


def matched_temperature(logits: np.ndarray, weights: np.ndarray) -> float:
    """T at which softmax(logits/T) has a mean entropy of ½ ln K, K outputs that there are."""
    present = logits > ABSENT / 2
    target = HALF * np.log(present[0].sum())

    def entropy(temperature: float) -> float:
        z = np.where(present, logits / temperature, -np.inf)
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return float(weights @ -np.sum(p * np.log(np.where(p > 0, p, 1)), 1) / weights.sum())

    low, high = np.log(1e-6), np.log(1e6)
    for _ in range(60):  # the entropy rises with T
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(np.exp(middle)) < target else (low, middle)
    return float(np.exp(middle))


def with_logits_divided(params: nets.Params, temperature: float) -> nets.Params:
    """The weights with those of the last layer, the last `Dense` or else `Conv`, divided by T."""
    names = [n for n in params if n.startswith("Dense_")]
    names = names or [n for n in params if n.startswith("Conv_") and "kernel" in params[n]]
    last = max(names, key=lambda name: int(name.rpartition("_")[2]))
    return {**params, last: jax.tree.map(lambda w: w / temperature, params[last])}


@jax.jit
def _outputs(task: iw.Task, params: nets.Params) -> tuple[jax.Array, jax.Array]:
    """Logits (pool, K), and the summed loss."""
    each = lambda x: task.apply_fn(params, jax.tree.map(lambda leaf: leaf[None], x))[0]  # noqa: E731
    logits = jax.lax.map(each, task.inputs, batch_size=CHUNK)
    return logits, iw.nll(task, params, batch_size=CHUNK)


def _interval(name: str, estimate: iw.Estimate, divisor: float) -> dict[str, float]:
    lower, upper = estimate.interval()
    return {
        name: float(estimate.value) / divisor,
        f"{name}_lower": float(lower) / divisor,
        f"{name}_upper": float(upper) / divisor,
    }


def check_logdets(rows: Rows, prior_scales: Sequence[float]) -> list[Check]:
    """Whether log-determinants lie where the trace allows, and were measured well enough.

    log(1 + λ² tr F) <= log det(I + λ²F) <= r log(1 + λ² tr F/r): all curvature in one direction, or
    the same in each of r = min(n, N (K - 1)), which F has at most.
    """
    worst, widest = np.inf, 0.0
    for row in rows:
        rank = min(row["num_weights"], row["num_examples"] * (row["num_outputs"] - 1))
        for scale in prior_scales:
            lower, upper = (row[f"{half_logdet(scale)}_{end}"] for end in ("lower", "upper"))
            low, high = (
                scale**2 * row["num_examples"] * row[f"trace_per_label_{end}"]
                for end in ("lower", "upper")
            )
            least, most = np.log1p(low) / 2, rank * np.log1p(high / rank) / 2
            size = abs(row[half_logdet(scale)])
            worst = min(worst, (upper - least) / size, (most - lower) / size)
            widest = max(widest, (upper - lower) / 2 / size)
    return [
        Check(
            "every log-determinant lies between the bounds that the trace sets",
            bool(worst >= 0),
            f"by {100 * worst:.2g} % at least",
        ),
        Check(
            "every log-determinant is known to 10 %",
            bool(widest <= 0.1),
            f"half-widths {100 * widest:.2g} % at most; allow more products (--num-matvecs)",
        ),
    ]

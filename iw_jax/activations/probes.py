"""Information that activations hold about a label, as far as a small network can read it out."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iw_jax import checks, trees
from iw_jax.estimates import Estimate

_ROUNDS = 20  # how often a probe is tried on the examples that stop it

Labelled = tuple[jax.Array, jax.Array]


def probe_information(
    key: jax.Array,
    fitting: Labelled,
    stopping: Labelled,
    held_out: Labelled,
    *,
    entropy: Any,
    num_classes: int,
    width: int = 64,
    num_steps: int = 600,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
) -> Estimate:
    """I(z; t) >= H(t) + E log q(t|z): what a probe q shows to be there; nats.

    The probe is a softmax classifier with one hidden layer of ReLUs on standardised activations. It
    is fitted to some examples, stopped by others (the best of 21 states, the first of which knows
    only how frequent the labels are), and judged on a third kind. So the value is an unbiased
    estimate of a lower bound: it misses I by E KL(p(t|z) || q(t|z)), and a probe with more capacity
    or examples may miss less. It is not clipped: below 0 it says that the probe is worse than none,
    and 0 is the better bound.

    A fixed budget: pure, and good under `jit` and `vmap`.

    Args:
      key: of the probe's first weights and its minibatches.
      fitting: activations (F, R, d) and integer labels (F, R): F independent examples with R draws
        of each (of weight noise, say).
      stopping: likewise, of other examples.
      held_out: likewise, of yet others; the standard error is over its examples.
      entropy: H(t), nats, where the law of t is known; or that of the held-out frequencies, which
        is too small on average, so that the bound still holds.
      num_classes: K, values that t may take.
      width: hidden units of the probe.
      num_steps: optimiser steps (Adam with a cosine decay).
      batch_size: draws a step, with replacement.
      learning_rate: of the first step.

    Returns:
      An Estimate of the bound. `cost` is the number of held-out examples.

    Raises:
      TypeError, ValueError: for a key that is no typed random key, counts out of range, shapes that
        do not fit, activations that are not finite, labels that are no integers below K.

    References:
      Barber & Agakov, The IM algorithm, NIPS 2003; Achille & Soatto, arXiv:1706.01350, Fig. 4,
      where a discriminator estimates the same log-ratio log p(t|z)/p(t).
    """
    checks.key("key", key)
    checks.positive("learning_rate", learning_rate)
    for name, count, least in (
        ("num_classes", num_classes, 2),
        ("width", width, 1),
        ("num_steps", num_steps, 1),
        ("batch_size", batch_size, 1),
    ):
        checks.at_least(name, count, least)
    names = "fitting", "stopping", "held_out"
    given = [(jnp.asarray(z), jnp.asarray(t)) for z, t in (fitting, stopping, held_out)]
    fitting, stopping, held_out = given
    for name, (z, t) in zip(names, given, strict=True):
        if z.ndim != 3 or z.shape[:2] != t.shape or z.shape[2:] != fitting[0].shape[2:]:
            raise ValueError(
                f"{name} must be activations (F, R, d) and labels (F, R), d the same for all, got "
                f"{z.shape} and {t.shape}"
            )
        checks.finite(f"activations of {name}", z)
        _require_labels(name, t, num_classes)
    centre, deviation = fitting[0].mean((0, 1)), fitting[0].std((0, 1))
    # A unit that never moves tells nothing; dividing by its rounding errors would.
    scale = jnp.where(deviation > 1e-6 * (1 + jnp.abs(centre)), deviation, jnp.inf)
    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    (z, t), stop, last = (((z - centre) / scale, t) for z, t in (fitting, stopping, held_out))
    draw, walk = jax.random.split(key)
    probe = _fit(
        walk,
        _first(draw, z.shape[-1], width, flat(t), num_classes),
        (flat(z), flat(t)),
        stop,
        num_steps,
        batch_size,
        learning_rate,
    )
    return Estimate.mean_of(entropy + _log_likelihood(probe, *last).mean(1))


def _require_labels(name: str, t: jax.Array, num_classes: int) -> None:
    """Raises unless labels are integers from 0 to K - 1. The values of traced ones pass."""
    if not jnp.issubdtype(t.dtype, jnp.integer):
        raise TypeError(f"labels of {name} must be integers, got {t.dtype}")
    if trees.is_concrete(t) and t.size:
        low, high = np.min(t), np.max(t)
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels of {name} must lie from 0 to {num_classes - 1}, got {low} to {high}"
            )


def _first(
    key: jax.Array, inputs: int, width: int, labels: jax.Array, classes: int
) -> dict[str, jax.Array]:
    """A probe that says of everything what is most frequent; no label counts as impossible."""
    counts = jnp.bincount(labels, length=classes)
    return {
        "in": np.sqrt(2 / inputs) * jax.random.normal(key, (inputs, width)),
        "in_bias": jnp.zeros(width),
        "out": jnp.zeros((width, classes)),
        "out_bias": jnp.log(counts + 1 / classes) - np.log(len(labels) + 1),
    }


def _log_likelihood(probe: dict[str, jax.Array], z: jax.Array, t: jax.Array) -> jax.Array:
    """log q(t|z), (...,) for z (..., d) and t (...,)."""
    hidden = jax.nn.relu(z @ probe["in"] + probe["in_bias"])
    logits = hidden @ probe["out"] + probe["out_bias"]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), t[..., None], -1)[..., 0]


def _fit(
    key: jax.Array,
    probe: dict[str, jax.Array],
    fitting: Labelled,
    stopping: Labelled,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
) -> dict[str, jax.Array]:
    """The state of the lowest cross-entropy on `stopping`."""
    z, t = fitting
    length = -(-num_steps // _ROUNDS)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, _ROUNDS * length))

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        probe, state = carry
        rows = jax.random.randint(key, (batch_size,), 0, len(t))
        slope = jax.grad(lambda q: -_log_likelihood(q, z[rows], t[rows]).mean())(probe)
        change, state = optimizer.update(slope, state)
        return (optax.apply_updates(probe, change), state), None

    def one_round(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        now, kept, lowest = carry
        now, _ = jax.lax.scan(step, now, jax.random.split(key, length))
        loss = -_log_likelihood(now[0], *stopping).mean()
        better = loss < lowest
        kept = jax.tree.map(partial(jnp.where, better), now[0], kept)
        return (now, kept, jnp.where(better, loss, lowest)), None

    start = (probe, optimizer.init(probe)), probe, -_log_likelihood(probe, *stopping).mean()
    (_, kept, _), _ = jax.lax.scan(one_round, start, jax.random.split(key, _ROUNDS))
    return kept

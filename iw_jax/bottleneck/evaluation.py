"""What a trained bottleneck keeps, on a set of examples, with standard errors."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.bottleneck.contrastive import bracketed, contrasts, in_chunks
from iw_jax.bottleneck.variational import (
    VariationalBottleneck,
    check_model,
    check_prices,
    dual_distortion,
    encoded,
    rates,
)
from iw_jax.estimates import Estimate
from iw_jax.likelihoods import Categorical
from iw_jax.trees import PyTree


@trees.record
class BottleneckInformation:
    """A bottleneck on N examples; Estimates, nats an example, standard errors over examples.

    Attributes:
      information: I(X;Z). Value and lower end: by contrast of the codes, at most log of
        `num_contrasted`; upper end: the smaller one of the contrast without the own code and the
        rate (of a conditional rate, rate + H(Y)).
      conditional_information: I(X;Z|Y), likewise, contrasted within a class.
      label_information: I(Z;Y) >= H(Y) - D, a lower bound; H(Y) of the labels' frequencies.
      rate: R. What it exceeds `information` by is KL(p(z) ‖ r(z)); with b(z|y) it is to be compared
        with `conditional_information`.
      distortion: D.
      dual_distortion: D*; 0 without a noise model.
      objective: J at the beta and dual that were given.
      error: part of examples for which the mean of q(y|z) over all draws names another class.
      single_error: the same for q(y|z) of one draw, mean over draws.
      num_samples: draws of z for each example, of distortions and errors; the contrast takes one.
      num_contrasted: examples whose codes were contrasted.
    """

    information: Estimate
    conditional_information: Estimate
    label_information: Estimate
    rate: Estimate
    distortion: Estimate
    dual_distortion: Estimate
    objective: Estimate
    error: Estimate
    single_error: Estimate
    num_samples: int = trees.static()
    num_contrasted: int = trees.static()


def evaluate_bottleneck(
    key: jax.Array,
    model: VariationalBottleneck,
    params: PyTree,
    inputs: Any,
    targets: Any,
    *,
    beta: Any,
    dual: Any = 0.0,
    log_noise: Any = None,
    num_samples: int = 12,
    num_contrasted: int = 2000,
    batch_size: int = 500,
) -> BottleneckInformation:
    """Rate, distortion and information of a bottleneck on examples; give train and test separately.

    Good under `jit` and `jax.lax.map`. The noise of an example depends on the key and its place.

    Args:
      key: random key.
      model: with `Categorical` likelihood.
      params: whatever it reads.
      inputs: x, (N, ...), N >= 2, independent of each other and in any order.
      targets: y, integers (N,).
      beta: price of the rate, at least 0; see `bottleneck_terms`.
      dual: part of D*, 0 to 1.
      log_noise: log p_noise(y|x), (N, K); needed unless dual is 0.
      num_samples: draws of z for each example.
      num_contrasted: examples that are contrasted, the first ones; time grows with its square.
      batch_size: examples that pass at once.

    Raises:
      ValueError: as `bottleneck_terms`; for a likelihood that is not Categorical, or one example.
    """
    checks.key("key", key)
    counts = {"num_samples": 1, "num_contrasted": 2, "batch_size": 1}
    given = num_samples, num_contrasted, batch_size
    for (name, least), count in zip(counts.items(), given, strict=True):
        checks.at_least(name, count, least)
    check_prices(beta, dual, log_noise)
    if not isinstance(model.likelihood, Categorical):
        raise ValueError(f"likelihood must be Categorical, got {model.likelihood}")
    number = len(jax.tree.leaves(inputs)[0])
    if number < 2 or np.shape(targets) != (number,):
        raise ValueError(
            "inputs and targets must hold the same number of examples, at least 2, got "
            f"{number} and {np.shape(targets)}"
        )
    check_model(model, params, inputs, targets, log_noise)
    found, least = _evaluate(
        key,
        model,
        params,
        inputs,
        jnp.asarray(targets),
        beta,
        dual,
        log_noise,
        num_samples=num_samples,
        num_contrasted=min(num_contrasted, number),
        batch_size=batch_size,
    )
    checks.positive("scale, the second that encode returns,", least)
    return found


@partial(jax.jit, static_argnames=("num_samples", "num_contrasted", "batch_size"))
def _evaluate(
    key: jax.Array,
    model: VariationalBottleneck,
    params: PyTree,
    inputs: Any,
    targets: jax.Array,
    beta: Any,
    dual: Any,
    log_noise: Any,
    *,
    num_samples: int,
    num_contrasted: int,
    batch_size: int,
) -> tuple[BottleneckInformation, jax.Array]:
    """The estimates, and the smallest scale of all codes."""
    drawing, contrasting = jax.random.split(key)

    number = len(targets)
    keys = jax.random.split(drawing, number)

    def of_example(i: jax.Array) -> dict[str, jax.Array]:
        own, x, y, log_p = jax.tree.map(lambda leaf: leaf[i], (keys, inputs, targets, log_noise))
        mean, scale = encoded(model, params, jax.tree.map(lambda leaf: leaf[None], x))
        rate = rates(model, params, mean, scale, y[None])[0]
        noise = jax.random.normal(own, (num_samples, mean.shape[1]), mean.dtype)
        logits = model.decode(params, mean + scale * noise)
        log_q = jax.nn.log_softmax(logits)
        together = jax.nn.logsumexp(log_q, axis=0)
        opposite = jnp.zeros(())
        if log_p is not None:
            opposite = dual_distortion(logits[:, None], log_p[None]).mean()
        return {
            "mean": mean[0],
            "scale": scale[0],
            "rate": rate,
            "distortion": -log_q[:, y].mean(),
            "dual_distortion": opposite,
            "error": 1.0 * (together.argmax() != y),
            "single_error": jnp.mean(1.0 * (logits.argmax(1) != y)),
            "share": jax.nn.one_hot(y, logits.shape[1]),
        }

    each = in_chunks(of_example, number, batch_size)
    shares = each.pop("share").mean(0)
    log_share = jnp.log(shares[targets])
    mean, scale = each.pop("mean"), each.pop("scale")
    each["objective"] = (
        (1 - dual) * each["distortion"] + dual * each["dual_distortion"] + beta * each["rate"]
    )
    of_all = {name: Estimate.mean_of(values) for name, values in each.items()}

    few = slice(num_contrasted)
    z = mean + scale * jax.random.normal(contrasting, mean.shape, mean.dtype)
    groupings = jnp.zeros_like(targets[few]), targets[few]
    plain, conditional = contrasts(z[few], mean[few], scale[few], groupings)
    rate = each["rate"] - (0.0 if model.backward is None else log_share)  # + H(Y)
    found = BottleneckInformation(
        information=_at_most(plain, Estimate.mean_of(rate)),
        conditional_information=_at_most(conditional, of_all["rate"]),
        label_information=Estimate.mean_of(-log_share - each["distortion"]),
        **of_all,
        num_samples=num_samples,
        num_contrasted=num_contrasted,
    )
    return found, scale.min()


def _at_most(estimate: Estimate, upper: Estimate) -> Estimate:
    """With the bracket up to another upper bound, if that is lower than its own."""
    lower = upper.value < estimate.bracket_upper
    return jax.tree.map(partial(jnp.where, lower), bracketed(estimate, upper), estimate)

r"""Deep variational bottlenecks: VIB, the conditional entropy bottleneck and VdualIB.

An encoder e(z|x) = N(mean(x), diag scale(x)²), a decoder q(y|z), and a law that codes are compared
to: r(z) = N(0, I) in VIB, b(z|y), one for each class, in CEB and VdualIB.

    J = (1 - dual) D + dual D* + beta R
    D  = E -log q(y|z)                          distortion
    D* = E KL( q(y|z) ‖ p_noise(y|x) )          the same with the arguments of the KL exchanged
    R  = E KL( e(z|x) ‖ r(z) )  >= I(X;Z)       rate of VIB
    R  = E KL( e(z|x) ‖ b(z|y) ) >= I(X;Z|Y)    rate of CEB and VdualIB

beta multiplies the RATE. Rate and distortion are both nats an EXAMPLE, since every example is sent:
so sum and mean over examples have the same beta, unlike C_β, where the weights are sent once.
To the literature: VIB's beta is this one, and 1/β_IB of I(X;Z) - β_IB I(Y;Z). CEB's γ is 1/beta,
and its β_IB is 1 + γ = 1 + 1/beta. VdualIB's L = R + β D + γ D* is this J times β + γ, with
beta = 1/(β + γ) and dual = γ/(β + γ).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.likelihoods import Categorical, Likelihood
from iw_jax.trees import PyTree

# (params, inputs (N, ...)) or (params, targets (N,)) -> mean, scale; (N, d) each
Gaussians = Callable[[PyTree, Any], tuple[jax.Array, jax.Array]]


@trees.record
class VariationalBottleneck:
    """Functions that make a variational bottleneck; they are static: define them once.

    Attributes:
      encode: (params, inputs) -> mean and scale of e(z|x), (N, d) each; scale positive.
      decode: (params, z (N, d)) -> outputs of q(y|z) (N, ...); logits (N, K) for classes.
      backward: (params, targets) -> mean and scale of b(z|y), of shapes that broadcast to (N, d).
        None for r(z) = N(0, I).
      likelihood: of the targets given the outputs; dual terms and `evaluate_bottleneck` need
        `Categorical`.
    """

    encode: Gaussians = trees.static()
    decode: Callable[[PyTree, jax.Array], jax.Array] = trees.static()
    backward: Gaussians | None = trees.static(default=None)
    likelihood: Likelihood = Categorical()


@trees.record
class BottleneckTerms:
    """The parts of J, means over a batch; nats an example.

    Attributes:
      objective: J.
      rate: R, exact given the inputs.
      distortion: D, from draws of z.
      dual_distortion: D*; 0 without a noise model.
    """

    objective: jax.Array
    rate: jax.Array
    distortion: jax.Array
    dual_distortion: jax.Array


def bottleneck_terms(
    key: jax.Array,
    model: VariationalBottleneck,
    params: PyTree,
    inputs: Any,
    targets: Any,
    *,
    beta: Any,
    dual: Any = 0.0,
    log_noise: Any = None,
    num_samples: int = 1,
) -> BottleneckTerms:
    """J = (1 - dual) D + dual D* + beta R of a batch, differentiable by reparameterisation.

    Of one key, draws of z are the same whatever the parameters: members of a `vmap` over parameters
    or beta share them.

    Args:
      key: random key.
      model: encoder, decoder and what codes are compared to.
      params: whatever these read.
      inputs: x, (N, ...).
      targets: y; integers (N,) for classes.
      beta: price of a nat of rate, in nats of distortion; at least 0. Traced.
      dual: part of D*, 0 (VIB, CEB) to 1 (VdualIB). Traced.
      log_noise: log p_noise(y|x), (N, K), e.g. from `log_label_noise`; needed unless dual is 0.
      num_samples: draws of z for each example.

    Raises:
      ValueError: for beta below 0 or not finite, dual outside [0, 1], scales that are not positive,
        shapes that do not fit, rows of `log_noise` that do not sum to one.

    References:
      Alemi et al., arXiv:1612.00410, Eq. 17; Fischer, arXiv:2002.05379, Sec. 2.4; Piran et al.,
      arXiv:2006.04641, Sec. 5.
    """
    checks.key("key", key)
    checks.at_least("num_samples", num_samples, 1)
    check_prices(beta, dual, log_noise)
    check_model(model, params, inputs, targets, log_noise)
    mean, scale = encoded(model, params, inputs)
    rate = rates(model, params, mean, scale, targets)
    noise = jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)
    outputs = jax.vmap(model.decode, (None, 0))(params, mean + scale * noise)
    distortion = jax.vmap(model.likelihood.nll, (0, None))(outputs, targets)
    opposite = jnp.zeros(())
    if log_noise is not None:
        opposite = dual_distortion(outputs, log_noise)
    r, d, d_dual = rate.mean(), distortion.mean(), opposite.mean()
    return BottleneckTerms((1 - dual) * d + dual * d_dual + beta * r, r, d, d_dual)


def predictive(
    key: jax.Array,
    model: VariationalBottleneck,
    params: PyTree,
    inputs: Any,
    *,
    num_samples: int = 12,
) -> jax.Array:
    """Log of the mean of q(y|z) over draws of z, (N, K); nats.

    Args:
      key: random key.
      model: with `Categorical` likelihood.
      params: whatever it reads.
      inputs: (N, ...).
      num_samples: draws of z for each example.
    """
    checks.key("key", key)
    checks.at_least("num_samples", num_samples, 1)
    mean, scale = encoded(model, params, inputs)
    noise = jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)
    log_q = jax.nn.log_softmax(jax.vmap(model.decode, (None, 0))(params, mean + scale * noise))
    return jax.nn.logsumexp(log_q, axis=0) - np.log(num_samples)


def gaussian_kl(mean: Any, scale: Any, other_mean: Any = 0.0, other_scale: Any = 1.0) -> jax.Array:
    """KL( N(mean, scale²) ‖ N(other_mean, other_scale²) ), summed over the last axis; nats.

    Args:
      mean: (..., d).
      scale: standard deviations, (..., d), positive.
      other_mean: what broadcasts to (..., d); 0 by default.
      other_scale: likewise, positive; 1 by default.
    """
    ratio = scale / other_scale
    apart = jnp.square((mean - other_mean) / other_scale)
    return jnp.sum((apart + jnp.square(ratio) - 1) / 2 - jnp.log(ratio), axis=-1)


# ------------------------------------------------------------------------------------- parts


def encoded(
    model: VariationalBottleneck, params: PyTree, inputs: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean and scale of e(z|x), (N, d) each; scales are checked where they are known."""
    mean, scale = model.encode(params, inputs)
    checks.positive("scale, the second that encode returns,", scale)
    return mean, scale


def rates(
    model: VariationalBottleneck, params: PyTree, mean: jax.Array, scale: jax.Array, targets: Any
) -> jax.Array:
    """KL of every code to what it is compared to, (N,)."""
    if model.backward is None:
        return gaussian_kl(mean, scale)
    other_mean, other_scale = model.backward(params, targets)
    checks.positive("scale, the second that backward returns,", other_scale)
    return gaussian_kl(mean, scale, other_mean, other_scale)


def dual_distortion(logits: jax.Array, log_noise: Any) -> jax.Array:
    """KL( q(y|z) ‖ p_noise(y|x) ) of logits (..., N, K), summed over classes."""
    log_q = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_q) * (log_q - log_noise), axis=-1)


def check_model(
    model: VariationalBottleneck, params: PyTree, inputs: Any, targets: Any, log_noise: Any
) -> None:
    """Raises, before anything is computed, where functions, examples and noise do not fit."""
    mean, scale = jax.eval_shape(model.encode, params, inputs)
    rows = len(jax.tree.leaves(inputs)[0])
    if mean.ndim != 2 or len(mean) != rows or scale.shape != mean.shape:
        raise ValueError(
            f"encode must return a mean and a scale of shape ({rows}, d) each, got {mean.shape} "
            f"and {scale.shape}"
        )
    outputs = jax.eval_shape(model.decode, params, mean)
    model.likelihood.check(outputs.shape, targets)
    if model.backward is not None:
        for part in jax.eval_shape(model.backward, params, targets):
            fits = zip(part.shape[::-1], mean.shape[::-1], strict=False)
            if part.ndim > 2 or any(own not in (1, size) for own, size in fits):
                raise ValueError(
                    f"backward must return what broadcasts to the codes' {mean.shape}, got "
                    f"{part.shape}"
                )
    if log_noise is not None and not isinstance(model.likelihood, Categorical):
        raise ValueError(f"likelihood must be Categorical for log_noise, got {model.likelihood}")
    if log_noise is not None and np.shape(log_noise) != outputs.shape:
        raise ValueError(f"log_noise must be (N, K) = {outputs.shape}, got {np.shape(log_noise)}")


def check_prices(beta: Any, dual: Any, log_noise: Any) -> None:
    """Raises ValueError for prices that nothing can be bought at, or a noise model that is none."""
    for name, value, most in (("beta", beta, np.inf), ("dual", dual, 1.0)):
        if trees.is_concrete(value):
            numbers = np.asarray(value, float)
            if not np.all(np.isfinite(numbers) & (numbers >= 0) & (numbers <= most)):
                allowed = "at least 0 and finite" if most == np.inf else "from 0 to 1"
                raise ValueError(f"{name} must be {allowed}, got {value}")
    if log_noise is None:
        if not trees.is_concrete(dual) or np.any(np.asarray(dual) != 0):
            raise ValueError("log_noise must be given unless dual is 0, got None")
    elif trees.is_concrete(log_noise):
        total = np.exp(np.asarray(log_noise, float)).sum(-1)
        wrong = total[~(np.abs(total - 1) < SUM_TO_ONE)]
        if wrong.size or not np.all(np.isfinite(np.asarray(log_noise))):
            raise ValueError(
                "log_noise must be finite, and exp of each row sum to one, got "
                + (f"a sum of {wrong[0]:.6g}" if wrong.size else "a probability of 0")
            )


SUM_TO_ONE = 1e-4  # float32 sums of probabilities

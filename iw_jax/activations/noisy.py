r"""What noisy hidden layers know of a network's input: I(X; T_l) and I(Y; T_l).

    T_0 = X,    S_l = f_l(T_{l-1}),    T_l = S_l + Z_l,    Z_l ~ N(0, σ² I)

The noise belongs to the network. With p(t|x) the law of S_l given X = x smoothed by the noise,

    g(t) = Σ_x p(x) p(t|x),        I(X; T_l) = E log p(T_l|X)/g(T_l),

    g_y(t) = E[p(t|X) | Y = y],    I(Y; T_l) = E log g_Y(T_l)/g(T_l)

Samples are propagated: S_l of many passes of an input are the centres of a Gaussian mixture, which
estimates its p(t|x). An input at whose T_l densities are evaluated is passed often (`replicas`),
all others a few times (`draws`): of them only the sum over all is needed. Numerator and denominator
share the replicas, so that where inputs are far apart the ratio is 1/p(x), however few they are.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, xlogy
from jax.sharding import Mesh

from iw_jax import checks, trees
from iw_jax.activations.linearised import linearised_spread
from iw_jax.activations.mixture import (
    FAR,
    exact_enough,
    log_peak,
    mixture_log_density,
    noise_entropy,
)
from iw_jax.activations.smoothed import PARTS, extrapolated, nested, of_own_part, too_few
from iw_jax.estimates import Estimate
from iw_jax.normals import standard_normal
from iw_jax.trees import PyTree

Layer = Callable[[PyTree, jax.Array], jax.Array]
OPEN = 1 / 3  # of H(X): how much a bracket may leave open and still count as known
LINEARISED = 256  # units of a layer, at most, for whose Jacobians there is time and room
_AT_ONCE = 64  # inputs whose replicas are held at the same time


@trees.record
class NoisyInformation:
    """Information in the hidden layers of a noisy network; in nats, (L,) each.

    Standard errors are over probed inputs. Brackets reach as far as more replicas and draws would
    still move a value, extrapolated from a half and a quarter of them; those of informations also
    to what is found if the replica that a point was made from is left out of the densities there.
    `converged` says of I(X; T) that its bracket leaves open less than a third of H(X), and that
    rounding moves it by less than about 0.01 nats; of all, that halving does not show a bias whose
    end cannot be seen.

    Attributes:
      nats: I(X; T_l).
      labels: I(Y; T_l); None without labels.
      linearised: I(X; T_l) with h(T_l|X) of the linearised network, in which T_l given x is a
        Gaussian: without replicas, and right where σ is small. None if a layer has more than 256
        units: its cost grows like their cube.
      entropy: h(T_l).
      conditional_entropy: h(T_l | X); of the first layer exact.
      ceiling: H(X), scalar; of N inputs with equal weights log N.
    """

    nats: Estimate
    labels: Estimate | None
    linearised: Estimate | None
    entropy: Estimate
    conditional_entropy: Estimate
    ceiling: Any


def noisy_mutual_information(
    key: jax.Array,
    layers: Sequence[Layer],
    params: PyTree,
    inputs: Any,
    labels: Any = None,
    *,
    sigma: Any,
    weights: Any = None,
    num_classes: int | None = None,
    num_draws: int = 8,
    num_probed: int = 512,
    num_replicas: int = 300,
    num_points: int = 4,
    mesh: Mesh | None = None,
) -> NoisyInformation:
    """I(X; T_l) and I(Y; T_l) of every hidden layer, where X is one of the rows of `inputs`.

    One compiled program serves all weights, σ and keys. A fixed budget: good under `jit`.

    Args:
      key: random key.
      layers: the hidden layers f_l(params, t) without their noise, (N, ...) to (N, ...). Functions
        are static: define them once.
      params: whatever the layers read.
      inputs: x, (N, ...), at least 2, no two of them the same (give those a larger weight).
      labels: y, integers (N,).
      sigma: σ, the standard deviation of the noise on every hidden layer; never its variance.
      weights: p(x), (N,), at least 0; are made to sum to 1. None for equal ones.
      num_classes: K; None for the largest label + 1.
      num_draws: passes of every input; a multiple of 4. Of few inputs take many (of 8, 40): their
        scatter is common to all points, and not in the standard errors.
      num_probed: inputs, drawn by their weights, at whose T_l densities are evaluated.
      num_replicas: passes of each of those; a multiple of 4.
      num_points: evaluation points in each layer for each of those.
      mesh: from `iw.make_mesh`, to deal out the evaluation points over all devices.

    Raises:
      TypeError: for what is no random key, or labels that are no integers.
      ValueError: for a single input, σ <= 0, no replicas, counts or shapes that do not fit.

    Warns:
      UserWarning: for each layer whose I(X; T) has not converged: replicas are too few for the
        dimension, with theory's bounds, or activations are too large for float32.

    References:
      Goldfeld et al., arXiv:1810.05728, Sec. 3. There I(X; T) is a difference of two entropies, of
      which h(T) has as few centres an input as draws; its bias is not that of h(T|X), and does not
      cancel. The authors' code calls σ `sigma_z`.
    """
    checks.key("key", key)
    checks.positive("sigma", sigma)
    checks.scalar("sigma", sigma)
    inputs = jnp.asarray(inputs)
    number = len(inputs)
    if number < 2:
        raise ValueError(
            f"inputs must hold at least 2 rows, got {number}: nothing is to be told about one input"
        )
    checks.finite("inputs", inputs)
    if not layers:
        raise ValueError("layers must hold at least one hidden layer, got none")
    for name, count in (("num_draws", num_draws), ("num_replicas", num_replicas)):
        if count < PARTS or count % PARTS:
            raise ValueError(f"{name} must be a positive multiple of {PARTS}, got {count}")
    checks.at_least("num_probed", num_probed, 2)
    checks.at_least("num_points", num_points, 1)
    weights = jnp.ones(number) if weights is None else jnp.asarray(weights, float)
    if weights.shape != (number,):
        raise ValueError(f"weights must be ({number},), one for each input, got {weights.shape}")
    if trees.is_concrete(weights) and not (np.min(weights) >= 0 < np.sum(weights) < np.inf):
        raise ValueError(f"weights must be at least 0 and finite, one above, got {weights!r:.80}")
    if labels is not None:
        labels, num_classes = _checked_labels(labels, number, num_classes)
    found = _measure(
        key,
        params,
        inputs,
        labels,
        weights / weights.sum(),
        jnp.asarray(sigma, float),
        layers=tuple(layers),
        num_classes=num_classes,
        num_draws=num_draws,
        num_probed=num_probed,
        num_replicas=num_replicas,
        num_points=num_points,
        mesh=mesh,
    )
    if trees.is_concrete(found):
        known = np.asarray(found.nats.converged)
        for i, size in enumerate(_sizes(layers, params, inputs)):
            if not known[i]:
                message = too_few("replicas of an input", num_replicas, size, sigma)
                warnings.warn(f"layer {i + 1}: {message}. Or {FAR}", stacklevel=2)
    return found


def _checked_labels(labels: Any, number: int, num_classes: int | None) -> tuple[jax.Array, int]:
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != (number,):
        raise ValueError(f"labels must be ({number},), one for each input, got {labels.shape}")
    if not trees.is_concrete(labels):
        if num_classes is None:
            raise ValueError("num_classes must be given where labels are traced, got None")
        return labels, num_classes
    low, high = int(np.min(labels)), int(np.max(labels))
    num_classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie from 0 to {num_classes - 1}, got {low} to {high}")
    return labels, num_classes


def _sizes(layers: Sequence[Layer], params: PyTree, inputs: jax.Array) -> list[int]:
    """d_l of every layer."""
    sizes, t = [], inputs[:1]
    for layer in layers:
        t = jax.eval_shape(layer, params, t)
        sizes.append(math.prod(t.shape[1:]))
    return sizes


# ---------------------------------------------------------------------------------- estimation


@partial(
    jax.jit,
    static_argnames=(
        *("layers", "num_classes", "num_draws"),
        *("num_probed", "num_replicas", "num_points", "mesh"),
    ),
)
def _measure(
    key: jax.Array,
    params: PyTree,
    inputs: jax.Array,
    labels: jax.Array | None,
    weights: jax.Array,
    sigma: jax.Array,
    *,
    layers: tuple[Layer, ...],
    num_classes: int | None,
    num_draws: int,
    num_probed: int,
    num_replicas: int,
    num_points: int,
    mesh: Mesh | None,
) -> NoisyInformation:
    """The estimates of all layers.

    Densities have four levels: from all passes, from a half and from a quarter of them, and from
    all but the one that a point was made from.
    """
    number = len(inputs)
    drawing, choosing, probing = jax.random.split(key, 3)
    passes = jnp.repeat(inputs[None], num_draws, 0).reshape(-1, *inputs.shape[1:])
    draws = [
        s.reshape(num_draws, number, -1) for s in _pass(drawing, layers, params, passes, sigma)
    ]
    chosen = _chosen(choosing, weights, num_probed)

    def probe(at: tuple[jax.Array, jax.Array]) -> Any:
        """Points of every layer, of one input; their densities by its replicas, and its draws."""
        own, row = at
        passing, picking, adding = jax.random.split(own, 3)
        copies = jnp.repeat(inputs[row][None], num_replicas, 0)
        replicas = _pass(passing, layers, params, copies, sigma)
        rows = jax.random.randint(picking, (len(layers), num_points), 0, num_replicas)
        picked = [s[r] for s, r in zip(replicas, rows, strict=True)]
        noises = standard_normal(adding, picked)
        points = [s + sigma * noise for s, noise in zip(picked, noises, strict=True)]
        parts = list(rows % PARTS)
        by_replicas, by_draws = [], []
        for t, part, own, centres, few in zip(points, parts, rows, replicas, draws, strict=True):
            by_replicas.append(_levels(t, part, centres, sigma, own))
            by_draws.append(_levels(t, part, few[:, row], sigma))
        return list(zip(points, parts, by_replicas, by_draws, strict=True))

    probed = jax.lax.map(
        probe, (jax.random.split(probing, num_probed), chosen), batch_size=_AT_ONCE
    )
    sizes = [points.shape[-1] for points, *_ in probed]
    narrow = max(sizes) <= LINEARISED
    spreads = linearised_spread(layers, params, inputs, chosen) if narrow else None

    classes = weights[:, None]
    if labels is not None:
        member = labels[:, None] == jnp.arange(num_classes)
        mass = weights @ member
        of_classes = weights[:, None] * member / jnp.where(mass > 0, mass, 1.0)
        classes = jnp.concatenate([classes, of_classes], 1)
    share = jnp.log(classes[chosen])  # of the own input, in every class

    def of_layer(i: int) -> tuple[jax.Array, ...]:
        """log p(t|x), log g(t) and log g_y(t) at the points, (P, k, 4) each."""
        points, parts, by_replicas, by_draws = probed[i]
        # Nothing before the first layer is noisy: one draw of it is all there is.
        centres = draws[i] if i else draws[i][:1]
        densities = _class_densities(points, parts, centres, classes, sigma, mesh)
        densities = jnp.concatenate([densities, densities[:, :, :1]], 2)
        own = jnp.zeros_like(chosen) if labels is None else 1 + labels[chosen]
        logs = [
            _exchanged(
                jnp.take_along_axis(densities, c[:, None, None, None], 3)[..., 0],
                jnp.take_along_axis(share, c[:, None], 1)[:, 0],
                by_draws,
                by_replicas,
            )
            for c in (jnp.zeros_like(own), own)
        ]
        return by_replicas, *logs

    # Points of an input are averaged, inputs are independent: (P, 4, L).
    columns = [jnp.stack(x, -1) for x in zip(*map(of_layer, range(len(layers))), strict=True)]
    log_p, log_g, log_class = (x.mean(1) for x in columns)
    linearised = None
    if spreads is not None:
        calm = [
            noise_entropy(size, sigma) + spread for size, spread in zip(sizes, spreads, strict=True)
        ]
        linearised = extrapolated(-log_g - jnp.stack(calm, -1)[:, None])
    first = Estimate.exact(noise_entropy(sizes[0], sigma))
    ceiling = -xlogy(weights, weights).sum()
    nats = _bracketed(log_p - log_g)
    narrow_bracket = nats.bracket_upper - nats.bracket_lower <= OPEN * ceiling
    exact = jnp.stack([exact_enough(s.reshape(-1, s.shape[-1]), sigma) for s in draws])
    return NoisyInformation(
        nats=trees.replace(nats, converged=nats.converged & narrow_bracket & exact),
        labels=None if labels is None else _bracketed(log_class - log_g),
        linearised=linearised,
        entropy=extrapolated(-log_g),
        conditional_entropy=jax.tree.map(
            lambda known, of_all: jnp.broadcast_to(of_all, len(sizes)).at[0].set(known),
            first,
            extrapolated(-log_p),
        ),
        ceiling=ceiling,
    )


def _bracketed(values: jax.Array) -> Estimate:
    """An information from (P, 4, ...), the last level with a point's own replica left out."""
    estimate = extrapolated(values)
    apart = jnp.maximum(values[:, 3].mean(0), 0.0)
    return trees.replace(
        estimate,
        bracket_lower=jnp.minimum(estimate.bracket_lower, apart),
        bracket_upper=jnp.maximum(estimate.bracket_upper, apart),
    )


def _pass(
    key: jax.Array, layers: Sequence[Layer], params: PyTree, t: jax.Array, sigma: jax.Array
) -> list[jax.Array]:
    """S_l of every layer, (N, d_l), after noise of its own on all layers before."""
    shapes = [t]
    for layer in layers:
        shapes.append(jax.eval_shape(layer, params, shapes[-1]))
    noises = standard_normal(key, shapes[1:])  # one draw; what the last layer would add is not used
    passed = []
    for layer, noise in zip(layers, noises, strict=True):
        s = layer(params, t)
        passed.append(s.reshape(len(s), -1))
        t = s + sigma * noise
    return passed


def _chosen(key: jax.Array, weights: jax.Array, count: int) -> jax.Array:
    """Rows by their weights, (count,): each as often as expected, up to one."""
    shuffling, shifting = jax.random.split(key)
    order = jax.random.permutation(shuffling, len(weights))
    reached = jnp.cumsum(weights[order])
    at = (jnp.arange(count) + jax.random.uniform(shifting)) / count * reached[-1]
    return order[jnp.searchsorted(reached, at).clip(0, len(weights) - 1)]


def _levels(
    points: jax.Array,
    parts: jax.Array,
    centres: jax.Array,
    sigma: jax.Array,
    own: jax.Array | None = None,
) -> jax.Array:
    """log densities by few centres, (k, 4): by all, the half and the quarter of a point's own part.

    Last, by all but the centre that the point was made from, if it is one of them.
    """
    number, size = centres.shape
    exponents = -jnp.square((points[:, None] - centres[None]) / sigma).sum(-1) / 2
    weights = nested(jnp.arange(number) % PARTS)
    levels = of_own_part(logsumexp(exponents[:, :, None], axis=1, b=weights[None]), parts)
    if own is None:
        others = levels[:, 0]
    else:
        apart = jnp.where(jnp.arange(number) == own[:, None], -jnp.inf, exponents)
        others = logsumexp(apart, axis=1) - jnp.log(number - 1.0)
    return jnp.concatenate([levels, others[:, None]], 1) + log_peak(size, sigma)


def _class_densities(
    points: jax.Array,
    parts: jax.Array,
    centres: jax.Array,
    classes: jax.Array,
    sigma: jax.Array,
    mesh: Mesh | None,
) -> jax.Array:
    """log densities of the laws of some classes of inputs at points; (P, k, 3, C).

    Args:
      points: (P, k, d).
      parts: of the replicas that they belong to, (P, k).
      centres: draws of every input, (R, N, d).
      classes: p(x) of every class, (N, C); of a class that there is not, 0.
      sigma: σ.
      mesh: for the points.
    """
    repeats, number, size = centres.shape
    subsets = nested(jnp.arange(repeats) % PARTS) if repeats > 1 else jnp.ones((1, 1))
    columns = subsets[:, None, :, None] * classes[None, :, None, :]  # (R, N, 7, C)
    found = mixture_log_density(
        points.reshape(-1, size),
        centres.reshape(-1, size),
        sigma,
        weights=columns.reshape(repeats * number, -1),
        mesh=mesh,
    ).reshape(-1, *columns.shape[2:])
    levels = jnp.repeat(found, 3, 1) if repeats == 1 else of_own_part(found, parts.ravel())
    return levels.reshape(*parts.shape, *levels.shape[1:])


def _exchanged(total: jax.Array, log_share: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """log(e^total + w (e^new - e^old)): one term of a sum, of share w, is replaced."""
    log_share = log_share[:, None, None]
    others = total + jnp.log1p(-jnp.exp(jnp.minimum(log_share + old - total, 0.0)))
    return jnp.logaddexp(others, log_share + new)

r"""Fisher information flow: what each layer's activations tell about a parameter θ of the data.

With x ~ p(x; θ) and activations h_l(x), the Fisher information I_l(θ) of h_l cannot rise from layer
to layer, and is finite for deterministic layers, where I(X; T) is not. Linear Fisher information J
bounds it from below, and comes up to it as nonlinear features are added:

    I = sup over φ of J of φ(h),      φ(h) = [h, a(R h + c)]

with random R and c, and a function a of every number. More features are appended to fewer, so that
J of all these sets comes from one covariance, and does not fall as they grow but for its noise.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from iw_jax import checks, parallel, trees
from iw_jax.activations import linear_fisher
from iw_jax.activations.linear_fisher import Moments, check_noise, standardisation
from iw_jax.estimates import Estimate
from iw_jax.normals import standard_normal
from iw_jax.trees import PyTree

Layer = Callable[[PyTree, jax.Array], jax.Array]
# (key, θ, number) -> that many independent samples of p(x; θ), (number, ...)
Sampler = Callable[[jax.Array, jax.Array, int], jax.Array]


@trees.record
class FisherFlow:
    """Fisher information about θ in the input (place 0) and in every layer; in units of 1/θ².

    Standard errors and biases are as for `iw.linear_fisher_information`. Values belong to the same
    samples, so that those of two layers, or of two networks measured with one key, differ by less
    than their errors say: between layers `lost` has the error of the difference.

    Attributes:
      information: of all features, (L + 1,): a lower bound of I(θ), up to sampling error.
        `converged` says that the last features that were added changed it little, see
        `fisher_flow`; where they did, I is larger.
      lost: information of the layer before less that of the layer, (L,). At least 0, up to sampling
        error, and to what the features have not found in the layer before.
      linear: J of the activations alone, (L + 1,): what a linear readout can use.
      path: J with as many random features added as each of `num_features`, (L + 1, U).
      num_features: (U,).
    """

    information: Estimate
    lost: Estimate
    linear: Estimate
    path: Estimate
    num_features: tuple[int, ...] = trees.static()


def fisher_flow(
    key: jax.Array,
    layers: Sequence[Layer],
    params: PyTree,
    sampler: Sampler,
    theta: Any,
    delta: Any,
    *,
    num_samples: int = 30_000,
    num_features: Sequence[int] = (0, 50, 100, 200),
    activation: Callable[[jax.Array], jax.Array] = jax.nn.softplus,
    biases: bool = True,
    noise: float = 0.01,
    num_blocks: int = 20,
    batch_size: int = 2048,
    gamma: float = 0.05,
    kappa: float = 0.1,
    mesh: Mesh | None = None,
) -> FisherFlow:
    """The Fisher information about θ in a network's input and in each of its layers.

    Activations are standardised by a first chunk of samples, and constant ones left out; rows of R
    are N(0, 1/D), D units wide, c ~ N(0, 1), so that R h and c are of size 1. R, c and the samples
    depend on the key only: give one key for all epochs. The value reported is that of all features,
    whatever the way there: to stop where values agree, or to take the largest, would select.

    It has `converged` if its last three values (of three sets of features) are within γ of the last
    one of them, or within κ of the first three's range. J at a finite δ differs from that at θ by
    order δ²: halve δ to see it. Memory does not grow with `num_samples`; one compiled program
    serves all weights, θ and δ.

    Args:
      key: random key.
      layers: f_l(params, t), (N, ...) to (N, ...); none for the input alone. Functions are static:
        define them once.
      params: whatever the layers read.
      sampler: (key, theta, number) to samples (number, ...) of p(x; θ), independent; static too.
      theta: θ, scalar.
      delta: δ, positive: samples are drawn at θ - δ and θ + δ.
      num_samples: T at each of the two; is rounded up to whole blocks.
      num_features: how many random features are added, increasing from 0.
      activation: a, static. The paper's is t if t > 0, else 0.7 t; where densities are smooth,
        softplus finds as much with a third of the features.
      biases: whether there is c. Without, features of the paper's a are homogeneous: of a scalar h
        with mean 0 they span no more than {h, |h|}, however many there are.
      noise: standard deviation of the noise that every feature is taken to have, in units of its
        own standard deviation. It lowers I by what such noise on h would hide, and keeps Σ regular.
      num_blocks: of samples, for the jackknife that standard errors come from.
      batch_size: samples that pass at once.
      gamma: γ.
      kappa: κ.
      mesh: from `iw.make_mesh`, to deal out the blocks over all devices.

    Raises:
      TypeError: for what is no random key.
      ValueError: for δ <= 0, θ that is not finite, T below the widest layer's features + 3, numbers
        of features that do not increase from 0, or samples or activations that are not finite.

    References:
      Weimar et al., arXiv:2509.02407; the tolerances are theirs. There features have no bias, are
      drawn anew for every number, and the maximum is taken where nothing converges.
    """
    checks.key("key", key)
    for name, value in (("theta", theta), ("delta", delta)):
        checks.scalar(name, value)
        checks.finite(name, jnp.asarray(value, float))
    checks.positive("delta", delta)
    num_features = tuple(num_features)
    rising = all(a < b for a, b in itertools.pairwise(num_features))
    if num_features[:1] != (0,) or not rising:
        raise ValueError(f"num_features must increase from 0, got {num_features}")
    check_noise(noise)
    checks.at_least("num_blocks", num_blocks, 2)
    checks.at_least("batch_size", batch_size, 2)
    if mesh is not None:
        parallel.require_mesh(mesh)
    sizes = _sizes(key, tuple(layers), params, sampler, theta)
    linear_fisher.require_samples("num_samples", num_samples, max(sizes) + num_features[-1])
    chunks = math.ceil(num_samples / num_blocks / batch_size)
    found = _moments(
        key,
        params,
        jnp.asarray(theta, float),
        jnp.asarray(delta, float),
        layers=tuple(layers),
        sampler=sampler,
        added=num_features[-1],
        activation=activation,
        biases=biases,
        num_blocks=num_blocks,
        chunks=chunks,
        batch_size=math.ceil(num_samples / num_blocks / chunks),
        mesh=mesh,
    )
    paths, values = [], []
    for i, (size, moments) in enumerate(zip(sizes, found, strict=True)):
        checks.finite(f"activations of layer {i}" if i else "samples", moments.sums)
        counts = [size + added for added in num_features]
        values.append(linear_fisher.pseudovalues(moments, float(delta), noise, counts))
        paths.append(Estimate.mean_of(values[-1]))
    cost = 2 * int(np.sum(found[0].counts))  # of all layers at once
    path = trees.replace(jax.tree.map(lambda *x: np.stack(x), *paths), cost=cost)
    first, last = (
        jax.tree.map(lambda x, at=at: x[:, at] if np.ndim(x) else x, path) for at in (0, -1)
    )
    fall = -np.diff([value[:, -1] for value in values], axis=0)
    return FisherFlow(
        information=trees.replace(last, converged=settled(np.asarray(path.value), gamma, kappa)),
        lost=trees.replace(Estimate.mean_of(fall.T), cost=cost),
        linear=first,
        path=path,
        num_features=num_features,
    )


def settled(path: Any, gamma: float, kappa: float) -> np.ndarray:
    """Whether values along the last axis have stopped to change; (...,).

    Args:
      path: (..., U); fewer than three values do not tell.
      gamma: range of the last three that is nothing, in units of the last.
      kappa: the same, in units of the range of the first three.
    """
    if path.shape[-1] < 3:
        return np.zeros(path.shape[:-1], bool)
    last, first = np.ptp(path[..., -3:], axis=-1), np.ptp(path[..., :3], axis=-1)
    return (last < gamma * path[..., -1]) | ((path.shape[-1] > 3) & (last < kappa * first))


# ---------------------------------------------------------------------------------- activations


def _sizes(
    key: jax.Array, layers: tuple[Layer, ...], params: PyTree, sampler: Sampler, theta: Any
) -> list[int]:
    """Units of the input and of every layer."""
    shapes = jax.eval_shape(
        lambda key, params: _passed(layers, params, sampler(key, jnp.asarray(theta, float), 2)),
        key,
        params,
    )
    if any(s.shape[0] != 2 for s in shapes):
        raise ValueError(
            "sampler and layers must give one row a sample, (number, ...), got "
            f"{[s.shape for s in shapes]} for 2 samples"
        )
    return [s.shape[1] for s in shapes]


def _passed(layers: tuple[Layer, ...], params: PyTree, inputs: jax.Array) -> list[jax.Array]:
    """The input and the activations of every layer, (N, D_l)."""
    passed = [inputs]
    for layer in layers:
        passed.append(layer(params, passed[-1]))
    return [jnp.asarray(t, float).reshape(len(t), -1) for t in passed]


@trees.record
class _Expansion:
    """φ of one layer: h standardised, then the random features of it, standardised too."""

    shift: jax.Array
    scale: jax.Array
    rows: jax.Array
    bias: jax.Array
    feature_shift: jax.Array
    feature_scale: jax.Array
    activation: Callable[[jax.Array], jax.Array] = trees.static()

    def __call__(self, h: jax.Array) -> jax.Array:
        """(..., D) to (..., D + K)."""
        h = (h - self.shift) * self.scale
        z = (self._expand(h) - self.feature_shift) * self.feature_scale
        return jnp.concatenate([h, z], -1)

    def _expand(self, h: jax.Array) -> jax.Array:
        return self.activation(_dot(h, self.rows.T) + self.bias)

    @staticmethod
    def fitted(h: jax.Array, rows: jax.Array, bias: jax.Array, activation: Any) -> "_Expansion":
        """For activations like h, (2, N, D)."""
        one = jnp.ones(len(bias), h.dtype)
        raw = _Expansion(*standardisation(h), rows, bias, 0 * one, one, activation)
        shift, scale = standardisation(raw._expand((h - raw.shift) * raw.scale))
        return trees.replace(raw, feature_shift=shift, feature_scale=scale)


_dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _products(z: jax.Array) -> jax.Array:
    """Sum of z z' over all samples at both values of θ; (2, N, K) to (K, K)."""
    z = z.reshape(-1, z.shape[-1])
    return _dot(z.T, z)


@partial(
    jax.jit,
    static_argnames=(
        *("layers", "sampler", "added", "activation", "biases"),
        *("num_blocks", "chunks", "batch_size", "mesh"),
    ),
)
def _moments(
    key: jax.Array,
    params: PyTree,
    theta: jax.Array,
    delta: jax.Array,
    *,
    layers: tuple[Layer, ...],
    sampler: Sampler,
    added: int,
    activation: Callable[[jax.Array], jax.Array],
    biases: bool,
    num_blocks: int,
    chunks: int,
    batch_size: int,
    mesh: Mesh | None,
) -> list[Moments]:
    """Of the features of the input and of every layer, in blocks of chunks * batch_size samples."""
    first, drawing, mixing = jax.random.split(key, 3)

    def activations(key: jax.Array, params: PyTree) -> list[jax.Array]:
        """(2, batch_size, D_l), at θ - δ and θ + δ."""
        draw = jax.vmap(lambda key, theta: sampler(key, theta, batch_size))
        inputs = draw(jax.random.split(key), theta + delta * jnp.array([-1.0, 1.0]))
        passed = _passed(layers, params, inputs.reshape(-1, *inputs.shape[2:]))
        return [h.reshape(2, batch_size, -1) for h in passed]

    like = activations(first, params)
    rows_and_biases = [(jnp.zeros((added, h.shape[-1])), jnp.zeros(added)) for h in like]
    expansions = [
        _Expansion.fitted(h, rows / h.shape[-1] ** 0.5, biases * bias, activation)
        for h, (rows, bias) in zip(like, standard_normal(mixing, rows_and_biases), strict=True)
    ]

    def of_block(own: tuple, block: jax.Array) -> Any:
        key, params, expansions = own

        def add(state: Any, chunk: jax.Array) -> tuple[Any, None]:
            place = jax.random.fold_in(jax.random.fold_in(key, block), chunk)
            return [
                (sums + z.sum(1), products + _products(z))
                for (sums, products), h, expand in zip(
                    state, activations(place, params), expansions, strict=True
                )
                for z in (expand(h),)
            ], None

        widths = [e.rows.shape[1] + added for e in expansions]
        start = [(jnp.zeros((2, n), theta.dtype), jnp.zeros((n, n), theta.dtype)) for n in widths]
        return jax.lax.scan(add, start, jnp.arange(chunks))[0]

    own = drawing, params, expansions
    blocks = jnp.arange(num_blocks)
    if mesh is None:
        found = jax.lax.map(partial(of_block, own), blocks)
    else:
        spread = PartitionSpec(mesh.axis_names)
        deal = jax.shard_map(
            lambda own, blocks: jax.lax.map(partial(of_block, own), blocks),
            mesh=mesh,
            in_specs=(PartitionSpec(), spread),
            out_specs=spread,
            check_vma=False,
        )
        padded = jnp.arange(num_blocks + -num_blocks % mesh.size)
        found = jax.tree.map(lambda x: x[:num_blocks], deal(own, padded))
    count = jnp.full(num_blocks, chunks * batch_size)
    return [Moments(count, sums, products) for sums, products in found]

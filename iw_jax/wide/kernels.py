r"""The two kernels of an infinitely wide fully connected network: of its outputs, and of learning.

Layer by layer, u the pre-activations and W, b standard normal (NTK parametrisation),

    u_1 = σ_w W x / √d + σ_b b,     u_l+1 = σ_w W φ(u_l) / √n + σ_b b
    K_1 = Θ_1 = σ_b² + σ_w² x·x'/d
    K_l+1 = σ_b² + σ_w² E[φ(u) φ(v)],     Θ_l+1 = K_l+1 + σ_w² E[φ'(u) φ'(v)] Θ_l

with u, v Gaussian of covariance K_l. K is the covariance of the outputs of random networks (NNGP),
Θ the neural tangent kernel, by which gradient descent moves them. Numbers are computed by NumPy in
float64, whatever JAX is set to; under `jit` the same lines run in the widest type that it has.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from iw_jax import checks, trees

_ROWS = 512  # of a kernel that are computed at once: temporary arrays stay small
# Angles whose cosine differs from 1 by no more are 0: matrix products know it no better.
_SAME = 32 * np.finfo(float).eps


# ------------------------------------------------------------- E φ(u)φ(v) and E φ'(u)φ'(v)
# of covariance [[a, c], [c, b]]


def _relu(a: Any, b: Any, c: Any, xp: Any) -> tuple[Any, Any]:
    root = xp.sqrt(a * b)
    there = root > 0  # else u or v is 0 always, and φ'(0) = 0
    cosine = c / xp.where(there, root, 1.0)
    ends = xp.abs(cosine) >= 1 - _SAME  # where arccos has half the digits, and no derivative
    inner = xp.where(ends, 0.0, cosine)
    angle = xp.where(ends, xp.where(cosine > 0, 0.0, np.pi), xp.arccos(inner))
    cosine = xp.where(ends, xp.sign(cosine), cosine)
    mean = root * (xp.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    return mean, xp.where(there, (np.pi - angle) / (2 * np.pi), 0.0)


def _erf(a: Any, b: Any, c: Any, xp: Any) -> tuple[Any, Any]:
    product = (1 + 2 * a) * (1 + 2 * b)
    mean = 2 / np.pi * xp.arcsin(2 * c / xp.sqrt(product))
    return mean, 4 / np.pi / xp.sqrt(product - 4 * c * c)


def _identity(a: Any, b: Any, c: Any, xp: Any) -> tuple[Any, Any]:
    del a, b
    return c, xp.ones_like(c)


_MOMENTS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "relu": _relu,
    "erf": _erf,
    "identity": _identity,
}
ACTIVATIONS = tuple(_MOMENTS)


# --------------------------------------------------------------------------------- the kernels


@trees.record
class Network:
    """A fully connected network of infinite width, in NTK parametrisation.

    Standard deviations may be arrays of one shape (...), several networks at once; kernels then
    have these axes first.

    Attributes:
      depth: number of hidden layers; 0 for a linear model.
      activation: relu, erf or identity.
      weight_std: σ_w of the hidden layers; positive.
      bias_std: σ_b of the hidden layers; at least 0.
      readout_weight_std: σ_w of the last layer; None for `weight_std`.
      readout_bias_std: σ_b of the last layer.
    """

    depth: int = trees.static()
    activation: str = trees.static()
    weight_std: Any = 1.0
    bias_std: Any = 0.0
    readout_weight_std: Any = None
    readout_bias_std: Any = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for what is no network."""
        checks.at_least("depth", self.depth, 0)
        if self.activation not in _MOMENTS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if self.readout_weight_std is None:
            object.__setattr__(self, "readout_weight_std", self.weight_std)
        for name in ("weight_std", "readout_weight_std"):
            checks.positive(name, getattr(self, name))
        for name in ("bias_std", "readout_bias_std"):
            value = getattr(self, name)
            if trees.is_concrete(value) and not np.all(np.isfinite(value) & (np.array(value) >= 0)):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        try:
            np.broadcast_shapes(*(np.shape(std) for std in self._stds))
        except ValueError as error:
            shapes = ", ".join(str(np.shape(std)) for std in self._stds)
            raise ValueError(
                f"standard deviations must be scalars or of one shape, got shapes {shapes}"
            ) from error

    @property
    def _stds(self) -> tuple[Any, ...]:
        return self.weight_std, self.bias_std, self.readout_weight_std, self.readout_bias_std


@trees.record
class Kernels:
    """K and Θ between two sets of inputs; one unit: output squared.

    Where only the last layer is trained, Θ = K: `Kernels(k.nngp, k.nngp)`.

    Attributes:
      nngp: K, (..., N, M), covariance of the outputs of random networks.
      ntk: Θ, (..., N, M), neural tangent kernel, of all weights and biases.
    """

    nngp: Any
    ntk: Any


def kernels(network: Network, inputs: Any, other: Any = None) -> Kernels:
    """K and Θ of every input with every other one.

    Args:
      network: architecture and standard deviations.
      inputs: (N, ...), flattened to (N, d).
      other: (M, ...); None for the inputs themselves.

    Returns:
      Kernels (..., N, M), float64; axes of the standard deviations first.

    Raises:
      ValueError: for shapes that do not fit, or numbers that are not finite.

    References:
      Jacot et al., arXiv:1806.07572; Lee et al., arXiv:1902.06720; Cho & Saul 2009 (ReLU); Williams
      1997 (erf).
    """
    xp = trees.namespace(network, inputs, other)
    x = _flat("inputs", inputs, xp)
    y = x if other is None else _flat("other", other, xp)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"inputs and other must have as many features, got {x.shape[1]} and {y.shape[1]}"
        )
    if xp is not np:
        return Kernels(*_block(network, x, y, xp))
    blocks = [_block(network, x[i : i + _ROWS], y, xp) for i in range(0, len(x), _ROWS)]
    return Kernels(*(np.concatenate(part, -2) for part in zip(*blocks, strict=True)))


def prior_variance(network: Network, inputs: Any) -> Any:
    """K(x, x) of every input, (..., N): the variance of outputs before training.

    Args:
      network: architecture and standard deviations.
      inputs: (N, ...), flattened to (N, d).
    """
    xp = trees.namespace(network, inputs)
    x = _flat("inputs", inputs, xp)
    variance = _mean_square(x)
    for layer, (weights, biases) in enumerate(_layers(network, 1, xp)):
        if layer:
            variance, _ = _MOMENTS[network.activation](variance, variance, variance, xp)
        variance = biases + weights * variance
    return variance


def alignment(network: Network, inputs: Any) -> Any:
    """C = E[(J θ0) f0'], (..., N, N): how outputs before training go with J times the weights.

    θ0 multiplied by s is all σ multiplied by s, so that the symmetric part of C, which is what
    counts, is half the derivative of K by s: the chain rule through the layers. In a model linear
    in its weights C = K; in a ReLU network without biases C = (depth + 1) K.

    Args:
      network: architecture and standard deviations.
      inputs: (N, ...), flattened to (N, d).
    """
    xp = trees.namespace(network, inputs)
    x = _flat("inputs", inputs, xp)
    a, b, c = _at_first(x, x, xp)
    in_a, in_b, in_c = 0.0, 0.0, 0.0  # half the derivatives by s
    for layer, (weights, biases) in enumerate(_layers(network, 2, xp)):
        if layer:
            by_a, by_b, by_c = _slopes(network, a, b, c, xp)
            in_c = by_a * in_a + by_b * in_b + by_c * in_c
            in_a, in_b = (sum(_slopes(network, k, k, k, xp)) * d for k, d in ((a, in_a), (b, in_b)))
            moments = _MOMENTS[network.activation]
            c = moments(a, b, c, xp)[0]
            a, b = (moments(k, k, k, xp)[0] for k in (a, b))
        a, b, c = (biases + weights * k for k in (a, b, c))
        in_a, in_b, in_c = (k + weights * d for k, d in ((a, in_a), (b, in_b), (c, in_c)))
    return in_c


def _slopes(network: Network, a: Any, b: Any, c: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Derivatives of E φ(u)φ(v) by a, b and c; that by c is E φ'(u)φ'(v)."""
    mean, by_c = _MOMENTS[network.activation](a, b, c, xp)
    if network.activation == "relu":  # the mean goes like the length of u if the angle stays
        rest = (mean - c * by_c) / 2
        by_a, by_b = (xp.where(k > 0, rest / xp.where(k > 0, k, 1.0), 0.0) for k in (a, b))
    elif network.activation == "erf":
        by_a, by_b = (-by_c * c / (1 + 2 * k) for k in (a, b))
    else:
        by_a = by_b = 0.0
    return by_a, by_b, by_c


def _at_first(x: Any, y: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Mean squares and products of inputs: a (N, 1), b (M,) and c (N, M)."""
    return _mean_square(x)[:, None], _mean_square(y), xp.matmul(x, y.T, **exactly(xp)) / x.shape[1]


def _block(network: Network, x: Any, y: Any, xp: Any) -> tuple[Any, Any]:
    """K and Θ of x with y; a, b and c are K(x, x), K(y, y) and K(x, y)."""
    a, b, c = _at_first(x, y, xp)
    ntk, slope = 0.0, 1.0
    for layer, (weights, biases) in enumerate(_layers(network, 2, xp)):
        if layer:
            moments = _MOMENTS[network.activation]
            c, slope = moments(a, b, c, xp)
            a, b = (moments(k, k, k, xp)[0] for k in (a, b))
        a, b, c = (biases + weights * k for k in (a, b, c))
        ntk = c + weights * slope * ntk
    return c, ntk


def _layers(network: Network, axes: int, xp: Any) -> list[tuple[Any, Any]]:
    """σ_w² and σ_b² of every layer, with so many axes more."""
    shape = np.broadcast_shapes(*(np.shape(std) for std in network._stds))
    squares = [
        xp.broadcast_to(xp.asarray(std, float), shape).reshape(*shape, *(1,) * axes) ** 2
        for std in network._stds
    ]
    hidden, readout = tuple(squares[:2]), tuple(squares[2:])
    return [hidden] * network.depth + [readout]


def _mean_square(x: Any) -> Any:
    return (x * x).sum(1) / x.shape[1]


def exactly(xp: Any) -> dict[str, Any]:
    """Options of a matrix product that keeps the digits of its type."""
    return {} if xp is np else {"precision": jax.lax.Precision.HIGHEST}


def _flat(name: str, inputs: Any, xp: Any) -> Any:
    x = xp.asarray(inputs, float)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"{name} must be (N, ...) with at least one feature, got shape {x.shape}")
    checks.finite(name, x)
    return x.reshape(len(x), -1)

r"""What the outputs of a network say about the targets: nats, output-space Fisher, sampling.

Every likelihood holds, for outputs z of shape (N, ...):

* `nll(z, y)`: -log p(y|z), shape (N,), nats;
* `fisher_product(z, u)`: Λ u with Λ = E_{y~p(.|z)}[g g'], g = d nll/dz, in closed form;
* `root_product`, `root_transpose_product`: S u and S'u of a root, Λ = S S';
* `sample_targets(key, z)`: y ~ p(.|z).

Λ is also the Hessian of nll in z (all three are exponential families in their natural parameter,
or a Gaussian of fixed scale), so the generalised Gauss-Newton matrix is the Fisher.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees


class Likelihood(Protocol):
    """What `Task` asks of a likelihood; see the module's docstring."""

    def nll(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """-log p(targets | outputs): (N,), nats."""
        ...

    def fisher_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """Λ u, example by example, of the shape of `outputs`."""
        ...

    def root_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """S u with Λ = S S', of the shape of `outputs`."""
        ...

    def root_transpose_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """S'u with Λ = S S', of the shape of `outputs`."""
        ...

    def sample_targets(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """One draw of targets from the model itself."""
        ...

    def check(self, outputs_shape: tuple[int, ...], targets: Any) -> None:
        """Raises ValueError or TypeError where targets cannot belong to outputs of this shape."""
        ...


def _sum_examples(nats: jax.Array) -> jax.Array:
    """Sums all axes but the first: (N, ...) -> (N,)."""
    return nats.reshape(nats.shape[0], -1).sum(-1)


def _check_shape(what: str, targets: Any, expected: tuple[int, ...]) -> None:
    if np.shape(targets) != expected:
        raise ValueError(
            f"targets must have shape {expected} to belong to {what}, got {np.shape(targets)}"
        )


def _top_class(outputs: jax.Array) -> jax.Array:
    """One-hot mask of the most likely class."""
    return jax.nn.one_hot(jnp.argmax(outputs, axis=-1), outputs.shape[-1], dtype=bool)


def _centred(outputs: jax.Array, p: jax.Array, vectors: jax.Array) -> jax.Array:
    """u - p'u, with u first shifted to 0 at the most likely class, which changes nothing.

    A fitted example has p = 1 - δ there; without the shift u - p'u would be a difference of equal
    numbers, and its rounding, not δ, would make up the curvature of a network that fits its data.
    """
    top = _top_class(outputs)
    at_top = jnp.sum(jnp.where(top, vectors, 0), axis=-1, keepdims=True)
    # An explicit 0, since a compiler may compute `vectors` twice and round it differently.
    shifted = jnp.where(top, 0, vectors - at_top)
    return shifted - jnp.sum(p * shifted, axis=-1, keepdims=True)


@trees.record
class Categorical:
    """Classes: outputs are logits (N, ..., K), targets integer labels (N, ...) in 0 .. K-1."""

    def nll(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """-log softmax(outputs)[targets]: (N,), nats."""
        log_p = jax.nn.log_softmax(outputs)
        return _sum_examples(-jnp.take_along_axis(log_p, targets[..., None], axis=-1))

    def fisher_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """(diag(p) - p p') u."""
        p = jax.nn.softmax(outputs)
        return p * _centred(outputs, p, vectors)

    def root_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """S u with S = diag(sqrt p) - p sqrt(p)', so that S S' = diag(p) - p p'."""
        p = jax.nn.softmax(outputs)
        scaled = jnp.exp(0.5 * jax.nn.log_softmax(outputs)) * vectors
        # In row i: scaled_i (1 - p_i) - p_i (the other scaled_j); 1 - p_i as the sum of the others.
        top = _top_class(outputs)
        others = jnp.sum(jnp.where(top, 0, scaled), axis=-1, keepdims=True)
        complement = jnp.sum(jnp.where(top, 0, p), axis=-1, keepdims=True)
        at_top = scaled * complement - p * others
        return jnp.where(top, at_top, scaled - p * jnp.sum(scaled, axis=-1, keepdims=True))

    def root_transpose_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """S'u with S = diag(sqrt p) - p sqrt(p)'."""
        p = jax.nn.softmax(outputs)
        return jnp.exp(0.5 * jax.nn.log_softmax(outputs)) * _centred(outputs, p, vectors)

    def sample_targets(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Labels drawn from softmax(outputs): (N, ...)."""
        return jax.random.categorical(key, outputs)

    def check(self, outputs_shape: tuple[int, ...], targets: Any) -> None:
        """Labels must be integers 0 .. K-1 of the outputs' shape without its last axis."""
        if len(outputs_shape) < 2:
            raise ValueError(f"Categorical needs logits of shape (N, ..., K), got {outputs_shape}")
        if not jnp.issubdtype(jnp.result_type(targets), jnp.integer):
            raise TypeError(
                f"targets must be integer labels for Categorical, got {jnp.result_type(targets)}; "
                "turn one-hot rows into labels with argmax(-1)"
            )
        _check_shape(f"logits of shape {outputs_shape}", targets, outputs_shape[:-1])
        if trees.is_concrete(targets):
            labels = np.asarray(targets)
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= outputs_shape[-1]:
                raise ValueError(
                    f"targets must be labels 0 .. {outputs_shape[-1] - 1} (the network has "
                    f"{outputs_shape[-1]} outputs), got labels from {low} to {high}"
                )


@trees.record
class Bernoulli:
    """Yes or no: outputs are logits (N, ...), targets 0 or 1 of the same shape."""

    def nll(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """log(1 + e^z) - y z = log(1 + e^±z): (N,), nats; no cancellation where z is large."""
        return _sum_examples(jax.nn.softplus(jnp.where(targets > 0, -outputs, outputs)))

    def fisher_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """p (1 - p) u."""
        return jax.nn.sigmoid(outputs) * jax.nn.sigmoid(-outputs) * vectors

    def root_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """sqrt(p (1 - p)) u; the root is symmetric."""
        log_root = 0.5 * (jax.nn.log_sigmoid(outputs) + jax.nn.log_sigmoid(-outputs))
        return jnp.exp(log_root) * vectors

    root_transpose_product = root_product

    def sample_targets(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """0 or 1 (int32), of the shape of `outputs`."""
        return jax.random.bernoulli(key, jax.nn.sigmoid(outputs)).astype(jnp.int32)

    def check(self, outputs_shape: tuple[int, ...], targets: Any) -> None:
        """Targets must be 0 or 1, of the outputs' shape."""
        _check_shape(f"logits of shape {outputs_shape}", targets, outputs_shape)
        if trees.is_concrete(targets):
            wrong = np.asarray(targets)[~np.isin(np.asarray(targets), (0, 1))]
            if wrong.size:
                raise ValueError(f"targets must be 0 or 1 for Bernoulli, got {wrong.flat[0]}")


@trees.record
class GaussianLikelihood:
    """Regression with known noise: y ~ N(outputs, scale² I), outputs and targets (N, ...).

    Attributes:
      scale: standard deviation of the noise, positive; targets' units.
    """

    scale: Any = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError unless the scale is positive and finite."""
        checks.positive("scale", self.scale)

    def nll(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """((y - z)/scale)²/2 + log(scale sqrt(2π)), summed over outputs: (N,), nats."""
        residual = (targets - outputs) / self.scale
        return _sum_examples(0.5 * residual**2 + jnp.log(self.scale) + 0.5 * np.log(2 * np.pi))

    def fisher_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """u / scale²."""
        del outputs  # the Fisher of a location family is the same everywhere
        return vectors / self.scale**2

    def root_product(self, outputs: jax.Array, vectors: jax.Array) -> jax.Array:
        """u / scale; the root is symmetric."""
        del outputs
        return vectors / self.scale

    root_transpose_product = root_product

    def sample_targets(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """outputs + scale * noise."""
        return outputs + self.scale * jax.random.normal(key, outputs.shape, outputs.dtype)

    def check(self, outputs_shape: tuple[int, ...], targets: Any) -> None:
        """Targets must be finite, of the outputs' shape."""
        _check_shape(f"outputs of shape {outputs_shape}", targets, outputs_shape)
        checks.finite("targets", targets)

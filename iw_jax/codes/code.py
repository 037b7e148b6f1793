"""What a code is: a distribution over weights that can be sampled and whose length is known."""

from typing import Any, Protocol, TypeVar

import jax

from iw_jax import checks
from iw_jax.trees import PyTree

_C = TypeVar("_C", bound="Code")


class Code(Protocol):
    """A distribution over weights; a pytree whose leaves are unconstrained, so optax can step.

    A draw is `weights(noise(key))`: `noise` does not depend on the leaves (reparameterisation),
    and `weights` of the negated noise has the same law (antithetic pairs).
    """

    @property
    def mean(self) -> PyTree:
        """Expected weights."""
        ...

    def noise(self, key: jax.Array) -> PyTree:
        """Standard normal noise for one draw; depends on the shapes of the leaves only."""
        ...

    def weights(self, noise: PyTree) -> PyTree:
        """The weights that this noise stands for; differentiable in the leaves."""
        ...

    def kl(self, prior: Any) -> jax.Array:
        """KL(self || prior): scalar, nats; exact."""
        ...

    def kl_by_tensor(self, prior: Any) -> PyTree:
        """What each tensor of the weights adds to `kl`: scalars in the structure of `mean`."""
        ...

    def in_units_of(self: _C, prior: Any) -> _C:
        """The code of (w - m)/λ, with m and λ the prior's mean and scale."""
        ...

    def from_units_of(self: _C, prior: Any) -> _C:
        """The code of m + λ w: the inverse of `in_units_of`."""
        ...


def sample(key: jax.Array, code: Code) -> PyTree:
    """One reparameterised draw of weights.

    Args:
      key: a typed random key.
      code: any code of this package.

    Returns:
      Weights, with the structure of `code.mean`; gradients reach the code's leaves.
    """
    checks.key("key", key)
    return code.weights(code.noise(key))


def kl(code: Code, prior: Any) -> jax.Array:
    """KL(code || prior), the nats that the weights cost when sent with `prior` known; exact.

    Args:
      code: the post-distribution Q.
      prior: the pre-distribution P, of a kind that the code knows.

    Raises:
      TypeError: for a pair without a closed form.
      ValueError: for shapes, or truncation intervals, that differ.
    """
    return code.kl(prior)

r"""Information in a linear layer with multiplicative noise on its weights: the emergence bound.

z = Wx, every weight multiplied by log-normal noise of mean 1, w = ε ŵ, ε ~ logN(-α/2, α). With x
centred and z, z|x near Gaussian, and a = e^α - 1,

    I(x; z) + TC(z) = -½ Σ_i E_x log [ a W_i²·x² / (W_i Cov W_i' + a W_i²·E x²) ]
    g(α) <= (I + TC)/dim z <= g(α) + c,    g(α) = -½ log(1 - e^-α),  c <= 1

so that few nats in the weights, α large, bound what the layer can keep of its input.
"""

from typing import Any

import jax.numpy as jnp

from iw_jax import checks


def emergence_bounds(alpha: Any) -> tuple[Any, Any]:
    """Lower and upper end of (I(x; z) + TC(z))/dim z for log-variance `alpha`; nats.

    Args:
      alpha: positive, variance of the log of the noise; in nats of weights exp(-2 Ĩ/dim W).

    References:
      Achille & Soatto, arXiv:1706.01350, Prop. 5.2, Cor. 5.3. As printed α = exp(-Ĩ/dim W) and g is
      called increasing (slips: a factor of 2 against Rem. 4.2; g falls with α). The constant is
      c = O(1/dim x), here at its largest, 1.
    """
    checks.positive("alpha", alpha)
    lower = -0.5 * jnp.log(-jnp.expm1(-jnp.asarray(alpha, float)))
    return lower, lower + 1.0


def multiplicative_information(weights: Any, alpha: Any, inputs: Any) -> Any:
    """I(x; z) + TC(z) of z = Wx under the Gaussian assumption; nats, scalar.

    Args:
      weights: Ŵ, (m, d).
      alpha: positive, scalar or (m,).
      inputs: x, (X, d); centred here.

    References:
      Achille & Soatto, arXiv:1706.01350, proof of Prop. 5.1.
    """
    checks.positive("alpha", alpha)
    W, x = jnp.asarray(weights, float), jnp.asarray(inputs, float)
    x = x - x.mean(0)
    a = jnp.expm1(jnp.asarray(alpha, float))
    noise = a * ((x**2) @ (W**2).T)  # (X, m): Var(z_i | x)
    signal = ((x @ W.T) ** 2).mean(0)  # W_i Cov W_i'
    return -0.5 * jnp.mean(jnp.log(noise / (signal + noise.mean(0))), axis=0).sum()

r"""Information in a linear layer with multiplicative noise on its weights: the emergence bound.

z = Wx, every weight multiplied by log-normal noise of mean 1, w = ε ŵ, ε ~ logN(-α/2, α). With z
and z|x near Gaussian and a = e^α - 1,

    I(x; z) + TC(z) = -½ Σ_i E_x log [ a W_i²·x² / (W_i Cov W_i' + a W_i²·E x²) ]

and where the inputs are centred and uncorrelated,

    g(α) <= (I + TC)/dim z <= g(α) + c,    g(α) = -½ log(1 - e^-α),  c <= 1

so that few nats in the weights, α large, bound what the layer can keep of its input.
"""

from typing import Any

import jax.numpy as jnp

from iw_jax import checks, trees
from iw_jax.estimates import Estimate, left_out


def emergence_bounds(alpha: Any) -> tuple[Any, Any]:
    """Lower and upper end of (I(x; z) + TC(z))/dim z for log-variance `alpha`; nats.

    For inputs that are centred and uncorrelated, of bounded kurtosis.

    Args:
      alpha: positive, variance of the log of the noise. A layer of k weights whose noise costs Ĩ =
        -½ Σ log α_i nats has α = exp(-2 Ĩ/k) where it is the same for all of them.

    References:
      Achille & Soatto, arXiv:1706.01350, Prop. 5.2, Cor. 5.3. As printed α = exp(-Ĩ/dim W) and g is
      called increasing (slips: a factor of 2 against Rem. 4.2; g falls with α). The constant is
      c = O(1/dim x), here at its largest, 1.
    """
    checks.positive("alpha", alpha)
    lower = -0.5 * jnp.log(-jnp.expm1(-jnp.asarray(alpha, float)))
    return lower, lower + 1.0


def multiplicative_information(weights: Any, alpha: Any, inputs: Any) -> Estimate:
    """I(x; z) + TC(z) of z = Wx under the Gaussian assumption; nats, scalar.

    Of the law that the inputs were drawn from, independently: a jackknife over them. Inputs off
    centre are noisier, Var(z_i|x) = a W_i²·x², without telling more.

    Args:
      weights: Ŵ, (m, d).
      alpha: positive, scalar or (m,).
      inputs: x, (X, d), at least two.

    References:
      Achille & Soatto, arXiv:1706.01350, proof of Prop. 5.1.
    """
    checks.positive("alpha", alpha)
    xp = trees.namespace(weights, alpha, inputs)
    W, x = xp.asarray(weights, dtype=float), xp.asarray(inputs, dtype=float)
    if x.ndim != 2 or W.ndim != 2 or x.shape[1] != W.shape[1] or len(x) < 2:
        raise ValueError(
            f"inputs must be (X, d) for weights (m, d), X at least two, got {x.shape} for {W.shape}"
        )
    noise = xp.expm1(xp.asarray(alpha, dtype=float)) * (x**2 @ (W**2).T)  # (X, m): Var(z_i | x)
    z = (x - x.mean(0)) @ W.T
    log_noise = xp.log(noise)

    def information(signal: Any, noise: Any, log_noise: Any) -> Any:
        return 0.5 * (xp.log(signal + noise) - log_noise).sum(-1)

    signal = left_out(z**2) - (z / (len(x) - 1)) ** 2  # x is centred anew
    return Estimate.jackknife(
        information((z**2).mean(0), noise.mean(0), log_noise.mean(0)),
        information(signal, left_out(noise), left_out(log_noise)),
    )

"""Normalization that leaves no trace but in the weights.

Batch normalization makes an output depend on the other examples of the batch and keeps running
averages, which would be information about the data outside the weights, where no code counts it.
Group normalization looks at one example at a time.

It comes here without gain and shift: a prior centred at zero has no meaning for a gain that
starts at one, and the next layer's kernel and this layer's bias can do what the two do.
"""

import jax
from flax import linen as nn

# Wu & He, arXiv:1803.08494, Sec. 4: 32 groups, if that many channels are there.
_NUM_GROUPS = 32


def group_norm(h: jax.Array) -> jax.Array:
    """Each example's groups of channels to mean 0 and variance 1; h is (N, H, W, C)."""
    groups = min(_NUM_GROUPS, h.shape[-1])
    return nn.GroupNorm(groups, use_scale=False, use_bias=False)(h)


def layer_norm(h: jax.Array) -> jax.Array:
    """Each example's units to mean 0 and variance 1; h is (N, D)."""
    return nn.LayerNorm(use_scale=False, use_bias=False)(h)

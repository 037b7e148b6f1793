"""Networks for the experiments: Flax Linen modules behind pure functions.

Every maker returns a `Network(init, apply_fn)`: `init(key, inputs) -> params` and
`apply_fn(params, inputs) -> logits`. Equal arguments give the same two function objects.
"""

from iw_jax.nets.all_cnn import all_cnn
from iw_jax.nets.local import mlp_local
from iw_jax.nets.mlp import mlp
from iw_jax.nets.network import Network, Params
from iw_jax.nets.resnet import resnet18
from iw_jax.nets.small_alexnet import small_alexnet
from iw_jax.nets.zoo import NAMES, make

__all__ = [
    "NAMES",
    "Network",
    "Params",
    "all_cnn",
    "make",
    "mlp",
    "mlp_local",
    "resnet18",
    "small_alexnet",
]

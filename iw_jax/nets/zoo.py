"""`make`: a network by its name, for a configuration that is text."""

from iw_jax.nets.all_cnn import all_cnn
from iw_jax.nets.mlp import mlp
from iw_jax.nets.network import Network
from iw_jax.nets.resnet import resnet18
from iw_jax.nets.small_alexnet import small_alexnet

_MAKERS = {
    "mlp": mlp,
    "small_alexnet": small_alexnet,
    "all_cnn": all_cnn,
    "resnet18": resnet18,
}
NAMES = tuple(_MAKERS)


def make(name: str, num_classes: int) -> Network:
    """The network of that name at its default size; for other sizes call its own function.

    Args:
      name: 'mlp', 'small_alexnet', 'all_cnn' or 'resnet18'.
      num_classes: K, number of logits.

    Raises:
      ValueError: if the name is unknown or `num_classes` is not positive.
    """
    if name not in _MAKERS:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    return _MAKERS[name](num_classes)

"""Products of other libraries behind one shape.

JAX peers take and return flat vectors (n,) or blocks (P, n) in the order of `iw.Operator`: the
leaves of the weights one after the other. torch peers take and return tensors in the order of the
module's parameters, blocks as columns (n, P); `to_torch` and `from_torch` translate, outside the
clock.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see curvature_products

import curvlinops
import jax
import jax.numpy as jnp
import numpy as np
import pyhessian
import torch
from laplax.curv.ggn import create_ggn_mv_without_data
from laplax.curv.hessian import create_hessian_mv_without_data
from pyhessian.utils import hessian_vector_product

import iw_jax as iw

PyTree = Any

# laplax


def laplax_ggn(task: iw.Task, params: PyTree) -> Callable[[jax.Array], jax.Array]:
    """laplax's GGN of the summed cross-entropy: (n,) -> (n,) or (P, n) -> (P, n), jitted."""
    return _laplax(create_ggn_mv_without_data, "cross_entropy", task, params)


def laplax_hessian(task: iw.Task, params: PyTree) -> Callable[[jax.Array], jax.Array]:
    """laplax's Hessian of the summed cross-entropy: (n,) -> (n,) or (P, n) -> (P, n), jitted."""

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:  # of all examples, unlike GGN
        return jnp.sum(iw.Categorical().nll(outputs, targets))

    return _laplax(create_hessian_mv_without_data, loss, task, params)


def _laplax(
    create: Callable, loss: Any, task: iw.Task, params: PyTree
) -> Callable[[jax.Array], jax.Array]:
    """Weights and data are arguments of the compiled program, not constants in it."""
    _, unflatten = jax.flatten_util.ravel_pytree(params)

    def model(input: jax.Array, params: PyTree) -> jax.Array:  # one example, by laplax's names
        return task.apply_fn(params, input[None])[0]

    @jax.jit
    def product(V: jax.Array, params: PyTree, data: dict[str, jax.Array]) -> jax.Array:
        operator = create(model, params, loss, 1.0)

        def one(v: jax.Array) -> jax.Array:
            return jax.flatten_util.ravel_pytree(operator(unflatten(v), data))[0]

        return one(V) if V.ndim == 1 else jax.vmap(one)(V)

    data = {"input": jnp.asarray(task.inputs), "target": jnp.asarray(task.targets)}
    return lambda V: product(V, params, data)


# torch: the same networks


class _ChannelsLast(torch.nn.Module):
    """NCHW -> NHWC, so that what is flattened next has Flax's order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1)


def torch_mlp(params: PyTree) -> torch.nn.Sequential:
    """The tanh MLP of `iw_jax.nets.mlp` with the same weights."""
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    for i in range(len(params)):
        layers += [torch.nn.Linear(*params[f"Dense_{i}"]["kernel"].shape), torch.nn.Tanh()]
    return _filled(torch.nn.Sequential(*layers[:-1]), params)


def torch_cnn(params: PyTree) -> torch.nn.Sequential:
    """`cnn` with the same weights; takes NCHW."""
    t, (fan_in, width) = torch.nn, params["Dense_0"]["kernel"].shape
    first, second = (params[f"Conv_{i}"]["kernel"].shape[2:] for i in (0, 1))
    layers = [t.Conv2d(*first, 3, padding=1), t.ReLU(), t.MaxPool2d(2)]
    layers += [t.Conv2d(*second, 3, padding=1), t.ReLU(), t.MaxPool2d(2)]
    layers += [_ChannelsLast(), t.Flatten(), t.Linear(fan_in, width), t.ReLU()]
    layers += [t.Linear(*params["Dense_1"]["kernel"].shape)]
    return _filled(t.Sequential(*layers), params)


def torch_data(task: iw.Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, images as NCHW, and labels."""
    inputs = np.asarray(task.inputs)
    if inputs.ndim == 4:
        inputs = inputs.transpose(0, 3, 1, 2)
    targets = np.asarray(task.targets).astype(np.int64)
    return torch.from_numpy(np.array(inputs, order="C")), torch.from_numpy(targets)


def to_torch(V: jax.Array, params: PyTree) -> torch.Tensor:
    """Vectors (P, n) in the order of JAX as columns (n, P) in that of torch."""
    rows = [_torch_order(tree) for tree in map(_unflatten(params), V)]
    flat = np.stack([np.concatenate([x.ravel() for x in row]) for row in rows], axis=1)
    return torch.from_numpy(np.ascontiguousarray(flat))


def from_torch(V: torch.Tensor, params: PyTree) -> np.ndarray:
    """Columns (n, P) in the order of torch as vectors (P, n) in that of JAX."""
    labels = jax.tree.unflatten(*_numbered(params))
    order = np.concatenate([x.ravel() for x in _torch_order(labels)])
    rows = np.empty((V.shape[1], len(order)), V.detach().numpy().dtype)
    rows[:, order] = V.detach().numpy().T
    return rows


def _filled(module: torch.nn.Sequential, params: PyTree) -> torch.nn.Sequential:
    with torch.no_grad():
        for own, given in zip(module.parameters(), _torch_order(params), strict=True):
            own.copy_(torch.from_numpy(np.array(given)))
    return module


def _torch_order(params: PyTree) -> list[np.ndarray]:
    """Weight then bias of each layer; kernels (in, out) -> (out, in), HWIO -> OIHW."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}
    leaves = []
    for name in sorted(params):  # Conv_* before Dense_*
        kernel, bias = (np.asarray(params[name][x]) for x in ("kernel", "bias"))
        leaves += [kernel.transpose(axes[kernel.ndim]), bias]
    return leaves


def _unflatten(params: PyTree) -> Callable[[jax.Array], PyTree]:
    return jax.flatten_util.ravel_pytree(params)[1]


def _numbered(params: PyTree) -> tuple[Any, list[np.ndarray]]:
    """The weights' structure, and in the place of each weight its index in the flat vector."""
    leaves, treedef = jax.tree.flatten(params)
    ends = np.cumsum([0, *(x.size for x in leaves)])
    return treedef, [
        np.arange(first, first + x.size).reshape(x.shape)
        for first, x in zip(ends[:-1], leaves, strict=True)
    ]


# torch: products


def curvlinops_ggn(
    module: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """curvlinops' GGN of the summed cross-entropy: (n,) -> (n,), or columns (n, P) -> (n, P)."""
    return _curvlinops(curvlinops.GGNLinearOperator, module, data)


def curvlinops_hessian(
    module: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """curvlinops' Hessian of the summed cross-entropy, as `curvlinops_ggn`."""
    return _curvlinops(curvlinops.HessianLinearOperator, module, data)


def _curvlinops(
    operator: type, module: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    loss = torch.nn.CrossEntropyLoss(reduction="sum")
    options = dict(check_deterministic=False, num_data=len(data[1]))
    A = operator(module, loss, list(module.parameters()), [data], **options)
    return lambda V: A @ V


def pyhessian_operator(
    module: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> pyhessian.hessian:
    """PyHessian's object for the summed cross-entropy; it holds the gradient's graph."""
    module.zero_grad(set_to_none=True)  # it adds to what `.grad` holds already
    with warnings.catch_warnings():
        # "Using backward() with create_graph=True will create a reference cycle"
        warnings.simplefilter("ignore", UserWarning)
        loss = torch.nn.CrossEntropyLoss(reduction="sum")
        return pyhessian.hessian(module, loss, data=data, cuda=False)


def pyhessian_hvp(
    module: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """PyHessian's Hessian of the summed cross-entropy, column by column: it has no blocks."""
    H = pyhessian_operator(module, data)

    def one(v: torch.Tensor) -> torch.Tensor:
        parts = v.split([p.numel() for p in H.params])
        shaped = [x.reshape(p.shape) for x, p in zip(parts, H.params, strict=True)]
        image = hessian_vector_product(H.gradsH, H.params, shaped)
        return torch.cat([x.reshape(-1) for x in image])

    return lambda V: one(V) if V.ndim == 1 else torch.stack([one(v) for v in V.T], dim=1)


def torch_gradient(
    module: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[], Sequence[torch.Tensor]]:
    """One gradient of the summed cross-entropy."""
    params = list(module.parameters())
    inputs, targets = data

    def gradient() -> Sequence[torch.Tensor]:
        loss = torch.nn.functional.cross_entropy(module(inputs), targets, reduction="sum")
        return torch.autograd.grad(loss, params)

    return gradient

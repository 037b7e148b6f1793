"""Convolutions inside loops at full speed on CPUs.

XLA:CPU has one fast convolution, for images (N, H, W, C) and kernels (H, W, in, out). Other layouts
are brought into that form, but not inside a loop: there the gradient in a kernel, whose layout
swaps batch and channels, was seen 70 times slower. Chunks of the data and probes are loops, so the
layout is written out here, in the program that JAX has traced.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

# Programs inside programs: calls, whose bodies take the call's own arguments, ...
_CALLS = ("jit", "custom_jvp_call", "custom_vjp_call")
# ... and loops and branches, by the parameters that hold their bodies.
_BODIES = {"scan": "jaxpr", "while": "body_jaxpr", "cond": "branches"}


def with_fast_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with every convolution in XLA:CPU's fast layout, those inside loops too.

    The numbers are the same up to the order of summation. To be applied outside all
    differentiation: derivatives of the result do not know custom derivative rules any more. A
    function without convolutions, with `shard_map` inside, or on another device than a CPU, is left
    as it is.
    """

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*args)
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        text = str(program)
        if "conv_general_dilated" not in text or "shard_map" in text:
            return function(*args)
        leaves = _evaluate(program, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return wrapped


def _evaluate(program: ClosedJaxpr, *args: Any) -> list[Any]:
    """The program's outputs, equation by equation."""
    jaxpr = program.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, inputs, params = equation.primitive.name, map(read, equation.invars), equation.params
        if name == "conv_general_dilated":
            outputs = [_convolution(*inputs, **params)]
        elif name in _CALLS:
            outputs = _evaluate(params.get("jaxpr") or params["call_jaxpr"], *inputs)
        else:
            if name in _BODIES:
                bodies = params[_BODIES[name]]
                single = isinstance(bodies, ClosedJaxpr)
                bodies = _rewritten(bodies) if single else tuple(map(_rewritten, bodies))
                params = params | {_BODIES[name]: bodies}
            outputs = equation.primitive.bind(*inputs, **params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _rewritten(program: ClosedJaxpr) -> ClosedJaxpr:
    return jax.make_jaxpr(functools.partial(_evaluate, program))(*program.in_avals)


def _convolution(lhs: Any, rhs: Any, *, dimension_numbers: Any, **params: Any) -> jax.Array:
    """One convolution by way of channels that come last: transpose, convolve, transpose back."""

    def channels_last(spec: tuple[int, ...]) -> tuple[int, ...]:
        return spec[0], *spec[2:], spec[1]

    lhs_spec, (out, into, *window), out_spec = dimension_numbers
    lhs, rhs = lhs.transpose(channels_last(lhs_spec)), rhs.transpose(*window, into, out)
    last = lhs.ndim - 1
    image = (0, last, *range(1, last))
    numbers = lax.ConvDimensionNumbers(image, (last, last - 1, *range(last - 1)), image)
    result = lax.conv_general_dilated(lhs, rhs, dimension_numbers=numbers, **params)
    back = sorted(range(lhs.ndim), key=channels_last(out_spec).__getitem__)
    return result.transpose(back)

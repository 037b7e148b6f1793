import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from iw_jax.convolutions import with_fast_convolutions

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(4, 2, 8, 8, 3)))
W = jnp.asarray(RNG.normal(size=(3, 3, 3, 5)))


def assert_same(function, *args):
    expected = jax.jit(function)(*args)
    received = jax.jit(with_fast_convolutions(function))(*args)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), expected, received
    )


def arranged(x, source, target):
    return jnp.asarray(np.transpose(x, [source.index(axis) for axis in target]))


LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "NCHW")]


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("strides", [(1, 1), (3, 2)])
def test_any_layout_and_its_gradients(layout, groups, strides):
    images = arranged(RNG.normal(size=(2, 9, 8, 4)), "NHWC", layout[0])
    kernel = arranged(RNG.normal(size=(3, 2, 4 // groups, 6)), "HWIO", layout[1])
    for padding, dilation in (("SAME", 1), (((2, 0), (1, 3)), 2)):

        def convolve(x, w, padding=padding, dilation=dilation):
            return lax.conv_general_dilated(
                x,
                w,
                strides,
                padding,
                rhs_dilation=(dilation, dilation),
                dimension_numbers=layout,
                feature_group_count=groups,
            )

        def with_gradients(x, w, convolve=convolve):
            outputs, vjp = jax.vjp(convolve, x, w)
            return outputs, vjp(jnp.cos(outputs))

        assert_same(with_gradients, images, kernel)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_other_dimensions(dimensions):
    x = jnp.asarray(RNG.normal(size=(2, 3, *(7,) * dimensions)))
    w = jnp.asarray(RNG.normal(size=(4, 3, *(3,) * dimensions)))

    def loss(x, w):
        return jnp.sum(jnp.sin(lax.conv_general_dilated(x, w, (2,) * dimensions, "SAME")))

    assert_same(jax.grad(loss, argnums=(0, 1)), x, w)


def loss(w, x):
    outputs = lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(jax.nn.softplus(jax.nn.relu(outputs)) ** 3)


def hvp(w, x):
    return jax.jvp(jax.grad(lambda w: loss(w, x)), (w,), (w,))[1]


PROGRAMS = {
    "map": lambda w, X: lax.map(lambda x: jax.grad(loss)(w, x), X),
    "map of products": lambda w, X: lax.map(lambda x: hvp(w, x), X),
    "vmap": lambda w, X: jax.vmap(lambda x: jax.grad(loss)(w, x))(X),
    "fori": lambda w, X: lax.fori_loop(0, 3, lambda i, w: w - 1e-4 * jax.grad(loss)(w, X[i]), w),
    "while": lambda w, X: lax.while_loop(
        lambda w: jnp.sum(w**2) > 1e-3, lambda w: w / 2 - 1e-9 * jax.grad(loss)(w, X[0]), w
    ),
    "cond": lambda w, X: lax.cond(w[0, 0, 0, 0] > 9, lambda w: w, lambda w: hvp(w, X[0]), w),
    "remat": lambda w, X: jax.grad(jax.checkpoint(lambda w: loss(w, X[0])))(w),
    "random": lambda w, X: loss(w + jax.random.normal(jax.random.key(0), w.shape), X[0]),
    "no convolution": lambda w, X: jnp.sum(w) * X,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_keep_their_meaning(program):
    assert_same(program, W, X)


@pytest.mark.slow
def test_it_may_stand_inside_vmap_and_outside_jit():
    inner = with_fast_convolutions(hvp)
    expected = jax.vmap(hvp, in_axes=(None, 0))(W, X)
    received = jax.vmap(inner, in_axes=(None, 0))(W, X)
    np.testing.assert_allclose(expected, received, rtol=1e-10, atol=1e-9)


def test_inside_a_loop_every_layout_is_the_fast_one():
    program = jax.make_jaxpr(with_fast_convolutions(PROGRAMS["map of products"]))(W, X)
    layouts = str(program).split("lhs_spec=")[1:]
    assert len(layouts) >= 4
    fast = "(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2)"
    assert all(text.replace("\n", " ").startswith(fast) for text in layouts)

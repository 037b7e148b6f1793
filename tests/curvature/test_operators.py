from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import (
    Operator,
    empirical_fisher,
    fisher,
    ggn,
    hessian,
    mc_fisher,
    to_dense,
)
from iw_jax.likelihoods import Bernoulli, Categorical, GaussianLikelihood
from iw_jax.task import Task, nll

N, DIM, HIDDEN, OUT = 13, 4, 5, 3


def mlp(params, x):
    h = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    return h @ params["last"]["w"] + params["last"]["b"]


def linear(params, x):
    return x @ params["w"] + params["b"]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


MLP = {
    "first": {"w": normal(1, DIM, HIDDEN), "b": normal(2, HIDDEN)},
    "last": {"w": normal(3, HIDDEN, OUT), "b": normal(4, OUT)},
}
LINEAR = {"w": normal(5, DIM, OUT), "b": normal(6, OUT)}
WEIGHTS = jnp.array([1.0, 0.0, 2.5, 1.0, 0.3] + [1.0] * (N - 5))
TARGETS = {
    Categorical: jax.random.randint(jax.random.key(7), (N,), 0, OUT),
    Bernoulli: jax.random.bernoulli(jax.random.key(8), 0.5, (N, OUT)).astype(int),
    GaussianLikelihood: normal(9, N, OUT),
}


def task_of(likelihood, apply_fn=mlp, weights=WEIGHTS):
    return Task(apply_fn, likelihood, normal(10, N, DIM), TARGETS[type(likelihood)], weights)


def flat(params):
    return jax.flatten_util.ravel_pytree(params)


def output_fisher(likelihood, z):
    """Λ of one example, written out as a matrix."""
    if isinstance(likelihood, Categorical):
        p = np.exp(z) / np.exp(z).sum()
        return np.diag(p) - np.outer(p, p)
    if isinstance(likelihood, Bernoulli):
        return np.diag(np.exp(z) / (1 + np.exp(z)) ** 2)
    return np.eye(OUT) / likelihood.scale**2


LIKELIHOODS = [Categorical(), Bernoulli(), GaussianLikelihood(0.7)]


@pytest.fixture(params=LIKELIHOODS, ids=lambda x: type(x).__name__)
def likelihood(request):
    return request.param


@pytest.mark.parametrize("curvature", [ggn, fisher])
def test_ggn_and_fisher_are_the_dense_jacobian_products(likelihood, curvature):
    task = task_of(likelihood)
    w, unravel = flat(MLP)
    jacobian = np.asarray(jax.jacobian(lambda w: mlp(unravel(w), task.inputs))(w))
    outputs = np.asarray(mlp(MLP, task.inputs))
    expected = sum(
        weight * j.T @ output_fisher(likelihood, z) @ j
        for weight, j, z in zip(np.asarray(WEIGHTS), jacobian, outputs, strict=True)
    )
    np.testing.assert_allclose(to_dense(curvature(task, MLP)), expected, atol=1e-10)


def test_fisher_is_the_expectation_over_the_models_own_labels():
    task = task_of(Categorical())
    w, unravel = flat(MLP)

    def log_p(w):
        return jax.nn.log_softmax(mlp(unravel(w), task.inputs))

    p, g = np.exp(log_p(w)), np.asarray(jax.jacobian(log_p)(w))
    expected = np.einsum("i,iy,iya,iyb->ab", np.asarray(WEIGHTS), p, g, g)
    np.testing.assert_allclose(to_dense(fisher(task, MLP)), expected, atol=1e-10)


def score_outer_products(task, params, targets):
    """Σ_i weight_i g_i g_i', one Jacobian of all nlls."""
    w, unravel = flat(params)
    g = jax.jacobian(lambda w: task.likelihood.nll(task.apply_fn(unravel(w), task.inputs), targets))
    g = np.asarray(g(w))
    return np.einsum("i,ia,ib->ab", np.asarray(task.weights), g, g)


def test_the_empirical_fisher_has_the_targets_of_the_data(likelihood):
    task = task_of(likelihood)
    expected = score_outer_products(task, MLP, task.targets)
    np.testing.assert_allclose(to_dense(empirical_fisher(task, MLP)), expected, atol=1e-10)


def test_a_monte_carlo_fisher_is_the_mean_over_its_targets(likelihood):
    task = task_of(likelihood)
    A = mc_fisher(jax.random.key(0), task, MLP, num_draws=3)
    targets = jnp.moveaxis(A.leaves[0].targets, 1, 0)
    assert targets.shape == (3, *task.targets.shape)
    expected = np.mean([score_outer_products(task, MLP, y) for y in targets], axis=0)
    np.testing.assert_allclose(to_dense(A), expected, atol=1e-10)


def test_monte_carlo_fishers_are_unbiased(likelihood):
    task, repetitions = task_of(likelihood, linear), 400
    keys = jax.random.split(jax.random.key(1), repetitions)
    draws = np.stack([to_dense(mc_fisher(k, task, LINEAR, num_draws=4)) for k in keys])
    error = draws.mean(0) - to_dense(fisher(task, LINEAR))
    z = error[np.triu_indices_from(error)] / draws.std(0)[np.triu_indices_from(error)]
    z *= np.sqrt(repetitions)
    assert np.abs(z).max() < 5, "no entry is off, whatever their correlation"
    assert np.abs(np.mean(z**2) - 1) < 1


def test_the_log_determinant_of_a_monte_carlo_fisher_lies_low():
    """Jensen: log det is concave, so an unbiased matrix has too small a log determinant."""
    task = task_of(Categorical())

    def logdet(F):
        return np.linalg.slogdet(np.eye(F.size) + 10 * np.asarray(to_dense(F)))[1]

    keys = jax.random.split(jax.random.key(4), 20)
    one, eight = (
        np.mean([logdet(mc_fisher(k, task, MLP, num_draws=m)) for k in keys]) for m in (1, 8)
    )
    assert one < 0.8 * logdet(fisher(task, MLP))
    assert one < eight < logdet(fisher(task, MLP))


def test_monte_carlo_targets_do_not_depend_on_the_chunks():
    task, key = task_of(Categorical()), jax.random.key(2)
    whole = to_dense(mc_fisher(key, task, MLP, num_draws=2))
    for batch_size in (1, 4, 50):
        chunked = mc_fisher(key, task, MLP, num_draws=2, batch_size=batch_size)
        np.testing.assert_allclose(to_dense(chunked), whole, atol=1e-11)
    other = to_dense(mc_fisher(jax.random.key(3), task, MLP, num_draws=2))
    assert np.abs(other - whole).max() > 1e-3


def test_bad_keys_and_counts_are_named():
    task = task_of(Categorical())
    with pytest.raises(TypeError, match="key"):
        mc_fisher(jnp.zeros(2, jnp.uint32), task, MLP)
    with pytest.raises(ValueError, match="num_draws must be an integer of at least 1, got 0"):
        mc_fisher(jax.random.key(0), task, MLP, num_draws=0)


def test_hessian_is_jax_hessian(likelihood):
    task = task_of(likelihood)
    w, unravel = flat(MLP)
    expected = jax.hessian(lambda w: nll(task, unravel(w)))(w)
    np.testing.assert_allclose(to_dense(hessian(task, MLP)), expected, atol=1e-10)


def test_hessian_equals_fisher_where_the_model_is_linear_in_its_weights(likelihood):
    task = task_of(likelihood, linear)
    for scale in (0.1, 1.0, 4.0):
        params = jax.tree.map(lambda x, s=scale: s * x, LINEAR)
        np.testing.assert_allclose(
            to_dense(hessian(task, params)), to_dense(ggn(task, params)), atol=1e-10
        )


@pytest.mark.parametrize("curvature", [ggn, hessian, empirical_fisher])
@pytest.mark.parametrize(
    "batch_size",
    [pytest.param(1, marks=pytest.mark.slow), 4, 13, pytest.param(50, marks=pytest.mark.slow)],
)
def test_chunks_do_not_change_the_product(curvature, batch_size):
    task = task_of(Categorical())
    V = jax.tree.map(lambda x: normal(3, 5, *x.shape), MLP)
    whole = curvature(task, MLP).block(V)
    chunked = curvature(task, MLP, batch_size=batch_size).block(V)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), whole, chunked)


@pytest.mark.parametrize(
    "curvature",
    [ggn, *(pytest.param(c, marks=pytest.mark.slow) for c in (hessian, empirical_fisher))],
)
def test_the_memory_of_a_chunked_product_does_not_grow_with_the_examples(curvature):
    def temporary_bytes(num_examples, batch_size):
        x, y = normal(10, num_examples, DIM), jnp.zeros(num_examples, int)
        A = curvature(Task(mlp, Categorical(), x, y), MLP, batch_size=batch_size)
        program = jax.jit(lambda A, v: A.flat_block(v)).lower(A, jnp.ones((4, A.size)))
        return program.compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(100, 20), temporary_bytes(1600, 20)
    assert many <= 1.1 * few
    assert temporary_bytes(1600, None) > 4 * few  # what the chunks are for


@pytest.mark.parametrize("curvature", [ggn, hessian, empirical_fisher])
def test_a_masked_example_does_not_count(curvature):
    task = task_of(Categorical())
    kept = np.flatnonzero(WEIGHTS)
    without = Task(mlp, Categorical(), task.inputs[kept], task.targets[kept], WEIGHTS[kept])
    received, expected = (to_dense(curvature(t, MLP)) for t in (task, without))
    np.testing.assert_allclose(received, expected, atol=1e-12)


def test_one_product_is_one_row_of_a_block():
    A = hessian(task_of(Categorical()), MLP)
    V = jax.tree.map(lambda x: normal(3, 4, *x.shape), MLP)
    single = A(jax.tree.map(lambda x: x[2], V))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[2], atol=1e-12), single, A.block(V))


def test_probes_do_not_disturb_each_other_at_the_size_of_real_data():
    # jaxlib 0.10.2 miscompiles some fused sums past 32,768 float32 on CPUs (jax issue 39103).
    inputs = jax.random.normal(jax.random.key(0), (1500, DIM), jnp.float32)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), MLP)
    A = ggn(Task(mlp, Categorical(), inputs, jnp.zeros(1500, int)), params)
    V = jax.random.normal(jax.random.key(1), (12, A.size), jnp.float32)
    alone = jnp.concatenate([A.flat_block(v[None]) for v in V])
    np.testing.assert_allclose(A.flat_block(V), alone, rtol=1e-3, atol=1e-2)


def test_algebra():
    A, B = ggn(task_of(Categorical()), MLP), hessian(task_of(Categorical()), MLP)
    a, b = np.asarray(to_dense(A)), np.asarray(to_dense(B))
    np.testing.assert_allclose(to_dense(A + B), a + b, atol=1e-12)
    for factor in (2.0, np.float64(2.0), jnp.asarray(2.0)):
        np.testing.assert_allclose(to_dense(factor * A), 2 * a, atol=1e-12)
    scales = {"first": 0.5, "last": {"w": 2.0, "b": 3.0}}
    full = flat(
        jax.tree.map(
            lambda s, x: s * jnp.ones_like(x),
            {"first": {"w": 0.5, "b": 0.5}, "last": scales["last"]},
            MLP,
        )
    )[0]
    np.testing.assert_allclose(to_dense(A.congruence(scales)), a * np.outer(full, full), atol=1e-12)


def test_restriction_is_the_diagonal_block_of_a_layer():
    A = ggn(task_of(Categorical()), MLP)
    layer = (
        np.asarray(
            flat(
                {
                    "first": jax.tree.map(jnp.zeros_like, MLP["first"]),
                    "last": jax.tree.map(jnp.ones_like, MLP["last"]),
                }
            )[0]
        )
        > 0
    )
    block = A.restrict("last")
    assert block.size == layer.sum()
    np.testing.assert_allclose(to_dense(block), to_dense(A)[np.ix_(layer, layer)], atol=1e-12)
    assert A.restrict("last", "w").like.shape == (HIDDEN, OUT)
    with pytest.raises(ValueError, match="layer must lead to a part of the weights"):
        A.restrict("middle")


def test_new_parameters_do_not_trace_the_network_again():
    traces = []

    def counted(params, x):
        traces.append(1)
        return mlp(params, x)

    task = task_of(Categorical())
    task = Task(counted, task.likelihood, task.inputs, task.targets)
    v = MLP
    ggn(task, MLP)(v)
    products = len(traces)
    doubled = jax.tree.map(lambda x: 2 * x, MLP)
    A = ggn(task, doubled)  # its check looks at shapes, and traces once
    checks = len(traces) - products
    A(v)
    assert checks <= 1
    assert len(traces) == products + checks


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda A: A({"w": jnp.zeros(3)}), "v must have the structure"),
        (lambda A: A.block(MLP), "V must have one leading axis"),
        (lambda A: A.block(jax.tree.map(lambda x: x[None, None], MLP)), "V without its leading"),
        (lambda A: A + Operator(lambda v: v, like=jnp.zeros(3)), "A \\+ B must have the structure"),
        (lambda A: A.congruence(-1.0), "scales must be positive and finite, got -1.0"),
        (lambda A: A.congruence({"w": 1.0}), "scales must be one value or a pytree prefix"),
        (lambda _: Operator(lambda v: v[:1], like=jnp.zeros(3)), "product\\(v\\) must have"),
        (lambda _: ggn(task_of(Categorical()), MLP, batch_size=0), "batch_size must be"),
        (lambda _: ggn(task_of(Categorical()), LINEAR), "params must fit apply_fn"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    A = ggn(task_of(Categorical()), MLP)
    with pytest.raises(ValueError, match=message):
        call(A)


def test_integer_weights_are_refused():
    with pytest.raises(TypeError, match="weights must be floating-point"):
        Operator(lambda v: v, like=jnp.zeros(3, int))


def asymmetric(v, m):
    return m @ v + 0.1 * jnp.roll(v, 1)


def random_product(v, calls):
    noise = jax.pure_callback(lambda: next(calls), jax.ShapeDtypeStruct((), v.dtype))
    return (1 + noise) * v


def test_a_product_can_be_asked_to_prove_itself():
    m = jnp.diag(jnp.arange(1.0, 31.0))
    Operator(matmul, m, like=jnp.zeros(30)).check(jax.random.key(0))
    Operator(matmul, 0 * m, like=jnp.zeros(30)).check(jax.random.key(0))
    with pytest.raises(ValueError, match="must be symmetric"):
        Operator(asymmetric, m, like=jnp.zeros(30)).check(jax.random.key(0))
    with pytest.raises(ValueError, match="must be finite"):
        Operator(matmul, jnp.nan * m, like=jnp.zeros(30)).check(jax.random.key(0))
    calls = iter(np.linspace(0, 1, 99))
    product = partial(random_product, calls=calls)
    with pytest.raises(ValueError, match="must be deterministic"):
        Operator(product, like=jnp.zeros(30)).check(jax.random.key(0))
    task = task_of(Categorical())
    for A in (ggn(task, MLP), hessian(task, MLP, batch_size=7)):
        A.check(jax.random.key(1))


def matmul(v, m):
    return m @ v


def test_a_product_of_another_type_is_refused():
    with pytest.raises(TypeError, match="types of like, got float16 instead of float64"):
        Operator(lambda v: v.astype(jnp.float16), like=jnp.zeros(3))

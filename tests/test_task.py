import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import iw_jax as iw
from iw_jax import task as tasks
from iw_jax import trees
from tests import oracles

X, LABELS = oracles.classification(0, num_examples=10)
PARAMS = oracles.mlp_weights(1)
WEIGHTS = np.array([1, 0, 2.5, 1, 1, 0.5, 0, 1, 1, 3])


def task(weights=None, **changes):
    given = {"inputs": jnp.array(X), "targets": jnp.array(LABELS), **changes}
    return iw.Task(oracles.mlp, iw.Categorical(), weights=weights, **given)


def plain_nll():
    """(N,), in NumPy."""
    first, last = (jax.tree.map(np.asarray, PARAMS[name]) for name in ("first", "last"))
    hidden = np.tanh(X @ first["kernel"] + first["bias"])
    log_p = special.log_softmax(hidden @ last["kernel"] + last["bias"], axis=-1)
    return -log_p[np.arange(len(X)), LABELS]


def gradient(task, **options):
    return jax.jit(jax.grad(lambda p: iw.nll(task, p, **options)))(PARAMS)


def assert_trees_close(a, b, rtol=1e-11):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-12), a, b)


def test_nll_is_the_sum_over_examples():
    np.testing.assert_allclose(iw.nll(task(), PARAMS), plain_nll().sum(), rtol=1e-12)


def test_weights_multiply_the_examples():
    np.testing.assert_allclose(
        iw.nll(task(weights=WEIGHTS), PARAMS), plain_nll() @ WEIGHTS, rtol=1e-12
    )


@jax.jit
def nll_of_every_batch_size(whole, params):
    return jnp.stack([iw.nll(whole, params, batch_size=b) for b in range(1, 12)])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_chunks_of_any_size_change_nothing(weights):
    expected = plain_nll() @ (np.ones(10) if weights is None else weights)
    values = nll_of_every_batch_size(task(weights=weights), PARAMS)
    np.testing.assert_allclose(values, np.full(11, expected), rtol=1e-12)


def test_chunks_do_not_change_the_gradient():
    whole = task(weights=WEIGHTS)
    assert_trees_close(gradient(whole, batch_size=3), gradient(whole))


def log_network(params, inputs):
    """-inf and an infinite derivative at inputs 0."""
    return jnp.stack([params["a"] * jnp.log(inputs[:, 0]), params["b"] * inputs[:, 0]], axis=-1)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_masked_example_cannot_poison_value_or_gradient(batch_size):
    x, y, mask = np.array([[2.0], [0.0], [0.5], [0.0]]), np.array([0, 1, 1, 0]), [1, 0, 1, 0]
    params = {"a": 0.3, "b": -0.2}

    def value_and_grad(x, y, mask):
        masked = iw.Task(log_network, iw.Categorical(), jnp.array(x), jnp.array(y), np.array(mask))
        return jax.jit(jax.value_and_grad(lambda p: iw.nll(masked, p, batch_size=batch_size)))(
            params
        )

    assert_trees_close(value_and_grad(x, y, mask), value_and_grad(x[::2], y[::2], [1, 1]))


def test_a_mask_that_comes_later_hides_a_loss_that_is_not_finite():
    x = jnp.array([1.0, 1e200, 2.0])  # the squared residual of the second is inf
    live = iw.Task(lambda w, x: w * x, iw.GaussianLikelihood(), x, 2 * x)
    masked = trees.replace(live, weights=jnp.array([1.0, 0.0, 1.0]))
    value, slope = jax.jit(jax.value_and_grad(lambda w: iw.nll(masked, w)))(1.0)
    np.testing.assert_allclose(value, 2.5 + np.log(2 * np.pi), rtol=1e-12)
    np.testing.assert_allclose(slope, -5.0, rtol=1e-12)


def test_a_minibatch_with_factor_n_over_b_is_unbiased():
    """Exactly: the mean over all pairs, each pair equally likely."""
    whole = task(weights=WEIGHTS)
    n = len(X)
    pairs = jnp.array([(i, j) for i in range(n) for j in range(n) if i != j])
    values = jax.jit(jax.vmap(lambda p: iw.nll(tasks.take(whole, p, n / 2), PARAMS)))(pairs)
    np.testing.assert_allclose(values.mean(), iw.nll(whole, PARAMS), rtol=1e-12)


def test_a_duplicate_counts_twice():
    twice = tasks.take(task(), jnp.array([3, 3]))
    np.testing.assert_allclose(iw.nll(twice, PARAMS), 2 * plain_nll()[3], rtol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_inputs_may_be_any_pytree(batch_size):
    halves = {"left": jnp.array(X[:, :1]), "right": jnp.array(X[:, 1:])}
    joined = lambda p, h: oracles.mlp(p, jnp.concatenate([h["left"], h["right"]], -1))  # noqa: E731
    tree_task = iw.Task(joined, iw.Categorical(), halves, jnp.array(LABELS), WEIGHTS)
    np.testing.assert_allclose(
        iw.nll(tree_task, PARAMS, batch_size=batch_size), plain_nll() @ WEIGHTS, rtol=1e-12
    )


def test_sums_over_examples_may_be_pytrees():
    parts = tasks.sum_over_examples(
        lambda t: {"count": jnp.sum(t.weights > 0), "x": t.weights @ t.inputs}, task(), batch_size=4
    )
    assert parts["count"] == 10
    np.testing.assert_allclose(parts["x"], X.sum(0), rtol=1e-12)


def test_arrays_of_another_task_do_not_compile_again():
    traces = []

    @jax.jit
    def loss(t, p):
        traces.append(1)
        return iw.nll(t, p)

    loss(task(), PARAMS)
    loss(task(weights=WEIGHTS, inputs=jnp.array(X) + 1), PARAMS)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": jnp.zeros((0, 2)), "targets": jnp.zeros(0, int)}, "at least one example"),
        ({"inputs": np.where(X[2, 1] == X, np.nan, X)}, "inputs must be finite"),
        ({"inputs": np.where(X[2, 1] == X, np.inf, X)}, "inputs must be finite"),
        ({"targets": jnp.array(LABELS)[:-1]}, "inputs and targets must share their leading axis"),
        ({"inputs": {"a": jnp.array(X), "b": jnp.ones(3)}}, "must share their leading axis"),
        ({"inputs": 3.0}, "must share their leading axis"),
        ({"weights": np.ones(4)}, r"weights must have shape \(10,\), got \(4,\)"),
        ({"weights": -WEIGHTS}, "weights must not be negative, got -3"),
        ({"weights": WEIGHTS * np.nan}, "weights must be finite"),
    ],
)
def test_data_that_cannot_be_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_batch_size_must_be_a_positive_integer(batch_size):
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        iw.nll(task(), PARAMS, batch_size=batch_size)


def bad_network(kind):
    return {
        "wrong axis": lambda p, x: oracles.mlp(p, x).T,
        "two arrays": lambda p, x: (oracles.mlp(p, x),) * 2,
        "a number": lambda p, x: oracles.mlp(p, x).sum(),
    }[kind]


@pytest.mark.parametrize("kind", ["wrong axis", "two arrays", "a number"])
def test_outputs_of_the_wrong_shape_are_named(kind):
    with pytest.raises(ValueError, match="apply_fn must return one array with the examples on its"):
        tasks.check_task(trees.replace(task(), apply_fn=bad_network(kind)), PARAMS)


@pytest.mark.parametrize("params", [{}, {"first": PARAMS["first"]}, oracles.mlp_weights(0, 5)])
def test_params_that_do_not_fit_are_named_in_one_paragraph(params):
    with pytest.raises(ValueError, match="params must fit apply_fn, got a failure") as caught:
        tasks.check_task(task(), params)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"targets": jnp.array(LABELS) + 1}, ValueError, "targets must be labels 0 .. 2"),
        ({"targets": jnp.array(LABELS) * 1.0}, TypeError, "targets must be integer labels"),
        ({"targets": jnp.eye(10, 3, dtype=int)}, ValueError, r"targets must have shape \(10,\)"),
    ],
)
def test_targets_are_checked_against_the_network(changes, error, message):
    with pytest.raises(error, match=message):
        tasks.check_task(task(**changes), PARAMS)


def test_params_must_be_finite():
    params = {**PARAMS, "last": jax.tree.map(lambda x: x * jnp.nan, PARAMS["last"])}
    with pytest.raises(ValueError, match="params must be finite"):
        tasks.check_task(task(), params)


def test_a_task_of_one_example_is_checked():
    tasks.check_task(tasks.take(task(), jnp.array([0])), PARAMS)

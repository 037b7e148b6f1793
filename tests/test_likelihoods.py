import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import iw_jax as iw

N, K = 4, 3
RNG = np.random.default_rng(0)
OUTPUTS = jnp.array(RNG.normal(size=(N, K)))
LABELS = np.array([0, 2, 1, 2])
BITS = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]])
REALS = RNG.normal(size=(N, K))
SCALES = np.array([0.5, 1.0, 3.0])

CASES = {
    "categorical": (iw.Categorical(), OUTPUTS, LABELS),
    "pixels": (iw.Categorical(), OUTPUTS.reshape(2, 2, K), LABELS.reshape(2, 2)),
    "bernoulli": (iw.Bernoulli(), OUTPUTS, BITS),
    "one bit": (iw.Bernoulli(), OUTPUTS[:, 0], BITS[:, 0]),
    "gaussian": (iw.GaussianLikelihood(0.7), OUTPUTS, REALS),
    "a scale an output": (iw.GaussianLikelihood(SCALES), OUTPUTS, REALS),
}
each_case = pytest.mark.parametrize(
    ("likelihood", "outputs", "targets"), CASES.values(), ids=CASES.keys()
)


def examples(nats):
    return np.asarray(nats).reshape(len(nats), -1).sum(-1)


def log_pmf_of_bits(outputs):
    return stats.bernoulli.logpmf(BITS, special.expit(np.asarray(outputs)))


def test_nll_is_that_of_scipy():
    log_p = special.log_softmax(np.asarray(OUTPUTS), axis=-1)
    expected = {
        "categorical": -log_p[np.arange(N), LABELS],
        "pixels": examples(-log_p[np.arange(N), LABELS].reshape(2, 2)),
        "bernoulli": examples(-log_pmf_of_bits(OUTPUTS)),
        "one bit": -log_pmf_of_bits(OUTPUTS)[:, 0],
        "gaussian": examples(-stats.norm.logpdf(REALS, OUTPUTS, 0.7)),
        "a scale an output": examples(-stats.norm.logpdf(REALS, OUTPUTS, SCALES)),
    }
    for name, (likelihood, outputs, targets) in CASES.items():
        np.testing.assert_allclose(likelihood.nll(outputs, targets), expected[name], rtol=1e-12)


def dense(product, outputs):
    """The matrix of a product that is linear in its argument: (size, size)."""
    basis = np.eye(outputs.size).reshape(outputs.size, *outputs.shape)
    columns = jax.jit(jax.vmap(lambda e: product(outputs, e)))(basis)
    return np.asarray(columns).reshape(outputs.size, outputs.size).T


@each_case
def test_the_output_fisher_is_the_hessian_of_the_nll(likelihood, outputs, targets):
    hessian = jax.jit(jax.hessian(lambda z: likelihood.nll(z, targets).sum()))(outputs)
    expected = np.asarray(hessian).reshape(outputs.size, outputs.size)
    np.testing.assert_allclose(dense(likelihood.fisher_product, outputs), expected, atol=1e-12)


@jax.jit
def scores(likelihood, outputs, targets):
    return jax.grad(lambda z: likelihood.nll(z, targets).sum())(outputs)


def test_the_output_fisher_is_the_exact_sum_over_classes_of_squared_scores():
    p = special.softmax(np.asarray(OUTPUTS), axis=-1)
    per_class = [scores(iw.Categorical(), OUTPUTS, np.full(N, c)) for c in range(K)]
    expected = sum(
        p[:, c, None, None] * g[:, :, None] * g[:, None] for c, g in enumerate(per_class)
    )
    blocks = dense(iw.Categorical().fisher_product, OUTPUTS).reshape(N, K, N, K)
    np.testing.assert_allclose(np.einsum("iaib->iab", blocks), expected, atol=1e-14)


@each_case
def test_the_mean_squared_score_of_sampled_targets_is_the_output_fisher(
    likelihood, outputs, targets
):
    del targets
    draw = jax.vmap(lambda k: scores(likelihood, outputs, likelihood.sample_targets(k, outputs)))
    g = np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(2), 4000))).reshape(4000, -1)
    expected = dense(likelihood.fisher_product, outputs)
    products = g[:, :, None] * g[:, None, :]
    error = products.std(0) / np.sqrt(len(g))
    assert np.all(np.abs(products.mean(0) - expected) < 5 * error + 1e-12)


@each_case
def test_root_times_its_transpose_is_the_output_fisher(likelihood, outputs, targets):
    del targets
    root, transpose = (
        dense(product, outputs)
        for product in (likelihood.root_product, likelihood.root_transpose_product)
    )
    np.testing.assert_allclose(transpose, root.T, atol=1e-14)
    np.testing.assert_allclose(root @ root.T, dense(likelihood.fisher_product, outputs), atol=1e-14)


@jax.jit
def everything(likelihood, outputs, targets):
    value, gradient = jax.value_and_grad(lambda z: likelihood.nll(z, targets).sum())(outputs)
    products = (
        likelihood.fisher_product,
        likelihood.root_product,
        likelihood.root_transpose_product,
    )
    return value, gradient, *(product(outputs, jnp.ones_like(outputs)) for product in products)


@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["categorical", "bernoulli"])
def test_extreme_logits_give_finite_numbers(name, dtype, size):
    likelihood, _, targets = CASES[name]
    signs = np.array([[1, -1, 0], [-1, 1, 1], [1, 1, -1], [-1, -1, -1]])
    outputs = jnp.array(signs * size, dtype)
    for x in everything(likelihood, outputs, targets):
        assert np.all(np.isfinite(x))


def test_a_confident_bit_keeps_its_digits():
    nats = iw.Bernoulli().nll(jnp.array([[40.0], [-40.0]]), jnp.array([[1], [0]]))
    np.testing.assert_allclose(nats, np.exp(-40.0), rtol=1e-12)


def test_sampled_targets_have_the_frequencies_of_the_model():
    count = 20_000
    z = jnp.broadcast_to(OUTPUTS[:1], (count, K))
    labels = iw.Categorical().sample_targets(jax.random.key(3), z)
    observed = np.bincount(labels, minlength=K)
    assert stats.chisquare(observed, count * special.softmax(OUTPUTS[0])).pvalue > 1e-3
    bits = iw.Bernoulli().sample_targets(jax.random.key(4), z)
    p = special.expit(np.asarray(OUTPUTS[0]))
    assert np.all(np.abs(bits.mean(0) - p) < 4 * np.sqrt(p * (1 - p) / count))
    reals = iw.GaussianLikelihood(SCALES).sample_targets(jax.random.key(5), z)
    for column, scale, mean in zip(reals.T, SCALES, OUTPUTS[0], strict=True):
        assert stats.kstest(column, stats.norm(mean, scale).cdf).pvalue > 1e-3


@each_case
def test_sampled_targets_belong_to_the_outputs(likelihood, outputs, targets):
    drawn = likelihood.sample_targets(jax.random.key(6), outputs)
    assert drawn.shape == targets.shape
    likelihood.check(outputs.shape, drawn)


@pytest.mark.parametrize(
    ("name", "targets", "error", "message"),
    [
        ("categorical", np.array([0, 1, 2, 3]), ValueError, "targets must be labels 0 .. 2"),
        ("categorical", np.array([0, 1, 2, -1]), ValueError, "labels from -1 to 2"),
        ("categorical", jnp.array([0.0, 1, 2, 1]), TypeError, "integer labels for Categorical"),
        ("categorical", np.eye(4, 3, dtype=int), ValueError, r"targets must have shape \(4,\)"),
        ("categorical", jnp.array([True] * 4), TypeError, "got bool"),
        ("bernoulli", BITS[:, :2], ValueError, r"targets must have shape \(4, 3\)"),
        ("bernoulli", BITS + 1, ValueError, "targets must be 0 or 1 for Bernoulli, got"),
        ("bernoulli", BITS + 0.5, ValueError, "targets must be 0 or 1 for Bernoulli, got"),
        ("bernoulli", BITS * np.nan, ValueError, "targets must be 0 or 1 for Bernoulli, got nan"),
        ("gaussian", REALS[:2], ValueError, r"targets must have shape \(4, 3\)"),
        ("gaussian", np.where(REALS > 0, np.inf, 0), ValueError, "targets must be finite"),
    ],
)
def test_targets_that_cannot_belong_are_named(name, targets, error, message):
    likelihood, outputs, _ = CASES[name]
    with pytest.raises(error, match=message):
        likelihood.check(outputs.shape, targets)


def test_logits_without_a_class_axis_are_named():
    with pytest.raises(ValueError, match=r"logits of shape \(N, ..., K\), got \(4,\)"):
        iw.Categorical().check((4,), LABELS)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_noise_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        iw.GaussianLikelihood(scale)


@each_case
def test_traced_targets_pass_the_check(likelihood, outputs, targets):
    def checked(t):
        likelihood.check(outputs.shape, t)
        return t

    jax.jit(checked)(targets)

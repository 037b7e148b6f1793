import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iw_jax as iw
from iw_jax import trees
from tests import oracles

RNG = np.random.default_rng(3)
MEAN = {
    "a": {"kernel": RNG.normal(size=(2, 3)), "bias": RNG.normal(size=2)},
    "b": RNG.normal(size=3),
}
CENTRE = jax.tree.map(lambda x: x + RNG.normal(size=x.shape), MEAN)
SCALE = jax.tree.map(lambda x: np.exp(RNG.normal(size=x.shape)), MEAN)
SIZE = 11


def flat(tree):
    """(SIZE,), in the order of the leaves."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def low_rank_factor(rank):
    """Columns of random length in a Haar-rotated frame."""
    frame = oracles.haar_orthogonal(4, SIZE)[:rank] * np.geomspace(0.1, 3.0, rank)[:, None]
    leaves, structure = jax.tree.flatten(MEAN)
    cuts = np.cumsum([x.size for x in leaves])[:-1]
    parts = np.split(frame, cuts, axis=1)
    shaped = [p.reshape(rank, *x.shape) for p, x in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped), frame


FACTOR, FRAME = low_rank_factor(3)
PER_LAYER = {"a": 0.5, "b": 2.0}
LAYER_SCALES = np.array([0.5] * 8 + [2.0] * 3)

# Each with the dense covariance it stands for.
CODES = {
    "isotropic": (iw.IsotropicGaussian(0.3, mean=MEAN), 0.09 * np.eye(SIZE)),
    "isotropic per layer": (
        iw.IsotropicGaussian(PER_LAYER, mean=MEAN),
        np.diag(LAYER_SCALES**2),
    ),
    "diagonal": (iw.DiagonalGaussian(MEAN, SCALE), np.diag(flat(SCALE) ** 2)),
    "low rank": (
        iw.LowRankGaussian(MEAN, SCALE, FACTOR),
        np.diag(flat(SCALE) ** 2) + FRAME.T @ FRAME,
    ),
}
PRIORS = {
    "global": (iw.IsotropicGaussian(0.8), np.zeros(SIZE), 0.64 * np.eye(SIZE)),
    "centred": (iw.IsotropicGaussian(0.8, mean=CENTRE), flat(CENTRE), 0.64 * np.eye(SIZE)),
    "per layer": (iw.IsotropicGaussian(PER_LAYER), np.zeros(SIZE), np.diag(LAYER_SCALES**2)),
    "diagonal": (iw.DiagonalGaussian(CENTRE, SCALE), flat(CENTRE), np.diag(flat(SCALE) ** 2)),
}
kl = jax.jit(iw.kl)
each_code = pytest.mark.parametrize(("code", "cov"), CODES.values(), ids=CODES.keys())
each_prior = pytest.mark.parametrize(
    ("prior", "prior_mean", "prior_cov"), PRIORS.values(), ids=PRIORS.keys()
)


@each_prior
@each_code
def test_kl_is_that_of_the_dense_gaussians(code, cov, prior, prior_mean, prior_cov):
    expected = oracles.gaussian_kl(flat(MEAN), cov, prior_mean, prior_cov)
    np.testing.assert_allclose(kl(code, prior), expected, rtol=1e-11)


@pytest.mark.parametrize(
    "code",
    [iw.IsotropicGaussian(0.8, mean=CENTRE), iw.DiagonalGaussian(CENTRE, SCALE)],
    ids=["isotropic", "diagonal"],
)
def test_kl_of_the_prior_to_itself_is_zero(code):
    assert kl(code, code) == 0


@each_prior
@each_code
def test_the_nats_of_the_tensors_sum_to_the_whole(code, cov, prior, prior_mean, prior_cov):
    del cov, prior_mean, prior_cov
    parts = code.kl_by_tensor(prior)
    assert jax.tree.structure(parts) == jax.tree.structure(MEAN)
    np.testing.assert_allclose(sum(jax.tree.leaves(parts)), kl(code, prior), rtol=1e-12)


def test_a_tensor_has_the_nats_of_its_own_code_where_it_does_not_covary_with_others():
    inside = jax.tree.map(jnp.zeros_like, FACTOR)
    inside["a"]["kernel"] = FACTOR["a"]["kernel"]
    prior = PRIORS["per layer"][0]
    parts = trees.by_name(iw.LowRankGaussian(MEAN, SCALE, inside).kl_by_tensor(prior))
    own = iw.LowRankGaussian(MEAN["a"]["kernel"], SCALE["a"]["kernel"], FACTOR["a"]["kernel"])
    bias = iw.DiagonalGaussian(MEAN["a"]["bias"], SCALE["a"]["bias"])
    b = iw.DiagonalGaussian(MEAN["b"], SCALE["b"])
    expected = {
        "a/bias": kl(bias, iw.IsotropicGaussian(PER_LAYER["a"])),
        "a/kernel": kl(own, iw.IsotropicGaussian(PER_LAYER["a"])),
        "b": kl(b, iw.IsotropicGaussian(PER_LAYER["b"])),
    }
    assert parts.keys() == expected.keys()
    for name, nats in expected.items():
        np.testing.assert_allclose(parts[name], nats, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("shift", [1e-9, 1e-6, 1e-3])
def test_kl_near_the_prior_keeps_its_digits(shift):
    """log σ²/λ² = 2d gives d² + 2d³/3 nats a weight, and never a negative number."""
    code = iw.DiagonalGaussian(jnp.zeros(4), np.exp(shift))
    value = kl(code, iw.IsotropicGaussian(1.0))
    assert value >= 0
    np.testing.assert_allclose(value, 4 * (shift**2 + 2 * shift**3 / 3), rtol=1e-4, atol=1e-22)


@each_code
def test_draws_have_the_mean_and_covariance_of_the_code(code, cov):
    count = 20_000
    draws = jax.jit(jax.vmap(lambda k: iw.sample(k, code)))(
        jax.random.split(jax.random.key(0), count)
    )
    w = np.concatenate([np.reshape(x, (count, -1)) for x in jax.tree.leaves(draws)], axis=1)
    centred = w - flat(MEAN)
    assert np.max(np.abs(oracles.z_scores(w, flat(MEAN)))) < 4.5
    products = centred[:, :, None] * centred[:, None, :]
    assert np.max(np.abs(oracles.z_scores(products, cov))) < 4.5


@each_code
def test_a_draw_and_its_mirror_image_average_to_the_mean(code, cov):
    del cov
    noise = code.noise(jax.random.key(1))
    pair = code.weights(noise), code.weights(jax.tree.map(jnp.negative, noise))
    jax.tree.map(
        lambda a, b, m: np.testing.assert_allclose((a + b) / 2, m, rtol=1e-12, atol=1e-12),
        *pair,
        MEAN,
    )


@pytest.mark.parametrize("name", PRIORS)
def test_kl_does_not_depend_on_the_unit(name):
    prior = PRIORS[name][0]
    standard = iw.IsotropicGaussian(1.0)
    for code in (CODES["diagonal"][0], CODES["low rank"][0]):
        np.testing.assert_allclose(
            kl(code.in_units_of(prior), standard), kl(code, prior), rtol=1e-11
        )


def test_kl_of_an_isotropic_code_does_not_depend_on_the_unit():
    code, prior = CODES["isotropic per layer"][0], PRIORS["centred"][0]
    in_units = code.in_units_of(prior)
    np.testing.assert_allclose(kl(in_units, iw.IsotropicGaussian(1.0)), kl(code, prior), rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "prior"),
    [(n, p) for n in ("diagonal", "low rank") for p in PRIORS] + [("isotropic", "centred")],
)
def test_from_units_of_inverts_in_units_of(name, prior):
    code, prior = CODES[name][0], PRIORS[prior][0]
    back = code.in_units_of(prior).from_units_of(prior)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), back, code)


@pytest.mark.parametrize("log_scale", [-40.0, -10.0, 0.0, 10.0, 40.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_kl_and_draws_have_finite_gradients_at_extreme_scales(dtype, log_scale):
    factor = jnp.ones((1, 2), dtype)

    @jax.jit
    def values(leaf):
        code = iw.LowRankGaussian(jnp.ones(2, dtype), jnp.exp(leaf), factor)
        draw = code.weights((jnp.ones(2, dtype), jnp.ones(1, dtype)))
        return iw.kl(code, iw.IsotropicGaussian(0.1)), draw

    leaf = jnp.full(2, log_scale, dtype)
    for x in jax.tree.leaves((values(leaf), jax.jit(jax.jacrev(values))(leaf))):
        assert np.all(np.isfinite(x))


@each_code
def test_float32_weights_stay_float32_and_agree_with_float64(code, cov):
    del cov
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), code)
    prior = iw.IsotropicGaussian(0.8)  # a float64 scale must not promote the weights
    out = single.in_units_of(prior), iw.sample(jax.random.key(0), single), kl(single, prior)
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(out[-1], kl(code, prior), rtol=1e-5)


def test_a_scale_given_as_a_number_takes_the_dtype_of_the_weights():
    code = iw.DiagonalGaussian(jnp.ones(2, jnp.float32), 0.1)
    assert code.log_scale.dtype == jnp.float32


def test_a_single_number_is_a_weight_too():
    code = iw.DiagonalGaussian(0.3, 0.1)
    expected = 0.5 * (0.01 + 0.09 - 1 - np.log(0.01))
    np.testing.assert_allclose(kl(code, iw.IsotropicGaussian(1.0)), expected, rtol=1e-12)


W = jnp.ones(2)
CODE = iw.DiagonalGaussian(W, 1.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: iw.IsotropicGaussian(0.0), ValueError, "scale must be positive and finite, got 0"),
        (lambda: iw.IsotropicGaussian({"a": -1.0}), ValueError, "scale must be positive"),
        (lambda: iw.IsotropicGaussian(np.ones(2)), ValueError, "scale must be one number or one a"),
        (lambda: iw.IsotropicGaussian(1.0, mean=W * jnp.nan), ValueError, "mean must be finite"),
        (lambda: iw.IsotropicGaussian(1.0).kl(CODE), ValueError, "mean must be given where an Iso"),
        (lambda: iw.DiagonalGaussian(W, jnp.inf), ValueError, "scale must be positive and finite"),
        (
            lambda: iw.DiagonalGaussian(W, np.ones(3)),
            ValueError,
            "scale must have the shapes of mean",
        ),
        (lambda: iw.DiagonalGaussian(W, {"a": 1.0}), ValueError, "scale must be one value or a py"),
        (lambda: iw.DiagonalGaussian(W / 0, 1.0), ValueError, "mean must be finite"),
        (lambda: iw.LowRankGaussian(W, 1.0, np.ones((0, 2))), ValueError, "leading axis r >= 1"),
        (
            lambda: iw.LowRankGaussian(W, 1.0, np.ones((1, 3))),
            ValueError,
            "structure and shapes of me",
        ),
        (lambda: CODE.kl(iw.LogUniform()), TypeError, "a prior of type LogUniform"),
        (lambda: CODE.in_units_of(iw.LogUniform()), TypeError, "a prior of type LogUniform"),
        (
            lambda: iw.IsotropicGaussian(1.0, mean=W).in_units_of(iw.LogUniform()),
            TypeError,
            "a prior of type LogUniform",
        ),
        (
            lambda: iw.IsotropicGaussian(1.0, mean=W).in_units_of(CODE),
            ValueError,
            "must have one scale for each scale of its prior",
        ),
        (
            lambda: CODES["isotropic"][0].in_units_of(PRIORS["per layer"][0]),
            ValueError,
            "must have one scale for each scale of its prior",
        ),
        (
            lambda: CODE.kl(iw.IsotropicGaussian(1.0, mean=np.ones(3))),
            ValueError,
            "the prior's mean",
        ),
        (lambda: CODE.kl(iw.IsotropicGaussian({"a": 1.0})), ValueError, "pytree prefix"),
        (lambda: iw.sample(0, CODE), TypeError, "key must be a typed random key"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()

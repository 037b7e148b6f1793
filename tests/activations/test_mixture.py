"""Densities and entropies of Gaussian mixtures: dense float64 sums, limits and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import iw_jax as iw
from iw_jax.activations import mixture

KEY = jax.random.key(0)
POINTS, CENTRES = 1030, 1500  # neither fills its tiles of at most 1024


def dense(points, centres, sigma, weights=None):
    """log g from all distances at once, in float64; (m,) or (m, C)."""
    points, centres = np.asarray(points, float), np.asarray(centres, float)
    weights = np.full(len(centres), 1 / len(centres)) if weights is None else weights
    squares = (np.square(np.subtract.outer(t, s)) for t, s in zip(points.T, centres.T, strict=True))
    exponents = -sum(squares) / (2 * sigma**2)
    columns = np.asarray(weights, float).reshape(len(centres), -1).T
    found = np.stack([special.logsumexp(exponents, axis=1, b=p) for p in columns], 1)
    found -= points.shape[1] / 2 * np.log(2 * np.pi * sigma**2)
    return found[:, 0] if np.ndim(weights) == 1 else found


def noise(size, sigma):
    return size / 2 * np.log(2 * np.pi * np.e * sigma**2)


def saturated(seed, size, sigma):
    """Centres at and near corners of the cube, as tanh units have them, and points around them."""
    rng = np.random.default_rng(seed)
    corners = rng.choice([-1.0, 1.0], size=(CENTRES, size))
    centres = corners * (1 - 1e-3 * rng.integers(2, size=corners.shape) * rng.random(corners.shape))
    centres = centres.astype(np.float32)
    points = centres[rng.integers(CENTRES, size=POINTS)] + sigma * rng.normal(size=(POINTS, size))
    return points.astype(np.float32), centres


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("sigma", [0.005, 0.1])
def test_float32_keeps_the_digits_of_small_noise_at_saturated_units(size, sigma):
    points, centres = saturated(0, size, sigma)
    with jax.enable_x64(False):
        found = iw.mixture_log_density(points, centres, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, dense(points, centres, sigma), rtol=0, atol=1e-4)


def test_float32_keeps_them_in_ten_dimensions_too():
    points, centres = saturated(1, 10, 0.005)
    with jax.enable_x64(False):
        found = iw.mixture_log_density(points, centres, 0.005)
    error = found - dense(points, centres, 0.005)
    assert np.sqrt(np.mean(error**2)) < 3e-5
    # The largest of a thousand: of the squared distances, a rounding of terms of some 500 cells.
    assert np.abs(error).max() < 2e-4


def test_float64_keeps_them_however_small_the_noise_is():
    rng = np.random.default_rng(2)
    centres = rng.uniform(-1, 1, size=(CENTRES, 5))
    points = centres[rng.integers(CENTRES, size=POINTS)] + 1e-6 * rng.normal(size=(POINTS, 5))
    found = iw.mixture_log_density(points, centres, 1e-6)
    np.testing.assert_allclose(found, dense(points, centres, 1e-6), rtol=0, atol=1e-8)


@pytest.fixture(scope="module")
def broad():
    """Points, centres and three mixtures of them, one of a single centre."""
    rng = np.random.default_rng(2)
    points, centres = rng.normal(size=(POINTS, 3)), rng.normal(size=(CENTRES, 3))
    weights = rng.dirichlet(np.ones(CENTRES), size=3).T
    weights[:, 2] = np.arange(CENTRES) == 7
    return points, centres, weights


def test_mixtures_of_the_same_centres_have_weights_of_their_own(broad):
    points, centres, weights = broad
    found = iw.mixture_log_density(points, centres, 0.7, weights=weights)
    np.testing.assert_allclose(found, dense(points, centres, 0.7, weights), rtol=1e-9)
    alone = stats.multivariate_normal.logpdf(points, centres[7], 0.7**2 * np.eye(3))
    np.testing.assert_allclose(found[:, 2], alone, rtol=1e-9)


def test_one_column_of_weights_gives_one_density(broad):
    points, centres, weights = broad
    found = iw.mixture_log_density(points, centres, 0.7, weights=weights[:, 0])
    assert found.shape == (POINTS,)
    np.testing.assert_allclose(found, dense(points, centres, 0.7, weights[:, 0]), rtol=1e-9)


def test_a_mixture_that_has_no_centre_near_a_point_is_far_below_the_others_there():
    weights = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = iw.mixture_log_density([[0.0]], [[0.0], [100.0]], 1.0, weights=weights)
    np.testing.assert_allclose(found, [[stats.norm.logpdf(0.0), -np.inf]])


@pytest.mark.parametrize("axes", [{"data": 2}, {"sweep": 2}], ids=["data", "sweep"])
def test_devices_share_the_points(broad, axes):
    points, centres, weights = broad  # an odd number of points, once one is left out
    whole = iw.mixture_log_density(points[1:], centres, 0.7, weights=weights)
    dealt = iw.mixture_log_density(
        points[1:], centres, 0.7, weights=weights, mesh=iw.make_mesh(**axes)
    )
    np.testing.assert_allclose(dealt, whole, rtol=1e-10)


def test_memory_does_not_grow_with_the_number_of_pairs():
    def temporary(num_centres):
        shapes = (jax.ShapeDtypeStruct((n, 10), float) for n in (4096, num_centres))
        program = jax.jit(lambda t, s: iw.mixture_log_density(t, s, 0.1)).lower(*shapes).compile()
        return program.memory_analysis().temp_size_in_bytes

    small, large = temporary(4096), temporary(32768)
    # Of each further centre a few copies of its coarse and fine parts; a row of pairs is 32768 B.
    assert large - small < 12 * (32768 - 4096) * 10 * 8
    assert large < 4096 * 32768 * 8 / 10


def test_densities_have_the_gradient_of_dense_ones(broad):
    points, centres = broad[0][:5], broad[1][:40]

    def direct(s):
        squares = jnp.square(points[:, None] - s[None]).sum(-1)
        return jax.scipy.special.logsumexp(-squares / (2 * 0.7**2), axis=1).sum()

    found = jax.grad(lambda s: iw.mixture_log_density(points, s, 0.7).sum())(centres)
    np.testing.assert_allclose(found, jax.grad(direct)(centres), atol=1e-6)


# ----------------------------------------------------------------------------------- entropies

NUM = 40  # centres


@pytest.fixture(scope="module")
def few():
    return np.random.default_rng(3).normal(size=(NUM, 2))


@pytest.mark.parametrize("centres", [np.zeros((1, 2)), np.ones((NUM, 2))], ids=["one", "identical"])
def test_centres_at_one_place_have_the_entropy_of_the_noise(centres):
    found = iw.mixture_entropy(KEY, centres, 0.1, num_points=1000)
    assert abs(found.value - noise(2, 0.1)) < 4 * found.stderr
    assert found.stderr < 0.05
    for bound in iw.mixture_entropy_bounds(centres, 0.1):
        np.testing.assert_allclose(bound, noise(2, 0.1), rtol=1e-12)


def test_centres_far_apart_add_the_log_of_their_number(few):
    found = iw.mixture_entropy(KEY, 1e3 * few, 0.1, num_points=1000)
    assert abs(found.value - noise(2, 0.1) - np.log(NUM)) < 4 * found.stderr
    for bound in iw.mixture_entropy_bounds(1e3 * few, 0.1):
        np.testing.assert_allclose(bound, noise(2, 0.1) + np.log(NUM), rtol=1e-12)


def quadrature(centres, sigma, nodes=400):
    """h by sums over a grid, exact to many digits for smooth densities."""
    axes = [np.linspace(x.min() - 9 * sigma, x.max() + 9 * sigma, nodes) for x in centres.T]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    density = np.exp(dense(grid, centres, sigma))
    cell = np.prod([x[1] - x[0] for x in axes])
    np.testing.assert_allclose(density.sum() * cell, 1.0, rtol=1e-9)
    return special.entr(density).sum() * cell


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_entropy_agrees_with_quadrature(few, size, sigma):
    centres, exact = few[:, :size], quadrature(few[:, :size], sigma)
    found = iw.mixture_entropy(KEY, centres, sigma, num_points=1000)
    assert abs(found.value - exact) < 4 * found.stderr
    lower, upper = iw.mixture_entropy_bounds(centres, sigma)
    assert lower < exact < upper


def test_four_times_the_points_halve_the_standard_deviation(few):
    def values(num_points):
        keys = jax.random.split(KEY, 100)
        one = jax.jit(lambda key: iw.mixture_entropy(key, few, 0.2, num_points=num_points))
        found = jax.lax.map(one, keys)
        return found.value.std(ddof=1), np.sqrt(np.mean(found.stderr**2))

    (some, claimed), (more, _) = values(100), values(400)
    np.testing.assert_allclose(some / more, 2.0, rtol=4 * np.sqrt(2 * 0.5 / 99))
    assert some < 1.3 * claimed  # draws are spread evenly over centres, so it may be smaller


def test_points_are_spread_evenly_over_centres(few):
    points, rows = mixture.draw(KEY, jnp.array(few), 1e-3, 100)
    assert set(np.bincount(rows, minlength=NUM)) == {2, 3}
    assert np.abs(points - few[rows]).max() < 6e-3


@pytest.mark.parametrize(("size", "scale"), [(2, 0.1), (2, 1.0), (5, 1.0), (5, 3.0)])
def test_the_bounds_are_those_of_all_pairs(size, scale):
    centres = scale * np.random.default_rng(size).normal(size=(NUM, size))
    squares = np.square(centres[:, None] - centres[None]).sum(-1)
    expected = [
        noise(size, 0.5) - np.log(np.exp(-squares / (factor * 0.25)).mean(1)).mean()
        for factor in (8, 2)
    ]
    found = iw.mixture_entropy_bounds(centres, 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    middle = iw.mixture_entropy(KEY, centres, 0.5, num_points=1000)
    assert found[0] - 4 * middle.stderr < middle.value < found[1] + 4 * middle.stderr


def test_broad_noise_leaves_nothing_to_tell(few):
    for bound in iw.mixture_entropy_bounds(few, 1e4):
        np.testing.assert_allclose(bound, noise(2, 1e4), atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"sigma": np.nan}, "sigma must be positive"),
        ({"sigma": np.ones(2)}, r"sigma must be a scalar, got shape \(2,\)"),
        ({"points": np.ones(3)}, r"points must be \(number, d\)"),
        ({"points": np.ones((3, 5))}, "as many coordinates"),
        ({"points": np.full((3, 2), np.inf)}, "points must be finite"),
        ({"centres": np.ones((0, 2))}, r"centres must be \(number, d\)"),
        ({"centres": np.full((4, 2), np.nan)}, "centres must be finite"),
        ({"weights": np.ones(3)}, r"weights must be \(n,\) or \(n, C\), n = 4, got \(3,\)"),
        ({"weights": np.ones((4, 2, 2))}, r"weights must be \(n,\)"),
    ],
)
def test_what_is_no_mixture_is_named(changes, message):
    given = {"points": np.ones((3, 2)), "centres": np.ones((4, 2)), "sigma": 1.0, **changes}
    with pytest.raises(ValueError, match=message):
        iw.mixture_log_density(**given)


def test_an_entropy_needs_a_key_and_points():
    with pytest.raises(TypeError, match="key must be a typed random key"):
        iw.mixture_entropy(jax.random.PRNGKey(0), np.ones((4, 2)), 1.0)
    with pytest.raises(ValueError, match="num_points must be an integer of at least 1"):
        iw.mixture_entropy(KEY, np.ones((4, 2)), 1.0, num_points=0)
    with pytest.raises(ValueError, match="centres must be finite"):
        iw.mixture_entropy_bounds(np.full((4, 2), np.nan), 1.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.nan, 1.0], "weights must be finite"),
        ([-1.0, 2.0], "weights must be at least 0, got -1"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        iw.mixture_log_density(np.zeros((3, 1)), np.zeros((2, 1)), 1.0, weights=weights)


def test_coordinates_too_large_for_float32_are_warned_of():
    centres = np.float32([[0.0], [100.0]])
    with jax.enable_x64(False):
        iw.mixture_log_density(centres, centres, 0.05)  # 1,000 widths from the middle
        with pytest.warns(UserWarning, match="rounding moves log densities by 0.01 nats"):
            iw.mixture_log_density(centres, centres, 0.01)
    iw.mixture_log_density(centres, centres, 0.01)

"""Pairs of activations against dense NumPy and scikit-learn; clusters that can be counted."""

import jax
import numpy as np
import pytest
from scipy.spatial import distance

import iw_jax as iw

NUM, SIZE = 300, 5  # more rows than are compared at the same time


@pytest.fixture(scope="module")
def rows():
    """Two classes, apart by more than their width, and a row that is there twice."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=NUM)
    activations = rng.normal(size=(NUM, SIZE)) + 1.5 * labels[:, None] + 0.5
    activations[7], labels[7] = activations[3], labels[3]
    return activations, labels


def dense(values, labels, edges):
    """Histograms and means over ordered pairs of different rows: same label, other label."""
    same = labels[:, None] == labels
    other = ~np.eye(len(labels), dtype=bool)
    for pairs in (other & same, other & ~same):
        counts = np.histogram(values[pairs], edges)[0]
        yield counts / pairs.sum() / np.diff(edges), values[pairs].mean()


def check(found, values, labels, edges):
    (within, mean_within), (between, mean_between) = dense(values, labels, edges)
    np.testing.assert_allclose(found.edges, edges)
    np.testing.assert_allclose(found.within, within, rtol=1e-9)
    np.testing.assert_allclose(found.between, between, rtol=1e-9)
    np.testing.assert_allclose(found.mean_within, mean_within, rtol=1e-7)
    np.testing.assert_allclose(found.mean_between, mean_between, rtol=1e-7)


def test_distances_are_those_of_all_pairs(rows):
    activations, labels = rows
    edges = np.concatenate([[0.0, 1e-4], np.linspace(0.2, 20.0, 49)])  # of unequal widths
    found = iw.distance_histogram(activations, labels, edges=edges)
    check(found, distance.cdist(activations, activations), labels, edges)
    for density in (found.within, found.between):
        np.testing.assert_allclose(density @ np.diff(edges), 1.0, rtol=1e-12)


def test_pairs_outside_of_the_bins_are_not_forced_into_them(rows):
    activations, labels = rows
    edges = np.linspace(2.0, 4.0, 51)
    found = iw.distance_histogram(activations, labels, edges=edges)
    check(found, distance.cdist(activations, activations), labels, edges)
    assert found.within @ np.diff(edges) < 0.9


def test_cosines_are_those_of_all_pairs(rows):
    from sklearn.metrics.pairwise import cosine_similarity

    activations, labels = rows
    found = iw.cosine_histogram(activations, labels)
    check(found, cosine_similarity(activations), labels, np.linspace(-1, 1, 101))
    for density in (found.within, found.between):
        np.testing.assert_allclose(density.sum() * 0.02, 1.0, rtol=1e-12)


def test_parallel_rows_are_in_the_last_bin():
    activations = np.outer(np.arange(1, 5), np.ones(3))
    found = iw.cosine_histogram(activations, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(found.within[-1] * 0.02, 1.0)
    np.testing.assert_allclose(found.mean_between, 1.0)


def test_pairs_that_there_are_not_have_no_mean():
    found = iw.distance_histogram(np.eye(3), np.zeros(3, int), edges=[0.0, 1.0, 2.0])
    assert np.isnan(found.mean_between)
    np.testing.assert_array_equal(found.between, 0.0)
    np.testing.assert_allclose(found.within, [0.0, 1.0])


@pytest.mark.parametrize("num_neighbours", [1, 10])
def test_purity_is_that_of_the_nearest_neighbours(rows, num_neighbours):
    from sklearn.neighbors import NearestNeighbors

    activations, labels = rows
    fitted = NearestNeighbors(n_neighbors=num_neighbours).fit(activations)
    nearest = fitted.kneighbors(return_distance=False)
    found = iw.neighbour_purity(activations, labels, num_neighbours=num_neighbours)
    np.testing.assert_allclose(found, (labels[nearest] == labels[:, None]).mean(), rtol=1e-12)


@pytest.fixture(scope="module")
def tight():
    """Clusters a thousandth wide at corners of the cube, in float32; two halves in each."""
    rng = np.random.default_rng(1)
    corners = rng.choice([-1.0, 1.0], size=(NUM, SIZE)) * (1, 1, 0.5, 0.5, 0.5)
    activations = (corners + 1e-3 * rng.normal(size=corners.shape)).astype(np.float32)
    halves = (activations[:, 0] > np.sign(activations[:, 0])).astype(int)
    return activations, halves


def test_float32_tells_neighbours_in_a_tight_cluster(tight):
    activations, labels = tight
    squares = distance.cdist(activations.astype(float), activations.astype(float))
    np.fill_diagonal(squares, np.inf)
    nearest = np.argsort(squares, 1)[:, :3]
    with jax.enable_x64(False):
        found = iw.neighbour_purity(activations, labels, num_neighbours=3)
    np.testing.assert_allclose(found, (labels[nearest] == labels[:, None]).mean(), atol=3e-3)


def test_float32_keeps_the_distances_in_a_tight_cluster(tight):
    activations, labels = tight
    edges = np.linspace(0, 6e-3, 13)
    exact = distance.cdist(activations.astype(float), activations.astype(float))
    (within, _), (between, _) = dense(exact, labels, edges)
    with jax.enable_x64(False):
        found = iw.distance_histogram(activations, labels, edges=edges)
    # A pair at an edge may fall to its other side.
    np.testing.assert_allclose(found.within, within, atol=0.02 * within.max())
    np.testing.assert_allclose(found.between, between, atol=0.02 * between.max())


# --------------------------------------------------------------------------------- how many


def test_rows_at_one_place_are_one_cluster():
    np.testing.assert_allclose(iw.effective_clusters(np.ones((NUM, SIZE)), 0.1), 1.0)


def test_rows_far_apart_are_as_many_clusters(rows):
    activations = rows[0] + np.arange(NUM)[:, None]
    np.testing.assert_allclose(iw.effective_clusters(activations, 1e-4), NUM, rtol=1e-9)


@pytest.mark.parametrize("clusters", [2, 5])
def test_tight_clusters_of_equal_size_are_counted(clusters):
    centres = 10.0 * np.eye(SIZE)[np.arange(NUM) % clusters]
    activations = centres + 1e-4 * np.random.default_rng(0).normal(size=centres.shape)
    np.testing.assert_allclose(iw.effective_clusters(activations, 0.1), clusters, rtol=1e-4)


def test_unequal_clusters_count_by_the_entropy_of_their_shares():
    sizes = np.array([200, 70, 30])
    activations = 10.0 * np.eye(SIZE)[np.repeat(np.arange(3), sizes)]
    shares = sizes / NUM
    expected = np.exp(-(shares * np.log(shares)).sum())
    np.testing.assert_allclose(iw.effective_clusters(activations, 0.1), expected, rtol=1e-9)


def test_their_number_falls_with_the_noise(rows):
    found = [iw.effective_clusters(rows[0], sigma) for sigma in (0.01, 0.1, 1.0, 10.0, 1000.0)]
    assert np.all(np.diff(found) < 0)
    np.testing.assert_allclose(found[-1], 1.0, rtol=1e-4)


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"activations": np.ones(4)}, ValueError, r"activations must be \(N, d\) with N >= 2"),
        ({"activations": np.ones((1, 2)), "labels": [0]}, ValueError, "with N >= 2"),
        ({"labels": np.zeros(3, int)}, ValueError, r"labels \(N,\), got \(4, 2\) and \(3,\)"),
        ({"labels": np.zeros(4)}, TypeError, "labels must be integers, got float"),
        ({"activations": np.full((4, 2), np.nan)}, ValueError, "activations must be finite"),
        ({"edges": [1.0]}, ValueError, "edges must be at least two increasing numbers"),
        ({"edges": [0.0, 1.0, 1.0]}, ValueError, "edges must be at least two increasing"),
        ({"edges": np.ones((2, 2))}, ValueError, "edges must be at least two increasing"),
    ],
)
def test_pairs_that_say_nothing_are_named(changes, error, message):
    given = {"activations": np.ones((4, 2)), "labels": np.zeros(4, int), "edges": [0, 1], **changes}
    for histogram in (iw.distance_histogram, iw.cosine_histogram):
        with pytest.raises(error, match=message):
            histogram(given["activations"], given["labels"], edges=given["edges"])


@pytest.mark.parametrize("num_neighbours", [0, 4])
def test_as_many_neighbours_as_there_are_must_be_asked_for(num_neighbours):
    with pytest.raises(ValueError, match="num_neighbours must be"):
        iw.neighbour_purity(np.ones((4, 2)), np.zeros(4, int), num_neighbours=num_neighbours)


def test_clusters_are_counted_at_a_width():
    with pytest.raises(ValueError, match="sigma must be positive"):
        iw.effective_clusters(np.ones((4, 2)), 0.0)
    with pytest.raises(ValueError, match="must be"):
        iw.effective_clusters(np.ones(4), 1.0)

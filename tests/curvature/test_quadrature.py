import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import Operator, growing, quadrature
from iw_jax.curvature.growing import Plan, Strand
from tests.curvature.known_spectra import NETWORK_LIKE, haar, matrix, operator

SPECTRUM = np.logspace(-6, 2, 60)
FUNCTIONS = {"log": np.log1p, "effective": lambda s: s / (1 + s)}
SPECTRA = {
    "decades": SPECTRUM,
    "network": NETWORK_LIKE,
    "singular": np.r_[np.zeros(60), SPECTRUM],
}


def states(A, plan, key=0):
    """The measurement after each block of products of the probes."""
    state = growing.init(A, key=jax.random.key(key), plan=plan)
    while not state.ended:
        state = growing.step(A, state)
        if len(state.probes):
            yield state, growing.finish(state)


def exact_forms(spectrum, vectors, f):
    """v'f(A)v for each row."""
    return (np.asarray(vectors) @ haar(0, len(spectrum))) ** 2 @ f(spectrum)


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    "c",
    [
        1e-2,
        pytest.param(1.0, marks=pytest.mark.slow),
        1e3,
        pytest.param(1e6, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("plan", [Plan(1, 0, 3, 14), Plan(2, 6, 3, 10)], ids=["probes", "deflated"])
def test_radau_below_exact_below_gauss_and_both_tighten(f, c, spectrum, plan):
    def of(x):  # both are operator monotone above s = -1, so nodes need not be 0 or more
        return f(np.maximum(c * x, -0.5))

    previous = None
    for state, measure in states(operator(spectrum), plan):
        basis = np.asarray(state.space.basis)
        z = np.asarray(state.probes) @ basis
        exact = exact_forms(spectrum, z, of)
        head = exact_forms(spectrum, basis[: state.head], of).sum()
        slack = 1e-9 * np.r_[exact, head]
        ends = []
        for rule in (measure.radau, measure.gauss):
            values = of(rule.nodes)
            ends.append(np.r_[rule.probes @ values, rule.head @ values])
        lower, upper = ends
        assert (lower <= np.r_[exact, head] + slack).all()
        assert (np.r_[exact, head] <= upper + slack).all()
        if previous is not None:
            assert (lower >= previous[0] - slack).all()
            assert (upper <= previous[1] + slack).all()
        previous = lower, upper
    assert (upper - lower >= -slack).all()


def test_at_full_depth_nodes_are_eigenvalues_and_weights_are_components():
    *_, (state, measure) = states(operator(SPECTRUM), Plan(2, 5, 10, 5))
    np.testing.assert_allclose(measure.gauss.nodes, SPECTRUM, rtol=1e-8, atol=1e-12)
    z = np.asarray(state.probes @ state.space.basis)
    np.testing.assert_allclose(measure.gauss.probes, (z @ haar(0, 60)) ** 2, atol=1e-7)


def test_probes_lie_on_the_sphere_orthogonal_to_the_head():
    *_, (state, measure) = states(operator(NETWORK_LIKE), Plan(3, 5, 4, 6))
    z = np.asarray(state.probes @ state.space.basis)
    assert state.head == state.rank == measure.rank == 15
    np.testing.assert_allclose(z @ np.asarray(state.space.basis[:15]).T, 0, atol=1e-10)
    np.testing.assert_allclose((z**2).sum(1), 185, rtol=1e-10)
    np.testing.assert_allclose(measure.gauss.probes.sum(1), 185, rtol=1e-10)
    np.testing.assert_allclose(measure.radau.probes.sum(1), 185, rtol=1e-10)
    np.testing.assert_allclose(measure.gauss.head.sum(), 15, rtol=1e-10)


def test_the_radau_matrix_is_a_lower_bound_of_the_operator():
    """On the span of the space and its residuals, A minus the extended matrix is semi-definite."""
    m = matrix(NETWORK_LIKE)
    *_, (state, measure) = states(operator(NETWORK_LIKE), Plan(2, 4, 3, 4))
    S = np.asarray(state.space.basis)
    nystrom = m @ S.T @ np.linalg.pinv(S @ m @ S.T, hermitian=True) @ S @ m
    np.testing.assert_allclose(
        np.sort(measure.radau.nodes)[-20:], np.linalg.eigvalsh(nystrom)[-20:], rtol=1e-6
    )
    assert np.linalg.eigvalsh(m - nystrom).min() > -1e-9


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", [np.arange(1.0, 301) ** -1.5, np.logspace(0, -3, 20)])
def test_bounds_hold_and_are_close_where_float32_knows_less_than_the_many_zeros_sum_to(spectrum):
    """n eps λ_max is far beyond the trace: only nodes below 0, kept so, leave the trace alone."""
    size, rng = 100_000, np.random.default_rng(0)
    factor = rng.normal(size=(len(spectrum), size)) / np.sqrt(size)
    factor = (haar(1, len(spectrum)) * np.sqrt(spectrum) @ factor).astype(np.float32)
    values, vectors = np.linalg.eigh(factor.astype(float) @ factor.T.astype(float))

    def product(v, blocks):  # summed in short blocks, as layers do; one long sum would round more
        return jnp.einsum("bnr,r->bn", blocks, jnp.einsum("bnr,bn->br", blocks, v).sum(0))

    blocks = jnp.asarray(factor.T.reshape(1000, 100, -1))
    A = Operator(product, blocks, like=jnp.zeros((1000, 100), jnp.float32))
    state = growing.init(A, key=jax.random.key(0), num_matvecs=48)
    while not state.ended:
        state = growing.step(A, state)
    measure = growing.finish(state)
    S = np.asarray(state.space.basis, float)
    head, z = S[: state.head], np.asarray(state.probes, float) @ S
    components = (np.concatenate([head, z]) @ factor.T @ vectors) ** 2 / values
    weights = np.r_[np.ones(len(head)), np.full(len(z), 1 / len(z))]
    for f, quantity in zip(FUNCTIONS.values(), ("logdet", "effective_dimension"), strict=True):
        for c in (1.0, 1e2, 1e3):
            exact = weights @ components @ f(c * values)  # for these probes
            received = getattr(measure, quantity)(c)
            slack = 1e-4 * exact  # in the product with z the largest eigenvalues cancel
            assert received.bracket_lower <= exact + slack
            assert received.bracket_upper >= exact - slack
            assert received.bracket_upper - received.bracket_lower < 0.03 * exact


def test_the_overlap_gives_the_frobenius_norm_outside_the_head():
    *_, (state, measure) = states(operator(NETWORK_LIKE), Plan(2, 4, 3, 4))
    theta, Y = np.linalg.eigh(np.asarray(state.space.matrix))
    f = np.log1p(np.maximum(theta, 0))
    outside = ((Y * f) @ Y.T)[8:, 8:]
    np.testing.assert_allclose(f @ measure.overlap @ f, (outside**2).sum(), rtol=1e-10)


def test_host_and_traced_rules_agree():
    A, plan = operator(NETWORK_LIKE), Plan(2, 4, 3, 4)

    def run(A):
        return growing.spectral_measure(A, key=jax.random.key(0), plan=plan)

    host, traced = run(A), jax.jit(run)(A)
    f = np.log1p
    for rule, other in ((host.gauss, traced.gauss), (host.radau, traced.radau)):
        np.testing.assert_allclose(
            rule.probes @ f(np.maximum(rule.nodes, 0)),
            other.probes @ f(np.maximum(other.nodes, 0)),
            rtol=1e-8,
        )


def test_strands_without_products_are_left_out():
    assert growing._last_rows((Strand(2, 3, True), Strand(4, 1, False))).tolist() == [
        *(4, 5),
        *(6, 7, 8, 9),
    ]
    assert growing._first_halves((Strand(1, 2, True), Strand(2, 3, False))).tolist() == [0, 1, 2, 3]
    rule, _ = quadrature.gauss(jnp.eye(2), jnp.ones((1, 2)), jnp.ones(2), 0)
    np.testing.assert_allclose(rule.probes.sum(), 2)

"""The scales of the prior against a dense minimisation of C*; what tensors contribute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import iw_jax as iw
from iw_jax import trees
from iw_jax.curvature import growing
from tests import oracles

# Weights here are no minima, by choice: the numbers are right for the Q around them.
pytestmark = pytest.mark.filterwarnings("ignore:params are:UserWarning")
KEY = jax.random.key(0)
BETA = 0.7
LIKE = {"a": jnp.zeros((10, 20)), "b": jnp.zeros(100)}


@pytest.fixture(scope="module")
def trained():
    """A small mlp somewhere, its dense GGN, and its weights as vectors by layer."""
    inputs, targets = oracles.classification(0, num_examples=40)
    task = iw.Task(oracles.mlp, iw.Categorical(), jnp.array(inputs), jnp.array(targets))
    params = oracles.mlp_weights(1)
    return task, params, np.asarray(iw.curvature.to_dense(iw.ggn(task, params)))


def cost(G, w, scales):
    """C* - L(w) over β/2."""
    scaled = scales[:, None] * G * scales / BETA
    return np.sum((w / scales) ** 2) + np.linalg.slogdet(np.eye(len(w)) + scaled)[1]


def flat(params):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def test_one_scale_minimises_the_lagrangian(trained):
    task, params, G = trained
    found = iw.empirical_bayes(task, params, iw.IsotropicGaussian(1.0), beta=BETA, key=KEY)
    w = flat(params)
    best = optimize.minimize_scalar(
        lambda t: cost(G, w, np.full(len(w), np.exp(t))),
        bounds=(-6, 6),
        method="bounded",
        options={"xatol": 1e-10},
    )
    np.testing.assert_allclose(found.scale, np.exp(best.x), rtol=1e-6)
    received = iw.fisher_iw(task, params, found, beta=BETA, key=KEY)
    logdet = 2 * (received.lagrangian.value - received.loss) / BETA - 2 * received.distance
    np.testing.assert_allclose(received.nats.value, logdet / 2, rtol=1e-6)


def test_the_best_scale_of_a_spectrum_at_hand_is_that_of_the_weights(trained):
    task, params, _ = trained
    measure = iw.gram_measure(iw.ggn(task, params))
    found = iw.best_scale(measure, float(flat(params) @ flat(params)), beta=BETA)
    prior = iw.empirical_bayes(task, params, iw.IsotropicGaussian(1.0), beta=BETA, key=KEY)
    np.testing.assert_allclose(found, prior.scale, rtol=1e-6)
    with pytest.raises(ValueError, match="squared_distance must be positive and finite, got 0"):
        iw.best_scale(measure, 0.0)
    with pytest.raises(ValueError, match="beta must be a scalar"):
        iw.best_scale(measure, 1.0, beta=[1.0, 2.0])
    for square in (1e-300, 1e30):
        with pytest.raises(ValueError, match=r"the best scale must lie between e\^-30 and e\^30"):
            iw.best_scale(measure, square)


def test_a_scale_for_each_layer_minimises_the_lagrangian(trained):
    task, params, G = trained
    prior = iw.IsotropicGaussian({"first": 1.0, "last": 1.0})
    found = iw.empirical_bayes(task, params, prior, beta=BETA, key=KEY, rtol=1e-7, max_rounds=200)
    w, count = flat(params), flat(params["first"]).size
    best = optimize.minimize(
        lambda t: cost(G, w, np.exp(np.repeat(t, [count, len(w) - count]))),
        np.zeros(2),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )
    scales = [float(found.scale[name]) for name in ("first", "last")]
    np.testing.assert_allclose(scales, np.exp(best.x), rtol=1e-5)


@pytest.mark.parametrize("beta", [0.01, 1.0, 1e3])
@pytest.mark.parametrize("near", [0.0, 0.9])
def test_the_rounds_end_wherever_they_start(trained, beta, near):
    task, params, _ = trained
    centre = jax.tree.map(lambda w: near * w, params)
    prior = iw.IsotropicGaussian({"first": 1.0, "last": 1.0}, mean=centre)
    found = iw.empirical_bayes(task, params, prior, beta=beta, key=KEY, max_rounds=12)
    again = iw.empirical_bayes(task, params, found, beta=beta, key=KEY, max_rounds=2)
    for name in ("first", "last"):
        np.testing.assert_allclose(found.scale[name], again.scale[name], rtol=2e-3)


def test_a_centred_prior_is_scaled_by_the_distance_from_its_centre(trained):
    task, params, _ = trained
    shift = jax.tree.map(lambda w: 0.9 * w, params)
    kwargs = {"beta": BETA, "key": KEY}
    near = iw.empirical_bayes(task, params, iw.IsotropicGaussian(1.0, mean=shift), **kwargs)
    far = iw.empirical_bayes(task, params, iw.IsotropicGaussian(1.0), **kwargs)
    assert near.scale < far.scale / 2
    assert near.mean is not None


@pytest.mark.parametrize("num_matvecs", [240, 20])
@pytest.mark.parametrize("prior", [1.3, {"first": 0.5, "last": 2.0}])
def test_tensors_sum_to_the_whole(trained, prior, num_matvecs):
    task, params, G = trained
    prior = iw.IsotropicGaussian(prior)
    betas = np.array([0.1, 1.0, 10.0])
    found = iw.fisher_iw(
        task, params, prior, beta=betas, key=KEY, num_matvecs=num_matvecs, by_tensor=True
    )
    assert set(found.tensors) == {"first/kernel", "first/bias", "last/kernel", "last/bias"}
    total = sum(t.value for t in found.tensors.values())
    np.testing.assert_allclose(total, found.nats.value, rtol=1e-12)
    lower = sum(t.bracket_lower for t in found.tensors.values())
    np.testing.assert_allclose(lower, found.nats.bracket_lower, rtol=1e-12)
    scales = flat(
        jax.tree.map(lambda w, s: np.full(w.shape, np.exp(s)), params, prior.full_log_scale(params))
    )
    for i, beta in enumerate(betas):
        s, V = np.linalg.eigh(scales[:, None] * G * scales / beta)
        s = np.maximum(s, 0)
        volume = 0.5 * (V**2) @ (np.log1p(s) - s / (1 + s))
        share = volume + 0.5 * (flat(params) / scales) ** 2
        start = 0
        for name, leaf in trees.by_name(params).items():
            exact = share[start : start + leaf.size].sum()
            start += leaf.size
            if num_matvecs == 240:
                np.testing.assert_allclose(found.tensors[name].value[i], exact, rtol=1e-9)
            else:
                error = found.tensors[name].stderr[i]
                assert abs(found.tensors[name].value[i] - exact) < 5 * error + 0.1 * exact


def test_unscaled_contributions_sum_to_the_gauss_rule(trained):
    task, params, _ = trained
    A, last = iw.ggn(task, params), []
    spectrum = iw.spectral_measure(
        A, key=KEY, num_matvecs=16, c=1.0, rtol=1e-3, callback=last.append
    )
    traces = iw.curvature.layer_traces(A, last[-1]).integrate(np.log1p)
    rule = spectrum.gauss
    whole = np.log1p(np.maximum(rule.nodes, 0)) @ (rule.head + rule.probes.mean(0))
    np.testing.assert_allclose(sum(t.value for t in traces.values()), whole, rtol=1e-10)


@pytest.mark.slow
def test_a_finished_state_that_was_stored_gives_the_same_tensors(trained):
    task, params, _ = trained
    settings = {"beta": 1.0, "key": KEY, "num_matvecs": 12, "by_tensor": True}
    prior, packed = iw.IsotropicGaussian(1.0), []
    once = iw.fisher_iw(
        task, params, prior, callback=lambda state: packed.append(growing.pack(state)), **settings
    )
    again = iw.fisher_iw(task, params, prior, stored=packed[-1], **settings)
    for name, own in once.tensors.items():
        np.testing.assert_array_equal(own.value, again.tensors[name].value)
        assert own.stderr > 0
        assert own.converged == once.volume.converged


def test_magnitudes_are_attributed_where_they_count(trained):
    task, params, _ = trained
    prior = iw.IsotropicGaussian(1.0)
    found = iw.fisher_iw(
        task,
        params,
        prior,
        beta=BETA,
        key=KEY,
        curvature=iw.hessian,
        policy="abs",
        by_tensor=True,
    )
    values, V = np.linalg.eigh(np.asarray(iw.curvature.to_dense(iw.hessian(task, params))))
    assert values.min() < -1
    s = np.abs(values) / BETA
    share = 0.5 * (V**2) @ (np.log1p(s) - s / (1 + s)) + 0.5 * flat(params) ** 2
    start = 0
    for name, leaf in trees.by_name(params).items():
        exact = share[start : start + leaf.size].sum()
        np.testing.assert_allclose(found.tensors[name].value, exact, rtol=1e-8)
        start += leaf.size


@pytest.mark.slow
def test_contributions_are_unbiased_where_products_are_few():
    """Haar eigenvectors, 300 weights in two tensors, 120 products: the mean over keys is right."""
    Q = oracles.haar_orthogonal(3, 300)
    G = (Q * np.geomspace(1e-3, 1e3, 300)) @ Q.T
    A = iw.Operator(
        _matrix_product, jnp.array(G), like={"a": jnp.zeros((10, 20)), "b": jnp.zeros(100)}
    )
    s, V = np.linalg.eigh(G)
    exact = (V**2) @ np.log1p(s)
    exact = {"a": exact[:200].sum(), "b": exact[200:].sum()}
    draws = []
    for seed in range(40):
        last = []
        key = jax.random.key(seed)
        iw.spectral_measure(A, key=key, num_matvecs=120, callback=last.append)
        found = iw.curvature.layer_traces(A, last[-1]).integrate(np.log1p)
        draws.append([[found[n].value, found[n].stderr] for n in ("a", "b")])
    draws = np.array(draws)
    for i, name in enumerate(("a", "b")):
        z = oracles.z_scores(draws[:, i, 0], exact[name])
        assert abs(z) < 4 or abs(draws[:, i, 0].mean() / exact[name] - 1) < 0.01
        spread, claimed = draws[:, i, 0].std(ddof=1), np.sqrt((draws[:, i, 1] ** 2).mean())
        assert 0.6 < spread / claimed < 1.6


def _matrix_product(v, matrix):
    flat_v = jnp.concatenate([v["a"].ravel(), v["b"]])
    image = matrix @ flat_v
    return {"a": image[:200].reshape(10, 20), "b": image[200:]}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beta": -1.0}, ValueError, "beta must be positive and finite"),
        ({"beta": [1.0, 2.0]}, ValueError, r"beta must be a scalar, got shape \(2,\)"),
        ({"rtol": 0.0}, ValueError, "rtol must be positive and finite"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
        ({"prior": iw.LogUniform()}, TypeError, "prior must be an IsotropicGaussian"),
        ({"prior": iw.IsotropicGaussian(1.0, mean=oracles.mlp_weights(1))}, ValueError, "differ"),
        (
            {"prior": iw.IsotropicGaussian({"first": 1.0, "last": 1.0}), "max_rounds": 1},
            RuntimeError,
            "still move by",
        ),
    ],
)
def test_bad_input(trained, changes, error, message):
    task, params, _ = trained
    arguments = {"prior": iw.IsotropicGaussian(1.0), "beta": BETA, "key": KEY} | changes
    prior = arguments.pop("prior")
    with pytest.raises(error, match=message):
        iw.empirical_bayes(task, params, prior, **arguments)

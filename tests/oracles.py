"""Worlds where the answer is known: closed forms and dense computations, in plain NumPy and SciPy.

Nothing here uses the estimators of `iw_jax`; tests compare the two.
"""

import itertools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy import integrate, optimize, stats

import iw_jax as iw

# -------------------------------------------------------------------------------- networks


def linear(weights, inputs):
    return inputs @ weights


def logistic_features(weights, inputs):
    """Softmax regression: inputs (N, d), weights {'kernel': (d, K), 'bias': (K,)}."""
    return inputs @ weights["kernel"] + weights["bias"]


def mlp(weights, inputs):
    hidden = jnp.tanh(inputs @ weights["first"]["kernel"] + weights["first"]["bias"])
    return hidden @ weights["last"]["kernel"] + weights["last"]["bias"]


def mlp_weights(seed, num_inputs=2, width=3, num_outputs=3):
    rng = np.random.default_rng(seed)
    layer = lambda a, b: {  # noqa: E731
        "kernel": jnp.array(rng.normal(size=(a, b))),
        "bias": jnp.array(rng.normal(size=b)),
    }
    return {"first": layer(num_inputs, width), "last": layer(width, num_outputs)}


def classification(seed, num_examples=20, num_inputs=2, num_classes=3):
    """Inputs (N, d) and integer labels, NumPy."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_examples, num_inputs)), rng.integers(num_classes, size=num_examples)


def haar_orthogonal(seed, size):
    return stats.ortho_group(dim=size, seed=seed).rvs() if size > 1 else np.ones((1, 1))


# ------------------------------------------------------------------------------- Gaussians


def gaussian_kl(mean, cov, prior_mean, prior_cov):
    """KL(N(mean, cov) || N(prior_mean, prior_cov)), dense, nats."""
    shift = prior_mean - mean
    quadratic = np.trace(np.linalg.solve(prior_cov, cov)) + shift @ np.linalg.solve(
        prior_cov, shift
    )
    log_dets = np.linalg.slogdet(prior_cov)[1] - np.linalg.slogdet(cov)[1]
    return 0.5 * (quadratic - len(mean) + log_dets)


@dataclass(frozen=True)
class LinearWorld:
    """y = x w + noise: L is quadratic, so that the best code of every kind is known."""

    x: np.ndarray
    y: np.ndarray
    noise: float

    @property
    def task(self):
        return iw.Task(
            linear, iw.GaussianLikelihood(self.noise), jnp.array(self.x), jnp.array(self.y)
        )

    @property
    def hessian(self):
        return self.x.T @ self.x / self.noise**2

    @property
    def minimum(self):
        return np.linalg.lstsq(self.x, self.y)[0]

    def loss(self, w):
        """L(w), summed over examples, nats."""
        return -stats.norm.logpdf(self.y, self.x @ w, self.noise).sum()

    def expected_loss(self, mean, cov):
        """E_Q[L] for any Q with this mean and covariance."""
        return self.loss(mean) + 0.5 * np.trace(self.hessian @ cov)

    def gibbs(self, prior_mean, prior_cov, beta):
        """Mean and covariance of P exp(-L/β)/Z."""
        precision = self.hessian / beta + np.linalg.inv(prior_cov)
        cov = np.linalg.inv(precision)
        pull = self.hessian @ self.minimum / beta + np.linalg.solve(prior_cov, prior_mean)
        return cov @ pull, cov

    def free_energy(self, prior_mean, prior_cov, beta):
        """V(β) = -β log E_P e^(-L/β), by the Gaussian integral over the targets, not the weights.

        e^(-L/β) is N(y; xw, βσ² I) times (2πσ²)^(-N/2β) (2πβσ²)^(N/2).
        """
        count, variance = len(self.y), self.noise**2
        marginal = beta * variance * np.eye(count) + self.x @ prior_cov @ self.x.T
        log_z = stats.multivariate_normal.logpdf(self.y, self.x @ prior_mean, marginal)
        log_z += (
            0.5
            * count
            * (np.log(2 * np.pi * beta * variance) - np.log(2 * np.pi * variance) / beta)
        )
        return -beta * log_z


def linear_world(seed, num_examples=24, num_weights=3, noise=0.5, orthogonal=False):
    """`orthogonal`: columns of x are orthogonal, so H is diagonal and mean field is exact."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, num_weights))
    if orthogonal:
        x = np.linalg.qr(x)[0] * np.geomspace(0.5, 4.0, num_weights)
    y = x @ rng.normal(size=num_weights) + noise * rng.normal(size=num_examples)
    return LinearWorld(x, y, noise)


def exact_linear_loss(key, task, code):
    """E_Q[L] of a linear network with independent weights: an estimator without noise."""
    del key
    residual = (task.targets - task.inputs @ code.mean) / task.likelihood.scale
    variance = (task.inputs / task.likelihood.scale) ** 2 @ code.scale**2
    nats = 0.5 * (residual**2 + variance) + jnp.log(task.likelihood.scale * np.sqrt(2 * np.pi))
    return jnp.sum(task.weights * nats)


# ----------------------------------------------------------------- truncated log-normal code


def _integrate(function, interval, mu, sigma):
    """∫ over the interval, split where a narrow normal has its mass."""
    low, high = interval
    points = [mu + s * sigma for s in (-12, -6, -2, 0, 2, 6, 12)]
    inside = sorted({low, high, *(p for p in points if low < p < high)})
    pieces = itertools.pairwise(inside)
    return sum(integrate.quad(function, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in pieces)


def truncated_normal_kl_to_uniform(mu, sigma, interval):
    """KL of the truncated N(mu, sigma²) to the uniform distribution on the interval, quadrature."""
    log_q = _truncated_log_density(mu, sigma, interval)
    length = np.log(interval[1] - interval[0])
    return _integrate(lambda t: np.exp(log_q(t)) * (log_q(t) + length), interval, mu, sigma)


def truncated_lognormal_mean(mu, sigma, interval):
    """E[e^t], t of the truncated N(mu, sigma²); quadrature."""
    log_q = _truncated_log_density(mu, sigma, interval)
    return _integrate(lambda t: np.exp(log_q(t) + t), interval, mu, sigma)


def truncated_lognormal_kl_to_gaussian(mu, sigma, interval, mean, scale):
    """KL of w = e^t, t of the truncated N(mu, sigma²), to N(mean, scale²); quadrature."""
    log_q = _truncated_log_density(mu, sigma, interval)
    log_p = lambda t: stats.norm.logpdf(np.exp(t), mean, scale) + t  # noqa: E731  (density of t)
    return _integrate(lambda t: np.exp(log_q(t)) * (log_q(t) - log_p(t)), interval, mu, sigma)


def _truncated_log_density(mu, sigma, interval):
    kernel = lambda t: -0.5 * ((t - mu) / sigma) ** 2  # noqa: E731
    log_mass = np.log(_integrate(lambda t: np.exp(kernel(t)), interval, mu, sigma))
    return lambda t: kernel(t) - log_mass


# ---------------------------------------------------------------------- one weight, two wells


@dataclass(frozen=True)
class DoubleWell:
    """L(w) = offset - Σ depth exp(-(w - place)²/(2 width²)): E_Q[L] has a closed form.

    A broad shallow well at the prior's centre, a narrow deep one away from it.
    """

    depth: tuple[float, float] = (10.0, 25.0)
    place: tuple[float, float] = (0.0, 2.0)
    width: tuple[float, float] = (0.5, 0.1)
    offset: float = 36.0

    def expected_loss(self, mean, scale, xp=np):
        total = self.offset
        for depth, place, width in zip(self.depth, self.place, self.width, strict=True):
            spread = width**2 + scale**2
            bump = xp.exp(-0.5 * (mean - place) ** 2 / spread)
            total = total - depth * width / xp.sqrt(spread) * bump
        return total

    def cost(self, mean, scale, beta):
        """C_β with P = N(0, 1)."""
        kl = 0.5 * (mean**2 + scale**2 - 1) - np.log(scale)
        return self.expected_loss(mean, scale) + beta * kl

    def branch(self, beta, start):
        """(C_β, mean, scale) of the local minimum downhill from start = (mean, scale)."""
        objective = lambda v: self.cost(v[0], np.exp(v[1]), beta)  # noqa: E731
        found = optimize.minimize(
            objective,
            [start[0], np.log(start[1])],
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000},
        )
        return found.fun, found.x[0], np.exp(found.x[1])

    @property
    def task(self):
        """One example whose nll is L(w) + ½ log 2π: a regression to 0 with output sqrt(2 L)."""
        return iw.Task(self._output, iw.GaussianLikelihood(1.0), jnp.zeros((1, 1)), jnp.zeros(1))

    def _output(self, weight, inputs):
        return jnp.sqrt(2 * self.expected_loss(weight, 0.0, jnp)) + inputs[:, 0]

    def exact_loss(self, key, task, code):
        del key, task
        return self.expected_loss(code.mean, code.scale, jnp) + 0.5 * np.log(2 * np.pi)


# ------------------------------------------------------------------------------- statistics


def z_scores(samples, truth):
    """(mean - truth)/stderr along the leading axis."""
    samples = np.asarray(samples)
    return (samples.mean(0) - truth) / (samples.std(0, ddof=1) / np.sqrt(len(samples)))


def gauss_hermite(num_nodes):
    """Nodes and weights of E f(ε), ε ~ N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return nodes, weights / weights.sum()

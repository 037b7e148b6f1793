"""Matrices of known spectrum with Haar eigenvectors, as operators; never near-diagonal ones."""

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax.curvature import Operator


def haar(seed, n):
    q, r = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(seed), (n, n), jnp.float64)))
    return q * np.sign(np.diag(r))


def matrix(spectrum, seed=0):
    basis = haar(seed, len(spectrum))
    return (basis * spectrum) @ basis.T


def product(v, m):
    return jnp.matmul(m, v, precision=jax.lax.Precision.HIGHEST)


def operator(spectrum, seed=0, dtype=jnp.float64):
    m = jnp.asarray(matrix(np.asarray(spectrum), seed), dtype)
    return Operator(product, m, like=jnp.zeros(len(spectrum), dtype))


# Outliers and a bulk of ten decades, as networks have them; and one where c * largest is 1e5.
NETWORK_LIKE = np.concatenate([[1e3, 4e2, 1e2], np.logspace(-9, 1, 197)])

"""Curvature of the summed loss from matrix-vector products, and its spectrum in nats."""

from iw_jax.curvature.dense import dense_measure as dense_measure
from iw_jax.curvature.dense import eigenvalues as eigenvalues
from iw_jax.curvature.dense import to_dense as to_dense
from iw_jax.curvature.measure import SpectralMeasure as SpectralMeasure
from iw_jax.curvature.operators import Operator as Operator
from iw_jax.curvature.operators import fisher as fisher
from iw_jax.curvature.operators import ggn as ggn
from iw_jax.curvature.operators import hessian as hessian
from iw_jax.curvature.stochastic import logdet as logdet
from iw_jax.curvature.stochastic import spectral_measure as spectral_measure

"""Curvature of the summed loss from matrix-vector products, and its spectrum in nats."""

from iw_jax.curvature.curvatures import empirical_fisher as empirical_fisher
from iw_jax.curvature.curvatures import fisher as fisher
from iw_jax.curvature.curvatures import ggn as ggn
from iw_jax.curvature.curvatures import hessian as hessian
from iw_jax.curvature.curvatures import mc_fisher as mc_fisher
from iw_jax.curvature.dense import dense_measure as dense_measure
from iw_jax.curvature.dense import eigenvalues as eigenvalues
from iw_jax.curvature.dense import to_dense as to_dense
from iw_jax.curvature.measure import SpectralMeasure as SpectralMeasure
from iw_jax.curvature.operators import Operator as Operator
from iw_jax.curvature.stochastic import logdet as logdet
from iw_jax.curvature.stochastic import spectral_measure as spectral_measure

"""Curvature of the summed loss from matrix-vector products, and its spectrum in nats."""

from iw_jax.curvature.curvatures import empirical_fisher as empirical_fisher
from iw_jax.curvature.curvatures import fisher as fisher
from iw_jax.curvature.curvatures import ggn as ggn
from iw_jax.curvature.curvatures import hessian as hessian
from iw_jax.curvature.curvatures import mc_fisher as mc_fisher
from iw_jax.curvature.dense import dense_measure as dense_measure
from iw_jax.curvature.dense import eigenvalues as eigenvalues
from iw_jax.curvature.dense import to_dense as to_dense
from iw_jax.curvature.diagonal import diagonal as diagonal
from iw_jax.curvature.eigenpairs import Eigenpairs as Eigenpairs
from iw_jax.curvature.eigenpairs import top_eigenpairs as top_eigenpairs
from iw_jax.curvature.gram import gram_matrix as gram_matrix
from iw_jax.curvature.gram import gram_measure as gram_measure
from iw_jax.curvature.growing import Plan as Plan
from iw_jax.curvature.growing import basis_bytes as basis_bytes
from iw_jax.curvature.growing import default_plan as default_plan
from iw_jax.curvature.growing import spectral_measure as spectral_measure
from iw_jax.curvature.layers import LayerTraces as LayerTraces
from iw_jax.curvature.layers import layer_traces as layer_traces
from iw_jax.curvature.logdet import logdet as logdet
from iw_jax.curvature.measure import SpectralMeasure as SpectralMeasure
from iw_jax.curvature.nystrom import nystrom_logdet as nystrom_logdet
from iw_jax.curvature.operators import Operator as Operator
from iw_jax.curvature.trace import trace as trace

"""The information bottleneck."""

from iw_jax.bottleneck.annealing import Bifurcation as Bifurcation
from iw_jax.bottleneck.annealing import anneal as anneal
from iw_jax.bottleneck.annealing import bifurcations as bifurcations
from iw_jax.bottleneck.critical import first_critical_beta as first_critical_beta
from iw_jax.bottleneck.discrete import Bottleneck as Bottleneck
from iw_jax.bottleneck.discrete import blahut_arimoto as blahut_arimoto
from iw_jax.bottleneck.exponential import ExponentialFamily as ExponentialFamily
from iw_jax.bottleneck.exponential import dual_from_statistics as dual_from_statistics
from iw_jax.bottleneck.exponential import exponential_family as exponential_family
from iw_jax.bottleneck.exponents import ErrorExponent as ErrorExponent
from iw_jax.bottleneck.exponents import chernoff_information as chernoff_information
from iw_jax.bottleneck.exponents import error_exponent as error_exponent
from iw_jax.bottleneck.gaussian import gaussian_critical_betas as gaussian_critical_betas
from iw_jax.bottleneck.gaussian import gaussian_frontier as gaussian_frontier
from iw_jax.bottleneck.gaussian import gaussian_information as gaussian_information
from iw_jax.bottleneck.gaussian import signal_to_noise as signal_to_noise
from iw_jax.bottleneck.sources import with_floor as with_floor

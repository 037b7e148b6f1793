"""The information bottleneck."""

from iw_jax.bottleneck.critical import first_critical_beta as first_critical_beta
from iw_jax.bottleneck.discrete import Bottleneck as Bottleneck
from iw_jax.bottleneck.discrete import blahut_arimoto as blahut_arimoto
from iw_jax.bottleneck.sources import with_floor as with_floor
from iw_jax.bottleneck.annealing import Bifurcation as Bifurcation
from iw_jax.bottleneck.annealing import anneal as anneal
from iw_jax.bottleneck.annealing import bifurcations as bifurcations

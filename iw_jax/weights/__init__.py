"""Information in the weights."""

from iw_jax.weights.fisher import FisherInformation as FisherInformation
from iw_jax.weights.fisher import fisher_iw as fisher_iw
from iw_jax.weights.gibbs import GibbsBracket as GibbsBracket
from iw_jax.weights.gibbs import GibbsInformation as GibbsInformation
from iw_jax.weights.gibbs import gibbs_iw as gibbs_iw
from iw_jax.weights.gibbs import simulated_bracket as simulated_bracket
from iw_jax.weights.lagrangian import Lagrangian as Lagrangian
from iw_jax.weights.lagrangian import antithetic_noise as antithetic_noise
from iw_jax.weights.lagrangian import information_lagrangian as information_lagrangian
from iw_jax.weights.lagrangian import local_noise as local_noise
from iw_jax.weights.lagrangian import weight_noise as weight_noise
from iw_jax.weights.members import Sweep as Sweep
from iw_jax.weights.members import SweepState as SweepState
from iw_jax.weights.minimizing import Minimum as Minimum
from iw_jax.weights.minimizing import minimize as minimize
from iw_jax.weights.pac_bayes import Certificate as Certificate
from iw_jax.weights.pac_bayes import bounded_nll as bounded_nll
from iw_jax.weights.pac_bayes import pac_bayes_bound as pac_bayes_bound
from iw_jax.weights.samples import SampleInformation as SampleInformation
from iw_jax.weights.samples import sample_information as sample_information
from iw_jax.weights.sweeping import Diverged as Diverged
from iw_jax.weights.sweeping import SweepResult as SweepResult
from iw_jax.weights.sweeping import make_sweep as make_sweep
from iw_jax.weights.sweeping import sweep as sweep
from iw_jax.weights.sweeping import sweep_finish as sweep_finish
from iw_jax.weights.sweeping import sweep_step as sweep_step

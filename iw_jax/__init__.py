"""iw_jax measures information in neural networks: in nats, with an error bar, for a stated code.

See the README for a start, docs/theory.md for which function holds which formula.
"""

from iw_jax import compiler as compiler
from iw_jax.activations import EffectiveInformation as EffectiveInformation
from iw_jax.activations import effective_information as effective_information
from iw_jax.activations import emergence_bounds as emergence_bounds
from iw_jax.activations import multiplicative_information as multiplicative_information
from iw_jax.activations import noisy_activations as noisy_activations
from iw_jax.activations import probe_information as probe_information
from iw_jax.codes import Code as Code
from iw_jax.codes import DiagonalGaussian as DiagonalGaussian
from iw_jax.codes import IsotropicGaussian as IsotropicGaussian
from iw_jax.codes import LogNormalNoise as LogNormalNoise
from iw_jax.codes import LogUniform as LogUniform
from iw_jax.codes import LowRankGaussian as LowRankGaussian
from iw_jax.codes import kl as kl
from iw_jax.codes import sample as sample
from iw_jax.curvature import Operator as Operator
from iw_jax.curvature import SpectralMeasure as SpectralMeasure
from iw_jax.curvature import diagonal as diagonal
from iw_jax.curvature import empirical_fisher as empirical_fisher
from iw_jax.curvature import fisher as fisher
from iw_jax.curvature import ggn as ggn
from iw_jax.curvature import gram_matrix as gram_matrix
from iw_jax.curvature import gram_measure as gram_measure
from iw_jax.curvature import hessian as hessian
from iw_jax.curvature import logdet as logdet
from iw_jax.curvature import mc_fisher as mc_fisher
from iw_jax.curvature import spectral_measure as spectral_measure
from iw_jax.curvature import top_eigenpairs as top_eigenpairs
from iw_jax.curvature import trace as trace
from iw_jax.estimates import Estimate as Estimate
from iw_jax.estimates import combine_independent as combine_independent
from iw_jax.likelihoods import Bernoulli as Bernoulli
from iw_jax.likelihoods import Categorical as Categorical
from iw_jax.likelihoods import GaussianLikelihood as GaussianLikelihood
from iw_jax.task import Task as Task
from iw_jax.task import nll as nll
from iw_jax.weights import Certificate as Certificate
from iw_jax.weights import Diverged as Diverged
from iw_jax.weights import FisherInformation as FisherInformation
from iw_jax.weights import GibbsBracket as GibbsBracket
from iw_jax.weights import GibbsInformation as GibbsInformation
from iw_jax.weights import Lagrangian as Lagrangian
from iw_jax.weights import Minimum as Minimum
from iw_jax.weights import SampleInformation as SampleInformation
from iw_jax.weights import ShannonInformation as ShannonInformation
from iw_jax.weights import StabilityInformation as StabilityInformation
from iw_jax.weights import Sweep as Sweep
from iw_jax.weights import SweepResult as SweepResult
from iw_jax.weights import SweepState as SweepState
from iw_jax.weights import VariationalInformation as VariationalInformation
from iw_jax.weights import antithetic_noise as antithetic_noise
from iw_jax.weights import best_scale as best_scale
from iw_jax.weights import bounded_nll as bounded_nll
from iw_jax.weights import empirical_bayes as empirical_bayes
from iw_jax.weights import fisher_iw as fisher_iw
from iw_jax.weights import gibbs_iw as gibbs_iw
from iw_jax.weights import information_lagrangian as information_lagrangian
from iw_jax.weights import local_noise as local_noise
from iw_jax.weights import make_sweep as make_sweep
from iw_jax.weights import minimize as minimize
from iw_jax.weights import pac_bayes_bound as pac_bayes_bound
from iw_jax.weights import sample_information as sample_information
from iw_jax.weights import shannon_iw as shannon_iw
from iw_jax.weights import simulated_bracket as simulated_bracket
from iw_jax.weights import stability_information as stability_information
from iw_jax.weights import sweep as sweep
from iw_jax.weights import sweep_finish as sweep_finish
from iw_jax.weights import sweep_step as sweep_step
from iw_jax.weights import variational_iw as variational_iw
from iw_jax.weights import weight_noise as weight_noise

__version__ = "0.1.0"

"""Infinitely wide networks: kernels, ensembles under gradient flow, and what they know."""

from iw_jax.wide.contrastive import InputInformation as InputInformation
from iw_jax.wide.contrastive import contrastive_bounds as contrastive_bounds
from iw_jax.wide.contrastive import contrastive_integrals as contrastive_integrals
from iw_jax.wide.ensemble import Ensemble as Ensemble
from iw_jax.wide.ensemble import Moments as Moments
from iw_jax.wide.ensemble import ensemble as ensemble
from iw_jax.wide.information import data_information as data_information
from iw_jax.wide.information import distance_moved as distance_moved
from iw_jax.wide.information import fisher_trace as fisher_trace
from iw_jax.wide.information import mean_weight_information as mean_weight_information
from iw_jax.wide.information import output_information as output_information
from iw_jax.wide.information import target_information as target_information
from iw_jax.wide.information import weight_information as weight_information
from iw_jax.wide.kernels import Kernels as Kernels
from iw_jax.wide.kernels import Network as Network
from iw_jax.wide.kernels import alignment as alignment
from iw_jax.wide.kernels import kernels as kernels
from iw_jax.wide.kernels import prior_variance as prior_variance
from iw_jax.wide.losses import ClassLosses as ClassLosses
from iw_jax.wide.losses import bayes_loss as bayes_loss
from iw_jax.wide.losses import class_losses as class_losses
from iw_jax.wide.losses import gibbs_loss as gibbs_loss

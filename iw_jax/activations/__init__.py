"""Information in the activations."""

from iw_jax.activations.binning import binned_entropy as binned_entropy
from iw_jax.activations.binning import binned_information as binned_information
from iw_jax.activations.binning import binned_label_information as binned_label_information
from iw_jax.activations.clustering import PairHistogram as PairHistogram
from iw_jax.activations.clustering import cosine_histogram as cosine_histogram
from iw_jax.activations.clustering import distance_histogram as distance_histogram
from iw_jax.activations.clustering import effective_clusters as effective_clusters
from iw_jax.activations.clustering import neighbour_purity as neighbour_purity
from iw_jax.activations.effective import EffectiveInformation as EffectiveInformation
from iw_jax.activations.effective import effective_information as effective_information
from iw_jax.activations.emergence import emergence_bounds as emergence_bounds
from iw_jax.activations.emergence import multiplicative_information as multiplicative_information
from iw_jax.activations.flow import FisherFlow as FisherFlow
from iw_jax.activations.flow import fisher_flow as fisher_flow
from iw_jax.activations.linear_fisher import (
    linear_fisher_information as linear_fisher_information,
)
from iw_jax.activations.mixture import mixture_entropy as mixture_entropy
from iw_jax.activations.mixture import mixture_entropy_bounds as mixture_entropy_bounds
from iw_jax.activations.mixture import mixture_log_density as mixture_log_density
from iw_jax.activations.noisy import NoisyInformation as NoisyInformation
from iw_jax.activations.noisy import noisy_mutual_information as noisy_mutual_information
from iw_jax.activations.probes import probe_information as probe_information
from iw_jax.activations.smoothed import smoothed_entropy as smoothed_entropy
from iw_jax.activations.weight_noise import noisy_activations as noisy_activations

"""Information in the activations."""

from iw_jax.activations.effective import EffectiveInformation as EffectiveInformation
from iw_jax.activations.effective import effective_information as effective_information
from iw_jax.activations.emergence import emergence_bounds as emergence_bounds
from iw_jax.activations.emergence import multiplicative_information as multiplicative_information
from iw_jax.activations.probes import probe_information as probe_information
from iw_jax.activations.weight_noise import noisy_activations as noisy_activations

"""Information bottlenecks."""

from iw_jax.bottleneck.attacks import fast_gradient_sign as fast_gradient_sign
from iw_jax.bottleneck.contrastive import contrastive_information as contrastive_information
from iw_jax.bottleneck.evaluation import BottleneckInformation as BottleneckInformation
from iw_jax.bottleneck.evaluation import evaluate_bottleneck as evaluate_bottleneck
from iw_jax.bottleneck.label_noise import gaussian_label_noise as gaussian_label_noise
from iw_jax.bottleneck.label_noise import label_smoothing as label_smoothing
from iw_jax.bottleneck.label_noise import log_label_noise as log_label_noise
from iw_jax.bottleneck.variational import Bottleneck as Bottleneck
from iw_jax.bottleneck.variational import BottleneckTerms as BottleneckTerms
from iw_jax.bottleneck.variational import bottleneck_terms as bottleneck_terms
from iw_jax.bottleneck.variational import gaussian_kl as gaussian_kl
from iw_jax.bottleneck.variational import predictive as predictive

"""Distributions over weights: codes (post-distributions) and priors (pre-distributions)."""

from iw_jax.codes.code import Code as Code
from iw_jax.codes.code import kl as kl
from iw_jax.codes.code import sample as sample
from iw_jax.codes.gaussian import DiagonalGaussian as DiagonalGaussian
from iw_jax.codes.gaussian import IsotropicGaussian as IsotropicGaussian
from iw_jax.codes.lognormal import LogNormalNoise as LogNormalNoise
from iw_jax.codes.lognormal import LogUniform as LogUniform
from iw_jax.codes.low_rank import LowRankGaussian as LowRankGaussian

"""Side by side with peers: `python -m benchmarks.NAME` prints a table."""

# First of all: blackjax computes when it is imported, and iw_jax sets flags of XLA before that.
import iw_jax  # noqa: F401

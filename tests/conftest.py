"""Float64 for every test: closed forms are met to many digits. Keys are made from explicit ints."""

import jax

jax.config.update("jax_enable_x64", True)

"""Experiments: one file a figure. `python -m experiments` lists them."""

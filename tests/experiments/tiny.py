"""The smallest sweep that has all stages, and ways to hurt it; one compilation serves all runs."""

import dataclasses
import os
import random

import jax
import jax.numpy as jnp

from experiments import beta_sweep

SETTINGS = {
    "num_examples": 60,
    "betas": (0.01, 30.0),
    "num_seeds": 1,
    "widths": (5,),
    "num_steps": 400,
    "num_draws": 4,
    "num_matvecs": 8,
}
CONFIG = dataclasses.replace(beta_sweep.PRESETS["quick"], **SETTINGS)
FLAGS = [
    word
    for name, value in SETTINGS.items()
    for word in (
        f"--{name.replace('_', '-')}",
        *map(str, value if isinstance(value, tuple) else [value]),
    )
]


def files_of(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


def truncate(files):
    """As a machine that crashed while it wrote may leave them."""
    for file in files:
        os.truncate(file, file.stat().st_size // 2)


def overwrite(files):
    for file in files:
        file.write_bytes(random.Random(0).randbytes(file.stat().st_size))


def remove(files):
    for file in files:
        file.unlink()


def turn_a_bit(files):
    """In the largest of them, which holds most of the arrays."""
    file = max(files, key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = (truncate, overwrite, remove, turn_a_bit)


def poisoned(sweep_step, number):
    """`iw.sweep_step`, but the codes are nan when round `number` begins."""

    def step(problem, state):
        if int(state.step) == number * problem.round_length:
            spoiled = dataclasses.replace(
                state.members, code=jax.tree.map(lambda x: x * jnp.nan, state.members.code)
            )
            state = dataclasses.replace(state, members=spoiled)
        return sweep_step(problem, state)

    return step


def in_double_precision(load):
    """An experiment's `load`, but inputs, and with them weights, are float64."""

    def wide(config, data_dir):
        dataset = load(config, data_dir)
        for name in ("train_inputs", "test_inputs"):  # past its checks
            object.__setattr__(dataset, name, getattr(dataset, name).astype(float))
        return dataset

    return wide

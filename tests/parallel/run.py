"""What a process of a run computes, by itself or as one of several; test_parallel.py compares.

python -m tests.parallel.run OUT KINDS SWEEP DATA MODEL [COORDINATOR PROCESSES PROCESS]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import iw_jax as iw
from iw_jax import parallel

KINDS = {  # of sweeps: prices, seeds, examples a step, cells at a time
    "all examples": ((0.1, 1.0, 3.0), 1, None, None),
    "minibatches": ((0.1, 1.0, 3.0, 9.0), 1, 8, None),
    "cells in batches": ((0.1, 1.0, 3.0, 9.0), 1, 8, 1),
    "seeds": ((0.1, 1.0, 3.0), 4, 8, None),
    "one": ((1.0,), 1, None, None),
}


def network(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def world(num_examples=23):
    """A task of 23 examples, which nothing divides, three of them masked; weights; vectors."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(num_examples, 4))
    labels = rng.integers(0, 3, num_examples).astype(np.int32)
    masked = np.where(np.arange(num_examples) % 7 == 3, 0.0, 1.0)
    sizes = {"w": (4, 8), "v": (8, 3)}
    params = {k: jnp.asarray(rng.normal(size=s) / 2) for k, s in sizes.items()}
    task = iw.Task(
        network, iw.Categorical(), jnp.asarray(inputs), jnp.asarray(labels), jnp.asarray(masked)
    )
    return task, params, jnp.asarray(rng.normal(size=(3, 56)))


def products(mesh=None):
    """Losses, slopes, curvature products and what is made of them, by name."""
    task, params, V = world()
    if mesh is not None:  # each process has loaded its own rows only
        rows = iw.own_rows(23, mesh)
        own = [x[rows] for x in (task.inputs, task.targets, task.weights)]
        task = iw.spread(iw.Task(network, iw.Categorical(), *own), mesh, num_examples=23)
    found = {}
    for curvature in (iw.ggn, iw.hessian):
        for batch_size in (None, 3):
            name = f"{curvature.__name__} {batch_size}"
            found[name] = curvature(task, params, batch_size=batch_size).flat_block(V)
    found["nll"] = iw.nll(task, params)
    found["slope"] = jax.jit(jax.grad(lambda p, t: iw.nll(t, p)))(params, task)["w"]
    A = iw.mc_fisher(jax.random.key(3), task, params)
    found["mc_fisher"] = A.flat_block(V)
    found["fisher"] = iw.fisher_iw(
        task,
        params,
        iw.IsotropicGaussian(scale=1.0),
        key=jax.random.key(2),
        num_matvecs=20,
        batch_size=4,
        tolerance=np.inf,
    ).nats.value
    return found


def sweep(kind, mesh=None):
    """The minimised codes of a sweep, by name."""
    task, params, _ = world()
    betas, seeds, batch_size, member_batch = KINDS[kind]
    result = iw.sweep(
        jax.random.split(jax.random.key(1), seeds),
        task,
        lambda _: (iw.DiagonalGaussian(params, 0.1), iw.IsotropicGaussian(scale=1.0)),
        betas=betas,
        optimizer=optax.adam(0.05),
        num_steps=12,
        num_rounds=3,
        batch_size=batch_size,
        member_batch=member_batch,
        num_draws=4,
        mesh=mesh,
    )
    cost = result.lagrangian
    found = {"loss": cost.loss.value, "kl": cost.kl.value, "mean": result.code.mean["w"]}
    return {f"{kind}: {name}": value for name, value in found.items()}


def compute(kinds, mesh=None):
    """What `kinds` names: "products", or kinds of sweeps."""
    found = {}
    for kind in kinds:
        found |= products(mesh) if kind == "products" else sweep(kind, mesh)
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    out, kinds, *numbers = sys.argv[1:]
    sizes = dict(zip(("sweep", "data", "model"), map(int, numbers[:3]), strict=True))
    if numbers[3:]:
        parallel.start(numbers[3], *map(int, numbers[4:]))
    results = compute(kinds.split(","), iw.make_mesh(**sizes))
    if jax.process_index() == 0:
        np.savez(out, **results)

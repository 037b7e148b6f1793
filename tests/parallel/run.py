"""What a process of a run computes, by itself or as one of several; test_parallel.py compares.

    python -m tests.parallel.run OUT SWEEP DATA MODEL [COORDINATOR PROCESSES PROCESS]
"""

import sys

import numpy as np


def measures(mesh=None):
    """Numbers of every kind that may be spread, by name; on 23 examples, which nothing divides."""
    import jax
    import jax.numpy as jnp
    import optax

    import iw_jax as iw

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(23, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 23).astype(np.int32)
    weights = np.where(np.arange(23) % 7 == 3, 0.0, 1.0).astype(np.float32)
    sizes = {"w": (4, 8), "v": (8, 3)}
    params = {k: rng.normal(size=s).astype(np.float32) / 2 for k, s in sizes.items()}

    def network(params, x):
        return jnp.tanh(x @ params["w"]) @ params["v"]

    task = iw.Task(network, iw.Categorical(), inputs, labels, weights)
    prior = iw.IsotropicGaussian(scale=1.0)

    def init(key):
        start = iw.DiagonalGaussian(params, 0.1)
        return start, prior

    def sweep(betas, seeds, batch_size):
        result = iw.sweep(
            jax.random.split(jax.random.key(1), seeds),
            task,
            init,
            betas=betas,
            optimizer=optax.adam(0.05),
            num_steps=12,
            num_rounds=3,
            batch_size=batch_size,
            num_draws=4,
            mesh=mesh,
        )
        return {
            "loss": result.lagrangian.loss.value,
            "kl": result.lagrangian.kl.value,
            "mean": result.code.mean["w"],
        }

    own = task if mesh is None else iw.spread(task, mesh)
    V = rng.normal(size=(3, 56)).astype(np.float32)
    found = {}
    for name, curvature in (("ggn", iw.ggn), ("hessian", iw.hessian)):
        for batch_size in (None, 3):
            A = curvature(own, params, batch_size=batch_size)
            found[f"{name} {batch_size}"] = A.flat_block(V)
    found["nll"] = iw.nll(own, params)
    slope = jax.jit(jax.grad(lambda p, t: iw.nll(t, p)))(params, own)
    found["slope"] = slope["w"]
    found["fisher"] = iw.fisher_iw(
        own, params, prior, key=jax.random.key(2), num_matvecs=30, tolerance=np.inf
    ).nats.value
    for name, arguments in {
        "all examples": ((0.1, 1.0, 3.0), 2, None),
        "minibatches": ((0.1, 1.0, 3.0), 2, 8),
        "seeds": ((1.0,), 4, 8),
        "one": ((1.0,), 1, None),
    }.items():
        found |= {f"{name}: {key}": value for key, value in sweep(*arguments).items()}
    return {name: np.asarray(value) for name, value in found.items()}


if __name__ == "__main__":
    out, *numbers = sys.argv[1:]
    import jax

    from iw_jax import parallel

    sweep, data, model = map(int, numbers[:3])
    if numbers[3:]:
        parallel.start(numbers[3], *map(int, numbers[4:]))
    results = measures(parallel.make_mesh(sweep=sweep, data=data, model=model))
    if jax.process_index() == 0:
        np.savez(out, **results)

"""One variational training step against a deterministic one, and against numpyro and blackjax.

    python -m benchmarks.variational_step

MLP 784-256-256-10 (269,322 weights) on random data shaped like MNIST, N = 2000, float32. Every
program runs the same number of Adam steps on the same kind of minibatches (epochs of a random
order) in one compiled loop:

* deterministic: Adam on the weights, cross-entropy only;
* iw_jax: a round of `iw.sweep_step` for a single member, as users run it: DiagonalGaussian code in
  units of an IsotropicGaussian prior, one draw of the weights, exact KL;
* numpyro: SVI, AutoNormal guide, one particle, exact KL (TraceMeanField_ELBO) or sampled KL;
* blackjax: meanfield_vi, one sample, sampled KL, as it comes.

Measured on 2 CPU cores, 2026-11-21, jaxlib 0.10.2; medians of 15 interleaved repetitions, ratios
paired (`--repetitions 15`):

    step of              batch     ms  / deterministic  / iw_jax
    deterministic         2000  17.86             1.00      0.74
    iw_jax                2000  23.61             1.34      1.00
    numpyro, exact KL     2000  25.25             1.45      1.07
    numpyro, sampled KL   2000  25.55             1.50      1.10
    blackjax              2000  25.67             1.50      1.14
    deterministic          250   3.07             1.00      0.40
    iw_jax                 250   7.20             2.52      1.00
    numpyro, exact KL      250   9.17             3.09      1.21
    numpyro, sampled KL    250   9.64             3.26      1.28
    blackjax               250   9.42             2.88      1.23
    deterministic          200   2.75             1.00      0.35
    iw_jax                 200   7.83             2.82      1.00
    numpyro, exact KL      200   9.44             3.29      1.15
    numpyro, sampled KL    200   9.34             3.37      1.20
    blackjax               200   9.51             3.38      1.19
"""

import argparse
from collections.abc import Callable

import blackjax.vi.meanfield_vi as blackjax_meanfield
import jax
import jax.numpy as jnp
import numpyro
import optax
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO, autoguide

import iw_jax as iw
from benchmarks import _paired
from iw_jax import nets
from iw_jax.task import take

NUM_EXAMPLES, NUM_PIXELS, NUM_CLASSES = 2000, 784, 10
PRIOR_SCALE, CODE_SCALE = 0.1, 0.01
OPTIMIZER = optax.adam(1e-3)

Program = Callable[[], jax.Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    repetitions = parser.parse_args().repetitions
    rows = []
    for batch_size, num_steps in ((None, 4), (250, 24), (200, 30)):
        programs = {
            "deterministic": deterministic(batch_size, num_steps),
            "iw_jax": library(batch_size, num_steps),
            "numpyro, exact KL": numpyro_svi(TraceMeanField_ELBO(), batch_size, num_steps),
            "numpyro, sampled KL": numpyro_svi(Trace_ELBO(), batch_size, num_steps),
            "blackjax": blackjax_vi(batch_size, num_steps),
        }
        seconds = _paired.interleaved(programs, repetitions=repetitions)
        for name, each in seconds.items():
            milliseconds = 1e3 * float(jnp.median(each)) / num_steps
            against = (_paired.ratio(each, seconds[r]) for r in ("deterministic", "iw_jax"))
            ratios = (f"{r:.2f}" for r in against)
            rows.append((name, batch_size or NUM_EXAMPLES, f"{milliseconds:.2f}", *ratios))
    _paired.print_table(("step of", "batch", "ms", "/ deterministic", "/ iw_jax"), rows)


def network_and_task() -> tuple[nets.Params, iw.Task]:
    """Initial weights, and random data of the shape of MNIST."""
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (NUM_EXAMPLES, NUM_PIXELS))
    targets = jax.random.randint(keys[1], (NUM_EXAMPLES,), 0, NUM_CLASSES)
    net = nets.mlp(NUM_CLASSES)
    task = iw.Task(net.apply_fn, iw.Categorical(), inputs, targets)
    return net.init(keys[2], inputs[:2]), task


def library(batch_size: int | None, num_steps: int) -> Program:
    params, task = network_and_task()
    prior = iw.IsotropicGaussian(PRIOR_SCALE)
    problem, state = iw.make_sweep(
        jax.random.split(jax.random.key(1), 1),
        task,
        lambda _: (iw.DiagonalGaussian(params, CODE_SCALE), prior),
        betas=[1.0],
        optimizer=OPTIMIZER,
        num_steps=20 * num_steps,
        num_rounds=20,
        batch_size=batch_size,
        estimator=iw.weight_noise,  # one draw, as the peers take
    )
    return lambda: iw.sweep_step(problem, state).history


def deterministic(batch_size: int | None, num_steps: int) -> Program:
    params, task = network_and_task()

    def step(key, batch, carry):
        del key
        params, opt_state = carry
        gradient = jax.grad(lambda p: iw.nll(batch, p) / NUM_EXAMPLES)(params)
        updates, opt_state = OPTIMIZER.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return loop(step, (params, OPTIMIZER.init(params)), task, batch_size, num_steps)


def numpyro_svi(elbo: Trace_ELBO | TraceMeanField_ELBO, batch_size, num_steps) -> Program:
    params, task = network_and_task()
    leaves, treedef = jax.tree.flatten(params)

    def model(batch):
        prior = numpyro.distributions.Normal(0.0, PRIOR_SCALE)
        draws = [
            numpyro.sample(f"w{i}", prior.expand(leaf.shape).to_event(leaf.ndim))
            for i, leaf in enumerate(leaves)
        ]
        numpyro.factor("likelihood", -iw.nll(batch, jax.tree.unflatten(treedef, draws)))

    svi = SVI(model, autoguide.AutoNormal(model), OPTIMIZER, elbo)

    def step(key, batch, state):
        del key  # the state of numpyro holds its own
        return svi.update(state, batch)[0]

    return loop(step, svi.init(jax.random.key(2), task), task, batch_size, num_steps)


def blackjax_vi(batch_size: int | None, num_steps: int) -> Program:
    params, task = network_and_task()

    def step(key, batch, state):
        def log_density(weights):
            squares = optax.tree.norm(weights, squared=True)
            return -iw.nll(batch, weights) - 0.5 * squares / PRIOR_SCALE**2

        return blackjax_meanfield.step(key, state, log_density, OPTIMIZER, num_samples=1)[0]

    state = blackjax_meanfield.init(params, OPTIMIZER)
    return loop(step, state, task, batch_size, num_steps)


def loop(step: Callable, start, task: iw.Task, batch_size: int | None, num_steps: int) -> Program:
    """`num_steps` of (key, batch, state) -> state, compiled, on minibatches epoch by epoch."""

    @jax.jit
    def run(key, task, state):
        key_batches, key_steps = jax.random.split(key)
        if batch_size is not None:
            epochs = -(-num_steps * batch_size // NUM_EXAMPLES)
            order = jax.lax.map(
                lambda k: jax.random.permutation(k, NUM_EXAMPLES),
                jax.random.split(key_batches, epochs),
            )
            batches = order.reshape(-1)[: num_steps * batch_size].reshape(num_steps, batch_size)

        def body(i, state):
            batch = task
            if batch_size is not None:
                batch = take(task, batches[i], NUM_EXAMPLES / batch_size)
            return step(jax.random.fold_in(key_steps, i), batch, state)

        return jax.lax.fori_loop(0, num_steps, body, state)

    return lambda: run(jax.random.key(3), task, start)


if __name__ == "__main__":
    main()

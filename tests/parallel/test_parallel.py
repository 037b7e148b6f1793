"""The same numbers on any number of devices and processes."""

import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import iw_jax as iw
from iw_jax import parallel
from iw_jax.weights import layout, sweeping
from tests.parallel.run import KINDS, compute, products, sweep, world

ROOT = Path(__file__).parents[2]


def assert_same(found, expected, rtol):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = rtol * np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=scale, err_msg=name)


def all_reduces(function, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return len(re.findall(r" all-reduce(?:-start)?\(", text))


# ------------------------------------------------------------------------------- devices


@pytest.mark.slow
def test_products_of_spread_examples_are_the_same():
    assert_same(products(iw.make_mesh(sweep=1, data=2)), products(), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cells in batches", "seeds"])
def test_members_on_two_devices_are_the_same(kind):
    assert_same(sweep(kind, iw.make_mesh(sweep=2)), sweep(kind), 1e-10)


@pytest.mark.slow
def test_all_examples_a_step_on_two_devices_are_the_same():
    assert_same(sweep("all examples", iw.make_mesh(sweep=1, data=2)), sweep("all examples"), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", ["sweep", "data", "model"])
def test_every_sweep_on_every_axis_is_the_same(kind, axis):
    mesh = iw.make_mesh(**{"sweep": 1, axis: 2})
    assert_same(sweep(kind, mesh), sweep(kind), 1e-10)


def test_weight_noise_is_the_same_bits_wherever_it_lies():
    _, params, _ = world()
    code, key = iw.DiagonalGaussian(params, 0.1), jax.random.key(0)
    mesh = iw.make_mesh(sweep=1, model=2)
    lie = {
        k: NamedSharding(mesh, PartitionSpec(*parallel.of_weights(mesh, w.shape)))
        for k, w in params.items()
    }
    born = jax.jit(code.noise, out_shardings=lie)(key)
    assert born["w"].addressable_shards[0].data.shape == (4, 4)
    for own, whole in zip(*map(jax.tree.leaves, (born, jax.jit(code.noise)(key))), strict=True):
        np.testing.assert_array_equal(own, whole)


# ------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("curvature", [iw.ggn, iw.hessian, iw.empirical_fisher])
def test_a_block_of_products_takes_one_all_reduce(curvature, batch_size):
    task, params, V = world()
    A = curvature(iw.spread(task, iw.make_mesh(sweep=1, data=2)), params, batch_size=batch_size)
    assert all_reduces(lambda A, V: A.flat_block(V), A, V) == 1


def test_a_gradient_of_the_lagrangian_takes_one_all_reduce():
    task, params, _ = world()
    task = iw.spread(task, iw.make_mesh(sweep=1, data=2))

    def cost(code, task):
        loss = iw.antithetic_noise(jax.random.key(0), task, code)
        return loss + code.kl(iw.IsotropicGaussian(scale=1.0))

    assert all_reduces(jax.value_and_grad(cost), iw.DiagonalGaussian(params, 0.1), task) == 1


def test_rounds_of_a_dealt_sweep_compile_once(caplog):
    with jax.log_compiles(), caplog.at_level("WARNING"):
        sweep("minibatches", iw.make_mesh(sweep=2))
    assert sum("Finished XLA compilation of jit(_round)" in said for said in caplog.messages) == 1


def three_betas(mesh, **options):
    """A sweep that is to be filled up to four cells."""
    task, params, _ = world()
    return iw.make_sweep(
        jax.random.key(0)[None],
        task,
        lambda _: (iw.DiagonalGaussian(params, 0.1), iw.IsotropicGaussian(scale=1.0)),
        betas=(0.1, 1.0, 3.0),
        optimizer=optax.adam(1e-3),
        num_steps=4,
        num_rounds=2,
        batch_size=8,
        mesh=mesh,
        **options,
    )


def test_members_stay_dealt_out():
    """Half of the cells on each device after a round, whatever the exchange moved."""
    problem, state = three_betas(iw.make_mesh(sweep=2))
    state = iw.sweep_step(problem, state)
    for leaf in jax.tree.leaves(state.members.code):
        assert leaf.shape[0] == 4
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [2, 2]


def test_cells_in_batches_stay_where_they_are():
    """A round without exchange gathers what it says of the four cells, and nothing of members."""
    problem, state = three_betas(iw.make_mesh(sweep=2), member_batch=1, exchange=False)
    text = sweeping._round.lower(problem, state).compile().as_text()
    gathered = re.findall(r"\w\[([\d,]*)\]\S* all-gather\(", text)
    assert gathered
    assert all(np.prod([int(n) for n in shape.split(",")]) <= 2 * 4 for shape in gathered)


@pytest.mark.slow
def test_a_state_is_saved_as_it_is_on_any_number_of_devices():
    found = []
    for mesh in (None, iw.make_mesh(sweep=2)):
        problem, state = three_betas(mesh)
        state = iw.sweep_step(problem, state)
        saved = layout.without_fill(problem, state)
        again = layout.with_fill(problem, saved)
        assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, again, state))
        found.append({str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(saved.members))})
        end = iw.sweep_finish(problem, iw.sweep_step(problem, again), num_draws=4)
        found[-1]["kl"] = np.asarray(end.lagrangian.kl.value)
    assert_same(*found, 1e-10)


# ------------------------------------------------------------------------------- padding


def test_examples_are_padded_with_masked_ones():
    task, params, _ = world()
    dealt = iw.spread(task, iw.make_mesh(sweep=1, data=2))
    assert (dealt.num_examples, dealt.num_rows, dealt.num_padding) == (23, 24, 1)
    assert dealt.weights[23] == 0
    np.testing.assert_array_equal(dealt.inputs[23], task.inputs[0])
    assert_same({"": iw.nll(dealt, params)}, {"": iw.nll(task, params)}, 1e-14)


def test_padding_cannot_be_unmasked():
    task, params, _ = world()
    dealt = iw.spread(task, iw.make_mesh(sweep=1, data=2))
    anew = dataclasses.replace(dealt, weights=None)
    whole = dataclasses.replace(task, weights=None)
    assert_same({"": iw.nll(anew, params)}, {"": iw.nll(whole, params)}, 1e-14)
    with pytest.raises(ValueError, match="weights must be 0 for the 1 rows of padding"):
        dataclasses.replace(dealt, weights=jnp.ones(24))


def test_losses_of_each_example_are_not_those_of_padding():
    task, params, _ = world()
    dealt = iw.spread(dataclasses.replace(task, weights=None), iw.make_mesh(data=2))
    with pytest.raises(ValueError, match="task must not be spread here"):
        iw.bounded_nll(dealt, params, least=1e-4)


def test_minibatches_of_a_spread_task_are_those_of_the_whole():
    task, params, _ = world()
    dealt = iw.spread(task, iw.make_mesh(sweep=1, data=2))
    chosen = jnp.array([1, 22, 5])
    few = [iw.task.take(t, chosen, 2.0) for t in (task, dealt)]
    assert few[1].mesh is None
    assert_same({"": iw.nll(few[1], params)}, {"": iw.nll(few[0], params)}, 1e-14)


# ------------------------------------------------------------------------------- processes


def in_processes(out, kinds, sizes, devices, processes=1, x64=True):
    """`run.py` in so many processes on the loopback interface; what process 0 found."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{found.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices // processes),
        "JAX_ENABLE_X64": str(int(x64)),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.parallel.run", str(out), ",".join(kinds)]
    command += map(str, sizes)
    each = [
        subprocess.Popen(
            [*command, coordinator, str(processes), str(i)] if processes > 1 else command,
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        said = [process.communicate(timeout=500)[0] for process in each]
    finally:
        for process in each:
            process.kill()
    assert all(process.returncode == 0 for process in each), said[0][-3000:]
    return dict(np.load(out))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("products", (1, 2, 1)), pytest.param("minibatches", (2, 1, 1), marks=pytest.mark.slow)],
)
def test_two_processes_find_the_same(kind, sizes, tmp_path):
    found = in_processes(tmp_path / "out.npz", [kind], sizes, 2, processes=2)
    assert_same(found, compute([kind]), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "processes"),
    [
        *(((2, 1, 1), 2), ((1, 2, 1), 2), ((2, 2, 1), 4), ((1, 2, 2), 4)),
        *(((4, 1, 1), 1), ((1, 4, 1), 1), ((8, 1, 1), 1), ((1, 8, 1), 1), ((2, 2, 2), 1)),
    ],
)
def test_any_number_of_devices_and_processes_finds_the_same(tmp_path, sizes, processes):
    kinds, devices = ["products", *KINDS], int(np.prod(sizes))
    found = in_processes(tmp_path / "out.npz", kinds, sizes, devices, processes)
    assert_same(found, compute(kinds), 1e-9)


@pytest.mark.slow
def test_single_precision_finds_the_same_to_five_digits(tmp_path):
    kinds = ["products", *KINDS]
    one, eight = (
        in_processes(tmp_path / f"{n}.npz", kinds, (n, n, n), n**3, x64=False) for n in (1, 2)
    )
    assert_same(eight, one, 1e-5)


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"sweep": 3}, r"number of devices, 2, got 3 \* 1 \* 1"),
        ({"data": 4}, r"number of devices, 2, got 1 \* 4 \* 1"),
        ({"data": 0}, "data must be an integer of at least 1"),
    ],
)
def test_a_mesh_takes_all_devices(sizes, message):
    with pytest.raises(ValueError, match=message):
        iw.make_mesh(**sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1",), "together or not at all, got localhost:1, None, None"),
        (("localhost:1", 2, 2), "process_id must lie from 0 to num_processes - 1 = 1, got 2"),
        (("localhost:1", 0, 0), "num_processes must be an integer of at least 1"),
    ],
)
def test_processes_are_named_whole(arguments, message):
    with pytest.raises(ValueError, match=message):
        parallel.start(*arguments)


def test_what_is_no_mesh_is_refused():
    task, params, _ = world()
    mesh = iw.make_mesh(sweep=1, data=2)
    with pytest.raises(ValueError, match=r"mesh must come from iw\.make_mesh, got 2"):
        iw.spread(task, 2)
    with pytest.raises(ValueError, match=r"mesh must come from iw\.make_mesh"):
        iw.spread(task, jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)))
    with pytest.raises(ValueError, match="must not be spread yet"):
        iw.spread(iw.spread(task, mesh), mesh)
    with pytest.raises(ValueError, match="own rows 0 to 40 of 40, got 23"):
        iw.spread(task, mesh, num_examples=40)
    with pytest.raises(ValueError, match="give the whole one, and mesh="):
        iw.minimize(
            jax.random.key(0),
            iw.spread(task, mesh),
            iw.DiagonalGaussian(params, 0.1),
            iw.IsotropicGaussian(scale=1.0),
            optimizer=optax.sgd(0.1),
            num_steps=1,
        )

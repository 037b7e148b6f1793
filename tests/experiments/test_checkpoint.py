"""States that come back bit for bit, on whatever devices, or from the checkpoint before."""

import contextlib
import errno
import math
import os
import resource
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.common import checkpoint, checksums, command, results
from experiments.common.checkpoint import Checkpoints
from tests.experiments import tiny


def state(step=0):
    return {
        "step": jnp.asarray(step, jnp.int32),
        "keys": jax.random.split(jax.random.key(3), 2),
        "weights": (jnp.arange(6.0).reshape(2, 3) / 7, jnp.asarray([jnp.nan, -0.0])),
    }


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved(path, *steps):
    kept = Checkpoints(path)
    for step in steps:
        kept.save(step, state(step), force=True)
    kept.close()


def rows(number):
    """The first axis over that many devices."""
    mesh = Mesh(np.array(jax.devices()[:number]), ("members",))
    return NamedSharding(mesh, PartitionSpec("members"))


def spread(number):
    """The same state over that many devices: weights by rows, keys one after the other."""
    return jax.device_put(
        {"keys": jax.random.split(jax.random.key(3), 4), "weights": jnp.arange(24.0).reshape(4, 6)},
        rows(number),
    )


@contextlib.contextmanager
def files_of_at_most(size):
    """As on a disk that fills up while a file is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_state_with_typed_keys_comes_back_bit_for_bit(tmp_path):
    saved(tmp_path, 4)
    same(Checkpoints(tmp_path).restore(state()), state(4))


def test_keys_of_another_kind_stay_of_that_kind(tmp_path):
    key = jax.random.key(5, impl="rbg")
    kept = Checkpoints(tmp_path)
    kept.save(1, {"key": key}, force=True)
    kept.close()
    found = Checkpoints(tmp_path).restore({"key": jax.random.key(0, impl="rbg")})["key"]
    assert found.dtype == key.dtype
    assert jax.random.bits(found) == jax.random.bits(key)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_a_state_comes_back_on_the_devices_of_the_template(before, after, tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(1, spread(before), force=True)
    kept.close()
    template = jax.tree.map(lambda x: x[::-1], spread(after))
    template = jax.device_put(template, jax.tree.map(lambda x: x.sharding, spread(after)))
    found = Checkpoints(tmp_path).restore(template)
    same(found, spread(before))
    for x, like in zip(jax.tree.leaves(found), jax.tree.leaves(template), strict=True):
        assert x.sharding.is_equivalent_to(like.sharding, x.ndim)
        assert x.committed


def test_each_device_writes_its_part(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(1, spread(2), force=True)
    kept.close()
    there = ocp.PyTreeCheckpointer().metadata((tmp_path / "1" / "default").absolute())
    assert there.item_metadata.tree["weights"].storage.write_shape == (2, 6)


def test_arrays_come_back_as_the_kind_that_the_template_has(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(1, {**spread(2), "free": jnp.arange(4.0), "host": np.arange(3)}, force=True)
    kept.close()
    template = {**spread(2), "free": jnp.zeros(4), "host": np.zeros(3, int)}
    found = Checkpoints(tmp_path).restore(template)
    assert isinstance(found["host"], np.ndarray)
    assert not found["free"].committed
    found["free"] + found["weights"][:, 0]  # what is not committed goes where the other one is


def test_arrays_without_a_template_come_back_on_the_host_from_any_devices(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(1, {"weights": spread(2)["weights"]}, force=True)
    kept.close()
    found = Checkpoints(tmp_path).restore_arrays()["weights"]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, spread(1)["weights"])


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    kept, weights = Checkpoints(tmp_path), np.zeros(100_000)
    kept.save(1, {"weights": weights}, force=True)
    weights += 1  # while the files are being written
    kept.close()
    assert not Checkpoints(tmp_path).restore_arrays()["weights"].any()


def test_without_a_checkpoint_the_start_comes_back(tmp_path):
    start = state()
    assert Checkpoints(tmp_path / "none").restore(start) is start


def test_only_the_newest_two_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_can_be_saved_anew(tmp_path):
    saved(tmp_path, 1, 2)
    tiny.truncate(tiny.files_of(tmp_path / "2"))
    kept = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match="is damaged; going on from step 1"):
        same(kept.restore(state()), state(1))
    kept.save(2, state(2), force=True)
    kept.close()
    same(Checkpoints(tmp_path).restore(state()), state(2))


@pytest.mark.parametrize("like", [True, False])
def test_a_single_bit_that_turned_is_damage(like, tmp_path):
    saved(tmp_path, 1)
    noise = {"weights": np.random.default_rng(0).standard_normal(1000)}
    kept = Checkpoints(tmp_path)
    kept.save(2, noise, force=True)
    kept.save(3, noise, force=True)
    kept.close()
    tiny.turn_a_bit(tiny.files_of(tmp_path / "3"))
    kept = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match="is damaged; going on from step 2"):
        same(kept.restore(noise) if like else kept.restore_arrays(), noise)


DTYPES = ["bool", "int8", "uint16", "int32", "float32", "float64", "int64", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_bits_depend_on_each_bit_and_not_on_the_place(dtype):
    with jax.enable_x64(True):
        drawn = jax.random.normal(jax.random.key(1), (4, 3)) * 40
        spread_out = jax.device_put(
            (drawn > 0 if dtype == "bool" else drawn).astype(dtype), rows(2)
        )
        host = np.asarray(spread_out)
        whole = checksums.sums({"x": spread_out, "y": host, "z": host[0, 0]})
        assert whole["x"] == whole["y"] != whole["z"]
        for bit in range(1 if dtype == "bool" else 8 * host.dtype.itemsize):
            turned = host.copy()
            octets = turned.reshape(-1).view(np.uint8)
            octets[bit // 8] ^= 1 << bit % 8
            assert checksums.sums({"x": turned})["x"] != whole["x"]


def test_no_usable_checkpoint_is_an_error_that_names_the_mend(tmp_path):
    saved(tmp_path, 1)
    tiny.truncate(tiny.files_of(tmp_path / "1"))
    with pytest.raises(results.ResultsError, match=r"damaged or.*--overwrite"):
        Checkpoints(tmp_path).restore(state())
    assert (tmp_path / "1").exists(), "a file that might be repaired was thrown away"


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    saved(tmp_path, 1)
    other = {**state(), "weights": (jnp.zeros((2, 4)), jnp.zeros(2))}
    with pytest.raises(results.ResultsError, match="other names, shapes or types"):
        Checkpoints(tmp_path).restore(other)


def test_a_file_in_the_place_of_the_checkpoints_is_named(tmp_path):
    (tmp_path / "training").write_text("")
    with pytest.raises(results.ResultsError, match="no checkpoints can be kept in"):
        Checkpoints(tmp_path / "training")


def test_a_disk_too_full_for_checkpoints_warns_once_and_the_run_goes_on(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    monkeypatch.setattr(ocp.CheckpointManager, "close", full)  # where files were being written
    kept = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match="No space left") as told:
        kept.save(1, state(1), force=True)
    kept.save(2, state(2), force=True)  # a second warning would be an error here
    assert len(told) == 1
    monkeypatch.undo()
    kept.save(3, state(3), force=True)
    kept.close()
    same(Checkpoints(tmp_path).restore(state()), state(3))


def test_a_failure_while_files_are_written_is_told_once_and_leaves_the_last_good_state(tmp_path):
    noise = np.random.default_rng(0).standard_normal(100_000)  # nothing that could be compressed

    def save(*steps):
        kept = Checkpoints(tmp_path)
        for step in steps:
            kept.save(step, {"weights": step * noise}, force=True)
        kept.close()

    save(1, 2)
    with files_of_at_most(10_000), pytest.warns(UserWarning, match="File too large.*going") as told:
        save(3, 4, 5)
    assert len(told) == 1
    found = Checkpoints(tmp_path).restore_arrays()
    np.testing.assert_array_equal(found["weights"], 2 * noise)
    save(6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "6"], "half a checkpoint is left"


def test_a_save_not_asked_for_by_force_waits_for_nothing(tmp_path, monkeypatch):
    """One that is due while the last one is being written is left out."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", math.inf)
    kept = Checkpoints(tmp_path)
    monkeypatch.setattr(kept._manager, "is_saving_in_progress", lambda: True)
    kept.save(1, state(1))
    kept.save(2, lambda: pytest.fail("the state was made for nothing"))
    kept.save(3, state(3), force=True)
    kept.close()
    assert [p.name for p in tmp_path.iterdir()] == ["3"]


@pytest.mark.parametrize(("words", "told"), [("Event loop is closed", 0), ("anything else", 1)])
def test_writes_beside_one_that_failed_print_no_traceback(words, told, monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "__unraisablehook__", heard.append)
    monkeypatch.setattr(sys, "unraisablehook", None)
    monkeypatch.setattr(warnings, "showwarning", None)
    command.plain_warnings()
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(words)))
    assert len(heard) == told

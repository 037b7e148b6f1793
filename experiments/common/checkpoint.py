"""Saving and restoring the state of a long computation, by orbax."""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.checksums import sums
from experiments.common.results import ResultsError
from iw_jax import parallel, trees

# The computation waits only while a state is copied; files are written behind its back. So often
# costs little for a laptop-sized sweep; larger states take longer: waiting may have this share of
# the time.
SECONDS_BETWEEN = 5.0
LARGEST_SHARE = 1 / 20


class Checkpoints:
    """The newest two states of one computation, in one folder.

    Args:
      path: the folder.
    """

    def __init__(self, path: Path) -> None:
        import orbax.checkpoint as ocp  # takes a second to import; only runs need it

        for name in ("absl", "asyncio"):  # orbax raises what is logged there as errors
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._ocp = ocp
        self._path = path
        self._last = time.monotonic()
        self._pause = SECONDS_BETWEEN
        self._told = False
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._manager = self._open()
        except OSError as error:
            raise ResultsError(
                f"no checkpoints can be kept in {path} ({error.strerror or error}); free some "
                "space, remove what is in the way, or name another folder with --results-dir"
            ) from error

    def _open(self) -> Any:
        options = self._ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        return self._ocp.CheckpointManager(
            self._path.absolute(),
            options=options,
            item_handlers=self._ocp.PyTreeCheckpointHandler(),
        )

    def restore(self, template: Any) -> Any:
        """The newest state of the template's structure, or the template if none was saved.

        An array comes back on the devices, and spread over them, as its place in the template is,
        however many devices saved it.

        Raises:
          ResultsError: for checkpoints that are all damaged, or of something else.
        """
        arrays, rebuild = _to_arrays(template)
        found = self._newest(arrays)
        return template if found is None else rebuild(found)

    def restore_arrays(self) -> dict[str, np.ndarray] | None:
        """The newest arrays by name, whatever their shapes, or None if none were saved.

        Raises:
          ResultsError: for checkpoints that are all damaged.
        """
        return self._newest(None)

    def _newest(self, like: dict[str, Any] | None) -> dict[str, Any] | None:
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            return None
        problems = []
        for step in steps:
            try:
                found = self._read(step, like)
            except Exception as error:  # orbax raises whatever its storage layer raised
                problems.append(f"step {step}: {_brief(error)}")
                continue
            if problems:
                warnings.warn(
                    f"the newest checkpoint in {self._path} is damaged; going on from step {step}",
                    stacklevel=2,
                )
                for damaged in steps[: len(problems)]:  # orbax saves no step before its newest
                    self._manager.delete(damaged)
            return found
        raise ResultsError(
            f"no checkpoint in {self._path} can be used ({'; '.join(problems)}); it is damaged or "
            "belongs to another run: choose another --name, or start afresh with --overwrite"
        )

    def _read(self, step: int, like: dict[str, Any] | None) -> dict[str, Any]:
        """The arrays of one checkpoint, if every process can use it.

        Placed as those they shall be like; else on the host.
        """
        found, saved = parallel.together(lambda: self._files(step, like))

        def require_unchanged():
            if sums(found) != saved:
                raise ValueError("its arrays are not those that were saved")

        parallel.together(require_unchanged)
        return found

    def _files(self, step: int, like: dict[str, Any] | None) -> tuple[dict[str, Any], Any]:
        """The arrays in the files of one checkpoint, and the sums saved with them."""
        there = self._manager.item_metadata(step)
        if like is None:
            like = dict.fromkeys(there.tree)
        else:
            _require_same_shapes(there.tree, like)
        places = {name: self._place(x) for name, x in like.items()}
        args = self._ocp.args.PyTreeRestore(restore_args=places)
        return self._manager.restore(step, args=args), there.custom_metadata

    def _place(self, like: Any) -> Any:
        if isinstance(like, jax.Array) and like.committed:
            return self._ocp.ArrayRestoreArgs(sharding=like.sharding)
        return self._ocp.RestoreArgs(restore_type=np.ndarray)

    def save(self, step: int, state: Any, force: bool = False) -> None:
        """Saves a state, unless the last one is only seconds old; a full disk is no reason to stop.

        Returns when the state is copied; the files are whole, or the failure is told, at the next
        save or when the checkpoints are closed.

        Args:
          step: how far the computation is.
          state: any pytree of arrays and typed keys; or a function that makes it, where that alone
            takes time.
          force: save however recent the last one is, and though it is still being written.
        """
        now = time.monotonic()
        due = now - self._last > self._pause and not self._manager.is_saving_in_progress()
        due = parallel.anywhere(force or due)  # asked after every training step; all save, or none
        if not due or step in self._manager.all_steps():
            return
        arrays, _ = _to_arrays(state() if callable(state) else state)
        self._attempt(self._manager.wait_until_finished)
        args = self._ocp.args.PyTreeSave(arrays, custom_metadata=sums(arrays))
        self._attempt(lambda: self._manager.save(step, args=args))
        self._last = time.monotonic()
        self._pause = max(SECONDS_BETWEEN, (self._last - now) / LARGEST_SHARE)

    def close(self) -> None:
        """Waits for what is being written."""
        self._attempt(self._manager.wait_until_finished)
        self._manager.close()

    def _attempt(self, part_of_saving: Callable[[], Any]) -> None:
        """Does it; a failure is told, once, and cleared away."""
        try:
            part_of_saving()
        except Exception as error:  # orbax raises whatever its storage layer raised
            if not self._told:
                warnings.warn(
                    f"no checkpoint could be saved in {self._path} ({_brief(error)}); "
                    "going on without, so a stop now would lose what came after the last one",
                    stacklevel=3,
                )
            self._told = True
            with contextlib.suppress(Exception):  # what failed behind the first failure
                self._manager.close()
            self._manager = self._open()  # which removes half a checkpoint, and sees what is there


def _brief(error: Exception) -> str:
    """What storage layers say, without the middle: the cause comes last, after long paths."""
    text = str(error).strip()
    return text if len(text) < 300 else f"{text[:100]} ... {text[-150:]}"


def _to_arrays(state: Any) -> tuple[dict[str, Any], Any]:
    """A flat dict of arrays by path (which no version of a class can unpickle wrongly)."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): _saved(leaf)
        for path, leaf in leaves
    }

    def rebuild(found: dict[str, Any]) -> Any:
        values = [_as(leaf, found[name]) for name, (_, leaf) in zip(arrays, leaves, strict=True)]
        return jax.tree.unflatten(treedef, values)

    return arrays, rebuild


def _saved(leaf: Any) -> Any:
    """What is written of a leaf; one process writes what each of several has for itself."""
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return np.asarray(leaf) if trees.is_concrete(leaf) and jax.process_count() > 1 else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as(leaf: Any, found: Any) -> Any:
    """What was found, as the kind of array the leaf is; free to move where that is."""
    if not isinstance(leaf, jax.Array):
        return found
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(leaf))
    return jnp.asarray(found)


def _require_same_shapes(found: Any, expected: dict[str, Any]) -> None:
    def describe(arrays):
        return {name: (tuple(x.shape), np.dtype(x.dtype).name) for name, x in arrays.items()}

    if not isinstance(found, dict) or describe(found) != describe(expected):
        raise ValueError("its arrays have other names, shapes or types than this run's")

"""Saving and restoring the state of a long computation, by orbax."""

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.results import ResultsError

# A checkpoint of a laptop-sized sweep takes a fraction of a second; so often costs little. Larger
# states take longer: saving may have this share of the time.
SECONDS_BETWEEN = 5.0
LARGEST_SHARE = 1 / 20


class Checkpoints:
    """The newest two states of one computation, in one folder.

    Args:
      path: the folder.
    """

    def __init__(self, path: Path) -> None:
        import orbax.checkpoint as ocp  # takes a second to import; only runs need it

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self._path = path
        self._last = time.monotonic()
        self._pause = SECONDS_BETWEEN
        self._broken = False
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(path.absolute(), options=options)
        except OSError as error:
            raise ResultsError(
                f"no checkpoints can be kept in {path} ({error.strerror or error}); free some "
                "space, remove what is in the way, or name another folder with --results-dir"
            ) from error

    def restore(self, template: Any) -> Any:
        """The newest state of the template's structure, or the template if none was saved.

        Raises:
          ResultsError: for a checkpoint that is damaged, or of something else.
        """
        arrays, rebuild = _to_arrays(template)
        found = self._newest(lambda found: _require_same_shapes(found, arrays))
        return template if found is None else rebuild(found)

    def restore_arrays(self) -> dict[str, Any] | None:
        """The newest arrays by name, whatever their shapes, or None if none were saved.

        Raises:
          ResultsError: for checkpoints that are all damaged.
        """
        return self._newest(lambda _: None)

    def _newest(self, require: Callable[[Any], None]) -> dict[str, Any] | None:
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            return None
        problems = []
        for step in steps:
            try:
                found = self._manager.restore(step, args=self._ocp.args.StandardRestore())
                require(found)
            except Exception as error:  # orbax raises whatever its storage layer raised
                problems.append(f"step {step}: {str(error).strip()[:300]}")
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

    def save(self, step: int, state: Any, force: bool = False) -> None:
        """Saves a state, unless the last one is only seconds old; a full disk is no reason to stop.

        Args:
          step: how far the computation is.
          state: any pytree of arrays and typed keys; or a function that makes it, where that alone
            takes time.
          force: save however recent the last one is.
        """
        now = time.monotonic()
        due = force or now - self._last > self._pause  # asked after every training step
        if not due or step in self._manager.all_steps():
            return
        arrays, _ = _to_arrays(state() if callable(state) else state)
        try:
            self._manager.save(step, args=self._ocp.args.StandardSave(arrays))
            self._manager.wait_until_finished()
            self._broken = False
        except Exception as error:
            if not self._broken:
                warnings.warn(
                    f"no checkpoint could be saved in {self._path} ({str(error).strip()[:200]}); "
                    "going on without, so a stop now would lose what came after the last one",
                    stacklevel=2,
                )
            self._broken = True
        self._last = time.monotonic()
        self._pause = max(SECONDS_BETWEEN, (self._last - now) / LARGEST_SHARE)

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def _to_arrays(state: Any) -> tuple[dict[str, Any], Any]:
    """A flat dict of arrays by path (which no version of a class can unpickle wrongly)."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for _, leaf in leaves]
    arrays = {
        name: np.asarray(jax.random.key_data(leaf) if key else leaf)
        for name, (_, leaf), key in zip(names, leaves, is_key, strict=True)
    }

    def rebuild(found: dict[str, Any]) -> Any:
        values = [
            jax.random.wrap_key_data(jnp.asarray(found[n])) if key else jnp.asarray(found[n])
            for n, key in zip(names, is_key, strict=True)
        ]
        return jax.tree.unflatten(treedef, values)

    return arrays, rebuild


def _require_same_shapes(found: Any, expected: dict[str, Any]) -> None:
    def describe(arrays):
        return {name: (np.shape(x), np.asarray(x).dtype.name) for name, x in arrays.items()}

    if not isinstance(found, dict) or describe(found) != describe(expected):
        raise ValueError("its arrays have other names, shapes or types than this run's")

"""Finished pieces of a long stage, one line each, so that a killed run does not repeat them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common import preemption
from experiments.common.results import ResultsError


class Ledger:
    """An append-only file of (key, value); a line cut off by a crash is dropped.

    Args:
      path: the file, made when the first value is.
      stop: a request to stop, heeded after each value that is kept.
      writes: whether this process keeps values there, or only reads what others kept.
    """

    def __init__(self, path: Path, stop: preemption.Request, writes: bool = True) -> None:
        self._path = path
        self._stop = stop
        self._writes = writes
        self._values: dict[str, Any] = {}
        if path.exists():
            kept = 0
            content = path.read_bytes()
            for line in content.splitlines(keepends=True):
                try:
                    key, value = json.loads(line)
                except (ValueError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    break
                self._values[key] = value
                kept += len(line)
            if writes and kept < len(content):
                os.truncate(path, kept)  # whole lines stay where they are

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of `key`, computed only if no earlier run did; JSON keeps floats exactly."""
        if key not in self._values:
            value = compute()
            if self._writes:
                self._append(key, value)
            self._values[key] = value
            self._stop.heed()
        return self._values[key]

    def _append(self, key: str, value: Any) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                file.write(json.dumps([key, value]) + "\n")
        except OSError as error:
            raise ResultsError(
                f"{self._path} could not be written ({error.strerror or error}); what was "
                "computed so far is kept: make room, then give the same command again"
            ) from error

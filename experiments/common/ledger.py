"""Finished pieces of a long stage, one line each, so that a killed run does not repeat them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Ledger:
    """An append-only file of (key, value); a line cut off by a crash is dropped.

    Args:
      path: the file, made when the first value is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        if path.exists():
            kept = b""
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    key, value = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                self._values[key] = value
                kept += line
            path.write_bytes(kept)

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of `key`, computed only if no earlier run did; JSON keeps floats exactly."""
        if key not in self._values:
            value = compute()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                file.write(json.dumps([key, value]) + "\n")
            self._values[key] = value
        return self._values[key]

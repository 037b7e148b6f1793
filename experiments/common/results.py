"""A results folder: what is in it, written so that a crash leaves the old file or the new one."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


class ResultsError(RuntimeError):
    """A results folder that cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """`results/<experiment>/<name>/`.

    Attributes:
      path: the folder.
      writes: whether this process writes there; of several only the first does.
    """

    path: Path
    writes: bool = True

    @staticmethod
    def open(path: Path, identity: Mapping[str, Any], overwrite: bool) -> "Folder":
        """Makes the folder, or opens it if it holds a run of the same identity.

        Args:
          path: the folder.
          identity: experiment, config, data checksum: what must agree for a run to go on.
          overwrite: throw away a run that is there.

        Raises:
          ResultsError: if the folder cannot be written, or holds a run of another identity.
        """
        folder = Folder(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path):
                pass
            if overwrite:
                folder.clear()
        except OSError as error:
            raise ResultsError(
                f"the results folder {path} cannot be written ({error.strerror or error}); name "
                "another with --results-dir, free some space, or change its permissions"
            ) from error
        if (path / "config.json").exists():
            folder._require(identity)
        else:
            folder.write_json("config.json", identity)
        return folder

    def holds(self, identity: Mapping[str, Any], overwrite: bool) -> str:
        """What `open` would find here, in words; nothing is written.

        Args:
          identity: as for `open`.
          overwrite: as for `open`.

        Raises:
          ResultsError: if it is a run of another identity that is not to be thrown away.
        """
        if not (self.path / "config.json").exists():
            return "where there is no run yet"
        run = f"where there is {'a finished' if self.finished else 'an unfinished'} run"
        if overwrite:
            return f"{run}, to be thrown away"
        self._require(identity)
        return f"{run}, to be {'shown again' if self.finished else 'gone on with'}"

    def clear(self) -> None:
        """Deletes what a run left here, and nothing else."""
        import shutil

        # The manifest goes first: a crash in between must not leave what looks like a finished run.
        # The config goes last: what is left is never taken for a part of another run.
        first = ("manifest.json", "metrics.csv", "summary.json", "figure.png", "figure.pdf")
        for name in first:
            (self.path / name).unlink(missing_ok=True)
        for name in ("checkpoints", "partial"):
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        (self.path / "config.json").unlink(missing_ok=True)

    def _require(self, identity: Mapping[str, Any]) -> None:
        try:
            there = self.read_json("config.json")
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"{self.path / 'config.json'} cannot be read ({error}); start afresh with "
                "--overwrite, or choose another --name"
            ) from error
        identity = json.loads(json.dumps(identity))  # tuples become lists, as they are on disk
        if there == identity:
            return
        raise ResultsError(
            f"the results folder {self.path} holds a run of another configuration "
            f"({_difference(there, identity)}); choose another --name, or throw that run away with "
            "--overwrite"
        )

    @property
    def finished(self) -> bool:
        """Whether a run came to its end here (the manifest is written last)."""
        return (self.path / "manifest.json").exists()

    def write_text(self, name: str, text: str) -> None:
        """Writes a file atomically."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes a file atomically."""
        target = self.path / name
        temporary = target.with_name(f".{name}.{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise ResultsError(
                f"{target} could not be written ({error.strerror or error}); what was computed so "
                "far is kept in the checkpoints there: make room, then give the same command again"
            ) from error

    def write_json(self, name: str, content: Any) -> None:
        """Writes JSON atomically, readable and in a fixed order."""
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Reads JSON."""
        return json.loads((self.path / name).read_text())

    def write_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Writes a tidy table atomically; floats keep all their digits."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, buffer.getvalue())

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """Reads a table back; what looks like a number is one."""
        with open(self.path / name, newline="") as file:
            return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _difference(there: Any, here: Any) -> str:
    """Which settings differ, in a few words."""
    if there.get("experiment") != here["experiment"]:
        return f"experiment {there.get('experiment')}, not {here['experiment']}"
    old, new = there.get("config", {}), here["config"]
    keys = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    words = [f"{k} was {old.get(k)!r:.60}, now {new.get(k)!r:.60}" for k in keys[:4]]
    return "; ".join(words) or "other data"

"""What a running experiment is given: data, a folder, progress, and sweeps that resume."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

import iw_jax as iw
from experiments.common.checkpoint import Checkpoints
from experiments.common.ledger import Ledger
from experiments.common.results import Folder

_T = TypeVar("_T")


@dataclasses.dataclass
class Context:
    """The surroundings of one run; nothing here changes a number.

    Attributes:
      folder: the results folder.
      show_progress: whether to draw a bar.
      seconds: wall time of each stage, for the manifest.
    """

    folder: Folder
    show_progress: bool = True
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def track(self, items: Iterable[_T], stage: str, total: int | None = None) -> Iterator[_T]:
        """Yields items under a progress bar with the time left."""
        start = time.monotonic()
        bar = "{desc:<12} {percentage:3.0f} % |{bar}| {elapsed} gone, {remaining} left{postfix}"
        yield from tqdm(
            items, stage, total=total, bar_format=bar, disable=not self.show_progress, leave=False
        )
        self.seconds[stage] = self.seconds.get(stage, 0) + time.monotonic() - start

    def sweep(self, *args: Any, num_draws: int, stage: str = "training", **options: Any):
        """`iw.sweep`, but with progress, checkpoints, and going on where a killed run stopped.

        Args:
          *args: as for `iw.make_sweep`.
          num_draws: weight draws of the final evaluation.
          stage: name of the bar and of the checkpoints.
          **options: as for `iw.make_sweep`.
        """
        problem, state = iw.make_sweep(*args, **options)
        checkpoints = Checkpoints(self.folder.path / "checkpoints" / stage)
        try:
            state = checkpoints.restore(state)
            done = -(-int(state.step) // problem.round_length)
            for _ in self.track(range(done, problem.num_rounds), stage):
                state = iw.sweep_step(problem, state)
                checkpoints.save(int(state.step), state)
            checkpoints.save(int(state.step), state, force=True)
        finally:
            checkpoints.close()
        return iw.sweep_finish(problem, state, num_draws=num_draws)

    def ledger(self, stage: str) -> Ledger:
        """Finished pieces of a stage; see `Ledger`."""
        return Ledger(Path(self.folder.path) / "partial" / f"{stage}.jsonl")

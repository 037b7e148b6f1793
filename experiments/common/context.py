"""What a running experiment is given: data, a folder, progress, and sweeps that resume."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

import iw_jax as iw
from experiments.common import preemption
from experiments.common.checkpoint import Checkpoints
from experiments.common.ledger import Ledger
from experiments.common.results import Folder
from iw_jax import parallel
from iw_jax.curvature import growing
from iw_jax.curvature.growing import Growth
from iw_jax.weights import layout

_T = TypeVar("_T")
_BAR = "{desc:<12} {percentage:3.0f} % |{bar}| {elapsed} gone, {remaining} left{postfix}"


@dataclasses.dataclass
class Context:
    """The surroundings of one run; nothing here changes a number.

    Attributes:
      folder: the results folder.
      show_progress: whether to draw a bar.
      seconds: wall time of each stage, for the manifest.
      notes: what the summary says beyond the table, such as ratios of times.
      stop: a request to stop, heeded after each piece of work that is kept.
      mesh: the devices of sweeps; None for one.
    """

    folder: Folder
    show_progress: bool = True
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: dict[str, float | None] = dataclasses.field(default_factory=dict)
    stop: preemption.Request = dataclasses.field(default_factory=preemption.Request)
    mesh: Mesh | None = None

    def track(self, items: Iterable[_T], stage: str, total: int | None = None) -> Iterator[_T]:
        """Yields items under a progress bar with the time left; stops between them if asked to."""
        for item in self._shown(items, stage, total):
            yield item
            if parallel.anywhere(self.stop.made):
                raise preemption.Stopped

    def _shown(self, items: Iterable[_T], stage: str, total: int | None = None) -> Iterator[_T]:
        start = time.monotonic()
        yield from tqdm(
            items, stage, total=total, bar_format=_BAR, disable=not self.show_progress, leave=False
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
        problem, state = iw.make_sweep(*args, mesh=self.mesh, **options)
        checkpoints = Checkpoints(self.folder.path / "checkpoints" / stage)
        try:
            # Saved as on any number of devices.
            state = layout.with_fill(
                problem, checkpoints.restore(layout.without_fill(problem, state))
            )
            done = -(-int(state.step) // problem.round_length)
            for _ in self._shown(range(done, problem.num_rounds), stage):
                state = iw.sweep_step(problem, state)
                saved = functools.partial(layout.without_fill, problem, state)
                self._keep(checkpoints, int(state.step), saved)
            checkpoints.save(int(state.step), layout.without_fill(problem, state), force=True)
        finally:
            checkpoints.close()
        result = iw.sweep_finish(problem, state, num_draws=num_draws)
        return result if self.mesh is None else parallel.local(result)

    def iterate(self, step: Callable[[int, _T], _T], state: _T, number: int, stage: str) -> _T:
        """state = step(i, state) for i < number, with progress and checkpoints as `sweep`."""
        checkpoints = Checkpoints(self.folder.path / "checkpoints" / stage)
        try:
            done, state = checkpoints.restore((np.zeros((), int), state))
            for i in self._shown(range(int(done), number), stage):
                state = jax.block_until_ready(step(i, state))  # else the bar runs ahead
                self._keep(checkpoints, i + 1, (np.array(i + 1), state))
            checkpoints.save(number, (np.array(number), state), force=True)
        finally:
            checkpoints.close()
        return state

    def measured(self, measure: Callable[..., _T], num_matvecs: int, stage: str = "products") -> _T:
        """What `measure(stored=, callback=)` makes of curvature products; resumes as `sweep`.

        Args:
          measure: calls `iw.spectral_measure`, or what passes both arguments on to it.
          num_matvecs: products allowed, the length of the bar.
          stage: name of the bar and of the checkpoints.
        """
        checkpoints = Checkpoints(self.folder.path / "checkpoints" / stage)
        try:
            with self.bar(stage, num_matvecs) as show:

                def keep(state: Growth) -> None:
                    show(state.spent)
                    self._keep(checkpoints, state.spent, lambda: growing.pack(state))

                return measure(stored=checkpoints.restore_arrays(), callback=keep)
        finally:
            checkpoints.close()

    def _keep(self, checkpoints: Checkpoints, step: int, state: Any) -> None:
        """Saves a state if it is time to; where the run is to stop, in any case, and then stops."""
        last = parallel.anywhere(self.stop.made)
        checkpoints.save(step, state, force=last)
        if last:  # not asked again: a request in between finds its state not saved
            raise preemption.Stopped

    @contextlib.contextmanager
    def bar(self, stage: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar for work that reports how much is done; its time goes to the manifest."""
        start = time.monotonic()
        hidden = not self.show_progress
        with tqdm(
            desc=stage, total=total, bar_format=_BAR, disable=hidden, leave=False
        ) as progress:

            def show(done: int) -> None:
                progress.update(done - progress.n)

            yield show
        self.seconds[stage] = self.seconds.get(stage, 0) + time.monotonic() - start

    def ledger(self, stage: str) -> Ledger:
        """Finished pieces of a stage; see `Ledger`."""
        # Several processes stop together, between items of `track`.
        stop = self.stop if jax.process_count() == 1 else preemption.Request()
        path = self.folder.path / "partial" / f"{stage}.jsonl"
        return Ledger(path, stop, self.folder.writes)

"""SIGTERM, by which a scheduler takes a machine back: what is under way is finished and saved."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

STATUS = 128 + signal.SIGTERM  # what a shell reports of a process that the signal ended


class Stopped(BaseException):
    """The run ends here because it was asked to; no mishap, so no error handling catches it."""


class Request:
    """Whether this process has been asked to stop.

    Attributes:
      made: whether it has.
    """

    def __init__(self) -> None:
        self.made = False

    def heed(self) -> None:
        """Ends the run if the request was made; called where nothing would be lost.

        Raises:
          Stopped: if it was.
        """
        if self.made:
            raise Stopped

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.made = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """A request that SIGTERM makes, as long as the block runs."""
    request = Request()
    before = signal.signal(signal.SIGTERM, request._receive)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)

"""Being asked to stop: SIGTERM (preemption) and SIGINT, remembered until the loop has saved."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator

log = logging.getLogger(__name__)


class StopRequest:
    """Remembers the first stop signal; a second one ends the process as usual.

    Attributes:
      name: the signal's name, or None while nothing came.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[int, object] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Restores the handlers on leaving. Signals act as usual until `arm` is called."""
        try:
            yield self
        finally:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def arm(self) -> None:
        """From now on signals are remembered. Called after the first finished step: before it there is nothing to save."""
        if not self._previous:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._heard)

    def _heard(self, number: int, frame: object) -> None:
        self.name = signal.Signals(number).name
        log.warning("%s: saving after this step, then stopping", self.name)
        signal.signal(number, signal.SIG_DFL)

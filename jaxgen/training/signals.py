"""Being asked to stop: SIGTERM (preemption) and SIGINT, remembered until the loop has saved."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator

from jaxgen.parallel.agreement import StopAgreement

log = logging.getLogger(__name__)


class StopRequest:
    """Remembers the first stop signal; a second one ends the process as usual.

    Args:
      agreement: with the other hosts, where there are any.

    Attributes:
      name: the signal's name, or None while nothing came.
    """

    def __init__(self, agreement: StopAgreement | None = None) -> None:
        self.name: str | None = None
        self._agreement = agreement
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

    def due(self, done: int) -> bool:
        """Whether to save and stop after step `done`: on all hosts the same. To be called once after each step."""
        if self._agreement is None:
            return self.name is not None
        stop = self._agreement.due(done)
        if stop:
            self.name = self._agreement.reason
        return stop

    def _heard(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if self._agreement is None:
            self.name = name
            log.warning("%s: saving after this step, then stopping", name)
        else:
            self._agreement.ask(name)
            log.warning("%s: agreeing with the other hosts on the step to save and stop at", name)
        signal.signal(number, signal.SIG_DFL)

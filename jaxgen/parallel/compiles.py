"""Records compiles: how many, how long, and of what, so that an unexpected one is seen."""

from __future__ import annotations

import logging

import jax

log = logging.getLogger(__name__)

_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileLog:
    """Counts compiles from its creation on and logs those that take a second or more.

    Attributes:
      count: programs compiled or loaded from the compilation cache. seconds: time that it took.
    """

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self._cause = "start"
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def close(self) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._heard)

    def because(self, cause: str) -> None:
        """Names what is about to run, for the log."""
        self._cause = cause

    def _heard(self, event: str, seconds: float, **details: object) -> None:
        if event == _EVENT:
            self.count += 1
            self.seconds += seconds
            if seconds >= 1:
                name = details.get("fun_name", "a program")
                log.info("compiled %s in %.1f s (%s)", name, seconds, self._cause)

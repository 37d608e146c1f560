"""On which step all hosts stop when one of them is asked to."""

from __future__ import annotations

import threading
from typing import Any

from jaxgen.parallel.hosts import Hosts

_SECONDS = 30


class StopAgreement:
    """Finds the step without waiting for a device: the first that no host has begun.

    Whoever is asked tells the others. Each of them then holds its loop at its next step, says how far it is, and goes on when all
    have said so, to one step after the farthest. Until somebody is asked, a step costs taking a lock.

    Attributes:
      reason: why, once it is agreed.
    """

    def __init__(self, hosts: Hosts, start: int) -> None:
        self.reason: str | None = None
        self._hosts = hosts
        self._lock = threading.Lock()
        self._reached = start
        self._stop_at: int | None = None
        hosts.on("stop", self._agree)

    def ask(self, reason: str) -> None:
        """Asks all hosts to stop. Returns at once: it is called while a signal is handled."""
        threading.Thread(target=self._hosts.post, args=("stop",), kwargs={"reason": reason}, daemon=True).start()

    def due(self, done: int) -> bool:
        """Whether to stop after step `done`; every host calls this after each step."""
        with self._lock:
            self._reached = done
            return self._stop_at is not None and done >= self._stop_at

    def _agree(self, notice: dict[str, Any]) -> None:
        if self._stop_at is not None:
            return
        with self._lock:
            steps = self._hosts.gather("the step to stop at", str(self._reached), _SECONDS)
            self.reason = f"{notice['reason']} on host {notice['host']}"
            self._stop_at = max(map(int, steps)) + 1

"""A cloud where everything goes well, in print: what would be called, in order, by the code that would call it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

from launch import gcloud, wanted


class Printed:
    """Prints commands and answers as an ideal cloud does: requests are filled at once, jobs end well.

    Args:
      request: what is wanted; None for commands that look at what is there.
      name: of the request.
      say: takes a line to print.
    """

    def __init__(self, request: wanted.Request | None, name: str, say: Callable[[str], None]):
        self._request, self._name, self._say = request, name, say
        self._there = request is None
        self._attempts = "-"

    def run(self, words: tuple[str, ...]) -> gcloud.Result:
        """Prints one command, and returns what it would."""
        self._say(shlex.join(words))
        match words[3:5]:
            case ("queued-resources", "create"):
                self._there = True
            case ("queued-resources", "describe"):
                return self._described()
            case ("tpu-vm", "list"):
                hosts = self._request.slice.hosts if self._request else 1
                return gcloud.Result(
                    0, json.dumps([{"name": n, "state": "READY", "networkEndpoints": [{}] * hosts} for n in self._nodes])
                )
            case ("tpu-vm", "ssh"):
                return self._answered(words[words.index("--command") + 1])
        return gcloud.Result(0)

    def follow(self, words: tuple[str, ...], line: Callable[[str], None]) -> int:
        """Prints one command."""
        self._say(shlex.join(words))
        return 0

    @property
    def _nodes(self) -> tuple[str, ...]:
        return self._request.nodes if self._request else (self._name,)

    @property
    def _hosts(self) -> int:
        return self._request.slice.hosts if self._request else 1

    def _described(self) -> gcloud.Result:
        if not self._there:
            return gcloud.Result(1, err="ERROR: NOT_FOUND")
        count = {"multisliceParams": {"nodeCount": self._request.slices}} if self._request and self._request.slices > 1 else {}
        return gcloud.Result(0, json.dumps({"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [count]}}))

    def _answered(self, command: str) -> gcloud.Result:
        if "test -d" in command:
            return gcloud.Result(1)
        if started := re.search(r"worker\.sh start \S+ (\d+)", command):
            self._attempts = f"{started[1]}:exited:0:0"
        if asked := re.search(r"worker\.sh status (\d+)", command):
            rest = f"job=- busy=- now=0 attempts={self._attempts}"
            said = [f"jaxgen-host slice={asked[1]} host={host} {rest}" for host in range(self._hosts)]
            return gcloud.Result(0, "\n".join(said))
        return gcloud.Result(0)

"""The babysitter's loop: look, decide, act, wait. Each change of state is one line with the time."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable
from typing import Protocol

from launch import babysitter, cloud, failures, wanted
from launch.babysitter import Action, Decision, State

# Seconds between looks.
POLL = 30.0
# Seconds between deletion and recreation, and before a failed command is tried again; doubled each time in a row, up to the second.
BACKOFF, LONGEST = 30.0, 600.0
# Failed commands in a row before the babysitter gives up: a bit more than two hours. What fails on a host, an installation for
# example, mostly fails again, and chips are waiting.
TROUBLES, HOST_TROUBLES = 20, 3
# Seconds for saving before a job is killed.
STOPPING = 120


class Clock(Protocol):
    """Time, in seconds since 1970."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """This machine's clock."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def stamp(seconds: float) -> str:
    """A time as it stands in logs, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def backoff(times: int) -> float:
    """Seconds to wait before the next try after `times` in a row, at least 1."""
    return min(LONGEST, BACKOFF * 2 ** (times - 1))


class Watch:
    """Watches over one request, and a job on it, until there is nothing left to do.

    Args:
      cloud: the request.
      policy: how patient to be; `policy.job` is the job's name.
      job: what to start; None brings up the slices alone.
      archive: path of the job's code on this machine.
      clock: time.
      say: takes a line for the user.
    """

    def __init__(
        self,
        cloud: cloud.Cloud,
        policy: babysitter.Policy,
        job: wanted.Job | None,
        archive: str,
        clock: Clock,
        say: Callable[[str], None],
    ):
        self._cloud, self._policy, self._job, self._archive, self._clock, self._say = cloud, policy, job, archive, clock, say
        self._recreations = 0
        self._silent_since: float | None = None
        self._answered = False

    def run(self) -> Decision:
        """Goes on until the job is done, has failed for good, or cannot go on; returns that decision.

        Raises:
          BadInput: gcloud needs something from the user.
          failures.Failed: gcloud has failed too many times in a row.
        """
        said, troubles = None, 0
        while True:
            try:
                decision = babysitter.next_action(self._observe(), self._policy)
                if (decision.state, decision.reason) != said:
                    said = (decision.state, decision.reason)
                    self._tell(f"{decision.state.name}: {decision.reason or decision.state.value}")
                if decision.action in (Action.FINISH, Action.GIVE_UP):
                    return decision
                self._act(decision)
                troubles = 0
            except failures.Failed as trouble:
                troubles += 1
                if troubles > (HOST_TROUBLES if isinstance(trouble, failures.CommandFailed) else TROUBLES):
                    raise
                self._tell(f"{trouble}; again in {backoff(troubles):.0f} s")
                self._clock.sleep(backoff(troubles))

    def _observe(self) -> babysitter.Observation:
        seen = self._cloud.observe(self._policy.job)
        complete = len(seen.hosts) == seen.expected
        self._answered = self._answered or complete
        if seen.request != "ACTIVE" or complete:
            self._silent_since = None
            return seen
        now = self._clock.now()
        self._silent_since = now if self._silent_since is None else self._silent_since
        return dataclasses.replace(seen, silent=now - self._silent_since, answered=self._answered)

    def _act(self, decision: Decision) -> None:
        if decision.action is Action.CREATE:
            self._create()
        elif decision.action is Action.DELETE:
            self._recreations += 1
            self._tell(f"deleting the request; looking again in {backoff(self._recreations):.0f} s")
            self._cloud.delete()
            self._clock.sleep(backoff(self._recreations))
        elif decision.action is Action.STOP:
            self._tell("stopping what is left of the job")
            self._cloud.stop(STOPPING)
        elif decision.action is Action.START:
            assert self._job is not None
            self._tell(f"starting attempt {decision.attempt} of job {self._job.name}")
            self._cloud.ship(self._archive, self._job.code)
            self._cloud.start(self._job, decision.attempt)
            self._policy = dataclasses.replace(self._policy, again=False)
        if decision.state is State.RUNNING:
            self._recreations = 0
        if decision.action in (Action.WAIT, Action.START):
            self._clock.sleep(POLL)

    def _create(self) -> None:
        try:
            self._cloud.create()
        except failures.QuotaUsed as complaint:
            # What was deleted just now may not have been given back yet.
            if not self._recreations:
                raise
            raise failures.Failed(str(complaint)) from complaint

    def _tell(self, text: str) -> None:
        self._say(f"{stamp(self._clock.now())} {text}")

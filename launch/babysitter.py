"""What to do next with a request and its job, from what is seen of them alone: states, actions, and one pure function between.

Nothing is remembered that could not be seen again: the request and its nodes are asked from gcloud, the job from the files of its
attempts on the hosts. A babysitter that is killed and started again goes on.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable

from launch import hosts as files
from launch.hosts import Attempt, Host

# Saved and stopped; ended by SIGTERM or Ctrl-C before there was anything to save.
INTERRUPTIONS = (42, 143, 130)
# The service has taken these nodes away; they do not come back.
GONE = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDDEN", "HIDING", "MISSING")


class State(enum.Enum):
    """Where a request and its job are."""

    ABSENT = "no request"
    QUEUED = "waiting for chips"
    REFUSED = "the request cannot be fulfilled as it is"
    DELETING = "the request is being deleted"
    LOST = "the slices were taken away"
    UNREACHABLE = "hosts do not answer"
    READY = "slices are ready"
    OCCUPIED = "another job is running"
    STARTING = "the job is not on all hosts yet"
    RUNNING = "the job is running"
    ENDING = "the job has ended on some hosts"
    INTERRUPTED = "the job was interrupted"
    FAILING = "the job has failed"
    FAILED = "the job has failed for good"
    DONE = "the job is done"


class Action(enum.Enum):
    """What is done about it."""

    WAIT = "wait"
    CREATE = "create"
    DELETE = "delete"
    START = "start"
    STOP = "stop"
    FINISH = "finish"
    GIVE_UP = "give up"


@dataclasses.dataclass(frozen=True)
class Observation:
    """All that is seen at one time.

    Attributes:
      request: state of the queued resource as the cloud names it; ABSENT where there is none.
      refusal: why a FAILED request will fail again, where it will.
      nodes: states of the nodes as the cloud names them; MISSING where there is none.
      hosts: what each host that answers says.
      expected: number of hosts.
      silent: seconds since hosts stopped answering.
      answered: all hosts have answered since the babysitter has begun to watch.
    """

    request: str
    refusal: str | None = None
    nodes: tuple[str, ...] = ()
    hosts: tuple[Host, ...] = ()
    expected: int = 1
    silent: float = 0.0
    answered: bool = False


@dataclasses.dataclass(frozen=True)
class Policy:
    """How patient to be.

    Attributes:
      job: name of the job; None where the slices alone are wanted.
      failures: real failures in a row after which the job is started once more.
      losses: attempts in a row that may vanish without an exit code, on slices that stay, before that is a failure of the job.
      again: start the job anew once, although it has ended.
      replace: stop another job that is running.
      settle: seconds before a failure is believed. A preemption takes hosts away one by one, and those that are left fail before
        the cloud says so.
      grace: seconds in which the other hosts may save and end after the first has.
      silence: seconds after which hosts that do not answer are given up.
    """

    job: str | None
    failures: int = 0
    losses: int = 10
    again: bool = False
    replace: bool = False
    settle: float = 60.0
    grace: float = 600.0
    silence: float = 900.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """A state, what to do, the attempt that it is about (0: none) and the reason in words."""

    state: State
    action: Action
    attempt: int = 0
    reason: str = ""


def next_action(seen: Observation, policy: Policy) -> Decision:
    """What to do about what is seen."""
    request = _of_request(seen)
    if request is not None:
        return request
    if any(node in GONE for node in seen.nodes):
        return Decision(State.LOST, Action.DELETE, reason=f"nodes are {', '.join(sorted(set(seen.nodes)))}")
    if policy.job is None:
        if all(node == "READY" for node in seen.nodes):
            return Decision(State.READY, Action.FINISH)
        return Decision(State.QUEUED, Action.WAIT, reason=f"nodes are {', '.join(sorted(set(seen.nodes)))}")
    if len(seen.hosts) < seen.expected:
        return _of_silence(seen, policy)
    busy = sorted({host.busy for host in seen.hosts if host.busy and host.busy != policy.job})
    if busy:
        action = Action.STOP if policy.replace else Action.GIVE_UP
        return Decision(State.OCCUPIED, action, reason=f"job {', '.join(busy)} is running")
    return _of_job(seen.hosts, policy)


def verdict(hosts: tuple[Host, ...], number: int) -> tuple[State, str]:
    """How an attempt ended that no host is running any more: DONE, INTERRUPTED or FAILED, and why.

    The first host to fail, by the time in its exit file, tells: the others fail because it did.
    """
    ended = [(host, each) for host in hosts if (each := host.attempt(number))]
    lost = _lost(hosts, number)
    first = files.first_failure(hosts, number)
    if first is not None and first[1].code not in INTERRUPTIONS and not lost:
        return State.FAILED, f"host {first[0].label} failed first, with exit code {first[1].code}"
    if lost:
        return State.INTERRUPTED, f"gone without an exit code on {', '.join(lost)}"
    if first is not None:
        return State.INTERRUPTED, f"exit code {first[1].code} on host {first[0].label}"
    if len(ended) < len(hosts):
        return State.INTERRUPTED, "not started on all hosts"
    return State.DONE, ""


def _of_request(seen: Observation) -> Decision | None:
    """What follows from the request alone; None where it is active."""
    match seen.request:
        case "ACTIVE":
            return None
        case "ABSENT":
            return Decision(State.ABSENT, Action.CREATE)
        case "FAILED" if seen.refusal:
            return Decision(State.REFUSED, Action.GIVE_UP, reason=seen.refusal)
        case "FAILED" | "SUSPENDED":
            # They stay in the list, and hold quota, until they are deleted.
            return Decision(State.LOST, Action.DELETE, reason=f"the request is {seen.request}")
        case "SUSPENDING":
            return Decision(State.LOST, Action.WAIT, reason="the request is SUSPENDING")
        case "DELETING":
            return Decision(State.DELETING, Action.WAIT)
    return Decision(State.QUEUED, Action.WAIT, reason=f"the request is {seen.request}")


def _of_silence(seen: Observation, policy: Policy) -> Decision:
    said = f"{len(seen.hosts)} of {seen.expected} hosts answer"
    if not all(node == "READY" for node in seen.nodes):
        # A preempted node sometimes shows another state than PREEMPTED.
        return Decision(State.LOST, Action.DELETE, reason=f"nodes are {', '.join(sorted(set(seen.nodes)))}, {said}")
    if seen.silent >= policy.silence:
        # Hosts that have never answered may be well, behind a firewall; a new slice would answer no better.
        action = Action.DELETE if seen.answered else Action.GIVE_UP
        return Decision(State.LOST if seen.answered else State.UNREACHABLE, action, reason=f"{said} for {policy.silence:.0f} s")
    return Decision(State.UNREACHABLE, Action.WAIT, reason=said)


def _of_job(hosts: tuple[Host, ...], policy: Policy) -> Decision:
    """What follows from the newest attempt, on hosts that all answer."""
    newest = max((each.number for host in hosts for each in host.attempts), default=0)
    if newest == 0:
        return Decision(State.READY, Action.START, 1)
    entries = [host.attempt(newest) for host in hosts]
    running = [each for each in entries if each and each.state == "running"]
    ended = [(host, each) for host, each in zip(hosts, entries) if each and each.state != "running"]
    if not ended:
        if len(running) < len(hosts):
            return Decision(State.STARTING, Action.START, newest, f"on {len(running)} of {len(hosts)} hosts")
        return Decision(State.RUNNING, Action.WAIT, newest, f"attempt {newest} on {len(hosts)} hosts")
    state, reason = verdict(hosts, newest)
    age = _age(ended)
    if running:
        # Hosts may take their time after one that is done: evaluation does.
        patience = {State.FAILED: policy.settle, State.INTERRUPTED: policy.grace}.get(state, float("inf"))
        return Decision(State.ENDING, Action.STOP if age >= patience else Action.WAIT, newest, f"{reason}; {len(running)} running")
    if state is State.DONE:
        return Decision(state, *((Action.START, newest + 1) if policy.again else (Action.FINISH, newest)))
    if state is State.FAILED and age < policy.settle:
        return Decision(State.FAILING, Action.WAIT, newest, reason)
    if not policy.again and _spent(hosts, newest, policy):
        return Decision(State.FAILED, Action.GIVE_UP, newest, reason)
    return Decision(State.FAILING if state is State.FAILED else state, Action.START, newest + 1, reason)


def _spent(hosts: tuple[Host, ...], newest: int, policy: Policy) -> bool:
    """True where more attempts in a row have failed, or vanished, than the policy forgives."""

    def in_a_row(so: Callable[[int], bool]) -> int:
        return next((newest - number for number in range(newest, 0, -1) if not so(number)), newest)

    failed = in_a_row(lambda number: verdict(hosts, number)[0] is State.FAILED)
    return failed > policy.failures or in_a_row(lambda number: bool(_lost(hosts, number))) > policy.losses


def _lost(hosts: tuple[Host, ...], number: int) -> list[str]:
    """Hosts on which an attempt is gone without an exit code."""
    return [host.label for host in hosts if (each := host.attempt(number)) and each.state == "lost"]


def _age(ended: list[tuple[Host, Attempt]]) -> float:
    """Seconds since the first host's end, by that host's own clock; infinite where one is gone without an exit code."""
    return max(host.now - each.time if each.time is not None else float("inf") for host, each in ended)

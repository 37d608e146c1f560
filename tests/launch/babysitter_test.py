"""The table of what the babysitter does about what it sees."""

import dataclasses
import itertools

import pytest

from launch import babysitter, hosts, watch
from launch.babysitter import Action, Observation, Policy, State

JOB = "j"
NOW = 10_000.0


def host(number, *attempts, busy=None):
    """A host; attempts are exit codes with the seconds since, "running" or "lost"."""
    found = tuple(
        hosts.Attempt(n, "exited", each[0], NOW - each[1]) if isinstance(each, tuple) else hosts.Attempt(n, each)
        for n, each in enumerate(attempts, 1)
    )
    running = JOB if any(each == "running" for each in attempts) else None
    return hosts.Host(0, number, JOB, busy or running, NOW, found)


def active(*each, nodes=("READY",), **more):
    """An active request whose hosts have these attempts."""
    answers = tuple(host(number, *(one if isinstance(one, list) else [one])) for number, one in enumerate(each))
    return Observation("ACTIVE", nodes=nodes, hosts=answers, **{"expected": len(each), **more})


TABLE = {
    # The request.
    "no request": (Observation("ABSENT"), State.ABSENT, Action.CREATE, 0),
    "just made": (Observation("CREATING"), State.QUEUED, Action.WAIT, 0),
    "accepted": (Observation("ACCEPTED"), State.QUEUED, Action.WAIT, 0),
    "queued": (Observation("WAITING_FOR_RESOURCES"), State.QUEUED, Action.WAIT, 0),
    "provisioning": (Observation("PROVISIONING"), State.QUEUED, Action.WAIT, 0),
    "a state that is not known yet": (Observation("SOMETHING_NEW"), State.QUEUED, Action.WAIT, 0),
    "suspending": (Observation("SUSPENDING"), State.LOST, Action.WAIT, 0),
    "suspended": (Observation("SUSPENDED"), State.LOST, Action.DELETE, 0),
    "failed": (Observation("FAILED"), State.LOST, Action.DELETE, 0),
    "failed, and will again": (Observation("FAILED", refusal="--zone: ..."), State.REFUSED, Action.GIVE_UP, 0),
    "deleting": (Observation("DELETING"), State.DELETING, Action.WAIT, 0),
    # Nodes.
    "preempted": (active("running", nodes=("READY", "PREEMPTED")), State.LOST, Action.DELETE, 0),
    "preempted although done": (active((0, 5), nodes=("PREEMPTED",)), State.LOST, Action.DELETE, 0),
    "terminated": (active("running", nodes=("TERMINATED",)), State.LOST, Action.DELETE, 0),
    "a node is missing": (active("running", nodes=("READY", "MISSING")), State.LOST, Action.DELETE, 0),
    "repairing and answering": (active("running", nodes=("REPAIRING",)), State.RUNNING, Action.WAIT, 1),
    "repairing and silent": (active("running", nodes=("REPAIRING",), expected=2), State.LOST, Action.DELETE, 0),
    # Hosts that do not answer.
    "silent": (active("running", expected=2, silent=30.0), State.UNREACHABLE, Action.WAIT, 0),
    "silent for long": (active("running", expected=2, silent=900.0, answered=True), State.LOST, Action.DELETE, 0),
    "never answered": (active("running", expected=2, silent=900.0), State.UNREACHABLE, Action.GIVE_UP, 0),
    # The job.
    "nothing started": (active([], []), State.READY, Action.START, 1),
    "started on some": (active("running", []), State.STARTING, Action.START, 1),
    "restarted on some": (active([(42, 90), "running"], (42, 90)), State.STARTING, Action.START, 2),
    "running": (active("running", "running"), State.RUNNING, Action.WAIT, 1),
    "done": (active((0, 5), (0, 1)), State.DONE, Action.FINISH, 1),
    "done on some": (active((0, 5000), "running"), State.ENDING, Action.WAIT, 1),
    "preempted and saved": (active((42, 9), (42, 5)), State.INTERRUPTED, Action.START, 2),
    "ended by a signal": (active((143, 9), (42, 5)), State.INTERRUPTED, Action.START, 2),
    "saving on some": (active((42, 599), "running"), State.ENDING, Action.WAIT, 1),
    "saving never ends": (active((42, 600), "running"), State.ENDING, Action.STOP, 1),
    "the others fail because one was preempted": (active((1, 70), (42, 71)), State.INTERRUPTED, Action.START, 2),
    "failed just now": (active((1, 59), (1, 50)), State.FAILING, Action.WAIT, 1),
    "failed for good": (active((1, 61), (1, 50)), State.FAILED, Action.GIVE_UP, 1),
    "killed for its memory": (active((137, 61)), State.FAILED, Action.GIVE_UP, 1),
    "bad input": (active((2, 61)), State.FAILED, Action.GIVE_UP, 1),
    "one failed first, the others saved when stopped": (active((42, 61), (1, 70)), State.FAILED, Action.GIVE_UP, 1),
    "failed while others hang": (active((1, 61), "running"), State.ENDING, Action.STOP, 1),
    "failed just now while others run": (active((1, 59), "running"), State.ENDING, Action.WAIT, 1),
    "failed before the rest was started": (active((1, 61), []), State.FAILED, Action.GIVE_UP, 1),
    "done on one, not started on the other": (active((0, 61), []), State.INTERRUPTED, Action.START, 2),
    "machine restarted": (active("lost", "lost"), State.INTERRUPTED, Action.START, 2),
    "machine restarted while others hang": (active("lost", "running"), State.ENDING, Action.STOP, 1),
    "machine restarted, the others failed of it": (active("lost", (1, 61)), State.INTERRUPTED, Action.START, 2),
    "an earlier failure is forgiven after an interruption": (active([(1, 99), (42, 9)]), State.INTERRUPTED, Action.START, 3),
    "another job": (dataclasses.replace(active([]), hosts=(host(0, busy="k"),)), State.OCCUPIED, Action.GIVE_UP, 0),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    seen, state, action, attempt = TABLE[name]
    decision = babysitter.next_action(seen, Policy(JOB))
    assert (decision.state, decision.action, decision.attempt) == (state, action, attempt)


@pytest.mark.parametrize(
    "seen, state, action",
    [
        (active("running", nodes=("READY", "READY")), State.READY, Action.FINISH),
        (active("running", nodes=("READY", "CREATING")), State.QUEUED, Action.WAIT),
        (active("running", nodes=("READY", "PREEMPTED")), State.LOST, Action.DELETE),
        (Observation("ABSENT"), State.ABSENT, Action.CREATE),
    ],
)
def test_without_a_job_the_slices_are_all(seen, state, action):
    decision = babysitter.next_action(seen, Policy(job=None))
    assert (decision.state, decision.action) == (state, action)


def test_failures_in_a_row_are_forgiven_as_often_as_allowed():
    once, twice = active([(1, 200), "running"][:1]), active([(1, 200), (1, 90)])
    assert babysitter.next_action(once, Policy(JOB, failures=1)).action is Action.START
    assert babysitter.next_action(twice, Policy(JOB, failures=1)).action is Action.GIVE_UP
    apart = active([(1, 300), (42, 200), (1, 90)])
    assert babysitter.next_action(apart, Policy(JOB, failures=1)).action is Action.START


def test_an_attempt_that_always_vanishes_is_given_up():
    assert babysitter.next_action(active(["lost"] * 10), Policy(JOB)).action is Action.START
    assert babysitter.next_action(active(["lost"] * 11), Policy(JOB)).action is Action.GIVE_UP


@pytest.mark.parametrize("ended", [(0, 61), (1, 61)])
def test_again_starts_what_has_ended(ended):
    decision = babysitter.next_action(active(ended), Policy(JOB, again=True))
    assert (decision.action, decision.attempt) == (Action.START, 2)
    assert babysitter.next_action(active("running"), Policy(JOB, again=True)).action is Action.WAIT


def test_replace_stops_another_job():
    other = dataclasses.replace(active([]), hosts=(host(0, busy="k"),))
    assert babysitter.next_action(other, Policy(JOB, replace=True)).action is Action.STOP


def test_every_state_and_action_is_met_in_the_table():
    met = {(state, action) for _, state, action, _ in TABLE.values()}
    assert {state for state, _ in met} == set(State)
    assert {action for _, action in met} == set(Action)


def test_nothing_runs_twice_and_nothing_is_deleted_for_what_the_job_does():
    """Over all pairs of what two hosts may show: never a start beside what runs, never a deletion, always some end."""
    shown = ["running", "lost", (0, 5), (0, 700), (42, 5), (42, 700), (143, 700), (1, 5), (1, 700), []]
    for left, right in itertools.product(shown, repeat=2):
        decision = babysitter.next_action(active(left, right), Policy(JOB))
        assert decision.action in (Action.WAIT, Action.START, Action.STOP, Action.FINISH, Action.GIVE_UP)
        runs = "running" in (left, right)
        if runs and decision.action is Action.START:
            assert decision.attempt == 1 and [] in (left, right), "a start beside a running attempt only completes it"
        # Codes that differ, of the same moment, have no first.
        tied = isinstance(left, tuple) and isinstance(right, tuple) and left[1] == right[1]
        if not runs and not tied:
            swapped = babysitter.next_action(active(right, left), Policy(JOB))
            assert (swapped.state, swapped.action) == (decision.state, decision.action)
        if decision.action is Action.FINISH:
            assert left[0] == right[0] == 0


def test_waiting_grows_to_a_limit():
    waits = [watch.backoff(times) for times in range(1, 9)]
    assert waits[:3] == [30.0, 60.0, 120.0]
    assert waits[-1] == 600.0 and waits == sorted(waits)

"""The babysitter's loop: how long it waits, what it tries again, and what it says."""

import pytest

from jaxgen import bad_input
from launch import babysitter, failures, hosts, wanted, watch
from launch.babysitter import Observation, Policy, State

JOB = wanted.Job(("train", "configs/x.py"), "c0de")


def active(*attempts, silent=False):
    """One host with these attempts, or one that does not answer."""
    answer = hosts.Host(0, 0, JOB.name, None, 1000.0, tuple(hosts.Attempt(n, *each) for n, each in enumerate(attempts, 1)))
    return Observation("ACTIVE", nodes=("READY",), hosts=() if silent else (answer,), expected=1)


RUNNING, DONE = active(("running",)), active(("exited", 0, 900.0))


class Cloud:
    """Shows one observation after the other; notes what it is told, and fails as `failing` says."""

    def __init__(self, seen, failing=()):
        self.seen, self.failing, self.told = list(seen), list(failing), []

    def observe(self, job):
        return self.seen.pop(0)

    def __getattr__(self, name):
        def tell(*arguments):
            self.told.append((name, *arguments))
            if name == "create" and self.failing and (failure := self.failing.pop(0)):
                raise failure

        return tell

    @property
    def names(self):
        return [each[0] for each in self.told]


@pytest.fixture
def run(clock):
    said = []

    def watched(cloud, policy=Policy(JOB.name)):
        return watch.Watch(cloud, policy, JOB, "archive", clock, said.append).run()

    watched.said = said
    return watched


SUSPENDED, ABSENT = Observation("SUSPENDED"), Observation("ABSENT")


def test_recreations_in_a_row_wait_longer_and_a_running_job_ends_the_row(run, clock):
    cloud = Cloud([ABSENT, SUSPENDED, ABSENT, SUSPENDED, ABSENT, RUNNING, SUSPENDED, ABSENT, DONE])
    assert run(cloud).state is State.DONE
    assert cloud.names == ["create", "delete", "create", "delete", "create", "delete", "create"]
    # Before the second creation, the third, after looking at the running job, and before the fourth.
    assert clock.slept == [30.0, 60.0, watch.POLL, 30.0]


def test_quota_that_is_used_up_stops_a_first_creation(run):
    with pytest.raises(failures.QuotaUsed):
        run(Cloud([ABSENT], [failures.QuotaUsed("quota", "none", "more")]))


def test_quota_of_a_deleted_request_is_waited_for(run):
    cloud = Cloud([SUSPENDED, ABSENT, ABSENT, DONE], [failures.QuotaUsed("quota", "none", "more")])
    assert run(cloud).state is State.DONE
    assert cloud.names == ["delete", "create", "create"]


def test_what_the_user_must_change_stops_it_at_any_time(run):
    with pytest.raises(bad_input.BadInput):
        run(Cloud([SUSPENDED, ABSENT], [bad_input.BadInput("gcloud", "no login", "login")]))


def test_silence_is_timed_from_its_beginning(run, clock):
    silences = int(babysitter.Policy(None).silence / watch.POLL) + 1
    cloud = Cloud([RUNNING, active(silent=True), RUNNING, *[active(silent=True)] * silences, ABSENT, DONE])
    assert run(cloud).state is State.DONE
    assert cloud.names == ["delete", "create"]


def test_hosts_that_never_answer_are_not_deleted(run):
    cloud = Cloud([active(silent=True)] * 100)
    assert run(cloud).state is State.UNREACHABLE
    assert cloud.told == []


def test_again_is_meant_once(run):
    failed = [("exited", 1, 900.0)]
    cloud = Cloud([active(*failed), active(*failed * 2)])
    assert run(cloud, Policy(JOB.name, again=True)).state is State.FAILED
    assert cloud.told == [("ship", "archive", "c0de"), ("start", JOB, 2)]


def test_a_gcloud_that_always_fails_is_given_up(run, clock):
    with pytest.raises(failures.Failed, match="broken"):
        run(Cloud([ABSENT] * 100, [failures.Failed("broken")] * 100))
    assert len(clock.slept) == watch.TROUBLES and max(clock.slept) == watch.LONGEST


def test_a_request_that_stays_after_its_deletion_is_not_deleted_without_pause(run, clock):
    cloud = Cloud([SUSPENDED, SUSPENDED, SUSPENDED, ABSENT, DONE])
    run(cloud)
    assert clock.slept == [30.0, 60.0, 120.0]


def test_what_fails_on_a_host_is_tried_three_times_more(run, clock):
    with pytest.raises(failures.CommandFailed):
        run(Cloud([ABSENT] * 100, [failures.CommandFailed("no space left")] * 100))
    assert len(clock.slept) == watch.HOST_TROUBLES


def test_each_change_of_state_is_one_line_with_the_time(run):
    run(Cloud([ABSENT, Observation("PROVISIONING"), Observation("PROVISIONING"), RUNNING, RUNNING, DONE]))
    assert run.said == [
        "2023-11-14 22:13:20 ABSENT: no request",
        "2023-11-14 22:13:20 QUEUED: the request is PROVISIONING",
        "2023-11-14 22:14:20 RUNNING: attempt 1 on 1 hosts",
        "2023-11-14 22:15:20 DONE: the job is done",
    ]

"""The loop: what it logs and saves, when it stops, and that it reads a step only when the next one is queued."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from jaxgen import types
from jaxgen.training import loop, signals


class FakeReport:
    """Counts how many steps had been given to the device when it was read."""

    def __init__(self, step, number, finite):
        self._step, self.number, self._finite = step, number, finite
        self.metrics = {"loss": types.Mean(np.float32(number), np.float32(1)), "unseen": types.Mean(np.float32(0), np.float32(0))}

    @property
    def finite(self):
        self._step.read.append((self.number, self._step.given))
        return np.bool_(self._finite)


class FakeStep:
    def __init__(self, broken=None):
        self.given, self.read, self.broken = 0, [], broken

    def __call__(self, state, frozen, batch):
        self.given += 1
        return state, FakeReport(self, self.given, self.given != self.broken)

    def culprits(self, report):
        return ["model: loss", "model: gradient of a.kernel"]


class Batches:
    waited = 0.0

    def __init__(self, start=0, at=None, then=None):
        self.start, self.at, self.then = start, at, then

    def __iter__(self):
        number = self.start
        while True:
            if number == self.at:
                self.then()
            yield number, {}
            number += 1


def run(steps=10, start=0, broken=None, batches=None, **options):
    step, rows, saved = FakeStep(broken), [], []
    defaults = {"log_every": 3, "checkpoint_every": 4}
    made = loop.Loop(
        step=step,
        steps=steps,
        batch_size=2,
        write=lambda number, row: rows.append((number, row)),
        save=lambda number, state: saved.append(number),
        sample=lambda number, state: saved.append(f"sample {number}"),
        **(defaults | options),
    )
    with signals.StopRequest().listening() as stop:
        try:
            return (step, rows, saved, made.run("state", {}, batches or Batches(start), start, stop)[1])
        except loop.NotFinite as failure:
            return (step, rows, saved, failure)


def test_logs_and_saves_when_due_and_at_the_end():
    _, rows, saved, done = run(steps=10)
    assert [number for number, _ in rows] == [3, 6, 9, 10] and saved == [4, 8, 10] and done == 10
    assert rows[0][1]["loss"] == 3 and np.isnan(rows[0][1]["unseen"]) and rows[0][1]["perf/images_per_second"] > 0


def test_starts_where_it_is_told():
    step, rows, saved, done = run(steps=10, start=7)
    assert step.given == 3 and saved == [8, 10] and done == 10 and [number for number, _ in rows] == [9, 10]


def test_a_step_is_read_when_the_next_one_is_queued_unless_it_is_saved():
    step, _, saved, _ = run(steps=10)
    assert [number for number, _ in step.read] == list(range(1, 11)), "each once, in order"
    for number, given in step.read:
        assert given == (number if number in saved else number + 1)


@pytest.mark.parametrize("broken", [2, 4, 7, 10])
def test_a_step_that_is_not_finite_stops_the_run_before_it_is_saved(broken):
    _, rows, saved, failure = run(steps=10, broken=broken)
    assert isinstance(failure, loop.NotFinite)
    assert f"step {broken}: not finite: model: loss; model: gradient of a.kernel" in str(failure)
    assert all(number < broken for number in saved) and all(number < broken for number, _ in rows)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_where_it_is_and_stops(number):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    _, _, saved, done = run(steps=100, batches=Batches(at=5, then=lambda: os.kill(os.getpid(), number)))
    assert saved == [4, 6] and done == 6
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_hosts_stop_after_the_step_that_they_agree_on():
    class Agreement:
        reason, asked = "SIGTERM on host 3", []

        def due(self, done):
            self.asked.append(done)
            return done >= 6

    step, saved = FakeStep(), []
    made = loop.Loop(
        step=step,
        steps=100,
        batch_size=2,
        log_every=3,
        checkpoint_every=50,
        write=lambda number, row: None,
        save=lambda number, state: saved.append(number),
        sample=lambda number, state: None,
    )
    stop = signals.StopRequest(Agreement())
    assert made.run("state", {}, Batches(), 0, stop)[1] == 6
    assert saved == [6] and Agreement.asked == [1, 2, 3, 4, 5, 6] and stop.name == "SIGTERM on host 3"


def test_a_signal_is_told_to_the_other_hosts_and_does_not_stop_this_one_alone():
    asked = []
    agreement = SimpleNamespace(ask=asked.append, due=lambda done: False, reason=None)
    with signals.StopRequest(agreement).listening() as stop:
        stop.arm()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == ["SIGTERM"] and not stop.due(5) and stop.name is None


def test_samples_when_due_but_not_at_the_end():
    assert run(steps=8, sample_every=4, checkpoint_every=100)[2] == ["sample 4", 8]


def test_utilization_is_model_flops_over_peak():
    _, rows, _, _ = run(steps=3, step_flops=1e3, peak_flops=1e6)
    row = rows[0][1]
    assert row["perf/mfu"] == pytest.approx(1e-3 / row["time/step"])

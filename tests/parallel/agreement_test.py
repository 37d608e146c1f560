"""One step to stop at, whoever is asked and however far the others are."""

import concurrent.futures
import pathlib
import random
import sys
import threading
import time

import pytest

from jaxgen.parallel.agreement import StopAgreement
from jaxgen.parallel.hosts import Hosts

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from store import Store  # noqa: E402


class Loops:
    """Loops of several hosts, none of which gets more than two steps ahead of another, as with steps that exchange gradients."""

    def __init__(self, count, start=0, ask=None, seed=0):
        store = Store(count)
        self.hosts = [Hosts(i, count, store) for i in range(count)]
        self.agreements = [StopAgreement(host, start) for host in self.hosts]
        for host in self.hosts:
            host.listen()
        self.start, self.ask, self.seed = start, ask or {}, seed
        self.done = [start] * count
        self.moved = threading.Condition()

    def loop(self, index, steps=60):
        pace = random.Random(f"{self.seed} {index}")
        for step in range(self.start + 1, self.start + steps + 1):
            time.sleep(pace.random() * 0.004)
            with self.moved:
                self.moved.wait_for(lambda step=step: step - min(self.done) <= 2, 5)
                self.done[index] = step
                self.moved.notify_all()
            if self.ask.get(index) == step - self.start:
                self.agreements[index].ask("SIGTERM")
            if self.agreements[index].due(step):
                return step
        return None

    def run(self):
        with concurrent.futures.ThreadPoolExecutor(len(self.hosts)) as pool:
            return list(pool.map(self.loop, range(len(self.hosts))))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ask", [{1: 10}, {0: 10, 2: 11}, {0: 7, 1: 7, 2: 7, 3: 7}], ids=["one", "two", "all"])
def test_all_stop_after_the_same_step_soon_after_being_asked(ask, seed):
    loops = Loops(4, start=100, ask=ask, seed=seed)
    stops = loops.run()
    first = 100 + min(ask.values())
    assert len(set(stops)) == 1 and first <= stops[0] <= first + 20
    assert {agreement.reason for agreement in loops.agreements} <= {f"SIGTERM on host {index}" for index in ask}
    assert len({agreement.reason for agreement in loops.agreements}) == 1


def test_nobody_stops_unasked():
    assert Loops(3).run() == [None, None, None]

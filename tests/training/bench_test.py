"""The bench: its accounts add up on a simulated device with a clock of its own, and it runs one program on one state."""

import contextlib
import logging
import pathlib
import sys
import types as builtin_types

import jax
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.data import loader
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import bench, flops, loop
from jaxgen.training import step as steps

sys.path.insert(0, str(pathlib.Path(__file__).parent))
GAME = str(pathlib.Path(__file__).parent / "game_config.py")
TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
PREFETCH = 2
LEAD = PREFETCH + 1


class Machine:
    """A host and a device that computes steps in order, each `compute` seconds long, while the host goes on.

    Starting a step takes the host `start` seconds, a row of metrics `log`. The first `prefetch` batches are there, further
    ones come every `load` seconds. From step `broken` on, none is finite.
    """

    def __init__(self, start=0.0, compute=1.0, log=0.0, load=0.0, broken=None):
        self.now = self.free = 0.0
        self.start, self.compute, self.log, self.load, self.broken = start, compute, log, load, broken
        self.step, self.given, self.opened, self.rows = 0, [], [], []

    def clock(self):
        return self.now

    def until(self, time):
        self.now = max(self.now, time)

    # What the bench is given.

    def load_frozen(self, seed):
        return {}

    def initial(self, seed):
        return State(self, 0)

    def __call__(self, state, frozen, batch):
        assert state.step == self.step, "every step takes the state of the step before"
        self.step += 1
        self.given.append(batch)
        self.now += self.start
        self.free = max(self.free, self.now) + self.compute
        return State(self, self.step), Report(self, self.free, self.broken is None or self.step < self.broken)

    def culprits(self, report):
        assert isinstance(report, Report), "culprits are looked up in the step's own report"
        return ["model: loss"]

    @contextlib.contextmanager
    def open_batches(self, start):
        self.opened.append(start)
        yield Batches(self, start)

    def write(self, number, row):
        self.rows.append(number)
        self.now += self.log


class State:
    def __init__(self, machine, step):
        self._machine, self.step, self._done = machine, np.int32(step), machine.free

    def block_until_ready(self):
        self._machine.until(self._done)
        return self


class Report:
    def __init__(self, machine, done, finite):
        self._machine, self._done, self._finite = machine, done, finite
        self.metrics = {"loss": types.Mean(np.float32(1), np.float32(1))}

    @property
    def finite(self):
        self.block_until_ready()
        return np.bool_(self._finite)

    def block_until_ready(self):
        self._machine.until(self._done)
        return self


class Batches:
    def __init__(self, machine, start):
        self._machine, self._number, self._ready, self.waited = machine, start, [machine.now] * PREFETCH, 0.0

    def __iter__(self):
        return self

    def __next__(self):
        before = self._machine.now
        self._machine.until(self._ready.pop(0))
        self.waited += self._machine.now - before
        # The thread starts on another batch when a place is free and the last one is loaded.
        self._ready.append(max([self._machine.now, *self._ready[-1:]]) + self._machine.load)
        self._number += 1
        return self._number - 1, f"batch {self._number - 1}"


def measure(machine, monkeypatch, blocks=3, block_steps=10, log_every=5, **options):
    monkeypatch.setattr(flops, "per_example", lambda experiment, step: 1.0)
    experiment = builtin_types.SimpleNamespace(
        seed=0,
        data=builtin_types.SimpleNamespace(prefetch=PREFETCH, batch_size=4),
        training=builtin_types.SimpleNamespace(log_every=log_every),
    )
    return bench.training(
        experiment, machine, machine.open_batches, machine.write, blocks, block_steps, clock=machine.clock, **options
    )


MACHINES = {
    "device": dict(start=0.1, compute=1.0, log=0.3),
    "host": dict(start=1.0, compute=0.2, log=0.5),
    "input": dict(start=0.1, compute=1.0, log=0.3, load=2.0),
}


@pytest.mark.parametrize("speeds", MACHINES.values(), ids=MACHINES)
def test_the_parts_of_a_block_sum_to_the_whole(speeds, monkeypatch):
    machine = Machine(**speeds)
    times = measure(machine, monkeypatch)
    figures = times.figures(4, 8e12, None)
    for block in times.trainer:
        assert block.input_wait + block.compute + block.log + block.rest == pytest.approx(block.seconds)
        assert block.rest == pytest.approx(0), "no second is spent outside of what is watched"
        assert len(block.intervals) == 10
        # After the last step is seen finished there is its row to write.
        assert sum(block.intervals) == pytest.approx(block.seconds - machine.log)
    parts = ("input_wait", "compute", "log", "rest")
    assert sum(figures[f"{part}_ms"] for part in parts) == pytest.approx(figures["step_ms_mean"])
    assert sum(figures[f"{part}_share"] for part in parts) == pytest.approx(1)


def test_each_part_is_what_it_says(monkeypatch):
    # The host is the slower one, so all of its time counts and none of the device's.
    figures = measure(Machine(start=1.0, compute=0.5, log=0.5), monkeypatch, log_every=1).figures(4, 0, None)
    assert figures["compute_ms"] == pytest.approx(1000) and figures["log_ms"] == pytest.approx(500)
    assert figures["input_wait_ms"] == 0
    # Of the 3 s that each batch takes, the first one takes 1 s while the step before the block is computed. Batches that were
    # ready when the loader was opened are not among the timed ones.
    figures = measure(Machine(compute=1.0, load=3.0), monkeypatch).figures(4, 0, None)
    assert figures["input_wait_ms"] == pytest.approx(2900) and figures["compute_ms"] == pytest.approx(100)


def test_what_the_host_does_while_the_device_computes_costs_nothing(monkeypatch):
    machine = Machine(start=0.1, compute=1.0, log=0.4)
    times = measure(machine, monkeypatch, log_every=1)
    # But for filling and emptying: the last row is written when the device has nothing left to do, in the trainer alone.
    assert times.bare == pytest.approx([10.1] * 3)
    assert [block.seconds for block in times.trainer] == pytest.approx([10.5] * 3)
    assert times.figures(4, 0, None)["trainer_over_bare"] == pytest.approx(10.5 / 10.1)


def test_the_ratio_is_of_neighbouring_blocks_and_its_median_is_told():
    blocks = tuple(bench.TrainerBlock(seconds, (seconds / 2,) * 2, 0.0, seconds, 0.0) for seconds in (3.0, 10.0, 8.0))
    times = bench.TrainingTimes(blocks, (2.0, 4.0, 10.0), steps=2, finished=9, compile_seconds=0.0, late_compiles=0)
    figures = times.figures(4, 0, None)
    assert figures["trainer_over_bare_blocks"] == pytest.approx([1.5, 2.5, 0.8]) and figures["trainer_over_bare"] == 1.5
    assert figures["trainer_ms_blocks"] == pytest.approx([1500, 5000, 4000])
    assert figures["bare_ms_blocks"] == pytest.approx([1000, 2000, 5000])


def test_throughput_is_work_over_the_median_step():
    intervals = (1.0, 1.0, 2.0, 2.0, 2.0, 9.0)
    blocks = (bench.TrainerBlock(17.0, intervals, 0.0, 17.0, 0.0),)
    times = bench.TrainingTimes(blocks, (17.0,), steps=6, finished=9, compile_seconds=0.0, late_compiles=0)
    figures = times.figures(32, 5e12, 20e12)
    assert figures["step_ms_median"] == pytest.approx(2000) and 2000 < figures["step_ms_p95"] <= 9000
    assert figures["images_per_second"] == pytest.approx(32 / 2)
    assert figures["model_tflop"] == pytest.approx(5) and figures["tflop_per_second"] == pytest.approx(5 / 2)
    assert figures["mfu"] == pytest.approx(5 / 2 / 20)
    assert times.figures(32, 5e12, None)["mfu"] is None


@pytest.mark.parametrize("blocks, block_steps", [(1, 1), (2, 3), (5, 20)])
def test_as_many_blocks_and_steps_as_asked_for_on_one_state(blocks, block_steps, monkeypatch):
    machine = Machine()
    times = measure(machine, monkeypatch, blocks, block_steps)
    assert len(times.trainer) == len(times.bare) == blocks
    assert all(len(block.intervals) == block_steps for block in times.trainer)
    # One step that compiles, and before each block some of its own kind.
    assert times.finished == machine.step == 1 + 2 * blocks * (LEAD + block_steps)
    each = LEAD + block_steps
    first = machine.opened[1:]
    assert first == [1 + each * (2 * pair + pair % 2) for pair in range(blocks)], "each loader starts where the state stands"
    for start in first:
        assert machine.given[start : start + each] == [f"batch {number}" for number in range(start, start + each)]
    assert machine.given.count("batch 0") == 1 + blocks * each, "bare steps take one batch again and again"


def test_the_loop_logs_as_configured(monkeypatch):
    machine = Machine()
    measure(machine, monkeypatch, blocks=1, block_steps=10, log_every=4)
    assert machine.rows == [4, 8, 12, 14], "every fourth, and the last of the block and of the steps before it"


@pytest.mark.parametrize(
    "broken, said",
    [
        pytest.param(1, "by step 1", id="the first step"),
        pytest.param(9, "step 9", id="in the trainer's block"),
        pytest.param(16, "by step 17", id="before the bare block"),
        pytest.param(27, "by step 27", id="the last step"),
    ],
)
def test_a_step_that_is_not_finite_ends_the_bench(broken, said, monkeypatch):
    with pytest.raises(loop.NotFinite, match=f"^{said}: not finite: model: loss"):
        measure(Machine(broken=broken), monkeypatch, blocks=1)


def test_the_loop_does_not_tell_its_progress_and_does_so_again_afterwards(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "jaxgen")
    monkeypatch.setattr(loop.log, "level", logging.DEBUG)
    measure(Machine(), monkeypatch, blocks=2)
    assert loop.log.level == logging.DEBUG
    assert [record.name for record in caplog.records] == ["jaxgen.training.bench"] * 2


def test_calls_are_timed_after_two_that_are_not():
    machine, made = Machine(), []

    def call():
        made.append(None)
        machine.now += 100.0 if len(made) <= 2 else float(len(made))

    times = bench.calls(call, 4, machine.clock)
    assert times.seconds == (3.0, 4.0, 5.0, 6.0)
    figures = times.figures(9, 18e12, 8e12)
    assert figures["call_ms_median"] == pytest.approx(4500) and figures["call_ms_mean"] == pytest.approx(4500)
    assert figures["images_per_second"] == pytest.approx(2) and figures["mfu"] == pytest.approx(0.5)


@pytest.mark.parametrize("counts", [(0, 1), (1, 0)])
def test_nothing_to_time_is_refused(counts, monkeypatch):
    with pytest.raises(ValueError, match="found 0, needed at least 1"):
        measure(Machine(), monkeypatch, *counts)
    with pytest.raises(ValueError, match="found 0, needed at least 1"):
        bench.calls(lambda: None, 0)


def test_memory_is_that_of_the_fullest_device_or_of_the_process():
    def mesh(*stats):
        devices = [builtin_types.SimpleNamespace(memory_stats=lambda found=found: found) for found in stats]
        return builtin_types.SimpleNamespace(local_devices=devices)

    assert bench.peak_memory(mesh({"peak_bytes_in_use": 3}, {"peak_bytes_in_use": 5})) == (5, "device")
    for silent in (mesh(None, None), mesh({"bytes_limit": 7})):
        held, holder = bench.peak_memory(silent)
        assert holder == "process"
        assert held > 50e6, "Python with JAX holds more than that"


@pytest.mark.parametrize(
    "reference, overrides",
    [(TINY, ["model=jaxgen.models.dit:DiT", "model.width=16", "model.depth=1"]), (GAME, ["mesh.data=1"])],
    ids=["one program", "with a host function between"],
)
def test_trainer_and_bare_steps_run_the_same_program_on_real_data(reference, overrides):
    experiment = experiments.load(reference, overrides)[0]
    mesh = meshes.build(experiment.mesh, jax.devices()[:1])
    data, layout, rows = experiment.data, sharding.batch_sharding(mesh), []
    examples = data.open("train", 0, shuffle=True)
    with jax.set_mesh(mesh):
        built = steps.build(experiment, mesh)
        times = bench.training(
            experiment,
            built,
            lambda start: loader.batches(examples, data.features(), data.batch_size, layout, start, data.prefetch),
            lambda number, row: rows.append((number, row)),
            blocks=2,
            block_steps=3,
        )
    assert times.late_compiles == 0 and times.compile_seconds > 0
    assert built.update._cache_size() == 1
    assert times.finished == 1 + 2 * 2 * (data.prefetch + 1 + 3)
    assert rows[-1][0] <= times.finished and np.isfinite(rows[-1][1]["loss"])
    for block in times.trainer:
        assert block.seconds > 0 and min(block.intervals) >= 0
        assert min(block.input_wait, block.compute, block.log, block.rest) >= 0

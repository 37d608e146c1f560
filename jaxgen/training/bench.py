"""The bench: how long the trainer's step takes, where the host's time goes, and what the loop costs over the bare step.

The trainer is the loop itself, with its data, late reading and metrics. The bare step is the same compiled program on one batch
that stays on the device, waited for once, at the end of a block. Blocks of both take turns in one process on one state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.parallel import compiles
from jaxgen.training import flops, loop, signals
from jaxgen.training import step as steps
from jaxgen.training.state import State

log = logging.getLogger(__name__)

Clock = Callable[[], float]
OpenBatches = Callable[[int], contextlib.AbstractContextManager[loop.Batches]]


@dataclasses.dataclass(frozen=True)
class TrainerBlock:
    """One block of steps through the loop. Times in seconds, of the host: while it logs, the device has a step to do.

    Attributes:
      seconds: from before the first step until the last one is done and logged.
      intervals: [steps], from one step seen finished to the next; the first from the block's start.
      input_wait: waiting for batches.
      compute: starting steps and waiting for them.
      log: fetching metrics and writing rows.
    """

    seconds: float
    intervals: tuple[float, ...]
    input_wait: float
    compute: float
    log: float

    @property
    def rest(self) -> float:
        """What is left: the loop's own bookkeeping, among it waits for the interpreter where the loader's thread has it."""
        return self.seconds - self.input_wait - self.compute - self.log


@dataclasses.dataclass(frozen=True)
class TrainingTimes:
    """What `training` measured.

    Attributes:
      trainer: blocks of the loop.
      bare: seconds of each block of bare steps; block i was run beside trainer block i.
      steps: in a block.
      finished: steps that the state has behind it at the end, untimed ones included.
      compile_seconds: compiling the step, or loading it from the compilation cache.
      late_compiles: programs compiled after the first step; there should be none.
    """

    trainer: tuple[TrainerBlock, ...]
    bare: tuple[float, ...]
    steps: int
    finished: int
    compile_seconds: float
    late_compiles: int

    def ratios(self) -> list[float]:
        """Trainer over bare, by pair of blocks."""
        return [block.seconds / seconds for block, seconds in zip(self.trainer, self.bare, strict=True)]

    def figures(self, batch_size: int, step_flops: float, peak_flops: float | None) -> dict[str, Any]:
        """Figures by name: milliseconds, shares of the mean step, images/s and TFLOP/s at the median step.

        Args:
          batch_size: images in a step. step_flops: model FLOPs of a step. peak_flops: FLOP/s of the mesh; None where unknown.
        """
        count = len(self.trainer) * self.steps
        intervals = [interval for block in self.trainer for interval in block.intervals]
        mean = sum(block.seconds for block in self.trainer) / count
        parts = {
            name: sum(getattr(block, name) for block in self.trainer) / count for name in ("input_wait", "compute", "log", "rest")
        }
        ratios = self.ratios()
        return {
            **_spread("step_ms", intervals, 1e3),
            "step_ms_mean": 1e3 * mean,
            **{f"{name}_ms": 1e3 * seconds for name, seconds in parts.items()},
            **{f"{name}_share": seconds / mean for name, seconds in parts.items()},
            **_throughput(float(np.median(intervals)), batch_size, step_flops, peak_flops),
            "trainer_over_bare": float(np.median(ratios)),
            "trainer_over_bare_blocks": ratios,
            "trainer_ms_blocks": [1e3 * block.seconds / self.steps for block in self.trainer],
            "bare_ms_blocks": [1e3 * seconds / self.steps for seconds in self.bare],
            "steps_finished": self.finished,
            "compile_seconds": self.compile_seconds,
            "late_compiles": self.late_compiles,
        }


@dataclasses.dataclass(frozen=True)
class CallTimes:
    """What `calls` measured.

    Attributes:
      seconds: of each timed call.
      compile_seconds: compiling in the first call, or loading from the compilation cache.
      late_compiles: programs compiled after the first call; there should be none.
    """

    seconds: tuple[float, ...]
    compile_seconds: float
    late_compiles: int

    def figures(self, images: int, call_flops: float, peak_flops: float | None) -> dict[str, Any]:
        """Figures by name: milliseconds, images/s and TFLOP/s at the median call.

        Args:
          images: in a call. call_flops: model FLOPs of a call. peak_flops: FLOP/s of the mesh; None where unknown.
        """
        return {
            **_spread("call_ms", self.seconds, 1e3),
            "call_ms_mean": 1e3 * float(np.mean(self.seconds)),
            **_throughput(float(np.median(self.seconds)), images, call_flops, peak_flops),
            "compile_seconds": self.compile_seconds,
            "late_compiles": self.late_compiles,
        }


def training(
    experiment: experiments.Experiment,
    step: steps.Step,
    open_batches: OpenBatches,
    write: Callable[[int, dict[str, Any]], None],
    blocks: int,
    block_steps: int,
    peak_flops: float | None = None,
    clock: Clock = time.perf_counter,
) -> TrainingTimes:
    """Times `blocks` pairs of blocks, trainer and bare, of `block_steps` steps each. Call within `jax.set_mesh(step.mesh)`.

    Before each block, some steps of its own kind are run untimed, one more than batches are prepared ahead: they use up the
    start of the loader and leave it as it is in the middle of a run. In a block the loop's last step is always logged, so
    where `training.log_every` does not divide the block, slightly more is logged than in a run.

    Args:
      open_batches: opens the loader at a step.
      write: takes rows of metrics, as the loop's.
      peak_flops: FLOP/s of the mesh; None where unknown.
      clock: in seconds.

    Raises:
      NotFinite: a step was not finite.
      ValueError: no blocks, or no steps.
    """
    _require(blocks=blocks, block_steps=block_steps)
    heard = compiles.CompileLog()
    with contextlib.closing(heard), _without_progress():
        heard.because("starting")
        frozen = step.load_frozen(np.uint32(experiment.seed))
        state = step.initial(np.uint32(experiment.seed))
        with open_batches(0) as batches:
            _, resident = next(iter(batches))
        before = heard.seconds
        heard.because("the first step")
        state, report = jax.block_until_ready(step(state, frozen, resident))
        compile_seconds, compiled = heard.seconds - before, heard.count
        _require_finite(step, 1, report)
        heard.because("timed steps: this should not happen")

        bench = _Bench(experiment, step, frozen, resident, open_batches, write, peak_flops, clock, state)
        trainer, bare = [], []
        for number in range(blocks):
            # Who goes first changes, so that a machine that slows down while it warms up favours neither.
            for kind in ("trainer", "bare") if number % 2 == 0 else ("bare", "trainer"):
                if kind == "trainer":
                    trainer.append(bench.trainer(block_steps))
                else:
                    bare.append(bench.bare(block_steps))
            shown = (1e3 * trainer[-1].seconds / block_steps, 1e3 * bare[-1] / block_steps, trainer[-1].seconds / bare[-1])
            log.info("blocks %d of %d: trainer %.2f ms, bare %.2f ms a step, ratio %.3f", number + 1, blocks, *shown)
        finished = int(jax.device_get(bench.state.step))
        return TrainingTimes(tuple(trainer), tuple(bare), block_steps, finished, compile_seconds, heard.count - compiled)


def calls(call: Callable[[], Any], count: int, clock: Clock = time.perf_counter) -> CallTimes:
    """Times `count` calls of a function that returns when its work is done, after one that compiles and one that warms up.

    Raises:
      ValueError: no calls.
    """
    _require(count=count)
    heard = compiles.CompileLog()
    with contextlib.closing(heard):
        heard.because("the first call")
        call()
        compile_seconds, compiled = heard.seconds, heard.count
        heard.because("timed calls: this should not happen")
        call()
        seconds = []
        for _ in range(count):
            began = clock()
            call()
            seconds.append(clock() - began)
        return CallTimes(tuple(seconds), compile_seconds, heard.count - compiled)


def peak_memory(mesh: jax.sharding.Mesh) -> tuple[int, str]:
    """(bytes, of what): the most that any device of the mesh held, or that the process did where devices do not say."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    peaks = [found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found]
    if peaks:
        return max(peaks), "device"
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"


@dataclasses.dataclass
class _Bench:
    """Runs blocks on one state, which every step donates."""

    experiment: experiments.Experiment
    step: steps.Step
    frozen: dict[str, types.PyTree]
    resident: types.Batch
    open_batches: OpenBatches
    write: Callable[[int, dict[str, Any]], None]
    peak_flops: float | None
    clock: Clock
    state: State

    def __post_init__(self) -> None:
        self.lead = self.experiment.data.prefetch + 1
        self.step_flops = flops.per_example(self.experiment, self.step) * self.experiment.data.batch_size

    def trainer(self, count: int) -> TrainerBlock:
        start = int(jax.device_get(self.state.step))
        # Opened anew each time: no batches pile up, and nothing is loaded, while bare steps are timed.
        with self.open_batches(start) as batches:
            self._loop(self.lead, start, batches)
            return self._loop(count, start + self.lead, batches)

    def bare(self, count: int) -> float:
        self._steps(self.lead)
        return self._steps(count)

    def _loop(self, count: int, start: int, batches: loop.Batches) -> TrainerBlock:
        watched = _WatchedStep(self.step, self.clock)
        waited = batches.waited

        def write(number: int, row: dict[str, Any]) -> None:
            self.write(number, row)
            watched.logged()

        made = loop.Loop(
            step=watched,
            steps=start + count,
            log_every=self.experiment.training.log_every,
            checkpoint_every=start + count,
            batch_size=self.experiment.data.batch_size,
            write=write,
            save=lambda number, state: None,
            sample=lambda number, state: None,
            step_flops=self.step_flops,
            peak_flops=self.peak_flops,
        )
        began = self.clock()
        self.state, _ = made.run(self.state, self.frozen, batches, start, _Unheeding())
        jax.block_until_ready(self.state)
        seconds = self.clock() - began
        intervals = np.diff([began, *watched.finished]).tolist()
        return TrainerBlock(seconds, tuple(intervals), batches.waited - waited, watched.compute, watched.log)

    def _steps(self, count: int) -> float:
        began = self.clock()
        for _ in range(count):
            self.state, report = self.step(self.state, self.frozen, self.resident)
        jax.block_until_ready((self.state, report))
        seconds = self.clock() - began
        _require_finite(self.step, int(jax.device_get(self.state.step)), report)
        return seconds


class _WatchedStep:
    """Stands in for the step and notes when the loop starts one, waits for it and reads its metrics.

    Attributes:
      finished: when each step was seen finished.
      compute, log: see `TrainerBlock`.
    """

    def __init__(self, step: steps.Step, clock: Clock) -> None:
        self._step, self._clock = step, clock
        self._reading = 0.0
        self.finished: list[float] = []
        self.compute = self.log = 0.0

    def __call__(self, state: State, frozen: dict[str, types.PyTree], batch: types.Batch) -> tuple[State, _WatchedReport]:
        began = self._clock()
        state, report = self._step(state, frozen, batch)
        self.compute += self._clock() - began
        return state, _WatchedReport(report, self)

    def culprits(self, report: _WatchedReport) -> list[str]:
        return self._step.culprits(report.report)

    def wait(self, report: steps.Report) -> np.ndarray:
        began = self._clock()
        finite = jax.device_get(report.finite)
        self.finished.append(self._clock())
        self.compute += self.finished[-1] - began
        return finite

    def read(self, report: steps.Report) -> types.Metrics:
        self._reading = self._clock()
        return report.metrics

    def logged(self) -> None:
        """To be called when what was read last has been written."""
        self.log += self._clock() - self._reading


@dataclasses.dataclass(frozen=True)
class _WatchedReport:
    """A report whose fields tell when the loop asks for them: `finite` of every step, `metrics` of those that are logged."""

    report: steps.Report
    watched: _WatchedStep

    @property
    def finite(self) -> np.ndarray:
        return self.watched.wait(self.report)

    @property
    def metrics(self) -> types.Metrics:
        return self.watched.read(self.report)


class _Unheeding(signals.StopRequest):
    """Signals act as usual: there is nothing to save."""

    def arm(self) -> None:
        pass


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """Keeps the loop from telling its progress at the end of every block."""
    level = loop.log.level
    loop.log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        loop.log.setLevel(level)


def _require_finite(step: steps.Step, number: int, report: steps.Report) -> None:
    if not jax.device_get(report.finite):
        raise loop.NotFinite(f"by step {number}: not finite: {'; '.join(step.culprits(report)[:6])}")


def _require(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: found {count}, needed at least 1")


def _spread(name: str, seconds: Sequence[float], unit: float) -> dict[str, float]:
    return {f"{name}_median": unit * float(np.median(seconds)), f"{name}_p95": unit * float(np.percentile(seconds, 95))}


def _throughput(seconds: float, images: int, model_flops: float, peak_flops: float | None) -> dict[str, float | None]:
    return {
        "images_per_second": images / seconds,
        "model_tflop": model_flops / 1e12,
        "tflop_per_second": model_flops / seconds / 1e12,
        "mfu": None if peak_flops is None else model_flops / seconds / peak_flops,
    }

"""The one training loop: next batch, step, log, save. It never waits for the newest step."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
import tqdm

from jaxgen import types
from jaxgen.training.profile import Profile
from jaxgen.training.signals import StopRequest
from jaxgen.training.state import State
from jaxgen.training.step import Report, Step

log = logging.getLogger(__name__)


class NotFinite(ArithmeticError):
    """A step's loss or gradient was not finite. The state is that of the last finite step and was not saved."""


class Batches(Protocol):
    """Iterator of (step, batch); `waited` is the time in seconds spent waiting for it."""

    waited: float

    def __iter__(self) -> Iterator[tuple[int, types.Batch]]: ...


@dataclasses.dataclass
class Loop:
    """What the loop is given besides state and data.

    Attributes:
      step: the built step.
      steps, log_every, checkpoint_every, batch_size: see `Training` and `Data`.
      write: takes the number of finished steps and its row of metrics.
      save: takes the number of finished steps and the state; returns when the arrays have been copied.
      sample: takes the same at every `sample_every` steps (0: never).
      step_flops, peak_flops: model FLOPs of a step, and FLOP/s of the mesh where known.
      profile: traces some of the steps.
    """

    step: Step
    steps: int
    log_every: int
    checkpoint_every: int
    batch_size: int
    write: Callable[[int, dict[str, Any]], None]
    save: Callable[[int, State], None]
    sample: Callable[[int, State], None]
    sample_every: int = 0
    step_flops: float = 0.0
    peak_flops: float | None = None
    profile: Profile | None = None

    def run(
        self, state: State, frozen: dict[str, types.PyTree], batches: Batches, start: int, stop: StopRequest
    ) -> tuple[State, int]:
        """Trains from `start` finished steps to the end, or until `stop`; returns the state and the finished steps.

        The last state is saved. Reports are read one step late, so the device always has a step queued.

        Raises:
          NotFinite: naming the step and what was not finite; nothing was saved since the last good checkpoint.
        """
        self._bar = tqdm.tqdm(total=self.steps, initial=start, unit="step", disable=None, leave=False)
        self._since, self._since_step, self._waited, self._told = time.perf_counter(), start, batches.waited, 0.0
        late: tuple[int, Report] | None = None
        done = start
        with self._bar, jax.transfer_guard("disallow"):
            for number, batch in batches:
                done = number + 1
                if self.profile is not None:
                    self.profile.before(done, state)
                with jax.profiler.StepTraceAnnotation("train", step_num=done):
                    state, report = self.step(state, frozen, batch)
                if self.profile is not None:
                    self.profile.after(done, state)
                if late is not None:
                    self._read(*late, batches)
                    stop.arm()
                late = (done, report)
                last = done == self.steps or stop.due(done)
                if last or done % self.checkpoint_every == 0 or (self.sample_every and done % self.sample_every == 0):
                    self._read(*late, batches)
                    late = None
                    stop.arm()
                    if last or done % self.checkpoint_every == 0:
                        self.save(done, state)
                    if self.sample_every and done % self.sample_every == 0 and not last:
                        with jax.transfer_guard("allow"):
                            self.sample(done, state)
                        # Drawing is not a step's time.
                        self._since, self._since_step, self._waited = time.perf_counter(), done, batches.waited
                if last:
                    break
        return state, done

    def _read(self, done: int, report: Report, batches: Batches) -> None:
        """Stops on a step that was not finite; logs it where it is due."""
        if not jax.device_get(report.finite):
            culprits = self.step.culprits(report)
            shown = "; ".join(culprits[:6]) + (f"; and {len(culprits) - 6} more" if len(culprits) > 6 else "")
            raise NotFinite(
                f"step {done}: not finite: {shown}. The state was left as after step {done - 1}; nothing was saved from it"
            )
        self._bar.update(done - self._bar.n)
        if done % self.log_every and done != self.steps:
            return
        with np.errstate(invalid="ignore"):  # a mean over nothing is NaN, and null in the log
            values = {name: float(mean.value()) for name, mean in jax.device_get(report.metrics).items()}
        now = time.perf_counter()
        count = max(done - self._since_step, 1)
        seconds = (now - self._since) / count
        row: dict[str, Any] = dict(sorted(values.items()))
        row["time/step"] = seconds
        row["time/input_wait"] = (batches.waited - self._waited) / count
        row["perf/images_per_second"] = self.batch_size / seconds
        if self.peak_flops is not None:
            row["perf/mfu"] = self.step_flops / seconds / self.peak_flops
        self._since, self._since_step, self._waited = now, done, batches.waited
        self.write(done, row)
        shown = {
            "loss": f"{row['loss']:.4f}",
            "images/s": f"{row['perf/images_per_second']:.0f}",
            "input": f"{row['time/input_wait'] / seconds:.0%}",
        }
        if "perf/mfu" in row:
            shown["MFU"] = f"{row['perf/mfu']:.1%}"
        self._bar.set_postfix(shown)
        # Where there is no terminal to draw a bar on, a line now and then.
        if self._bar.disable and (now - self._told > 10 or done == self.steps):
            self._told = now
            log.info("step %d of %d: %s", done, self.steps, ", ".join(f"{name} {value}" for name, value in shown.items()))

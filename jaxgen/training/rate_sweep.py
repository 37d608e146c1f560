"""A sweep of learning rates: short training runs by rate and seed, one compile for all of an experiment, kept as they finish."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import jaxgen
from jaxgen import experiment as experiments
from jaxgen import run
from jaxgen.training import coordinate_check, rate_optimum, traced_rate
from jaxgen.training import step as steps

log = logging.getLogger(__name__)

# Names on which a loss does not depend.
_WITHOUT_EFFECT = (
    "optimizer.learning_rate",
    "sampler",
    "evaluation",
    "mesh",
    "data.prefetch",
    "data.source.directory",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep",
    "training.sample_every",
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One finished run.

    Attributes:
      loss: mean over the last fifth of the steps; infinite where the run was not finite. seconds: what it took, compiling aside.
    """

    loss: float
    seconds: float


class Cells:
    """Finished runs by experiment, rate and seed in one JSON file, written anew after each: a sweep goes on where it stopped.

    Attributes:
      asked: by key, the runs asked for through this object, whether trained now or before.
    """

    def __init__(self, path: Any) -> None:
        self._path = path
        text = path.read_text() if path.is_file() else "{}"
        self._found = {key: Cell(math.inf if c["loss"] is None else c["loss"], c["seconds"]) for key, c in json.loads(text).items()}
        self.asked: dict[str, Cell] = {}

    def get(self, key: str) -> Cell | None:
        cell = self._found.get(key)
        if cell is not None:
            self.asked[key] = cell
        return cell

    @property
    def seconds(self) -> float:
        """What the runs asked for took to train, whenever they ran."""
        return sum(cell.seconds for cell in self.asked.values())

    def put(self, key: str, cell: Cell) -> None:
        self._found[key] = cell
        self.asked[key] = cell
        rows = {k: {"loss": c.loss if math.isfinite(c.loss) else None, "seconds": c.seconds} for k, c in self._found.items()}
        run.write_whole(self._path, (json.dumps(rows, indent=0) + "\n").encode())


def key(experiment: experiments.Experiment, rate: float, seed: int) -> str:
    """Names a run by everything that its loss depends on, the code aside: of that only the version counts."""
    leaves = experiments.flatten(experiment) | {"jaxgen": jaxgen.__version__}
    kept = {n: v for n, v in leaves.items() if not any(n == out or n.startswith(f"{out}.") for out in _WITHOUT_EFFECT)}
    digest = hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()
    return f"{digest} rate {float(rate).hex()} seed {seed}"


class Sweep:
    """Trains one experiment at any rate and seed by the ordinary step, which is compiled once, at the first run that is not kept.

    With the same seed, runs at all rates, and at all widths, see the same examples and the same noise.

    Args:
      experiment: its optimizer's learning rate is replaced by those asked for; a schedule and warm-up stay, relative to it.
      open_batches: opens the loader anew at step 0.
      done: called after each run, also where it was kept.
    """

    def __init__(
        self,
        experiment: experiments.Experiment,
        mesh: jax.sharding.Mesh,
        open_batches: Callable[[], Any],
        cells: Cells,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self.experiment = experiment
        self._mesh, self._open_batches, self._cells, self._done = mesh, open_batches, cells, done
        self._built: steps.Step | None = None

    @property
    def built(self) -> steps.Step:
        """The step, with the rate in its state."""
        if self._built is None:
            held = traced_rate.TracedRate(self.experiment.optimizer)
            self._built = steps.build(dataclasses.replace(self.experiment, optimizer=held), self._mesh)
        return self._built

    def loss(self, rate: float, seed: int) -> float:
        """Loss after `training.steps` steps: the mean over the last fifth of them; infinite where training was not finite."""
        name = key(self.experiment, rate, seed)
        cell = self._cells.get(name)
        if cell is None:
            state = traced_rate.with_rate(self.built.initial(np.uint32(seed)), rate)
            frozen = self.built.load_frozen(np.uint32(seed))
            jax.block_until_ready(state)
            start = time.perf_counter()
            with self._open_batches() as batches:
                loss = coordinate_check.final_loss(self.built, state, frozen, batches, self.experiment.training.steps)
            cell = Cell(loss if math.isfinite(loss) else math.inf, time.perf_counter() - start)
            self._cells.put(name, cell)
        self._done()
        return cell.loss

    def losses(self, rates: Sequence[float], seeds: Sequence[int]) -> np.ndarray:
        """Losses [rates, seeds]."""
        return np.array([[self.loss(rate, seed) for seed in seeds] for rate in rates])

    def around(self, exponents: Sequence[int], seeds: Sequence[int], extend: int) -> rate_optimum.Curve:
        """Loss at the rates 2^e of consecutive exponents, carried on by up to `extend` rates while the best is at an end."""
        found = {e: [self.loss(2.0**e, seed) for seed in seeds] for e in exponents}
        curve = rate_optimum.Curve.of(found)
        for _ in range(extend):
            if curve.interior:
                break
            lowest = curve.best == 0
            e = min(found) - 1 if lowest else max(found) + 1
            found[e] = [self.loss(2.0**e, seed) for seed in seeds]
            curve = rate_optimum.Curve.of(found)
        return curve

"""How fast different networks converge: each at a rate of its own from the same budget, on one bank, over seeds.

What is compared is the denoising loss of averaged weights on a bank of test pictures with fixed times and noise, and how many steps
(or FLOPs) two arms need to the same loss. Finished runs are kept in a file, so that a claim goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import experiment as experiments
from jaxgen import run, types
from jaxgen.data import loader
from jaxgen.parallel import keys, sharding
from jaxgen.parallel import mesh as meshes
from jaxgen.reproduce import claim
from jaxgen.training import coordinate_check, flops, rate_optimum, rate_sweep, traced_rate
from jaxgen.training import step as steps

TUNING_SEED = 1000
"""Of the runs that choose a rate, which are not among those that are compared."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is trained.

    Attributes:
      steps: of the runs that are compared. tuning_share: of these steps, for the runs that choose a rate.
      exponents: log₂ of the rates that every arm tries; up to `extend` more while the best is at an end.
      seeds: runs that are compared, an arm.
      evaluations: how often the bank is asked in a run, evenly.
      bank: rows of it; the test pictures in turn.
      encoder_steps: of the self-supervised encoder, where there is one.
    """

    steps: int = 800
    tuning_share: float = 0.5
    exponents: tuple[int, ...] = (-9, -8, -7, -6)
    extend: int = 2
    seeds: int = 3
    evaluations: int = 20
    bank: int = 355
    encoder_steps: int = 2000


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the things compared.

    Attributes:
      name: as it is reported. experiment: what is trained; its rate is replaced.
      frozen: returns the frozen networks to train with, by name; None takes those that the experiment makes.
      start: names them, where there are any.
    """

    name: str
    experiment: experiments.Experiment
    frozen: Callable[[], dict[str, types.PyTree]] | None = None
    start: str = ""


@dataclasses.dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
      steps: at which the bank was asked, from 0 on. losses: its answers, infinite from where training was not finite.
      seconds: of training, asking aside; the first run of an arm includes compiling.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float


class Records:
    """Finished runs by name in one JSON file, written anew after each.

    Attributes:
      seconds: what the runs asked for through this object took, whenever they ran.
    """

    def __init__(self, path: Any) -> None:
        self._path = path
        found = json.loads(path.read_text()) if path.is_file() else {}
        self._found = {name: Record(tuple(r["steps"]), tuple(map(_number, r["losses"])), r["seconds"]) for name, r in found.items()}
        self._asked: set[str] = set()

    def of(self, name: str, train: Callable[[], Record]) -> Record:
        """The record of this name, trained now where there is none."""
        if name not in self._found:
            self._found[name] = train()
            rows = {
                key: {"steps": r.steps, "losses": [rate_optimum.finite(loss) for loss in r.losses], "seconds": r.seconds}
                for key, r in self._found.items()
            }
            run.write_whole(self._path, (json.dumps(rows, indent=0) + "\n").encode())
        self._asked.add(name)
        return self._found[name]

    @property
    def seconds(self) -> float:
        return sum(self._found[name].seconds for name in self._asked)


@dataclasses.dataclass(frozen=True)
class Result:
    """What an arm came to.

    Attributes:
      name: of the arm. exponent: log₂ of its rate. tuning: loss by exponent of the runs that chose it.
      steps: [N] at which the bank was asked. losses: [seeds, N].
      parameters: of the generator. step_flops: model FLOPs of a training step. step_seconds: of the quickest run.
    """

    name: str
    exponent: int
    tuning: dict[int, float]
    steps: np.ndarray
    losses: np.ndarray
    parameters: int
    step_flops: float
    step_seconds: float

    @property
    def final(self) -> np.ndarray:
        """Losses at the end [seeds]."""
        return self.losses[:, -1]

    @property
    def line(self) -> str:
        """All of it in words."""
        ends = f"{self.final.mean():.4f} ± {self.final.std(ddof=1) if len(self.final) > 1 else 0:.4f}"
        return (
            f"{self.name}: loss {ends} after {self.steps[-1]} steps at rate 2^{self.exponent};"
            f" {self.parameters:,} parameters, {self.step_flops:.4g} FLOPs and {1000 * self.step_seconds:.1f} ms a step"
        )

    def described(self) -> dict[str, Any]:
        """For JSON; None stands for what is not a finite number."""
        return {
            "log2_rate": self.exponent,
            "tuning": {str(e): rate_optimum.finite(loss) for e, loss in sorted(self.tuning.items())},
            "steps": self.steps.tolist(),
            "losses": [[rate_optimum.finite(loss) for loss in row] for row in self.losses],
            "parameters": self.parameters,
            "step_flops": self.step_flops,
            "step_seconds": self.step_seconds,
        }


class Runs:
    """Trains arms that share data and batch size. Use within `jax.set_mesh(runs.mesh)`.

    Attributes:
      data: what all are trained on. records: of all runs.

    Raises:
      BadInput: an override that does not fit.
    """

    def __init__(self, place: claim.Workplace, plan: Plan, like: experiments.Experiment) -> None:
        self._place, self.plan = place, plan
        first = self.overridden(like)
        self.mesh = meshes.build(first.mesh, place.devices)
        self.records = Records(place.folder / "curves.json")
        self.data = first.data
        self._examples = first.data.open("train", first.seed, shuffle=True)
        self._bank_rows = first.data.open("test", first.seed, shuffle=False).rows(range(plan.bank))

    def overridden(self, tree: experiments.Experiment) -> experiments.Experiment:
        """The experiment with the overrides of the workplace."""
        for text in self._place.overrides:
            tree = experiments.override(tree, text)
        tree.validate()
        return tree

    def batches(self) -> loader.Batches:
        """The loader, at step 0."""
        layout = sharding.batch_sharding(self.mesh)
        return loader.batches(self._examples, self.data.features(), self.data.batch_size, layout, 0, self.data.prefetch)

    def pictures(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """All pictures of a split, [N, H, W, C] in [-1, 1], and their labels [N]."""
        examples = self.data.open(split, 0, shuffle=False)
        rows = examples.rows(range(len(examples)))
        return rows["image"].astype(np.float32) / 127.5 - 1, rows["label"]

    def result(self, arm: Arm) -> Result:
        """Chooses the arm's rate and trains it with every seed."""
        trainer = _Trainer(self, dataclasses.replace(arm, experiment=self.overridden(arm.experiment)), self._bank_rows)
        steps = trainer.experiment.training.steps
        short = max(round(self.plan.tuning_share * steps), 1)
        tuning = {e: trainer.curve(e, TUNING_SEED, short, 1).losses[-1] for e in self.plan.exponents}
        for _ in range(self.plan.extend):
            best = min(tuning, key=tuning.get)
            if min(tuning) < best < max(tuning):
                break
            e = best - 1 if best == min(tuning) else best + 1
            tuning[e] = trainer.curve(e, TUNING_SEED, short, 1).losses[-1]
        best = min(tuning, key=tuning.get)
        curves = [trainer.curve(best, seed, steps, self.plan.evaluations) for seed in range(self.plan.seeds)]
        parameters, step_flops = trainer.cost()
        return Result(
            name=arm.name,
            exponent=best,
            tuning=tuning,
            steps=np.array(curves[0].steps),
            losses=np.array([curve.losses for curve in curves]),
            parameters=parameters,
            step_flops=step_flops,
            step_seconds=min(curve.seconds / curve.steps[-1] for curve in curves),
        )

    def done(self) -> None:
        """To be called after each run."""
        self._place.done()


class _Trainer:
    """The runs of one arm, by one compiled step."""

    def __init__(self, runs: Runs, arm: Arm, bank: dict[str, np.ndarray]) -> None:
        self._runs, self._arm, self._rows = runs, arm, bank
        self.experiment = arm.experiment

    @functools.cached_property
    def built(self) -> steps.Step:
        held = traced_rate.TracedRate(self.experiment.optimizer)
        return steps.build(dataclasses.replace(self.experiment, optimizer=held), self._runs.mesh)

    def cost(self) -> tuple[int, float]:
        """Parameters of the generator, and model FLOPs of a training step."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.built.state.params["model"]))
        return parameters, flops.per_example(self.experiment, self.built) * self.experiment.data.batch_size

    def curve(self, exponent: int, seed: int, count: int, evaluations: int) -> Record:
        """The run at rate 2^exponent, the bank asked evenly so many times, and before the first step."""
        tree = dataclasses.replace(self.experiment, training=dataclasses.replace(self.experiment.training, steps=count))
        how = f"{self._arm.start} {evaluations} {self._runs.plan.bank}"
        name = f"{self._arm.name}: {rate_sweep.key(tree, 2.0**exponent, seed)} {how}"
        found = self._runs.records.of(name, lambda: self._train(2.0**exponent, seed, count, evaluations))
        self._runs.done()
        return found

    def _train(self, rate: float, seed: int, count: int, evaluations: int) -> Record:
        state = traced_rate.with_rate(self.built.initial(np.uint32(seed)), rate)
        frozen = self._arm.frozen() if self._arm.frozen else self.built.load_frozen(np.uint32(seed))
        (decay,) = state.ema["model"]
        asked = {round((i + 1) * count / evaluations) for i in range(evaluations)}
        at, losses, seconds = [0], [self._ask(state.ema["model"][decay])], 0.0
        start = time.perf_counter()
        with self._runs.batches() as batches:
            for done, now, report in coordinate_check.trained(self.built, state, frozen, batches, count):
                if done not in asked:
                    continue
                finite = bool(jax.device_get(report.finite))
                seconds += time.perf_counter() - start
                at.append(done)
                losses.append(self._ask(now.ema["model"][decay]) if finite else math.inf)
                start = time.perf_counter()
        return Record(tuple(at), tuple(losses), seconds)

    def _ask(self, params: types.PyTree) -> float:
        return float(self._bank[0](params, self._bank[1]))

    @functools.cached_property
    def _bank(self) -> tuple[Callable[[types.PyTree, types.Batch], jax.Array], types.Batch]:
        """The denoising loss alone, with every condition shown, and the pictures, times and noise that it is taken at."""
        objective = dataclasses.replace(self.experiment.objective, alignment=None, condition_dropout=0.0)
        modules = {"model": self.experiment.model, "autoencoder": self.experiment.autoencoder}
        views = types.Views({}, {}, {}, modules=modules, compute=jnp.dtype(self.experiment.precision.compute))
        key = keys.stream(keys.root(0), "bank")
        rows = jax.jit(lambda rows: objective.prepare(views, rows, key))(self._rows)
        return jax.jit(lambda params, rows: objective.loss("model", params, views, rows, key, jnp.int32(0), ())[0]), rows


def steps_to(at: Sequence[int], losses: Sequence[float], target: float) -> float:
    """Where a curve first comes down to `target`, log loss linear between the points asked; infinite where it never does."""
    for i, loss in enumerate(losses):
        if loss <= target:
            if i == 0 or not math.isfinite(losses[i - 1]):
                return float(at[i])
            above, below = math.log(losses[i - 1]), math.log(loss)
            share = (above - math.log(target)) / (above - below)
            return float(at[i - 1] + share * (at[i] - at[i - 1]))
    return math.inf


def steps_needed(slow: Result, fast: Result) -> np.ndarray:
    """Steps of both to the same loss [seeds, 2], by seed: the higher of both ends, which both have come down to.

    With one seed both have seen the same examples and noise. NaN where a run was not finite, or ended no lower than it began.
    """
    found = []
    for one, other in zip(slow.losses, fast.losses, strict=True):
        target = max(one[-1], other[-1])
        there = math.isfinite(target) and target < min(one[0], other[0])
        found.append((steps_to(slow.steps, one, target), steps_to(fast.steps, other, target)) if there else (math.nan, math.nan))
    return np.array(found)


def speed_up(slow: Result, fast: Result) -> tuple[float, tuple[float, float]]:
    """Steps of `slow` over those of `fast` to the same loss, above 1 where `fast` is faster, and its 95 % interval.

    The geometric mean over seeds, and Student's t on the logarithms.
    """
    needed = steps_needed(slow, fast)
    logs = np.log(needed[:, 0] / needed[:, 1])
    middle = float(np.mean(logs))
    low, high = claim.interval(middle, logs)
    return math.exp(middle), (math.exp(low), math.exp(high))


def flops_speed_up(slow: Result, fast: Result, beforehand: float = 0.0) -> float:
    """FLOPs of `slow` over those of `fast` to the same loss, the geometric mean over seeds.

    Args:
      beforehand: FLOPs that `fast` costs before its first step.
    """
    needed = steps_needed(slow, fast)
    spent = needed[:, 0] * slow.step_flops, needed[:, 1] * fast.step_flops + beforehand
    return float(np.exp(np.mean(np.log(spent[0] / spent[1]))))


def require_same_start(results: Sequence[Result]) -> None:
    """All arms start at a velocity of zero, and the bank is the same for all.

    Raises:
      InvariantFailed: where the bank has different answers at the start.
    """
    starts = {result.name: float(loss) for result in results for loss in result.losses[:, 0]}
    if max(starts.values()) - min(starts.values()) > 1e-5 * max(starts.values()):
        raise claim.InvariantFailed(f"networks that put out zero do not start at one loss on the bank: {starts}")


def panels(results: Sequence[Result]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What `evaluation.plots.convergence` draws: losses against steps, and against FLOPs."""
    return {
        "steps": {r.name: (r.steps, r.losses) for r in results},
        "FLOPs": {r.name: (r.steps * r.step_flops, r.losses) for r in results},
    }


def _number(loss: float | None) -> float:
    return math.inf if loss is None else loss

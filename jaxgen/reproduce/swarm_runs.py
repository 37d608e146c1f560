"""Runs of swarms behind the claims on M-DSL: one compile for each kind of swarm, finished runs kept."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxgen
from jaxgen import experiment as experiments
from jaxgen import run, types
from jaxgen.data import loader
from jaxgen.reproduce import claim
from jaxgen.swarm import mdsl, sites, traffic
from jaxgen.swarm.settings import SwarmExperiment
from jaxgen.training import loop, signals

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run: its step, its last state (None where it was not finite), and a row of metrics for each round."""

    step: mdsl.SwarmStep
    state: mdsl.SwarmState | None
    rows: list[dict[str, Any]]


class SwarmRuns:
    """Trains and measures swarms, each once.

    Args:
      path: of the JSON file with what was measured.
      measure: of a finished run, any number of figures by name.
    """

    def __init__(self, place: claim.Workplace, path: Any, measure: Callable[[SwarmExperiment, Trained], Figures]) -> None:
        self._place, self._path, self._measure = place, path, measure
        self._found: dict[str, Figures] = json.loads(path.read_text()) if path.is_file() else {}
        self._steps: dict[str, mdsl.SwarmStep] = {}
        self._examples: types.Examples | None = None
        self._asked: set[str] = set()

    @property
    def seconds(self) -> float:
        """What the runs asked for took, whenever they ran, compiling included."""
        return sum(self._found[key]["seconds"] for key in self._asked)

    def figures(self, tree: SwarmExperiment) -> Figures:
        """What was measured of this experiment at its seed, and `seconds`, `uploads` a round and bytes `up`.

        Raises:
          InvariantFailed: the sites' own best scores rose, or the best model's where better ones alone are accepted.
        """
        for text in self._place.overrides:
            tree = experiments.override(tree, text)
        tree.validate()
        key = _key(tree)
        self._asked.add(key)
        if key not in self._found:
            started = time.perf_counter()
            trained = self._train(tree)
            for name in ("swarm/personal_score",) + (("swarm/score",) if tree.swarm.accept == "better" else ()):
                scores = [row[name] for row in trained.rows]
                if any(after > before for before, after in itertools.pairwise(scores)):
                    raise claim.InvariantFailed(f"{name} rose: {scores}")
            sent = traffic.of(tree.swarm, trained.step.state.params)
            uploads = [int(row["swarm/uploads"]) for row in trained.rows]
            figures = self._measure(tree, trained) | {
                "uploads": float(np.mean(uploads)) if uploads else float(tree.swarm.sites),
                "up": float(sum(map(sent.up, uploads))),
            }
            self._found[key] = figures | {"seconds": time.perf_counter() - started}
            run.write_whole(self._path, (json.dumps(self._found, indent=0) + "\n").encode())
        self._place.done()
        return self._found[key]

    def _train(self, tree: SwarmExperiment) -> Trained:
        if self._examples is None:
            self._examples = sites.HeldExamples(tree.data.open("train", 0, shuffle=False))
        divided = sites.divide(tree.swarm, tree.data, self._examples, tree.seed)
        step = self._step(tree, divided)
        size, training = tree.swarm.sites * tree.data.batch_size, tree.training
        rows: list[dict[str, Any]] = []
        made = loop.Loop(
            step=step,
            steps=training.steps,
            log_every=tree.swarm.local_steps,
            checkpoint_every=training.steps,
            batch_size=size,
            write=lambda done, row: rows.append(row),
            save=lambda done, state: None,
            sample=lambda done, state: None,
        )
        batches = loader.batches(divided.examples, tree.data.features(), size, step.batch_layout, 0, tree.data.prefetch)
        with jax.set_mesh(step.mesh), batches, signals.StopRequest().listening() as stop:
            frozen = step.load_frozen(np.uint32(tree.seed))
            try:
                state, done = made.run(step.initial(np.uint32(tree.seed)), frozen, batches, 0, stop)
            except loop.NotFinite:
                return Trained(step, None, rows)
        if done < training.steps:
            raise KeyboardInterrupt
        return Trained(step, state, rows)

    def _step(self, tree: SwarmExperiment, divided: sites.Sites) -> mdsl.SwarmStep:
        # Seed and division are inputs of the program.
        kind = _key(dataclasses.replace(tree, seed=0, swarm=dataclasses.replace(tree.swarm, partition=None)))
        if kind not in self._steps:
            mesh = mdsl.make_mesh(tree, list(self._place.devices))
            with jax.set_mesh(mesh):
                self._steps[kind] = mdsl.build(tree, mesh, divided)
        return self._steps[kind].with_data(divided)


def _key(tree: SwarmExperiment) -> str:
    """Names a run by everything in the experiment, and the version of the code."""
    text = json.dumps(experiments.flatten(tree) | {"jaxgen": jaxgen.__version__}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

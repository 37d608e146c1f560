"""A training session: checks everything, restores or starts, runs the loop, draws samples, evaluates.

All that can be refused is refused before anything compiles or is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
import uuid
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgen import experiment as experiments
from jaxgen import run, typed_tree, types
from jaxgen.commands import evaluations, samples, session
from jaxgen.data import loader
from jaxgen.evaluation import real
from jaxgen.parallel import chips, compiles, hosts, sharding
from jaxgen.parallel.agreement import StopAgreement
from jaxgen.samplers.generator import Generator
from jaxgen.training import checkpoint, flops, logs, loop, manifest, profile, signals
from jaxgen.training import step as steps
from jaxgen.training.frozen import described
from jaxgen.training.saved_network import Saved
from jaxgen.training.state import State

log = logging.getLogger(__name__)

# How long hosts wait for the slowest of them while they read and write files.
_SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
      mesh: that everything lies on. examples: the training split.
      step: a `training.step.Step`, or what the loop may take for one.
      model_step: the ordinary step, whose FLOPs are counted; `step` where that is it.
      batch_size, batch_layout: of the rows that a step reads.
    """

    mesh: jax.sharding.Mesh
    examples: types.Examples
    step: Any
    model_step: steps.Step
    batch_size: int
    batch_layout: jax.sharding.NamedSharding


def ordinary(experiment: experiments.Experiment) -> Work:
    """The experiment's own step, on its own data."""
    mesh = session.make_mesh(experiment)
    examples = session.open_data(experiment, "train")
    with jax.set_mesh(mesh):
        step = steps.build(experiment, mesh)
        step.load_frozen.read()
    return Work(mesh, examples, step, step, experiment.data.batch_size, sharding.batch_sharding(mesh))


def train_networks(experiment: experiments.Experiment, trust: tuple[str, ...], team: hosts.Hosts) -> dict[str, Any]:
    """Trains the networks that the experiment only uses, where it names their recipes and their runs are not there or not done.

    Returns the figures of the last session, none where there was nothing to do.
    """
    figures: dict[str, Any] = {}
    for name, network in typed_tree.nodes(experiment, ""):
        if not isinstance(network, Saved) or not network.recipe or figures.get("stopped"):
            continue
        folder = run.Run(network.path)
        reference = network.path if folder.exists() else network.recipe
        try:
            tree, _ = experiments.load(reference, (), trust)
        except types.BadInput as complaint:
            raise complaint.under(f"{name}.recipe") from None
        with checkpoint.Checkpoints(folder) as checkpoints:
            done = session.newest_checkpoint(checkpoints) or 0
        if done < tree.training.steps:
            log.info("first the %s, which is trained by %s in %s", name, reference, network.path)
            figures = TrainingSession(tree, network.path, (reference, tree), trust, team).run()
    return figures


class TrainingSession:
    """One `jaxgen train`, from the checks to the report."""

    def __init__(
        self,
        experiment: experiments.Experiment,
        folder: str,
        recipe: tuple[str, experiments.Experiment],
        trust: tuple[str, ...],
        team: hosts.Hosts,
        profiled: tuple[int, int] | None = None,
        work: Callable[[Any], Work] = ordinary,
    ) -> None:
        """Checks; raises BadInput for everything that the user has to change. A run that goes on keeps its own recipe.

        Args:
          recipe: name and tree that the run is started from.
          trust: packages whose classes the experiment may name.
          team: all hosts train, host 0 writes.
          profiled: first and last step to trace.
          work: makes what is trained of the experiment; compiles nothing.
        """
        self.experiment = experiment
        self.folder = run.Run(folder)
        self.trust, self.history = trust, []
        self.team = team
        changed = self._compare()
        self.work = work(experiment)
        self.mesh, self.examples, self.step = self.work.mesh, self.work.examples, self.work.step
        sharding.check_replicated(self.step.state.items(), self.mesh)
        self.item = session.sampled_item(experiment, steps.generator_player(experiment)) if experiment.sampler else None
        # Opened now: that there is nothing to draw should not come out after hours of training.
        self.shown = samples.wanted(experiment, samples.GRID, None) if self.item else None
        if self.item and experiment.evaluation:
            test = real.read(experiment.data, "test")
            experiment.evaluation.wanted(test)
            experiment.evaluation.target(test)
        self.folder.create()
        self._require_shared()
        self.lock = self.folder.lock() if team.first else contextlib.nullcontext()
        self.checkpoints = checkpoint.Checkpoints(self.folder, experiment.training.keep, team)
        self.start = session.newest_checkpoint(self.checkpoints)
        if self.start is None:
            self._refuse_damaged()
        if self.start is not None:
            self._check_checkpoint()
        self.profile = self._profile(profiled)
        if not team.first:
            return
        if changed or not self.folder.exists():
            if changed:
                shown = {name: list(pair) for name, pair in changed.items()}
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                self.history.append({"step": self.start or 0, "time": now, "changes": shown})
            if self.folder.exists():
                recipe = experiments.read_recipe(str(self.folder.root), trust)
            run.write_whole(self.folder.experiment, session.describe(experiment, recipe, self.trust, self.history))

    def run(self) -> dict[str, Any]:
        """Trains to the end or to a stop signal. Returns figures: steps, last row, compiles, samples."""
        experiment, start = self.experiment, self.start or 0
        training = experiment.training
        self.compiles = compiles.CompileLog()
        with contextlib.ExitStack() as stack:
            stack.callback(self.compiles.close)
            stack.enter_context(self.lock)
            stack.enter_context(jax.set_mesh(self.mesh))
            stack.enter_context(self.checkpoints)
            self.rows = logs.MetricsLog(self.folder)
            writers = []
            if self.team.first:
                writers = [self.rows, logs.Curves(self.folder, self.start)]
                for writer in writers:
                    stack.enter_context(contextlib.closing(writer))
            agreement = StopAgreement(self.team, start) if self.team.count > 1 else None
            stop = stack.enter_context(signals.StopRequest(agreement).listening())
            if self.profile:
                stack.enter_context(self.profile)
            # All hosts meet a step that is not finite, and none waits for another then.
            stack.enter_context(self.team.together(loop.NotFinite))
            self.compiles.because("the first step")
            frozen = self._frozen = self.step.load_frozen(np.uint32(experiment.seed))
            tokens = experiment.data.tokenizer.fingerprint
            self.about = {"versions": session.versions(), "frozen": self._frozen_about(frozen), "tokens": tokens}
            self.checkpoints.discard_newer(self.start)
            if self.team.first:
                self.rows.cut_to(start)
            state = self._restored() if self.start is not None else self.step.initial(np.uint32(experiment.seed))
            self._tell(start)
            last: dict[str, Any] = {}

            def write(step: int, row: dict[str, Any]) -> None:
                last.update(step=step, **row)
                for writer in writers:
                    writer.write(step, row)

            made = loop.Loop(
                step=self.step,
                steps=training.steps,
                log_every=training.log_every,
                checkpoint_every=training.checkpoint_every,
                batch_size=self.work.batch_size,
                write=write,
                save=self._save,
                sample=self._sample,
                sample_every=training.sample_every if experiment.sampler else 0,
                step_flops=flops.per_example(experiment, self.work.model_step) * self.work.batch_size,
                peak_flops=chips.peak_flops(self.mesh),
                profile=self.profile,
            )
            done = start
            if start < training.steps:
                data, size, layout = experiment.data, self.work.batch_size, self.work.batch_layout
                with loader.batches(self.examples, data.features(), size, layout, start, data.prefetch) as batches:
                    state, done = made.run(state, frozen, batches, start, stop)
            else:
                log.info("all %d steps are done already", training.steps)
            self.checkpoints.wait()
            self.team.barrier("the last checkpoint is written", _SECONDS)
        figures: dict[str, Any] = {"run": str(self.folder.root), "steps": done, "last": last, "compiles": self.compiles.count}
        figures["stopped"] = stop.name if done < training.steps else None
        if figures["stopped"]:
            log.info("%s: saved step %d; the same command goes on from there", stop.name, done)
        elif self.item:
            figures |= self._sample(done, state)
            if experiment.evaluation:
                self.compiles.because("evaluating")
                scored = evaluations.Session([(self.folder, experiment)], self.mesh, experiment.seed, self.team, self.trust)
                figures |= next(iter(scored.run()), {})
        return figures

    def _compare(self) -> dict[str, tuple[Any, Any]]:
        """Differences from the experiment that the folder holds; refuses another one, or checkpoints of an unknown one."""
        if not self.folder.exists():
            if checkpoint.Checkpoints(self.folder).steps():
                found = f"{self.folder.root} with checkpoints and without {self.folder.experiment.name}"
                raise types.BadInput("run", found, "an empty folder, or a run with the experiment that made its checkpoints")
            return {}
        old, self.history, _ = experiments.read(str(self.folder.root), self.trust)
        changed = experiments.check_resumable(old, self.experiment, str(self.folder.root))
        for name, (before, after) in changed.items():
            log.info("changed since the run began: %s from %r to %r", name, before, after)
        return changed

    def _require_shared(self) -> None:
        """Raises BadInput unless all hosts see the same folder."""
        if self.team.count == 1 or not run.is_local(self.folder.root):
            return
        probe = self.folder.root / f".seen-{uuid.uuid4().hex}"
        if self.team.first:
            run.write_whole(probe, b"")
        name = self.team.gather("the run's folder", probe.name, _SECONDS)[0]
        seen = self.team.gather("who sees it", str((self.folder.root / name).exists()), _SECONDS)
        if self.team.first:
            probe.unlink()
        if blind := [str(host) for host, sees in enumerate(seen) if sees != "True"]:
            found = f"{self.folder.root}, which is another folder on host {', '.join(blind[:8])}"
            raise types.BadInput("run", found, "a folder that all hosts share, such as gs://BUCKET/…")

    def _profile(self, profiled: tuple[int, int] | None) -> profile.Profile | None:
        if profiled is None:
            return None
        first, last = profiled
        start, end = self.start or 0, self.experiment.training.steps
        if not start < first <= last <= end:
            raise types.BadInput("--profile", f"{first}:{last}", f"first and last of the steps {start + 1} to {end}")
        return profile.Profile(first, last, self.folder.profile) if self.team.first else None

    def _refuse_damaged(self) -> None:
        """Starting over deletes what is there: fine for what a kill cut off, not for checkpoints that were whole once."""
        damaged = [step for step in self.checkpoints.steps() if manifest.begun(self.folder.checkpoints / str(step))]
        if damaged:
            needed = "one whole checkpoint; repair or remove them to start over, or choose another --run"
            raise types.BadInput("run", f"{self.folder.root} with damaged checkpoints {damaged}", needed)

    def _check_checkpoint(self) -> None:
        self.checkpoints.check(self.start, self.step.state.items())
        saved = self.checkpoints.read_position(self.start)["source"]
        if saved != self.examples.fingerprint:
            needed = f"the data that the run was trained on (fingerprint {saved}); the source has changed"
            raise types.BadInput("data.source", self.examples.fingerprint, needed)

    def _frozen_about(self, frozen: dict[str, types.PyTree]) -> dict[str, dict[str, str]]:
        """Source and hash of each frozen network; refuses weights that differ from those the run began with."""
        about = described(self.experiment.objective.frozen(self.experiment), frozen)
        if self.start is not None:
            saved = self.checkpoints.read_about(self.start)["frozen"]
            if saved != about:
                raise types.BadInput("objective", f"frozen networks {about}", f"those that the run began with: {saved}")
        return about

    def _restored(self) -> State:
        abstract = self.step.state
        found = self.checkpoints.restore(self.start, abstract.items())
        place = lambda value, like: sharding.place(np.asarray(value, like.dtype), like.sharding)
        state = abstract.with_items(place(self.start, abstract.step), found)
        return state.replace(seed=place(self.experiment.seed, abstract.seed), halted=place(False, abstract.halted))

    def _save(self, done: int, state: State) -> None:
        self.rows.flush()
        self.checkpoints.save(done, state.items(), {"step": done, "source": self.examples.fingerprint}, self.about)

    def _sample(self, done: int, state: State) -> dict[str, Any]:
        self.compiles.because("drawing samples")
        name = f"step-{done:08d}"
        params = state.items()[self.item]
        return samples.draw(self.experiment, self._generator, params, self.folder, name, self.shown, self.team)

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(self.experiment, self.mesh, self.experiment.seed, self._frozen.get(types.AUTOENCODER))

    def _tell(self, start: int) -> None:
        items = self.step.state.items()
        held, whole = sharding.bytes_per_device(items)
        shape = " × ".join(f"{name}={size}" for name, size in self.mesh.shape.items() if size > 1) or "one device"
        count = sum(leaf.size for leaf in jax.tree.leaves(self.step.state.params))
        log.info(
            "%s: %s parameters on %s%s; %.1f MB of state a device (%.0f %% of it), %.1f MB of that the same on all",
            self.folder.root,
            f"{count:,}",
            shape,
            f" over {self.team.count} hosts" if self.team.count > 1 else "",
            held / 1e6,
            100 * held / whole,
            sum(sharding.replicated_bytes(items).values()) / 1e6,
        )
        if start:
            log.info("going on from step %d of %d", start, self.experiment.training.steps)


def compile_only(experiment: experiments.Experiment) -> dict[str, Any]:
    """Compiles what training runs, so that the compilation cache has it. Returns figures: programs and seconds.

    Raises:
      BadInput: the mesh does not fit.
    """
    mesh = session.make_mesh(experiment)
    heard = compiles.CompileLog()
    heard.because("compile only")
    with contextlib.closing(heard), jax.set_mesh(mesh):
        built = steps.build(experiment, mesh)
        sharding.check_replicated(built.state.items(), mesh)
        seed = jax.ShapeDtypeStruct((), np.uint32)
        for program in (built.load_frozen, built.initial):
            program.lower(seed).compile()
        batch = built.batch
        if built.prepare is not None:
            built.prepare.lower(built.state, built.frozen, batch).compile()
            batch = _prepared(built)
        built.update.lower(built.state, built.frozen, batch).compile()
    log.info("compiled %d programs in %.1f s", heard.count, heard.seconds)
    return {"compiles": heard.count, "seconds": heard.seconds}


def _prepared(built: steps.Step) -> types.Batch:
    """The abstract batch that `update` takes where something is computed on the host, which is asked about rows of zeros."""
    batch = dict(jax.eval_shape(built.prepare, built.state, built.frozen, built.batch))
    layout = next(iter(built.batch.values())).sharding
    zeros = {name: np.zeros(layout.shard_shape(field.shape), field.dtype) for name, field in batch.items()}
    count = next(iter(batch.values())).shape[0]
    batch |= {name: jax.ShapeDtypeStruct((count, *rows.shape[1:]), rows.dtype) for name, rows in built.host(zeros).items()}
    return {name: jax.ShapeDtypeStruct(field.shape, field.dtype, sharding=layout) for name, field in batch.items()}

"""What commands share: options, logging, devices, checked starts, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import pathlib
import select
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

import jaxgen
from jaxgen import experiment as experiments
from jaxgen import run, types
from jaxgen.parallel import hosts
from jaxgen.parallel import mesh as meshes
from jaxgen.training import checkpoint, frozen, loop
from jaxgen.training import state as states

log = logging.getLogger(__name__)

DONE, FAILED, BAD_INPUT, STOPPED, INTERRUPTED = 0, 1, 2, 42, 130


def guarded(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a command; bad input becomes one clear line and exit code 2."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("jaxgen")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False  # dependencies configure the root logger, which would say it twice
    logger.setLevel(logging.INFO)
    _remember_compiles()
    try:
        _check_json(getattr(arguments, "json", None))
        code = command(arguments)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        return report(error)[1]
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def report(error: BaseException) -> tuple[str, int]:
    """Tells the user of an error that ends the command; returns it in one line, and the exit code."""
    if isinstance(error, types.BadInput):
        line, code = str(error), BAD_INPUT
    elif isinstance(error, loop.NotFinite):
        line, code = str(error), FAILED
    elif isinstance(error, KeyboardInterrupt):
        line, code = "interrupted; nothing was saved that was not saved before", INTERRUPTED
    elif isinstance(error, BrokenPipeError) and _nobody_reads():
        line, code = "stopped: nobody reads standard output any more", FAILED
    else:
        logging.getLogger("jaxgen").error("failed", exc_info=error)
        # Once more and short: what libraries print while the process ends can bury the traceback.
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        line, code = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}{notes}", FAILED
    print(f"jaxgen: {line}", file=sys.stderr)
    return line, code


def _nobody_reads() -> bool:
    """Whether the reader of standard output is gone, as `head` is after its lines; what is left then goes nowhere."""
    output, poll = 1, select.poll()
    poll.register(output, 0)  # errors are told without being asked for
    gone = any(events & select.POLLERR for _, events in poll.poll(0))
    if gone:
        # The interpreter flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone


@contextlib.contextmanager
def joined(deadline: float) -> Iterator[hosts.Hosts]:
    """The hosts of the job, joined before anything else is done with JAX; all but the first are silent about what goes well.

    Args:
      deadline: seconds within which all have to be there.

    Raises:
      BadInput: as `hosts.join`.
    """
    # Its handler of signals would replace ours, which hear of a preemption too.
    jax.config.update("jax_enable_preemption_service", False)
    with hosts.joined(deadline, report) as team:
        logger = logging.getLogger("jaxgen")
        level = logger.level
        if not team.first:
            logger.setLevel(logging.WARNING)
        yield team
        logger.setLevel(level)


def _remember_compiles() -> None:
    """Keeps compiled programs between runs, unless the user has said where or that it is not wanted."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "jaxgen" / "compiled"))


def load(arguments: argparse.Namespace, reference: str) -> tuple[experiments.Experiment, str]:
    """The experiment named on the command line, and its name."""
    return experiments.load(reference, arguments.set, arguments.trust)


def widths(text: str) -> list[int]:
    """The widths given by `--widths`, ascending.

    Raises:
      BadInput: not whole numbers.
    """
    try:
        return sorted({int(width) for width in text.split(",")})
    except ValueError:
        raise types.BadInput("--widths", text, "whole numbers separated by commas") from None


def chosen_seed(asked: int | None, experiment: experiments.Experiment) -> int:
    """The seed given by `--seed`, or the experiment's.

    Raises:
      BadInput: not a seed.
    """
    if asked is None:
        return experiment.seed
    if not 0 <= asked < 2**32:
        raise types.BadInput("--seed", asked, "a whole number of 32 bits, not negative")
    return asked


def make_mesh(experiment: experiments.Experiment) -> jax.sharding.Mesh:
    """The experiment's mesh on the devices present, those of all hosts.

    Raises:
      BadInput: the batch does not divide over the mesh, the mesh over the devices, or leaves devices of several hosts unused.
    """
    devices = jax.devices()
    experiment.mesh.check_batch(experiment.data.batch_size, experiment.training.microbatches, len(devices))
    mesh = _built(experiment.mesh, devices)
    if mesh.size < len(devices):
        log.warning("the mesh uses %d of %d devices; mesh.data=-1 would use all", mesh.size, len(devices))
    return mesh


def drawing_mesh(experiment: experiments.Experiment, chosen: bool) -> jax.sharding.Mesh:
    """A mesh to draw on: the run's where it fits the devices present or was `chosen` just now, otherwise one over all of them."""
    devices = jax.devices()
    try:
        return _built(experiment.mesh, devices)
    except types.BadInput:
        if chosen:
            raise
        log.info("the run's mesh does not fit the %d devices here; drawing with one replica on each", len(devices))
        return _built(meshes.MeshShape(), devices)


def _built(shape: meshes.MeshShape, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    mesh = meshes.build(shape, devices)
    if jax.process_count() > 1 and mesh.size < len(devices):
        found = f"a mesh of {mesh.size} of the {len(devices)} devices of {jax.process_count()} hosts"
        raise types.BadInput("mesh", found, "all of them, on every host as many; mesh.data=-1 takes what is left")
    return mesh


def write_json(path: str | None, figures: dict[str, Any]) -> None:
    """Writes the figures where `--json FILE` asked for it."""
    if path:
        import upath

        run.write_whole(upath.UPath(path), (json.dumps(figures, indent=2, ensure_ascii=False) + "\n").encode())


def _check_json(path: str | None) -> None:
    """Refuses a `--json FILE` that cannot be written now and not after hours of training."""
    if not path:
        return
    import upath

    try:
        file = upath.UPath(path)
        if file.is_dir():
            raise IsADirectoryError("it is a folder")
        probe = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        run.write_whole(probe, b"{}")
        probe.unlink()
    # Remote file systems raise errors of their own, which are not all OSErrors.
    except Exception as error:
        raise types.BadInput("--json", path, f"a file that can be written ({error})") from error


def describe(
    experiment: experiments.Experiment,
    recipe: tuple[str, experiments.Experiment],
    trust: tuple[str, ...],
    history: list[dict[str, Any]],
) -> bytes:
    """The content of RUN/experiment.json; `recipe` is the name and the tree that the run was started from."""
    content = {
        "jaxgen": jaxgen.__version__,
        "trust": list(trust),
        "experiment": experiments.dump(experiment),
        "recipe": {"name": recipe[0], "experiment": experiments.dump(recipe[1])},
        "history": history,
    }
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def sampled_item(experiment: experiments.Experiment, player: str) -> str:
    """Checkpoint item that samples are drawn from, as `sampler.ema` says.

    Raises:
      BadInput: the run keeps no such average.
    """
    if experiment.sampler is None:
        raise types.BadInput("sampler", None, "a sampler, to draw with")
    wanted, kept = experiment.sampler.ema, experiment.training.ema
    if wanted == 0 or (wanted is None and not kept):
        return states.params_item(player)
    if wanted is not None and wanted not in kept:
        raise types.BadInput("sampler.ema", wanted, f"0 (newest parameters) or a decay that the run keeps: training.ema={kept}")
    return states.ema_item(player, str(kept[0] if wanted is None else wanted))


def versions() -> dict[str, str]:
    """Versions that matter to who reads a checkpoint."""
    import flax
    import optax
    import orbax.checkpoint

    modules = {"jaxgen": jaxgen, "jax": jax, "flax": flax, "optax": optax, "orbax-checkpoint": orbax.checkpoint, "numpy": np}
    return {name: module.__version__ for name, module in modules.items()}


def newest_checkpoint(checkpoints: checkpoint.Checkpoints, items: tuple[str, ...] | None = None) -> int | None:
    """Newest whole checkpoint; each broken one is named in the log."""
    return checkpoints.newest_whole(log.warning, items)


def drawing_checkpoint(
    checkpoints: checkpoint.Checkpoints, folder: run.Run, experiment: experiments.Experiment, target: dict[str, types.PyTree]
) -> int:
    """The newest checkpoint that holds `target`, checked: its arrays are of these shapes, and its text ids mean the same words.

    Raises:
      BadInput: there is none, or it does not fit the experiment.
    """
    step = newest_checkpoint(checkpoints, tuple(target))
    if step is None:
        raise types.BadInput("run", str(folder.root), "a run with a whole checkpoint; train it first")
    checkpoints.check(step, target)
    mine, saved = experiment.data.tokenizer.fingerprint, checkpoints.read_about(step).get("tokens")
    if saved != mine and "text" in experiment.model.streams:
        needed = f"the ids that step {step} was trained on ({saved}); the list of words has changed"
        raise types.BadInput("data.tokens", f"{experiment.data.tokens} with fingerprint {mine}", needed)
    return step


def decoder(
    checkpoints: checkpoint.Checkpoints, step: int, experiment: experiments.Experiment, mesh: jax.sharding.Mesh
) -> types.PyTree:
    """Parameters of the autoencoder that a checkpoint was trained with; None where the experiment has no network for it.

    Raises:
      BadInput: it cannot be read, or is another one.
    """
    network = experiment.autoencoder.frozen(types.AUTOENCODER)
    if network is None:
        return None
    found = frozen.autoencoder(experiment, mesh)
    mine = frozen.described((network,), {network.name: found})[network.name]
    saved = checkpoints.read_about(step)["frozen"].get(network.name)
    if saved != mine:
        needed = f"those that step {step} was trained with: {saved}; autoencoder.path says from which run they are read"
        raise types.BadInput("autoencoder", f"weights {mine}", needed)
    return found


def open_data(experiment: experiments.Experiment, split: str) -> types.Examples:
    """The experiment's data; the training split in shuffled order."""
    try:
        return experiment.data.open(split, experiment.seed, shuffle=split == "train")
    except types.BadInput as complaint:
        raise complaint.under("data") from None

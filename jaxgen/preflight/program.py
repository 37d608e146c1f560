"""The compiled programs of an experiment, and what they tell. Runs in the environment of `jaxgen.preflight.target`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import time
from typing import Any

import jax

from jaxgen import types
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.preflight import hlo, hlo_cost, kernels, overflow
from jaxgen.preflight.target import Target
from jaxgen.samplers.generator import Generator
from jaxgen.training import flops
from jaxgen.training import state as states
from jaxgen.training import step as steps

LARGE_REPLICA = 2**20
"""Arrays of the state that every chip holds whole are named from this many bytes on."""
_SHOWN = 10
_UNKNOWN_OPTION = re.compile(r"No such compile option: '?(\w+)")
_PARAMETERS = states.params_item("")


class DoesNotFit(Exception):
    """The program needs more memory than a chip has."""

    def __init__(self, found: overflow.Overflow) -> None:
        super().__init__(found.message)
        self.overflow = found


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      text: what was compiled, optimized. peak: bytes of HBM on a chip. seconds: that the compiler took.
      mesh: what it runs on. held: the part of its arguments that stays from call to call, by item name.
      images: that one call trains on or draws. calls: how often the experiment makes it. flops: of the model, of a call.
    """

    text: str
    peak: float
    seconds: float
    mesh: jax.sharding.Mesh
    held: dict[str, types.PyTree]
    images: int
    calls: int
    flops: float


def compile_step(experiment: Any, target: Target) -> Program:
    """Compiles the step that training would run, with abstract arguments alone.

    Raises:
      BadInput: the mesh or the batch does not divide over the slice, or leaves too much of the state whole on every chip; the
        compiler does not know an option.
      DoesNotFit: it needs more memory than there is.
    """
    mesh, step = _built(experiment, target)
    sharding.check_replicated(step.state.items(), mesh)
    size = experiment.data.batch_size
    work = flops.per_example(experiment, step) * size
    compiled = _compiled(step.update, mesh, step.state, step.frozen, step.batch)
    return Program(*compiled, mesh, step.state.items(), size, experiment.training.steps, work)


def compile_sampling(experiment: Any, target: Target) -> Program:
    """Compiles what draws pictures, from noise to bytes: one call fills every chip with `sampler.images_per_device` of them.

    `calls` is what an evaluation makes of them, and 1 where the experiment has none: scores are computed on the host.

    Raises:
      BadInput: there is no sampler or no generator, or the mesh does not divide over the slice.
      DoesNotFit: it needs more memory than there is.
    """
    mesh, step = _built(experiment, target)
    generator = Generator(experiment, mesh, experiment.seed, step.frozen.get(types.AUTOENCODER))
    item = states.params_item(steps.generator_player(experiment))
    params = step.state.items()[item]
    arguments = generator.abstract(params, experiment.data.features())
    work = flops.of(generator.draw, *arguments)
    compiled = _compiled(generator.draw, mesh, *arguments)
    calls = 1 if experiment.evaluation is None else -(-experiment.evaluation.samples // generator.rows)
    return Program(*compiled, mesh, {item: params}, generator.rows, calls, work)


def _built(experiment: Any, target: Target) -> tuple[jax.sharding.Mesh, steps.Step]:
    mesh = meshes.build(experiment.mesh, target.devices())
    with jax.set_mesh(mesh):
        return mesh, steps.build(experiment, mesh)


def _compiled(function: Any, mesh: jax.sharding.Mesh, *arguments: Any) -> tuple[str, float, float]:
    """Text, peak bytes and seconds of a jitted function's compilation."""
    with jax.set_mesh(mesh):
        lowered = function.trace(*arguments).lower(lowering_platforms=("tpu",))
        started = time.monotonic()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if unknown := _UNKNOWN_OPTION.search(str(error)):
                raise types.BadInput("training.tpu_options", unknown[1], "an option that this compiler knows") from None
            found = overflow.read(str(error))
            if found is None:
                raise
            raise DoesNotFit(found) from None
    seconds = time.monotonic() - started
    return compiled.as_text(), float(compiled.memory_analysis().peak_memory_in_bytes), seconds


COMPILE = {"training": compile_step, "sampling": compile_sampling}
"""What can be compiled of an experiment, by name."""


def figures(
    experiment: Any, target: Target, bundles: pathlib.Path | None = None, keep: pathlib.Path | None = None, what: str = "training"
) -> dict[str, Any]:
    """Compiles, reads, and returns what the report shows, as JSON-ready data; see `jaxgen.preflight.report`.

    Args:
      bundles: folder in which the compiler leaves what it scheduled for kernels.
      keep: file for the optimized program.
      what: a name of `COMPILE`.
    """
    program = COMPILE[what](experiment, target)
    if keep is not None:
        keep.write_text(program.text)
    chip, used = target.chip, program.mesh.size
    module = hlo.parse(program.text)
    times = kernels.read(module, bundles, chip)
    reading = hlo_cost.read(module, target.torus(list(program.mesh.devices.flat)), times)
    compiled_flops = reading.flops * used
    held, _ = sharding.bytes_per_device(program.held)
    return {
        "program": what,
        "slice": str(target.slice),
        "slices": target.count,
        "chips": target.chips,
        "chips_used": used,
        "mesh": dict(program.mesh.shape),
        "batch_size": program.images,
        "steps": program.calls,
        "parameters": {
            name.removeprefix(_PARAMETERS): _count(tree) for name, tree in program.held.items() if name.startswith(_PARAMETERS)
        },
        "memory": {"peak": program.peak, "usable": chip.memory, "state": held, "largest": largest(module)},
        "replicated": _replicated(program),
        "model_tflop": program.flops / 1e12,
        "compiled_tflop": compiled_flops / 1e12,
        "peak_tflop_per_second": chip.flops * target.chips / 1e12,
        "seconds": {kind: reading.waited(kind) for kind in hlo_cost.KINDS},
        "hidden_collective_seconds": reading.hidden,
        "step_seconds": list(reading.seconds),
        "hbm_bytes": reading.bytes,
        "unknown": list(reading.unknown),
        "operations": [dataclasses.asdict(line) for line in sorted(reading.lines, key=lambda line: -line.waited)[:_SHOWN]],
        "compile_seconds": program.seconds,
    }


def _count(tree: types.PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def largest(module: hlo.Module, count: int = 5) -> list[dict[str, Any]]:
    """The largest arrays in HBM that the program names, each shape and source once: bytes, shape, and where it comes from.

    Buffers that follow each other in one place are several arrays here: the compiler does not say what it put where.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for computation in module.scheduled():
        for each in computation.instructions:
            if each.opcode in ("get-tuple-element", "tuple", "bitcast", "while", "conditional", "call"):
                continue
            if each.opcode == "parameter" and computation is not module.entry:
                continue
            for array in each.arrays:
                if array.space == 0:
                    key = (array.dtype, tuple(sorted(array.dims)))
                    shape = f"{array.dtype}[{','.join(map(str, array.dims))}]"
                    found.setdefault(key, {"bytes": array.bytes, "shape": shape, "source": each.op_name or each.name})
    return sorted(found.values(), key=lambda entry: -entry["bytes"])[:count]


def _replicated(program: Program) -> dict[str, Any]:
    """Arrays of the state that lie whole on every chip."""
    found = sharding.replicated_bytes(program.held) if program.mesh.size > 1 else {}
    large = {name: size for name, size in found.items() if size >= LARGE_REPLICA}
    return {"bytes": sum(found.values()), "threshold": LARGE_REPLICA, "large": large}

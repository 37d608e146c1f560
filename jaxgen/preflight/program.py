"""The compiled train step of an experiment, and what it tells. Runs in the environment of `jaxgen.preflight.target`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any

import jax

from jaxgen import types
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.preflight import hlo, hlo_cost, kernels, overflow
from jaxgen.preflight.target import Target
from jaxgen.training import flops
from jaxgen.training import step as steps

LARGE_REPLICA = 2**20
"""Arrays of the state that every chip holds whole are named from this many bytes on."""
_SHOWN = 10


class DoesNotFit(Exception):
    """The program needs more memory than a chip has."""

    def __init__(self, found: overflow.Overflow) -> None:
        super().__init__(found.message)
        self.overflow = found


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step.

    Attributes:
      step: what was compiled. text: the optimized program. peak: bytes of HBM on a chip.
      seconds: that the compiler took.
    """

    step: steps.Step
    text: str
    peak: float
    seconds: float


def compile_step(experiment: Any, target: Target) -> Program:
    """Compiles the step that training would run, with abstract arguments alone.

    Raises:
      BadInput: the mesh or the batch does not divide over the slice, or leaves too much of the state whole on every chip.
      DoesNotFit: it needs more memory than there is.
    """
    mesh = meshes.build(experiment.mesh, target.devices())
    with jax.set_mesh(mesh):
        step = steps.build(experiment, mesh)
        sharding.check_replicated(step.state.items(), mesh)
        lowered = step.update.trace(step.state, step.frozen, step.batch).lower(lowering_platforms=("tpu",))
        started = time.monotonic()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            found = overflow.read(str(error))
            if found is None:
                raise
            raise DoesNotFit(found) from None
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    return Program(step, compiled.as_text(), float(memory.peak_memory_in_bytes), seconds)


def figures(
    experiment: Any, target: Target, bundles: pathlib.Path | None = None, keep: pathlib.Path | None = None
) -> dict[str, Any]:
    """Compiles, reads, and returns what the report shows, as JSON-ready data; see `jaxgen.preflight.report`.

    Args:
      bundles: folder in which the compiler leaves what it scheduled for kernels.
      keep: file for the optimized program.
    """
    program = compile_step(experiment, target)
    if keep is not None:
        keep.write_text(program.text)
    step, chip = program.step, target.chip
    used = step.mesh.size
    module = hlo.parse(program.text)
    times = kernels.read(module, bundles, chip)
    reading = hlo_cost.read(module, target.torus(list(step.mesh.devices.flat)), times)
    model_flops = flops.per_example(experiment, step) * experiment.data.batch_size
    compiled_flops = reading.flops * used
    return {
        "slice": str(target.slice),
        "slices": target.count,
        "chips": target.chips,
        "chips_used": used,
        "mesh": dict(step.mesh.shape),
        "batch_size": experiment.data.batch_size,
        "steps": experiment.training.steps,
        "parameters": {name: _count(tree) for name, tree in step.state.params.items()},
        "memory": _memory(program, module, chip.memory),
        "replicated": _replicated(step),
        "model_tflop": model_flops / 1e12,
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


def _memory(program: Program, module: hlo.Module, usable: float) -> dict[str, Any]:
    held, _ = sharding.bytes_per_device(program.step.state)
    return {"peak": program.peak, "usable": usable, "state": held, "largest": largest(module)}


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


def _replicated(step: steps.Step) -> dict[str, Any]:
    """Arrays of the state that lie whole on every chip."""
    found = sharding.replicated_bytes(step.state.items()) if step.mesh.size > 1 else {}
    large = {name: size for name, size in found.items() if size >= LARGE_REPLICA}
    return {"bytes": sum(found.values()), "threshold": LARGE_REPLICA, "large": large}

"""How long an optimized program takes on a chip, read from its text: an operation at a time, in the order of its schedule.

Each kind of operation has its own model.

* matmul: fusions around matrix products, by the cycles that the compiler's own model gives (`COST_MODEL_TYPE_CLASSIC`); without
  them by the peak or the bandwidth, whichever takes longer.
* kernel: Pallas kernels, by their scheduled bundles (`jaxgen.preflight.kernels`).
* memory: everything else, by the bytes that it moves over the bandwidth of HBM. What moves inside VMEM alone is taken at that
  bandwidth or at the compiler's cycles, whichever is less: both are upper bounds.
* collective: ring formulas (`jaxgen.preflight.collectives`). Where start and end are apart, what runs between them hides it.

Copies between HBM and VMEM run beside everything else, at the bandwidth that memory-bound operations leave them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from jaxgen.preflight import collectives, hlo, traffic
from jaxgen.preflight import kernels as kernel_calls

UNKNOWN = 2**63 - 1
KINDS = ("matmul", "kernel", "memory", "collective")
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "partition-id",
    "replica-id",
    "after-all",
    "opt-barrier",
    "optimization-barrier",
    "add-dependency",
}
_BOOKKEEPING = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "ZeroCrop", "Sharding"}


@dataclasses.dataclass(frozen=True)
class Line:
    """One operation, all its runs in a step together.

    Attributes:
      name: in the program. kind: one of `KINDS`. source: where in the traced program it comes from.
      times: how often it runs. seconds: what its runs take, alone.
      waited: seconds that the chip waits for it: all of them for most, what nothing hides for transfers.
      flops: of its matrix products. bytes: to and from HBM.
      overlapped: it is a transfer that something may hide.
    """

    name: str
    kind: str
    source: str
    times: int
    seconds: float
    waited: float
    flops: float = 0.0
    bytes: float = 0.0
    overlapped: bool = False


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a program costs.

    Attributes:
      lines: its operations, in order.
      unknown: loops whose length is not known (they count once), and kernels of which nothing is known (they count nothing).
    """

    lines: tuple[Line, ...]
    unknown: tuple[str, ...]

    def waited(self, kind: str) -> float:
        """Seconds that the chip spends on, or waits for, operations of one kind."""
        return sum(line.waited for line in self.lines if line.kind == kind)

    @property
    def seconds(self) -> tuple[float, float]:
        """The range of a step: [communication hidden, as compiled]."""
        compute = sum(self.waited(kind) for kind in KINDS if kind != "collective")
        return compute, compute + self.waited("collective")

    @property
    def flops(self) -> float:
        return sum(line.flops for line in self.lines)

    @property
    def bytes(self) -> float:
        return sum(line.bytes for line in self.lines)

    @property
    def hidden(self) -> float:
        """Seconds of collectives that other work hides."""
        return sum(line.seconds for line in self.lines if line.kind == "collective") - self.waited("collective")


def read(module: hlo.Module, torus: collectives.Torus, kernels: Mapping[str, tuple[float, float]]) -> Reading:
    """The cost of a program.

    Args:
      module: the optimized program. torus: where its partitions lie.
      kernels: seconds and FLOPs of one run of a kernel, by the name of its instruction (`jaxgen.preflight.kernels.read`).
    """
    reader = _Reader(module, torus, kernels)
    lines: list[Line] = []
    reader.walk(module.entry, 1, lines)
    return Reading(tuple(lines), tuple(dict.fromkeys(reader.unknown)))


class _Channels:
    """The clock of one computation, and until when the links and the memory are busy."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.busy = {"links": 0.0, "memory": 0.0}
        self.ends: dict[str, float] = {}

    def send(self, channel: str, seconds: float) -> float:
        """When a transfer that is handed over now will be done: behind those before it."""
        self.busy[channel] = max(self.clock, self.busy[channel]) + seconds
        return self.busy[channel]

    def wait(self, end: float) -> float:
        """Waits until `end`; returns how long that was."""
        waited = max(0.0, end - self.clock)
        self.clock += waited
        return waited


class _Reader:
    def __init__(self, module: hlo.Module, torus: collectives.Torus, kernels: Mapping[str, tuple[float, float]]) -> None:
        self.module, self.torus, self.chip, self.kernels = module, torus, torus.chip, kernels
        self.unknown: list[str] = []

    def walk(self, computation: hlo.Computation, times: int, lines: list[Line]) -> float:
        """Appends the operations of a computation that runs `times` times; returns the seconds of one run."""
        channels = _Channels()
        for each in computation.instructions:
            if each.opcode in _FREE or (each.opcode == "custom-call" and self._target(each) in _BOOKKEEPING):
                continue
            if each.opcode == "while":
                channels.clock += self._loop(computation, each, times, lines)
            elif each.opcode == "conditional":
                channels.clock += self._dearest(each, times, lines)
            elif each.opcode == "call":
                channels.clock += self.walk(self.module.of(each, "to_apply"), times, lines)
            else:
                self._step(computation, each, times, lines, channels)
        return channels.clock

    def _loop(self, computation: hlo.Computation, loop: hlo.Instruction, times: int, lines: list[Line]) -> float:
        trips = self.module.trips(computation, loop)
        if trips is None:
            self.unknown.append(f"length of the loop {loop.name}")
            trips = 1
        return trips * self.walk(self.module.of(loop, "body"), times * trips, lines) if trips else 0.0

    def _dearest(self, conditional: hlo.Instruction, times: int, lines: list[Line]) -> float:
        found = []
        for name in conditional.branches:
            branch: list[Line] = []
            found.append((self.walk(self.module.computations[name], times, branch), branch))
        seconds, branch = max(found, key=lambda pair: pair[0])
        lines.extend(branch)
        return seconds

    def _step(
        self, computation: hlo.Computation, each: hlo.Instruction, times: int, lines: list[Line], channels: _Channels
    ) -> None:
        def add(kind: str, seconds: float, waited: float, **more: float) -> None:
            lines.append(Line(each.name, kind, each.op_name, times, seconds * times, waited * times, **more))

        transfer = self._collective(each)
        role = self._role(each)
        if role == "done":
            key = self._key(computation, each, transfer)
            if key in channels.ends:
                kind = "collective" if transfer is not None or each.opcode.startswith(collectives.KINDS) else "memory"
                add(kind, 0.0, channels.wait(channels.ends.pop(key)), overlapped=True)
        elif transfer is not None:
            seconds = self._transfer(*transfer)
            end = channels.send("links", seconds)
            if role == "start":
                channels.ends[self._key(computation, each, transfer)] = end
                add("collective", seconds, 0.0, overlapped=True)
            else:
                add("collective", seconds, channels.wait(end))
        elif role == "start":
            moved = self._copied(each)
            seconds = moved / self.chip.bandwidth
            channels.ends[each.name] = channels.send("memory", seconds)
            add("memory", seconds, 0.0, bytes=float(moved * times), overlapped=True)
        elif each.opcode == "custom-call" and self._target(each) == kernel_calls.TARGET:
            if each.name not in self.kernels:
                self.unknown.append(f"time of the kernel {each.name}")
            seconds, flops = self.kernels.get(each.name, (0.0, 0.0))
            channels.clock += seconds
            moved = traffic.of(self.module, computation, each).hbm
            add("kernel", seconds, seconds, flops=flops * times, bytes=float(moved * times))
        else:
            self._compute(computation, each, times, add, channels)

    def _compute(self, computation: hlo.Computation, each: hlo.Instruction, times: int, add, channels: _Channels) -> None:
        moved = traffic.of(self.module, computation, each)
        flops = self._flops(computation, each)
        cycles = self._cycles(each)
        if flops:
            classic = cycles is not None and "CLASSIC" in each.quoted("cost_model_type")
            roofline = max(flops / self.chip.flops, moved.hbm / self.chip.bandwidth)
            seconds = cycles / self.chip.clock if classic else roofline
            channels.clock += seconds
            add("matmul", seconds, seconds, flops=flops * times, bytes=float(moved.hbm * times))
            return
        inside = moved.vmem / self.chip.bandwidth
        if cycles is not None:
            inside = min(inside, cycles / self.chip.clock)
        seconds = max(moved.hbm / self.chip.bandwidth, inside)
        if moved.hbm:
            waited = channels.wait(max(channels.send("memory", moved.hbm / self.chip.bandwidth), channels.clock + inside))
        else:
            waited = seconds
            channels.clock += seconds
        add("memory", seconds, waited, bytes=float(moved.hbm * times))

    def _flops(self, computation: hlo.Computation, each: hlo.Instruction) -> float:
        if each.opcode == "fusion":
            return traffic.flops(self.module, self.module.of(each))
        if each.opcode in ("dot", "convolution"):
            return traffic.flops(self.module, hlo.Computation("", tuple(computation.by_name[n] for n in each.operands) + (each,)))
        return 0.0

    def _cycles(self, each: hlo.Instruction) -> int | None:
        written = each.quoted("estimated_cycles")
        return int(written) if written and int(written) != UNKNOWN else None

    def _target(self, each: hlo.Instruction) -> str:
        return each.quoted("custom_call_target")

    def _role(self, each: hlo.Instruction) -> str:
        """ "start" and "done" of what runs beside other things; "" for the rest."""
        if each.opcode.endswith("-start"):
            return "start"
        if each.opcode.endswith("-done"):
            return "done"
        if each.opcode == "fusion" and each.kind == "kCustom":
            targets = {self._target(inner) for inner in self.module.of(each).instructions if inner.opcode == "custom-call"}
            if "AsyncCollectiveStart" in targets:
                return "start"
            if "AsyncCollectiveDone" in targets:
                return "done"
        return ""

    def _collective(self, each: hlo.Instruction) -> tuple[str, hlo.Instruction, hlo.Computation | None] | None:
        """Kind, instruction and computation of the collective that an instruction is, or holds; None where it is none.

        A product that carries a part of an asynchronous collective along is none: the transfer counts where it starts.
        """
        kind = _kind(each.opcode)
        if kind:
            return kind, each, None
        if each.opcode in ("fusion", "async-start") and (each.opcode == "async-start" or each.kind == "kCustom"):
            inner = self.module.of(each)
            for found in inner.instructions if inner else ():
                kind = _kind(found.opcode)
                if kind == "all-reduce" and "all-reduce-scatter" in inner.name:
                    return "reduce-scatter", found, inner
                if kind:
                    return kind, found, inner
        return None

    def _key(self, computation: hlo.Computation, each: hlo.Instruction, transfer: tuple | None) -> str:
        if transfer is not None and each.opcode == "fusion":
            return "channel " + transfer[1].word("channel_id")
        if each.opcode.endswith("-done"):
            name = each.operands[0]
            source = computation.by_name.get(name)
            # An update of what is under way passes it on under a new name.
            while source is not None and source.opcode.endswith("-update"):
                name = source.operands[0]
                source = computation.by_name.get(name)
            return name
        return each.name

    def _transfer(self, kind: str, each: hlo.Instruction, inner: hlo.Computation | None) -> float:
        arrays = each.arrays
        if each.opcode.endswith("-start") and kind != "all-reduce":
            # Operands, results, and marks of what is under way; the largest is the whole.
            size = max(array.bytes for array in arrays)
        elif kind == "reduce-scatter" and each.opcode.startswith("reduce-scatter"):
            size = sum(array.bytes for array in arrays) * len(collectives.group(each, len(self.torus.places)))
        else:
            size = sum(array.bytes for array in arrays)
        return self.torus.seconds(kind, size, collectives.group(each, len(self.torus.places)))

    def _copied(self, each: hlo.Instruction) -> int:
        """Bytes of HBM traffic of a copy or slice that runs by itself: its result, read or written there, or both."""
        arrays = [array for array in each.arrays if array.dims]
        if not arrays:
            return 0
        source, result = arrays[0], arrays[-1]
        return result.bytes * ((source.space == traffic.HBM) + (result.space == traffic.HBM))


def _kind(opcode: str) -> str:
    name = re.sub(r"-start$", "", opcode)
    return name if name in collectives.KINDS else ""

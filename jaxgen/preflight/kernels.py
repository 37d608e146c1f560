"""Time and FLOPs of Pallas kernels, from the bundles that the compiler scheduled for them.

A core runs one bundle of instructions a cycle. The compiler leaves them as text, one a line, with the depth of the loop that they
lie in and the test that ends it; the grid of a kernel is such a loop, and each core of a chip runs its share of it. A matrix
product waits until its unit has taken the rows before. What a kernel waits for data is not in it, so times are lower bounds.
Branches count as taken, but of those side by side that multiply as much as each other only the cheapest: kernels have one body for
tiles that a mask leaves whole and one for those that it cuts.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import pathlib
import re
from collections.abc import Iterable

from jaxgen.preflight import hlo
from jaxgen.preflight.chips import Chip

TARGET = "tpu_custom_call"
EFFICIENCY = 0.5
"""Share of the peak at which a kernel is taken to run whose bundles cannot be read but whose FLOPs are known."""
FLAGS = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
"""Options of libtpu that leave the bundles, and little else, in a folder."""

_LINE = re.compile(r"\s*(?:0x)?[0-9a-f]+ +(?P<marks>[A-Z, ]*): (?P<depth>[> ]*)\{(?P<bundle>.*)")
_EXIT = re.compile(r"%\w+, (\d+) /\* loop exit test \*/")
_PRODUCT = re.compile(r"vmatmul\.(?:mubr\.)?(\w+)\.[\w.]*?(mxu\d+)")
_REGION = re.compile(r"\b(Start|End) region (\d+)\b")
_ROWS = {"bf16": 16, "f32": 8, "s8": 32, "f8": 32}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One run of a kernel on one core.

    Attributes:
      cycles: bundles and waits for matrix units. rows: taken by all matrix units together.
    """

    cycles: float
    rows: float


def of(module: hlo.Module) -> dict[str, hlo.Instruction]:
    """The kernels of a program by the name of their instruction."""
    return {
        each.name: each
        for computation in module.scheduled()
        for each in computation.instructions
        if each.opcode == "custom-call" and each.quoted("custom_call_target") == TARGET
    }


def read(module: hlo.Module, bundles: pathlib.Path | None, chip: Chip) -> dict[str, tuple[float, float]]:
    """Seconds and FLOPs of one run of each kernel, by the name of its instruction.

    Kernels whose bundles were not found or whose loops have no fixed length go by the FLOPs that their author states, at
    `EFFICIENCY`; those that state none are left out.
    """
    found = {}
    files = {_kernel_of(path): path for path in sorted(bundles.glob("*-final_bundles.txt"))} if bundles else {}
    calls = of(module)
    # The compiler schedules kernels with equal bodies once, under the name of one of them.
    bodies = {each.quoted("body"): files[name] for name, each in calls.items() if name in files}
    for name, instruction in calls.items():
        path = files.get(name) or bodies.get(instruction.quoted("body") or name)
        kernel = None if path is None else schedule(path.read_text().splitlines(), chip)
        if kernel is not None:
            cores = chip.cores if _split(instruction) else 1
            found[name] = kernel.cycles / chip.clock, cores * kernel.rows * 2 * chip.array**2
        elif stated := _stated_flops(instruction):
            found[name] = stated / (EFFICIENCY * chip.flops), stated
    return found


def schedule(lines: Iterable[str], chip: Chip) -> Kernel | None:
    """What one core does; None where a loop's length is no constant.

    Args:
      lines: of a file of final bundles.
    """
    stack = [_Loop()]
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        depth = found["depth"].count(">")
        starts = "LB" in found["marks"] or "LH" in found["marks"]
        # Empty bundles carry no depth, and those that a branch still executes stand behind their loop with its depth.
        if not found["bundle"].startswith("}"):
            while len(stack) - 1 > depth or (starts and len(stack) - 1 == depth and stack[-1].trips is not None):
                if not _close(stack):
                    return None
        while starts and len(stack) - 1 < depth:
            stack.append(_Loop())
        stack[-1].bundle(found["bundle"], chip)
    while len(stack) > 1:
        if not _close(stack):
            return None
    return Kernel(stack[0].cycles, stack[0].rows)


@dataclasses.dataclass
class _Region:
    """A stretch of bundles that a branch may leave out.

    Attributes:
      number: the compiler's. cycles, rows: of the loop before it. inside: cycles of the regions in it by their rows.
    """

    number: str
    cycles: float
    rows: float
    inside: dict[float, float] = dataclasses.field(default_factory=dict)


class _Loop:
    """One pass through a loop as far as it is read."""

    def __init__(self) -> None:
        self.cycles = self.rows = 0.0
        self.free: dict[str, float] = {}
        self.trips: int | None = None
        self.open: list[_Region] = [_Region("", 0.0, 0.0)]

    def bundle(self, text: str, chip: Chip) -> None:
        marks = _REGION.findall(text)
        for mark, number in marks:
            if mark == "Start":
                self.open.append(_Region(number, self.cycles, self.rows))
        for kind, unit in _PRODUCT.findall(text):
            rows = _ROWS.get(kind, _ROWS["bf16"])
            self.cycles = max(self.cycles, self.free.get(unit, 0.0))
            # A unit takes a bundle of rows of 16-bit numbers in as many cycles as the peak says.
            self.free[unit] = self.cycles + rows * chip.cycles_a_row
            self.rows += rows
        self.cycles += 1
        ended = _EXIT.search(text)
        if ended:
            self.trips = int(ended[1])
        for mark, number in marks:
            if mark == "End":
                self._leave(number)

    def _leave(self, number: str) -> None:
        """Ends a region; drops it, or the one beside it, where they are branches of one choice."""
        if all(region.number != number for region in self.open[1:]):
            return
        while (region := self.open.pop()).number != number:
            pass
        cycles, rows = self.cycles - region.cycles, self.rows - region.rows
        beside = self.open[-1].inside
        if rows and rows in beside:
            self.cycles -= max(cycles, beside[rows])
            self.rows -= rows
            self.free = {}
            cycles = min(cycles, beside[rows])
        beside[rows] = cycles


def _close(stack: list[_Loop]) -> bool:
    """Adds the innermost loop to the one around it."""
    inner = stack.pop()
    if inner.trips is None:
        return False
    stack[-1].cycles += inner.cycles * inner.trips
    stack[-1].rows += inner.rows * inner.trips
    stack[-1].free = {}
    return True


def _kernel_of(path: pathlib.Path) -> str:
    """`17…-NAME-72-final_bundles.txt` is of the instruction NAME."""
    found = re.fullmatch(r"\d+-(.*)-\d+-final_bundles\.txt", path.name)
    return found[1] if found else ""


def _split(instruction: hlo.Instruction) -> bool:
    """Whether an axis of the kernel's grid may be shared out over the cores of a chip."""
    body = instruction.quoted("body")
    try:
        return b"dimension_semantics<parallel>" in base64.b64decode(body)
    except binascii.Error:
        return False


def _stated_flops(instruction: hlo.Instruction) -> float | None:
    found = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.attributes)
    return float(found[1]) if found else None

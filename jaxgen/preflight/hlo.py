"""Reads optimized, scheduled HLO text: computations, shapes with their layout, and how often loops run."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Unreadable(ValueError):
    """The text is not HLO as this reader knows it."""


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      dtype: as HLO writes it. dims: logical sizes.
      order: dimensions from minor to major. tile: of the two (or so) minor dimensions, () for none.
      space: memory space; 0 is HBM, 1 is VMEM, the rest are registers and scalars' memories.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        """Bytes that it takes with the padding of its tiles."""
        physical = [self.dims[i] for i in reversed(self.order)] if self.order else list(self.dims)
        if self.tile and physical:
            # A tile of one number covers all dimensions laid out in a row, which only vectors are.
            for place, size in zip(range(len(physical) - 1, -1, -1), reversed(self.tile)):
                physical[place] = -(-physical[place] // size) * size
        return math.prod(physical) * _bits(self.dtype) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without "%". opcode: as HLO writes it. arrays: of the result, tuples flattened in order.
      operands: names. attributes: the rest of the line.
      root: it is the result of its computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    arguments: str
    root: bool

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """Computations by role: calls, body, condition, to_apply, true_computation, false_computation."""
        return dict(_CALLED.findall(self.attributes))

    @property
    def branches(self) -> tuple[str, ...]:
        """Computations of which a conditional runs one."""
        found = _BRANCHES.search(self.attributes)
        if found:
            return tuple(_NAME.findall(found[1]))
        return tuple(self.called[role] for role in ("true_computation", "false_computation") if role in self.called)

    @property
    def kind(self) -> str:
        """Of a fusion: kLoop, kOutput, kCustom …; "" otherwise."""
        return self.word("kind")

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def word(self, attribute: str) -> str:
        """The value of `attribute=value` where it is one word."""
        found = re.search(rf"\b{attribute}=([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    def quoted(self, attribute: str) -> str:
        """The value of `attribute="value"` or, in the backend's configuration, `"attribute":"value"`."""
        found = re.search(rf'\b{attribute}"?[=:]"([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def integer(self) -> int | None:
        """Of an integer constant, its value."""
        return int(self.arguments) if self.opcode == "constant" and re.fullmatch(r"-?\d+", self.arguments) else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction:
        return next(each for each in self.instructions if each.root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        return {int(each.arguments): each for each in self.instructions if each.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """By name of what is used."""
        found: dict[str, list[Instruction]] = {}
        for each in self.instructions:
            for operand in each.operands:
                found.setdefault(operand, []).append(each)
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and which one it starts with."""

    computations: dict[str, Computation]
    entry: Computation

    def of(self, instruction: Instruction, role: str = "calls") -> Computation | None:
        """The computation that an instruction calls in this role."""
        name = instruction.called.get(role)
        return self.computations[name] if name else None

    def trips(self, computation: Computation, loop: Instruction) -> int | None:
        """How often the body of a `while` of this computation runs; None where that is not written in constants.

        Counted loops compare their counter with a constant; the counter starts at a constant (0 where that is not seen) and
        moves by a constant, which is more than one where the compiler has unrolled the body.
        """
        condition = self.computations[loop.called["condition"]]
        compare, inner, mapping = condition.root, condition, None
        if compare.opcode == "fusion":
            inner = self.computations[compare.called["calls"]]
            mapping = compare.operands
            compare = inner.root
        if compare.opcode != "compare":
            return None
        sides = [_followed(inner, name, mapping, condition) for name in compare.operands]
        bound = next((side.integer for side in sides if side is not None and side.integer is not None), None)
        counter = next((side for side in sides if side is not None and side.opcode == "get-tuple-element"), None)
        if bound is None:
            return None
        start, stride = 0, 1
        if counter is not None:
            index = int(counter.word("index"))
            start = self._start(computation, loop, index)
            stride = _stride(self.of(loop, "body"), index)
        direction = compare.word("direction")
        if sides[0] is not None and sides[0].integer is not None:
            direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
        if not stride:
            return None
        span = bound - start if stride > 0 else start - bound
        if direction in ("LE", "GE"):
            span += 1
        return max(-(-span // abs(stride)), 0) if direction in ("LT", "LE", "GT", "GE", "NE") else None

    def _start(self, computation: Computation, loop: Instruction, index: int) -> int:
        carried = computation.by_name.get(loop.operands[0])
        if carried is None or carried.opcode != "tuple":
            return 0
        first = _followed(computation, carried.operands[index], None, None)
        return first.integer if first is not None and first.integer is not None else 0

    def scheduled(self) -> Iterator[Computation]:
        """The entry and what it runs as a whole: bodies of loops, branches, called computations; no fusions."""
        waiting = [self.entry]
        while waiting:
            computation = waiting.pop()
            yield computation
            for each in computation.instructions:
                names = [each.called["body"]] if each.opcode == "while" else list(each.branches)
                if each.opcode == "call":
                    names.append(each.called["to_apply"])
                waiting.extend(self.computations[name] for name in names)


def parse(text: str) -> Module:
    """The module that an optimized program prints (`Compiled.as_text()`).

    Raises:
      Unreadable: no entry, or a line that is no instruction.
    """
    computations: dict[str, Computation] = {}
    entry = None
    name, lines = None, []
    for line in text.split("\n"):
        if name is None:
            opened = re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", line)
            if opened:
                name, lines = opened[2], []
                entry = name if opened[1] else entry
        elif line == "}":
            computations[name] = Computation(name, tuple(_instruction(each) for each in lines))
            name = None
        elif re.match(r"  (ROOT )?%", line):
            lines.append(line)
        elif lines:
            # Metadata of kernels holds line breaks.
            lines[-1] += line
    if entry is None or entry not in computations:
        raise Unreadable("no whole ENTRY computation")
    return Module(computations, computations[entry])


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a shape as HLO writes it, tuples flattened in order."""
    return tuple(_array(*found.groups()) for found in _ARRAY.finditer(_COMMENT.sub("", text)))


def _instruction(line: str) -> Instruction:
    head = re.match(r"\s+(ROOT )?%([\w.\-]+) = ", line)
    if head is None:
        raise Unreadable(f"no instruction: {line[:120]!r}")
    end = _closed(line, head.end()) if line[head.end()] == "(" else line.index(" ", head.end())
    opcode = re.match(r" ?([\w\-]+)\(", line[end:])
    if opcode is None:
        raise Unreadable(f"no operation: {line[:120]!r}")
    opened = end + opcode.end() - 1
    closed = _closed(line, opened)
    arguments = _COMMENT.sub("", line[opened + 1 : closed - 1])
    return Instruction(
        name=head[2],
        opcode=opcode[1],
        arrays=arrays(line[head.end() : end]),
        operands=tuple(_NAME.findall(arguments)),
        attributes=line[closed:],
        arguments=arguments,
        root=bool(head[1]),
    )


def _closed(text: str, start: int) -> int:
    """Index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.end()
    raise Unreadable(f"a parenthesis stays open: {text[:120]!r}")


def _array(dtype: str, dims: str, layout: str | None) -> Array:
    order, _, rest = (layout or "").partition(":")
    tile = re.search(r"T\(([\d,]+)\)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    return Array(dtype, _numbers(dims), _numbers(order), _numbers(tile[1]) if tile else (), int(space[1]) if space else 0)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    number = re.search(r"\d+", dtype)
    if number is None:
        raise Unreadable(f"a number format without a size: {dtype}")
    return int(number[0])


def _stride(body: Computation, index: int) -> int | None:
    """By how much one run of a loop's body moves its counter, the element `index` of what it carries."""
    if body.root.opcode != "tuple":
        return None
    total, found = 0, _followed(body, body.root.operands[index], None, None)
    while found is not None and found.opcode in ("add", "subtract"):
        left, right = (_followed(body, name, None, None) for name in found.operands)
        if right is None or right.integer is None:
            left, right = right, left
        if left is None or right is None or right.integer is None:
            return None
        total += right.integer if found.opcode == "add" else -right.integer
        found = left
    if found is None or found.opcode != "get-tuple-element" or int(found.word("index")) != index:
        return None
    return total


def _followed(inner: Computation, name: str, mapping: tuple[str, ...] | None, outer: Computation | None) -> Instruction | None:
    """What a name stands for, through copies and the parameters of a fusion."""
    found = inner.by_name.get(name)
    while found is not None and found.opcode in ("copy", "bitcast", "convert"):
        found = inner.by_name.get(found.operands[0])
    if found is not None and found.opcode == "parameter" and mapping is not None:
        return _followed(outer, mapping[int(found.arguments)], None, None)
    return found

"""Bytes that an operation moves and FLOPs that it does, read from its text and from the computations fused into it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

from jaxgen.preflight import hlo

HBM, VMEM = 0, 1
_PARTS = ("dynamic-slice", "slice", "gather")
_SAME = ("bitcast", "copy", "convert", "reshape", "transpose")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes read and written, by memory."""

    hbm: int = 0
    vmem: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.hbm + other.hbm, self.vmem + other.vmem)


def of(module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction) -> Traffic:
    """Bytes that an instruction moves. Of a slice only what is cut out counts, of an update in place only what is new."""
    if instruction.opcode == "fusion":
        return _fusion(module, computation, instruction)
    operands = [computation.by_name[name] for name in instruction.operands if name in computation.by_name]
    if instruction.opcode in _PARTS:
        return _held(instruction.arrays) + _resized(operands[0].arrays, instruction.arrays)
    if instruction.opcode in ("dynamic-update-slice", "scatter"):
        update = operands[1 if instruction.opcode == "dynamic-update-slice" else -1]
        return _held(update.arrays) + _resized(instruction.arrays, update.arrays)
    total = _held(instruction.arrays)
    for operand in operands:
        total += _held(operand.arrays)
    return total


def flops(module: hlo.Module, computation: hlo.Computation) -> float:
    """FLOPs of all matrix products and convolutions of a computation and of the fusions in it; loops are not followed."""
    total = 0.0
    for instruction in computation.instructions:
        if instruction.opcode == "fusion":
            total += flops(module, module.of(instruction))
        elif instruction.opcode == "convolution":
            total += _convolution(computation, instruction)
        elif instruction.opcode == "dot":
            total += _dot(computation, instruction)
    return total


def _fusion(module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction) -> Traffic:
    inner = module.of(instruction)
    total = _written(module, inner, instruction.arrays)
    for number, name in enumerate(instruction.operands):
        operand = computation.by_name.get(name)
        if operand is not None and number in inner.parameters:
            total += _read(module, inner, inner.parameters[number], operand.arrays)
    return total


def _read(module: hlo.Module, inner: hlo.Computation, value: hlo.Instruction, arrays: tuple[hlo.Array, ...]) -> Traffic:
    """What a fusion reads of one of its operands, which lies as `arrays` say."""
    whole = _held(arrays)
    part = Traffic()
    for user in inner.users.get(value.name, ()):
        if user.opcode in _PARTS and user.operands[0] == value.name:
            part += _resized(arrays, user.arrays)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue
        elif user.opcode == "fusion":
            nested = module.of(user)
            for number, name in enumerate(user.operands):
                if name == value.name:
                    part += _read(module, nested, nested.parameters[number], arrays)
        elif user.opcode == "bitcast":
            part += _read(module, inner, user, arrays)
        else:
            return whole
    return Traffic(min(part.hbm, whole.hbm), min(part.vmem, whole.vmem))


def _written(module: hlo.Module, inner: hlo.Computation, arrays: tuple[hlo.Array, ...]) -> Traffic:
    """What a fusion writes of its results, which lie as `arrays` say."""
    root = inner.root
    values = [inner.by_name[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(values) != len(arrays):
        return _held(arrays)
    total = Traffic()
    for value, array in zip(values, arrays):
        total += _result(module, inner, value, array)
    return total


def _result(module: hlo.Module, inner: hlo.Computation, value: hlo.Instruction, array: hlo.Array) -> Traffic:
    while value.opcode in _SAME and value.operands[0] in inner.by_name:
        value = inner.by_name[value.operands[0]]
    if value.opcode == "parameter":
        # Carried through unchanged, in the same buffer.
        return Traffic()
    if value.opcode == "dynamic-update-slice":
        return _resized((array,), inner.by_name[value.operands[1]].arrays)
    if value.opcode == "fusion" and len(value.arrays) == 1:
        nested = module.of(value)
        return _result(module, nested, nested.root, array)
    return _held((array,))


def _held(arrays: Iterable[hlo.Array]) -> Traffic:
    arrays = tuple(arrays)
    return Traffic(sum(a.bytes for a in arrays if a.space == HBM), sum(a.bytes for a in arrays if a.space == VMEM))


def _resized(where: tuple[hlo.Array, ...], what: tuple[hlo.Array, ...]) -> Traffic:
    """Bytes of `what` in the memory of `where`."""
    size = sum(array.bytes for array in what)
    space = where[0].space if where else HBM
    return Traffic(size if space == HBM else 0, size if space == VMEM else 0)


def _dot(computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    left = computation.by_name[instruction.operands[0]].arrays[0]
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    sizes = [left.dims[int(i)] for i in contracted[1].split(",") if i]
    return 2.0 * math.prod(instruction.arrays[0].dims) * math.prod(sizes)


def _convolution(computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    """2 · outputs · inputs of each, without what falls on padding: the compiler writes batched products as convolutions of which
    most is padding."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    left, right = (computation.by_name[name].arrays[0].dims for name in instruction.operands[:2])
    out = instruction.arrays[0].dims
    total = 2.0 * out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    written = dict(re.findall(r"(\w+)=([\w\-]+)", window[1])) if window else {}
    spatial = sorted(set(labels[3]) - {"b", "f"})
    for place, name in enumerate(spatial):
        taps = right[labels[2].index(name)]
        total *= _pairs(
            left[labels[1].index(name)],
            taps,
            out[labels[3].index(name)],
            stride=int(_nth(written, "stride", place, "1")),
            low=int(_nth(written, "pad", place, "0_0").split("_")[0]),
            spread=int(_nth(written, "lhs_dilate", place, "1")),
            gap=int(_nth(written, "rhs_dilate", place, "1")),
        )
    return total


def _nth(written: dict[str, str], name: str, place: int, default: str) -> str:
    values = written.get(name, "").split("x")
    return values[place] if place < len(values) and values[place] else default


def _pairs(size: int, taps: int, outputs: int, stride: int, low: int, spread: int, gap: int) -> int:
    """Pairs of an output and a tap of the window that meet an input and not padding, along one dimension."""
    count = 0
    for tap in range(taps):
        # Output o meets the place o·stride + tap·gap − low of the inputs spread out; every spread-th of those is an input.
        shift = tap * gap - low
        first = max(0, -(shift // stride))
        last = min(outputs - 1, ((size - 1) * spread - shift) // stride)
        if spread == 1:
            count += max(0, last - first + 1)
        else:
            count += sum((o * stride + shift) % spread == 0 for o in range(first, last + 1))
    return count

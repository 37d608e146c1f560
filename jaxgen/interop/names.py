"""Tables of names: which tensor of a published checkpoint is which parameter here, and how its axes turn, both ways.

A checkpoint is a dictionary of NumPy arrays by name, as read from safetensors; parameters are the nested dictionary of a Linen
module. Every step of a table can be undone, so that the same table reads and writes. Weights of PyTorch's linear layers are
(outputs, inputs), those of its convolutions (outputs, inputs, rows, columns); kernels here are (inputs, outputs).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxgen import mup, types


class Step(Protocol):
    """One invertible change of an array."""

    def into(self, x: np.ndarray) -> np.ndarray:
        """From the published form."""

    def back(self, x: np.ndarray) -> np.ndarray:
        """To the published form."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """Axes in another order."""

    order: tuple[int, ...]

    def into(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(self.order)

    def back(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(np.argsort(self.order))


@dataclasses.dataclass(frozen=True)
class Shape:
    """Another shape for the same elements in the same order."""

    published: tuple[int, ...]
    here: tuple[int, ...]

    def into(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(self.here)

    def back(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(self.published)


@dataclasses.dataclass(frozen=True)
class Pick:
    """Entries of an axis in another order; `order[i]` is where entry i here stands in the published array of `size` entries.

    The axis may be counted from the last one, -1. With fewer entries than `size` the rest is left out, and written as zeros.
    """

    axis: int
    order: np.ndarray
    size: int

    def into(self, x: np.ndarray) -> np.ndarray:
        return np.take(x, self.order, axis=self.axis)

    def back(self, x: np.ndarray) -> np.ndarray:
        axis = self.axis % x.ndim
        out = np.zeros((*x.shape[:axis], self.size, *x.shape[axis + 1 :]), x.dtype)
        out[(slice(None),) * axis + (self.order,)] = x
        return out


@dataclasses.dataclass(frozen=True)
class Times:
    """Every element multiplied by a factor, a number or an array that broadcasts."""

    factor: float | np.ndarray

    def into(self, x: np.ndarray) -> np.ndarray:
        return (x * self.factor).astype(x.dtype)

    def back(self, x: np.ndarray) -> np.ndarray:
        return (x / self.factor).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Rotate:
    """The first axis multiplied from the left by an orthogonal matrix."""

    matrix: np.ndarray

    def into(self, x: np.ndarray) -> np.ndarray:
        return (self.matrix @ x).astype(x.dtype)

    def back(self, x: np.ndarray) -> np.ndarray:
        return (self.matrix.T @ x).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
      source: its published name. shape: its published shape.
      target: path of the parameter here, separated by dots.
      steps: what turns one into the other.
      layer: which layer of a stacked parameter it is; None for others.
      part: the axis and the index on it that this tensor fills of a parameter that holds several of them; None where it is whole.
    """

    source: str
    shape: tuple[int, ...]
    target: str
    steps: tuple[Step, ...] = ()
    layer: int | None = None
    part: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """All tensors of a checkpoint.

    Attributes:
      entries: those that are parameters here.
      fixed: those that nobody trains, and what they must be; compared on the way in, written on the way out.
    """

    entries: tuple[Entry, ...]
    fixed: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.entries) + len(self.fixed)

    def read(self, checkpoint: Mapping[str, np.ndarray]) -> types.PyTree:
        """The parameters that a checkpoint holds, in its dtype.

        Raises:
          BadInput: tensors that are missing, unknown or of another shape, or fixed ones with other values.
        """
        known = {entry.source: entry.shape for entry in self.entries} | {name: x.shape for name, x in self.fixed.items()}
        for what, names in (("missing", known.keys() - checkpoint.keys()), ("unknown", checkpoint.keys() - known.keys())):
            if names:
                shown = ", ".join(sorted(names)[:5])
                raise types.BadInput("checkpoint", f"{len(names)} {what}: {shown}", f"the {len(known)} tensors of this network")
        for name, shape in known.items():
            if checkpoint[name].shape != shape:
                raise types.BadInput("checkpoint", f"{name} of shape {checkpoint[name].shape}", f"shape {shape}")
        for name, value in self.fixed.items():
            error = float(np.max(np.abs(checkpoint[name].astype(np.float64) - value)))
            if not error < 1e-4:
                raise types.BadInput("checkpoint", f"{name} that differs by {error:.3g}", "the fixed values of this network")
        found: dict[str, dict[int | None, dict[tuple[int, int] | None, np.ndarray]]] = {}
        for entry in self.entries:
            value = checkpoint[entry.source]
            for step in entry.steps:
                value = step.into(value)
            found.setdefault(entry.target, {}).setdefault(entry.layer, {})[entry.part] = value
        tree: dict = {}
        for target, layers in found.items():
            *path, leaf = target.split(".")
            node = tree
            for name in path:
                node = node.setdefault(name, {})
            whole = {layer: _whole(parts) for layer, parts in layers.items()}
            node[leaf] = whole[None] if None in whole else np.stack([whole[i] for i in range(len(whole))])
        return tree

    def write(self, params: types.PyTree) -> dict[str, np.ndarray]:
        """The checkpoint that holds these parameters: the inverse of `read`."""
        found = {}
        for entry in self.entries:
            value = params
            for name in entry.target.split("."):
                value = value[name]
            value = np.asarray(value if entry.layer is None else value[entry.layer])
            if entry.part is not None:
                value = np.take(value, entry.part[1], axis=entry.part[0])
            for step in reversed(entry.steps):
                value = step.back(value)
            found[entry.source] = np.ascontiguousarray(value)
        return found | {name: np.array(value, np.float32) for name, value in self.fixed.items()}


def _whole(parts: dict[tuple[int, int] | None, np.ndarray]) -> np.ndarray:
    if None in parts:
        return parts[None]
    ((axis, _), *_) = parts
    return np.stack([parts[axis, i] for i in range(len(parts))], axis=axis)


def dense(
    source: str,
    target: str,
    inputs: Sequence[int],
    outputs: Sequence[int],
    *,
    bias: bool = True,
    layer: int | None = None,
    part: int | None = None,
    into: np.ndarray | None = None,
    out: np.ndarray | None = None,
    kernel_steps: Iterable[Step] = (),
    both_steps: Iterable[Step] = (),
) -> tuple[Entry, ...]:
    """Entries of a linear layer's weight and bias, published as (outputs, inputs) and (outputs,), axes flattened in order.

    Args:
      inputs, outputs: sizes of the axes here.
      layer, part: as of `Entry`; the part is an index on an axis in front of the outputs.
      into, out: order (as of `Pick`) of the last input or output axis, where it differs.
      kernel_steps: of the kernel [inputs, outputs], last. both_steps: of arrays [..., outputs], before those.
    """
    inputs, outputs, both = tuple(inputs), tuple(outputs), tuple(both_steps)
    flat_in, flat_out, rank = math.prod(inputs), math.prod(outputs), len(inputs)
    steps: list[Step] = [Turn((1, 0)), Shape((flat_in, flat_out), (*inputs, *outputs))]
    if into is not None:
        steps.append(Pick(rank - 1, into, inputs[-1]))
    if out is not None:
        steps.append(Pick(rank + len(outputs) - 1, out, outputs[-1]))
    at = lambda axis: None if part is None else (axis, part)
    kernel = (*steps, *both, *kernel_steps)
    found = [Entry(f"{source}.weight", (flat_out, flat_in), f"{target}.kernel", kernel, layer, at(rank))]
    if bias:
        steps = [Shape((flat_out,), outputs)]
        if out is not None:
            steps.append(Pick(len(outputs) - 1, out, outputs[-1]))
        found.append(Entry(f"{source}.bias", (flat_out,), f"{target}.bias", (*steps, *both), layer, at(0)))
    return tuple(found)


def patches(source: str, target: str, patch: int, channels: int, width: int, out: np.ndarray | None = None) -> tuple[Entry, ...]:
    """Entries of a convolution that cuts patches, (D, C, p, p), which here is a linear map of patches flattened as (p, p, C)."""
    values = patch * patch * channels
    pick = () if out is None else (Pick(1, out, width),)
    steps = (Turn((2, 3, 1, 0)), Shape((patch, patch, channels, width), (values, width)), *pick)
    last = () if out is None else (Pick(0, out, width),)
    return (
        Entry(f"{source}.weight", (width, channels, patch, patch), f"{target}.kernel", steps),
        Entry(f"{source}.bias", (width,), f"{target}.bias", last),
    )


def query_factor(scale: mup.Scale, head_dim: int) -> float:
    """What published queries are multiplied by: their products are divided by √K, whatever the parametrization here."""
    return 1 / (scale.attention_scale(head_dim) * math.sqrt(head_dim))


def fused_query(scale: mup.Scale, head_dim: int) -> Times:
    """`query_factor` for arrays [..., 3, N, K] of queries, keys and values."""
    return Times(np.array([query_factor(scale, head_dim), 1.0, 1.0]).reshape(3, 1, 1))


def sinusoid_order(width: int) -> np.ndarray:
    """Order of the residual stream's channels, for networks whose table of positions has columns and sines first.

    Here rows come before columns and cosines before sines (`nn.embeddings.position_sinusoid`). The stream has no order of its own,
    so its channels are exchanged in everything that writes to it or reads from it.
    """
    quarter = np.arange(width // 4)
    column_sin, column_cos, row_sin, row_cos = (quarter + i * (width // 4) for i in range(4))
    return np.concatenate([row_cos, row_sin, column_cos, column_sin])


def position_table(rows: int, columns: int, width: int, spacing: float = 1.0) -> np.ndarray:
    """The published table of positions [1, rows·columns, D]: columns before rows, sines before cosines, counted from the corner."""
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = (spacing * x.reshape(-1, 1) * frequencies for x in np.indices((rows, columns)).astype(np.float64))
    return np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=-1)[None]


def reversed_time(features: int, max_period: float = 10_000.0) -> np.ndarray:
    """The matrix R with sinusoid(1 - t) = R sinusoid(t), cosines before sines at frequencies 1 … 1/max_period; orthogonal."""
    half = features // 2
    angle = max_period ** (-np.arange(half) / half)
    cos, sin = np.diag(np.cos(angle)), np.diag(np.sin(angle))
    return np.block([[cos, sin], [sin, -cos]])

"""What a collective costs on the links of a slice: which chips take part, and the ring formulas over the axes that they span."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import numpy as np

from jaxgen.preflight import hlo
from jaxgen.preflight.chips import Chip

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_GROUPS = re.compile(
    r"replica_groups=("
    r"mesh\[[^\]]*\](?:, ?device_ids=\([^)]*\)[^)]*\))? ?\{[^}]*\}"  # axes of a mesh
    r"|\{\{.*?\}\}|\{\}"  # listed, or all
    r"|\[[^\]]*\]<=\[[^\]]*\](?:T\([\d,]*\))?"  # counted off
    r")"
)
HOP = 1e-6
"""Seconds that a message needs from chip to chip whatever its size."""


@dataclasses.dataclass(frozen=True)
class Torus:
    """Where the program's partitions lie.

    Attributes:
      chip: figures of one chip.
      places: by partition, (slice, coordinates of the chip in it).
      wraps: by coordinate, whether the last chip is linked to the first.
      extents: by coordinate, chips of a slice.
    """

    chip: Chip
    places: tuple[tuple[int, ...], ...]
    wraps: tuple[bool, ...]
    extents: tuple[int, ...]

    def seconds(self, kind: str, size: int, group: tuple[int, ...]) -> float:
        """Time of a collective whose whole array has `size` bytes (a permutation: what one chip sends).

        Rings over k axes of the torus at once carry k times what one carries: an all-gather over n chips takes V / (2·link·k)
        where the axes are closed, V·(n − 1)/n / (link·k) where one is not, an all-reduce twice that, an all-to-all a quarter. Chips
        that do not fill a box count as a line over one axis. Groups over several slices pay the data-centre network on top.
        """
        if kind == "collective-permute":
            return size / self.chip.link + HOP
        places = np.array([self.places[partition] for partition in group])
        slices = np.unique(places[:, 0])
        inside = places[places[:, 0] == slices[0]][:, 1:]
        shares = {"all-reduce": 2.0, "all-to-all": 0.25}
        share = shares.get(kind, 1.0)
        seconds = share * self._within(size, inside)
        if len(slices) > 1:
            if self.chip.network is None:
                raise hlo.Unreadable(f"the bandwidth between slices of {self.chip.device_kind} is not published")
            # Each chip brings its part of what was reduced within the slice.
            part = size / len(inside)
            seconds += share * part * (len(slices) - 1) / len(slices) / self.chip.network
        return seconds

    def _within(self, size: float, places: np.ndarray) -> float:
        """Seconds of an all-gather among chips of one slice."""
        count = len(places)
        if count == 1:
            return 0.0
        lengths = [len(np.unique(column)) for column in places.T]
        spanned = [axis for axis, length in enumerate(lengths) if length > 1]
        box = math.prod(lengths) == count and all(_even(places[:, axis]) for axis in spanned)
        if not box:
            return max(size * (count - 1) / count / self.chip.link, (count - 1) * HOP)
        closed = all(self.wraps[axis] and lengths[axis] == self.extents[axis] for axis in spanned)
        pairs = all(lengths[axis] == 2 for axis in spanned)
        if closed and not pairs:
            transfer = size / (2 * self.chip.link * len(spanned))
            hops = sum(lengths[axis] // 2 for axis in spanned)
        else:
            transfer = size * (count - 1) / count / (self.chip.link * len(spanned))
            hops = sum(lengths[axis] - 1 for axis in spanned)
        return max(transfer, hops * HOP)


def group(instruction: hlo.Instruction, partitions: int) -> tuple[int, ...]:
    """The partitions of the first group of a collective; the other groups look alike.

    Raises:
      Unreadable: groups written in a form that is not known.
    """
    text = instruction.attributes
    found = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text)
    if found:
        return int(found[1]), int(found[2])
    found = _GROUPS.search(text)
    if found is None:
        raise hlo.Unreadable(f"{instruction.name}: no replica groups: {text[:160]!r}")
    written = found[1]
    if written == "{}":
        return tuple(range(partitions))
    if written.startswith("{{"):
        return _integers(written[2:].partition("}")[0])
    if written.startswith("mesh"):
        return _of_mesh(written)
    shape, _, source = written.partition("<=")
    dims, _, order = source.partition("T")
    ids = np.arange(partitions).reshape(_integers(dims))
    if order:
        ids = ids.transpose(_integers(order))
    return tuple(int(i) for i in ids.reshape(_integers(shape))[0])


def _of_mesh(written: str) -> tuple[int, ...]:
    """The first group of `mesh['a'=4,'b'=2] {'a'}`: partitions that differ in the named axes alone.

    `device_ids=([2,4]T(1,0))` says in which order the partitions fill the mesh.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", written)}
    named = re.findall(r"'(\w+)'", written[written.rindex("{") :])
    if set(named) - set(sizes):
        raise hlo.Unreadable(f"replica groups: {written[:160]!r}")
    ids = np.arange(math.prod(sizes.values()))
    if "device_ids" in written:
        order = re.search(r"device_ids=\((\[[\d,]*\])(?:T\(([\d,]*)\))?\)", written)
        if order is None:
            raise hlo.Unreadable(f"replica groups: {written[:160]!r}")
        ids = ids.reshape(_integers(order[1]))
        ids = ids.transpose(_integers(order[2])) if order[2] else ids
    ids = ids.reshape(tuple(sizes.values()))
    chosen = ids[tuple(slice(None) if name in named else 0 for name in sizes)]
    return tuple(int(i) for i in np.ravel(chosen))


def _even(column: np.ndarray) -> bool:
    """The values of one coordinate are one step apart, so that neighbours are linked."""
    values = np.unique(column)
    return all(after - before == 1 for before, after in itertools.pairwise(values))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))

"""TPU slices that can be rented: their shapes, names, hosts and torus links. Imports no JAX, so that a launcher can use it.

A slice is written `generation:shape`, for example `v5e:4x4` or `v5p:8x8x4`. Shapes and names are those of the Cloud TPU and GKE
documentation on TPU versions, topologies and runtime versions.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

from jaxgen import bad_input


@dataclasses.dataclass(frozen=True)
class Generation:
    """What all slices of one kind of TPU have in common.

    Attributes:
      name: `v4`, `v5e`, `v5p` or `v6e`.
      type_prefix: of accelerator types in the Cloud TPU API.
      count_per_chip: what accelerator types count for each chip: its 2 TensorCores for v4 and v5p, otherwise the chip.
      runtime: software version of TPU VMs.
      gke_accelerator: value of the GKE node label `cloud.google.com/gke-tpu-accelerator`.
      shapes: every shape that can be rented, smallest first.
    """

    name: str
    type_prefix: str
    count_per_chip: int
    runtime: str
    gke_accelerator: str
    shapes: tuple[tuple[int, ...], ...]


def _planes() -> tuple[tuple[int, ...], ...]:
    """Shapes of the generations whose chips are linked in two dimensions."""
    return ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))


def _solids(chips: int, longest: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the generations whose chips are linked in three: parts of a cube of 4, then cubes put together."""
    parts = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
    lengths = range(4, longest + 1, 4)
    wholes = [shape for shape in itertools.combinations_with_replacement(lengths, 3) if math.prod(shape) <= chips]
    return (*parts, *sorted(wholes, key=lambda shape: (math.prod(shape), shape)))


GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation("v4", "v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", _solids(2048, 16)),
        Generation("v5e", "v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", _planes()),
        Generation("v5p", "v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", _solids(6144, 24)),
        Generation("v6e", "v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", _planes()),
    )
}
"""By name. The longest shapes are 16x16x24 for v5p (v5p-12288) and 2048 chips for v4 (v4-4096)."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice: chips that are linked to each other without a data-centre network.

    Attributes:
      generation: the kind of TPU.
      shape: chips along each axis.
    """

    generation: Generation
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.generation.name}:{self.topology}"

    @property
    def topology(self) -> str:
        """The shape as the cloud writes it, for example `8x8x4`."""
        return "x".join(map(str, self.shape))

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def chips_per_host(self) -> int:
        """Chips of one virtual machine: 4, except in slices that are one machine of 1 or 8 chips."""
        return self.chips if len(self.shape) == 2 and self.chips <= 8 else 4

    @property
    def hosts(self) -> int:
        """Number of virtual machines."""
        return self.chips // self.chips_per_host

    @property
    def accelerator_type(self) -> str:
        """Name in the Cloud TPU API, for example `v5litepod-16`; it tells the number of chips and not the shape."""
        return f"{self.generation.type_prefix}-{self.chips * self.generation.count_per_chip}"

    @property
    def usual(self) -> Slice:
        """The slice that the accelerator type alone stands for: of the shapes with as many chips, the one nearest to a cube."""
        same = [shape for shape in self.generation.shapes if math.prod(shape) == self.chips]
        return Slice(self.generation, min(same, key=max))

    @property
    def wraps(self) -> tuple[bool, ...]:
        """By axis: the last chip is linked to the first, so that rings are closed.

        Three-dimensional slices have it on all axes from one whole cube of 4x4x4 on, two-dimensional ones on axes of length 16.
        """
        if len(self.shape) == 3:
            return (min(self.shape) >= 4,) * 3
        return tuple(length == 16 for length in self.shape)

    @property
    def gke_machine(self) -> str:
        """GKE machine type of its hosts."""
        family = {"v4": "ct4p-hightpu", "v5e": "ct5lp-hightpu", "v5p": "ct5p-hightpu", "v6e": "ct6e-standard"}
        return f"{family[self.generation.name]}-{self.chips_per_host}t"


def parse(text: str, option: str = "--slice") -> Slice:
    """The slice of this name. The order of the axes does not matter: `v5p:8x8x4` is `v5p:4x8x8`, as the cloud writes it.

    Raises:
      BadInput: no such generation, or no such shape in it; the nearest ones are named.
    """
    name, colon, topology = text.partition(":")
    if name not in GENERATIONS or not colon:
        meant = _types().get(text.removeprefix("tpu-").replace("v5e-", "v5litepod-"))
        hint = f"; perhaps {meant}" if meant else ""
        raise bad_input.BadInput(option, text, f"generation:shape, like v5e:4x4, of {', '.join(GENERATIONS)}{hint}")
    generation = GENERATIONS[name]
    try:
        lengths = sorted(int(length) for length in topology.split("x"))
    except ValueError:
        lengths = []
    for shape in generation.shapes:
        if sorted(shape) == lengths:
            return Slice(generation, shape)
    nearest = " or ".join(str(Slice(generation, shape)) for shape in _nearest(generation, math.prod(lengths)))
    raise bad_input.BadInput(option, text, f"a shape that {name} is rented in, such as {nearest}")


@functools.cache
def _types() -> dict[str, Slice]:
    """What each accelerator type stands for."""
    slices = (Slice(generation, shape) for generation in GENERATIONS.values() for shape in generation.shapes)
    return {each.accelerator_type: each.usual for each in slices}


def _nearest(generation: Generation, chips: int) -> list[tuple[int, ...]]:
    """The two shapes that come closest in number of chips."""
    return sorted(generation.shapes, key=lambda each: abs(math.log(math.prod(each) / max(chips, 1))))[:2]

"""The device mesh: five axes, one builder.

slice: across slices, over the data-centre network; data: replicas within a slice; fsdp: replicas that share out parameters
and optimizer; context: parts of a sequence; tensor: parts of a layer's width.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence

import jax
import numpy as np

from jaxgen import axes, types

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Sizes of the mesh axes (`mesh`). One of them may be -1, which takes the devices that are left."""

    slice: int = 1
    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    def validate(self) -> None:
        sizes = self.sizes()
        for name, size in sizes.items():
            if size == 0 or size < -1:
                raise types.BadInput(name, size, "a positive size, or -1 to fill")
        if list(sizes.values()).count(-1) > 1:
            raise types.BadInput("", tuple(sizes.values()), "at most one axis of size -1")

    def sizes(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in axes.MESH_AXES}

    def resolve(self, devices: int) -> dict[str, int]:
        """Sizes with -1 filled in for this many devices.

        Raises:
          BadInput: the mesh asks for more devices than there are, or does not divide them.
        """
        sizes = self.sizes()
        fixed = math.prod(size for size in sizes.values() if size > 0)
        fills = [name for name, size in sizes.items() if size == -1]
        if fixed > devices:
            raise types.BadInput("mesh", f"{_shown(sizes)} = {fixed} devices", f"at most the {devices} present")
        if fills:
            if devices % fixed:
                raise types.BadInput(
                    "mesh", f"{_shown(sizes)} on {devices} devices", f"sizes whose product {fixed} divides {devices}"
                )
            sizes[fills[0]] = devices // fixed
        return sizes

    def check_batch(self, batch_size: int, microbatches: int, devices: int) -> None:
        """Raises BadInput unless each part of the global batch divides over the axes that share it out."""
        sizes = self.resolve(devices)
        factors = {f"mesh.{name}": sizes[name] for name in axes.BATCH_MESH_AXES} | {"training.microbatches": microbatches}
        needed = math.prod(factors.values())
        if batch_size % needed:
            shown = " × ".join(f"{name}={size}" for name, size in factors.items() if size != 1)
            raise types.BadInput("data.batch_size", batch_size, f"a multiple of {needed} ({shown})")


def build(shape: MeshShape, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """A mesh with Auto axes over the first devices of the list that the shape needs.

    Enter it with `jax.set_mesh`: under a plain `with mesh:` layout constraints silently do nothing.
    """
    sizes = shape.resolve(len(devices))
    count = math.prod(sizes.values())
    array = np.asarray(devices[:count], dtype=object).reshape(tuple(sizes.values()))
    kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.sharding.Mesh(array, tuple(sizes), axis_types=kinds)


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Number of parts that a batch is split into."""
    return math.prod(mesh.shape[name] for name in axes.BATCH_MESH_AXES)


def _shown(sizes: dict[str, int]) -> str:
    return " × ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "one device"

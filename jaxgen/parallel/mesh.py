"""The device mesh: five axes, one builder.

slice: across slices, over the data-centre network; data: replicas within a slice; fsdp: replicas that share out parameters
and optimizer; context: parts of a sequence; tensor: parts of a layer's width.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

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

    def check(self, experiment: Any) -> None:
        """Heads divide over `tensor`, an image's tokens over `context`, where the model has such and the sizes are given."""
        model, data = experiment.model, experiment.data
        if self.tensor > 1 and hasattr(model, "head_dim"):
            heads = model.width // model.head_dim
            if heads % self.tensor:
                needed = f"a divisor of the model's {heads} heads (model.width={model.width} / model.head_dim={model.head_dim})"
                raise types.BadInput("mesh.tensor", self.tensor, needed)
        if self.context > 1 and hasattr(model, "patch"):
            side = data.resolution // experiment.autoencoder.factor // model.patch
            if side**2 % self.context:
                raise types.BadInput("mesh.context", self.context, f"a divisor of an image's {side**2} tokens")

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


@dataclasses.dataclass(frozen=True)
class FSDP(MeshShape):
    """`mesh=fsdp`: all devices share out parameters and optimizer."""

    data: int = 1
    fsdp: int = -1


@dataclasses.dataclass(frozen=True)
class HSDP(MeshShape):
    """`mesh=hsdp`: a replica on each of `mesh.slice` slices, shared out within it; between slices only gradients travel."""

    slice: int = 2
    data: int = 1
    fsdp: int = -1


@dataclasses.dataclass(frozen=True)
class FSDPTensor(MeshShape):
    """`mesh=fsdp_tensor`: as `fsdp`, with layers split over `mesh.tensor` neighbours, for models too wide for one device."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 4


@dataclasses.dataclass(frozen=True)
class Context(MeshShape):
    """`mesh=context`: as `fsdp`, with sequences split over `mesh.context` neighbours, for long videos and large pictures."""

    data: int = 1
    fsdp: int = -1
    context: int = 2


def build(shape: MeshShape, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """A mesh with Auto axes over the first devices of the list that the shape needs.

    On all chips of TPU slices, axes lie along the links between chips, and `slice` alone crosses from slice to slice. Elsewhere
    devices are taken in their order, so that the last axes lie within a host.

    Enter it with `jax.set_mesh`: under a plain `with mesh:` layout constraints silently do nothing.

    Raises:
      BadInput: as `MeshShape.resolve`; or `slice` is not the number of slices.
    """
    sizes = shape.resolve(len(devices))
    kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.sharding.Mesh(arranged(sizes, devices), tuple(sizes), axis_types=kinds)


def arranged(sizes: dict[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices as an array with these sizes of the five axes; see `build`."""
    shape = tuple(sizes.values())
    count = math.prod(shape)
    if devices[0].platform != "tpu" or count < len(devices):
        return np.asarray(devices[:count], dtype=object).reshape(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if sizes["slice"] != slices:
        raise types.BadInput("mesh.slice", sizes["slice"], f"{slices}, the slices that the {count} devices are on")
    within, across = (1, *shape[1:]), (slices, *(1 for _ in shape[1:]))
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Number of parts that a batch is split into."""
    return math.prod(mesh.shape[name] for name in axes.BATCH_MESH_AXES)


def _shown(sizes: dict[str, int]) -> str:
    return " × ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "one device"

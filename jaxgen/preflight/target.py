"""The slices that a step is compiled for, and the environment in which the TPU compiler runs on a machine without a TPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

from jaxgen import bad_input
from jaxgen.parallel import slices
from jaxgen.preflight import chips, collectives, kernels

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # A program from the cache does not tell how it was scheduled.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    # Any type does: what is compiled for is named apart. Without them libtpu asks the cloud's metadata server.
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    # The library locks the machine's chips, of which there are none: several compiles may run at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
      slice: one slice. count: how many of them, joined by the data-centre network.
    """

    slice: slices.Slice
    count: int = 1

    def __str__(self) -> str:
        return f"{self.count} × {self.slice}" if self.count > 1 else str(self.slice)

    @property
    def chips(self) -> int:
        return self.slice.chips * self.count

    @property
    def chip(self) -> chips.Chip:
        return chips.CHIPS[self.slice.generation.name]

    def devices(self) -> list[Any]:
        """The chips as JAX devices that programs can be compiled for and not run on. Needs `environment()`."""
        from jax.experimental import topologies

        generation, shape = self.slice.generation.name, self.slice.shape
        flat = (*shape, *(1,) * (3 - len(shape)))
        options: dict[str, Any] = {}
        if self.slice.chips_per_host != 4:
            options["chips_per_host_bounds"] = flat
        if any(self.slice.wraps):
            options["wrap"] = tuple(self.slice.wraps[axis] if axis < len(shape) else False for axis in range(3))
        if generation == "v4":
            options["chip_config_name"] = "megacore"
        if self.count > 1:
            options["num_slices"] = self.count
        return topologies.get_topology_desc(platform="tpu", topology_name=str(self.slice), **options).devices

    def torus(self, devices: Sequence[Any]) -> collectives.Torus:
        """Where the partitions of a program lie whose mesh has these devices, in this order."""
        wraps = (*self.slice.wraps, *(False,) * (3 - len(self.slice.shape)))
        extents = (*self.slice.shape, *(1,) * (3 - len(self.slice.shape)))
        places = tuple((getattr(device, "slice_index", None) or 0, *device.coords) for device in devices)
        return collectives.Torus(self.chip, places, wraps, extents)


def environment(dump: str | None = None) -> dict[str, str]:
    """This process's environment as a compile needs it, before JAX is imported.

    Args:
      dump: a folder for the scheduled bundles of every program.
    """
    made = os.environ | _ENVIRONMENT
    flags = kernels.FLAGS.format(folder=dump) if dump else ""
    return made | {"LIBTPU_INIT_ARGS": " ".join(filter(None, (made.get("LIBTPU_INIT_ARGS", ""), flags)))}


def check(experiment: Any, target: Target, what: str = "training") -> None:
    """Raises BadInput where the mesh, or the batch of training, does not divide over the slices. Needs no compiler."""
    shape, training = experiment.mesh, experiment.training
    sizes = shape.resolve(target.chips)
    used = math.prod(sizes.values())
    if used != target.chips:
        shown = " × ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "one device"
        raise bad_input.BadInput("mesh", f"{shown} = {used} devices", f"the {target.chips} of {target}; -1 fills an axis")
    if target.count > 1 and sizes["slice"] != target.count:
        raise bad_input.BadInput("mesh.slice", sizes["slice"], f"{target.count}, the number of slices")
    if what == "training":
        shape.check_batch(experiment.data.batch_size, training.microbatches, target.chips)


def require_compiler() -> None:
    """Raises BadInput where the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        needed = 'the TPU compiler; on any x86 Linux machine: pip install "jaxgen[tpu]", or JAXGEN_EXTRA=tpu bash launch/local.sh …'
        raise bad_input.BadInput("libtpu", "not installed", needed)

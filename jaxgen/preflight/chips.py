"""What one TPU chip offers: memory, bandwidths, links and clock, for reading a compiled program.

Figures of the Cloud TPU documentation; usable memory is the limit that the compiler itself names, and the clock is the one at
which its cycle counts give the published peak. Where a chip has two cores (v4, v5p) they are one JAX device and count together.
"""

from __future__ import annotations

import dataclasses

from jaxgen.parallel import chips as peaks

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      device_kind: as JAX names it.
      memory: bytes of HBM that a program may use. bandwidth: of it, bytes/s.
      link: bytes/s of one link in one direction.
      clock: Hz.
      network: bytes/s to other slices, over the data-centre network; None where it is not published.
      cores: that share the chip's work and are one device. arrays: matrix units of a core. array: rows and columns of one.
    """

    device_kind: str
    memory: float
    bandwidth: float
    link: float
    clock: float
    network: float | None
    cores: int
    arrays: int
    array: int

    @property
    def flops(self) -> float:
        """Peak FLOP/s, dense bfloat16."""
        return peaks.PEAK_BFLOAT16[self.device_kind]

    @property
    def cycles_a_row(self) -> float:
        """Cycles in which a matrix unit at its peak takes one row."""
        return self.cores * self.arrays * 2 * self.array**2 * self.clock / self.flops


CHIPS = {
    "v4": Chip("TPU v4", 30.75 * GIB, 1.228e12, 45e9, 1.05e9, None, 2, 4, 128),
    "v5e": Chip("TPU v5 lite", 15.75 * GIB, 0.819e12, 45e9, 1.50e9, 25e9 / 8, 1, 4, 128),
    "v5p": Chip("TPU v5", 95.74 * GIB, 2.765e12, 90e9, 1.75e9, 50e9 / 8, 2, 4, 128),
    "v6e": Chip("TPU v6 lite", 31.25 * GIB, 1.638e12, 90e9, 1.75e9, 100e9 / 8, 1, 2, 256),
}
"""By generation, as in `jaxgen.parallel.slices.GENERATIONS`."""

"""Peak matrix throughput of accelerators, for model FLOPs utilization."""

from __future__ import annotations

import jax

PEAK_BFLOAT16 = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12 / 2,  # a chip shows as two devices
}
"""FLOP/s of one JAX device by `device_kind`, dense bfloat16, from the vendor's tables."""


def peak_flops(mesh: jax.sharding.Mesh) -> float | None:
    """Peak FLOP/s of all devices of the mesh together; None where it is not known."""
    peak = PEAK_BFLOAT16.get(mesh.devices.flat[0].device_kind)
    return None if peak is None else peak * mesh.devices.size

"""Memory of a machine without accelerators, where programs allocate their temporary arrays on the host, anew at each step."""

from __future__ import annotations

import ctypes
import pathlib

_DEVICES = ("accel*", "vfio/[0-9]*", "nvidia*")
"""Files in /dev of TPUs and GPUs."""
_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8
"""Names of glibc's `mallopt`."""


def keep_freed(devices: str = "/dev") -> bool:
    """Makes the C library keep what is freed for the next allocation; call before JAX starts its devices, later does nothing.

    Returned to the system, memory comes back page by page, each one cleared: a third of a small step. Machines with accelerators
    are left alone, whose arrays lie elsewhere, and so are C libraries other than glibc.

    Args:
      devices: folder of device files.

    Returns whether freed memory is kept.
    """
    if any(True for pattern in _DEVICES for _ in pathlib.Path(devices).glob(pattern)):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # No mappings for large arrays, no trimming, and one arena: others are too small for such arrays.
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)

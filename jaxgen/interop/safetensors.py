"""Reads checkpoints in the safetensors format: named arrays and nothing that could run."""

from __future__ import annotations

import json
import math
import os

import ml_dtypes
import numpy as np
import upath

from jaxgen import types

_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64, "I32": np.int32}
# The largest header that the format allows.
_HEADER_BYTES = 100_000_000


def read(path: str | os.PathLike[str], option: str) -> dict[str, np.ndarray]:
    """All tensors of a file, local or any that fsspec opens, by name.

    Args:
      option: the name under which a file that cannot be read is refused.

    Raises:
      BadInput: no file, or one that is damaged or of another format.
    """
    try:
        raw = upath.UPath(path).read_bytes()
    # Remote file systems raise errors of their own.
    except Exception as error:
        raise types.BadInput(option, str(path), f"a safetensors file that can be read ({error})") from error
    try:
        start = 8 + int.from_bytes(raw[:8], "little")
        if len(raw) < 8 or start > min(len(raw), _HEADER_BYTES):
            raise ValueError("its header is cut off")
        found = {}
        for name, about in json.loads(raw[8:start]).items():
            if name == "__metadata__":
                continue
            kind, shape, (first, last) = np.dtype(_TYPES[about["dtype"]]), tuple(about["shape"]), about["data_offsets"]
            if not 0 <= first <= last <= len(raw) - start or last - first != kind.itemsize * math.prod(shape):
                raise ValueError(f"{name} of shape {shape} has bytes {first} to {last} of {len(raw) - start}")
            found[name] = np.frombuffer(raw[start + first : start + last], kind).reshape(shape)
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise types.BadInput(option, str(path), f"a whole safetensors file ({error})") from error

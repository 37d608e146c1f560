"""Reads recorded runs of published code: `<name>.safetensors` beside this file."""

import json
import pathlib

import numpy as np

TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32}


def load(name: str) -> dict[str, np.ndarray]:
    """All tensors by name."""
    raw = (pathlib.Path(__file__).parent / f"{name}.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    found = {}
    for key, about in json.loads(raw[8:start]).items():
        if key != "__metadata__":
            first, last = about["data_offsets"]
            values = np.frombuffer(raw[start + first : start + last], TYPES[about["dtype"]])
            found[key] = values.reshape(about["shape"])
    return found

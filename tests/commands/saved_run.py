"""What a run has saved, for tests that compare runs."""

import pathlib

import jax
import pytest

from jaxgen import run
from jaxgen.training import checkpoint


def saved(folder):
    """Every array file's content of the last checkpoint, read without knowing the experiment."""
    checkpoints = checkpoint.Checkpoints(run.Run(folder))
    last = checkpoints.newest_whole(pytest.fail)
    items = [path.name for path in (pathlib.Path(folder) / "checkpoints" / str(last)).iterdir() if path.is_dir()]
    layout = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = {}
    for item in set(items) - {"about", "position"}:
        shapes = checkpoints.shapes(last, item)
        target = {name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=layout) for name, s in shapes.items()}
        found[item] = checkpoints.restore(last, {item: target})[item]
    return last, jax.device_get(found)

"""A run that diverges stops with the step and what broke, and keeps no checkpoint of it."""

import pathlib
import re

import jax
import numpy as np

from jaxgen import cli, run
from jaxgen.training import checkpoint

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")


def test_divergence_is_named_and_never_saved(tmp_path, capsys):
    options = ["optimizer.learning_rate=1e20", "training.checkpoint_every=1", "training.steps=12", "mesh.data=1"]
    code = cli.main(["train", TINY, "--run", str(tmp_path), *(word for option in options for word in ("--set", option))])
    said = capsys.readouterr().err
    assert code == 1
    step = int(re.search(r"step (\d+): not finite: model: ", said).group(1))
    checkpoints = checkpoint.Checkpoints(run.Run(tmp_path))
    last = checkpoints.newest_whole(lambda line: None)
    assert last == step - 1
    layout = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = checkpoints.shapes(last, "params.model")
    target = {name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=layout) for name, s in shapes.items()}
    saved = checkpoints.restore(last, {"params.model": target})["params.model"]
    assert all(np.isfinite(value).all() for value in saved.values())

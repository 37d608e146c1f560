"""A run of Gaussian diffusion carries its process: nothing that goes on with it has to be told."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
OPTIONS = (
    "model=jaxgen.models.dit:DiT",
    "model.width=32",
    "model.depth=1",
    "model.learn_variance=true",
    "objective=jaxgen.objectives.gaussian_diffusion:GaussianDiffusion",
    "objective.process.learned_variance=true",
    "training.steps=2",
    "training.checkpoint_every=2",
    "sampler.steps=3",
    "sampler.stepper=ddpm",
    "sampler.grid=respaced",
    "sampler.images_per_device=2",
)


def sets(overrides):
    return [word for text in overrides for word in ("--set", text)]


@pytest.mark.slow
def test_a_run_is_trained_drawn_from_and_gone_on_with_as_what_it_is(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", TINY, "--run", str(run), *sets(OPTIONS)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bound, simple = (next(row[name] for row in rows if name in row) for name in ("loss_bound", "loss_simple"))
    assert np.isfinite([bound, simple]).all() and simple == pytest.approx(1, abs=0.3)
    before = set((run / "samples").iterdir())
    assert cli.main(["sample", str(run), "--count", "4"]) == 0
    (drawn,) = set((run / "samples").glob("*.png")) - before
    assert np.asarray(Image.open(drawn)).std() > 10
    assert cli.main(["train", str(run), "--set", "training.steps=3"]) == 0
    capsys.readouterr()
    assert cli.main(["train", str(run), "--set", "objective.process.prediction=v"]) == 2
    assert "objective.process.prediction: 'noise' there, 'v' asked for" in capsys.readouterr().err

"""`train --profile FIRST:LAST` traces these steps and no others."""

import gzip
import pathlib

import pytest

from jaxgen import cli

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
QUICK = ("model=jaxgen.models.dit:DiT", "model.width=16", "model.depth=1", "sampler=none", "mesh.data=1", "training.steps=5")


def train(folder, *options):
    return cli.main(["train", TINY, "--run", str(folder), *options, *(word for text in QUICK for word in ("--set", text))])


def test_the_steps_that_were_asked_for_are_in_the_trace(tmp_path, capsys):
    assert train(tmp_path / "run", "--profile", "2:3") == 0
    assert "traced steps 2 to 3" in capsys.readouterr().err
    (xprof,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    (perfetto,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    trace = gzip.decompress(perfetto.read_bytes()).decode()
    found = {number for number in range(1, 6) if f'"step_num": "{number}"' in trace or f'"step_num":"{number}"' in trace}
    assert found == {2, 3}, trace[:2000]
    assert b"PjitFunction(train_step)" in xprof.read_bytes()


@pytest.mark.parametrize("steps", ["4:3", "0:1", "5:6"])
def test_steps_that_will_not_be_are_refused(tmp_path, capsys, steps):
    assert train(tmp_path / "run", "--profile", steps) == 2
    assert f"--profile: found '{steps}', needed first and last of the steps 1 to 5" in capsys.readouterr().err

"""`jaxgen mup-sweep`: a table, a plot and figures; goes on where it stopped."""

import json
import pathlib

import pytest
from PIL import Image

from jaxgen import cli, types
from jaxgen.commands import mup_sweep
from jaxgen.training import coordinate_check

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
SMALL = ["model=jaxgen.models.dit:DiT", "model.depth=1", "model.scaling.base_width=16", "data.batch_size=8", "training.steps=3"]
SET = [part for text in SMALL for part in ("--set", text)]


@pytest.fixture
def trained(monkeypatch):
    """Runs trained so far, as a list that grows."""
    runs, real = [], coordinate_check.final_loss

    def counted(*arguments):
        runs.append(real(*arguments))
        return runs[-1]

    monkeypatch.setattr(coordinate_check, "final_loss", counted)
    return runs


def test_a_sweep_and_its_continuation(tmp_path, monkeypatch, capsys, trained):
    monkeypatch.chdir(tmp_path)
    command = ["mup-sweep", TINY, *SET, "--widths", "16,32", "--seeds", "2", "--json", "sweep.json"]
    assert cli.main([*command, "--rates", "1e-4,0.01,10"]) == 0
    assert len(trained) == 2 * 3 * 2
    assert cli.main([*command, "--rates", "1e-4,0.01,0.1,10"]) == 0
    assert len(trained) == 2 * 4 * 2
    figures = json.loads(pathlib.Path("sweep.json").read_text())
    assert figures["parametrization"] == "mup" and list(figures["widths"]) == ["16", "32"]
    assert len(figures["widths"]["16"]["losses"]) == 4
    shown = capsys.readouterr().out
    assert "log₂ of the best rate moves by" in shown
    assert Image.open("runs/quickstart-tiny-sweep/sweep.png").width > 500


@pytest.mark.parametrize(
    "text, found",
    [
        ("0.1,0.001,0.01", [0.001, 0.01, 0.1]),
        ("2^-3:2^-1", [0.125, 0.25, 0.5]),
        ("2^-3:2^-1,1", [0.125, 0.25, 0.5, 1.0]),
        ("0.1:0.4", [0.1, 0.2, 0.4]),
    ],
)
def test_rates(text, found):
    assert mup_sweep.rates(text) == pytest.approx(found)


@pytest.mark.parametrize(
    "text", ["", "0.1", "0.1,0.2", "0.1,0.2,x", "0,0.1,0.2", "-1,0.1,0.2", "2^-1:2^-3", "nan,1,2", "0:1", "1,2,inf"]
)
def test_what_is_no_rates_is_refused(text):
    with pytest.raises(types.BadInput, match="--rates"):
        mup_sweep.rates(text)

"""Synthetic data needs NumPy alone: training, checking and drawing run where Grain and TFDS cannot be imported."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
BLOCK = """
import sys
for name in ("grain", "tensorflow_datasets", "array_record", "tensorflow", "sklearn"):
    sys.modules[name] = None
from jaxgen.cli import main
sys.exit(main(sys.argv[1:]))
"""


def jaxgen(*arguments):
    done = subprocess.run([sys.executable, "-c", BLOCK, *arguments], env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_train_sample_and_mup_check(tmp_path):
    folder = str(tmp_path / "run")
    jaxgen("train", TINY, "--run", folder, "--set", "training.steps=3", "--set", "data.source=synthetic")
    jaxgen("sample", folder, "--count", "3", "--each")
    assert len(list((tmp_path / "run" / "samples").rglob("*.png"))) == 5, "two grids and three pictures"
    figures = tmp_path / "figures.json"
    plot = str(tmp_path / "plot.png")
    quick = "--widths 32,64 --steps 2 --seeds 1 --tolerance 9 9 9".split()
    said = jaxgen("mup-check", TINY, *quick, "--plot", plot, "--json", str(figures), "--set", "model.depth=1")
    assert "passed" in said and json.loads(figures.read_text())["passed"] and pathlib.Path(plot).stat().st_size > 1000

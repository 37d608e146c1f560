"""Somebody comes with a folder of photographs: a trained run and a report, and what is broken is named and left out."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxgen import cli
from jaxgen import experiment as experiments
from jaxgen.commands import samples
from jaxgen.data import hashing

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "own_pictures.py:tiny")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """200 crops of two photographs, captioned in English and Chinese; three are broken, one of them in the test split."""
    folder = tmp_path_factory.mktemp("my pictures")
    random = np.random.default_rng(0)
    captions = (("a temple roof", "寺庙的屋顶"), ("a pink flower", "一朵粉红色的花"))
    for number in range(200):
        which = number % 2
        photograph = load_sample_images().images[which]
        side = int(random.integers(60, 200))
        top, left = (int(random.integers(0, size - side)) for size in photograph.shape[:2])
        crop = Image.fromarray(photograph[top : top + side, left : left + side + 20])
        crop.save(folder / f"{number:03}.{'png' if number % 3 else 'jpg'}")
        (folder / f"{number:03}.txt").write_text(captions[which][number // 2 % 2])
    tested = [path for path in sorted(folder.glob("*.jpg")) if hashing.share(path.name) < 0.2][0]
    tested.write_bytes(tested.read_bytes()[:500])
    trained = [path for path in sorted(folder.glob("*.png")) if hashing.share(path.name) >= 0.2]
    trained[0].write_text("no picture")
    trained[1].with_suffix(".txt").unlink()
    return folder, [path.name for path in (tested, trained[0], trained[1])]


def test_a_run_and_a_report(photographs, tmp_path, capsys):
    folder, broken = photographs
    run = tmp_path / "run"
    assert cli.main(["train", TINY, "--run", str(run), "--set", f"data.source.path={folder}", "--set", "mesh.data=8"]) == 0
    said = capsys.readouterr().err
    for name in broken:
        assert said.count(f"{name} is left out") == 1
    figures = json.loads((run / "evaluation" / "metrics.json").read_text())
    whole = sum(hashing.share(path.name) < 0.2 for path in folder.iterdir() if path.suffix != ".txt") - 1
    assert figures["samples"] == whole > 20
    assert {"frechet_distance", "frechet_distance_real", "precision", "recall", "memorised"} <= figures.keys()
    assert "caption_agreement" not in figures
    assert "寺庙的屋顶" in (run / "evaluation" / "report.html").read_text()
    drawn = samples.wanted(experiments.load(str(run), [])[0], 40, None)
    assert drawn["weight"].min() > 0 and drawn["text_mask"].any(axis=1).all(), "what is broken has no caption to draw"
    assert cli.main(["sample", str(run), "--caption", "a pink flower", "--count", "2"]) == 0
    assert cli.main(["evaluate", str(run)]) == 0


def test_without_a_path_it_says_how_to_give_one(tmp_path, capsys):
    assert cli.main(["train", TINY, "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "data.source.path: found '', needed the folder of your pictures, as in --set data.source.path=" in said
    assert not (tmp_path / "run").exists()

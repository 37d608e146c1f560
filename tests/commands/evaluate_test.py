"""`jaxgen evaluate`: the same figures wherever and however often interrupted, and pages to look at."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxgen import cli
from jaxgen.data.scenes import source

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
SCENES = str(pathlib.Path(__file__).parents[2] / "configs" / "scenes.py:flow")
TRAINING = ["training.steps=4", "training.checkpoint_every=4", "sampler.images_per_device=4", "sampler.steps=2", "evaluation=none"]
EVALUATION = [
    "evaluation=jaxgen.evaluation.evaluation:Evaluation", "evaluation.judge=digits", "evaluation.samples=80",
    "evaluation.resamples=5",
]  # fmt: skip
NEEDED = (
    "frechet_distance", "frechet_distance_real", "frechet_distance_class_gaussian", "precision", "recall", "recall_real",
    "caption_agreement", "caption_agreement_en", "caption_agreement_zh", "caption_agreement_heldout", "judge_accuracy", "memorised",
    "nfe",
)  # fmt: skip


def sets(overrides):
    return [word for text in overrides for word in ("--set", text)]


def figures(folder):
    return json.loads((folder / "evaluation" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert cli.main(["train", TINY, "--run", str(folder), *sets(["seed=3", *TRAINING])]) == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(trained):
    """The run, evaluated on one device."""
    with pytest.MonkeyPatch.context() as patch:
        one = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *_: one)
        assert cli.main(["evaluate", str(trained), *sets(EVALUATION)]) == 0
    return trained


def test_every_figure_has_its_reference(evaluated):
    found = figures(evaluated)
    assert set(NEEDED) <= found.keys()
    assert found["samples"] == 80 and found["step"] == 4 and found["weights"] == "ema.0.999.model" and found["seed"] == 3
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high, name
    # Four steps teach nothing: real pictures are far closer.
    assert found["frechet_distance"] > 5 * found["frechet_distance_real"] > 0
    assert found["judge_accuracy"] > 0.9 and found["recall_real"] > 0.8
    assert np.sum(found["confusion"]["counts"]) == 80
    assert (evaluated / "evaluation" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("devices", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_same_on_any_number_of_devices(evaluated, tmp_path, devices, monkeypatch):
    folder = pathlib.Path(shutil.copytree(evaluated, tmp_path / "first"))
    shutil.rmtree(folder / "evaluation")
    some = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda *_: some)
    assert cli.main(["evaluate", str(folder), *sets(EVALUATION)]) == 0
    assert figures(folder) == figures(evaluated)


def test_killed_and_started_again(evaluated, tmp_path):
    folder = pathlib.Path(shutil.copytree(evaluated, tmp_path / "first"))
    shutil.rmtree(folder / "evaluation")
    command = [sys.executable, "-m", "jaxgen", "evaluate", str(folder), *sets([*EVALUATION, "mesh.data=1"])]
    environment = {**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")}
    parts = lambda: list((folder / "evaluation").glob("samples-*/0*.npz"))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not parts():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < len(parts()) < 20 and not (folder / "evaluation" / "metrics.json").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "samples are there already" in again.stderr, again.stderr
    assert figures(folder) == figures(evaluated)
    assert not parts()


@pytest.mark.slow
def test_samples_are_kept_and_not_mistaken_for_others(evaluated, tmp_path, capsys):
    folder = pathlib.Path(shutil.copytree(evaluated, tmp_path / "first"))
    stored = lambda: sorted(path.name for path in (folder / "evaluation").glob("samples-*.npz"))
    before = stored()
    assert len(before) == 1
    assert cli.main(["evaluate", str(folder), *sets([*EVALUATION, "evaluation.neighbours=2"])]) == 0
    assert stored() == before
    assert cli.main(["evaluate", str(folder), *sets([*EVALUATION, "sampler.guidance=3"])]) == 0
    assert len(stored()) == 2
    assert cli.main(["evaluate", str(folder), "--seed", "9", *sets(EVALUATION)]) == 0
    assert len(stored()) == 3
    assert f"  {'frechet_distance':36}" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_side_by_side(evaluated, tmp_path):
    first = pathlib.Path(shutil.copytree(evaluated, tmp_path / "first"))
    second = tmp_path / "second"
    assert cli.main(["train", TINY, "--run", str(second), *sets(["seed=4", "optimizer.learning_rate=1e-3", *TRAINING])]) == 0
    report, written = tmp_path / "both.html", tmp_path / "both.json"
    asked = ["evaluate", str(first), str(second), "--report", str(report), "--json", str(written), *sets(EVALUATION)]
    assert cli.main(asked) == 0
    one, other = figures(first), figures(second)
    assert one == figures(evaluated) and one["seed"] == other["seed"] == 3 and one["data"] == other["data"]
    assert one["frechet_distance"] != other["frechet_distance"]
    assert one["frechet_distance_real"] == other["frechet_distance_real"]
    assert json.loads(written.read_text()) == {str(first): one, str(second): other}
    page = report.read_text()
    assert "optimizer.learning_rate" in page and "first" in page and "second" in page


@pytest.mark.slow
def test_each_run_is_drawn_from_captions_in_its_own_tokens_and_other_tokens_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(source, "EXAMPLES", {"train": 64, "test": 96})
    scenes = ["training.steps=2", "training.checkpoint_every=2", "sampler.steps=2", f"data.source.directory={tmp_path / 'tfds'}"]
    scenes += ["model.depth=1", "data.batch_size=8", "sampler.images_per_device=8", "evaluation=none"]
    spelled = ["data.tokens=bytes", "data.spelled=0", "data.text_length=64", "model.text_length=64"]
    asked = sets(["evaluation=jaxgen.evaluation.evaluation:Evaluation", "evaluation.samples=48", "evaluation.resamples=3"])
    first, second = tmp_path / "bytes", tmp_path / "words"
    assert cli.main(["train", SCENES, "--run", str(first), *sets([*scenes, *spelled])]) == 0
    assert cli.main(["train", SCENES, "--run", str(second), *sets(scenes)]) == 0
    assert cli.main(["evaluate", str(second), *asked]) == 0
    alone = figures(second)
    shutil.rmtree(second / "evaluation")
    assert cli.main(["evaluate", str(first), str(second), *asked]) == 0
    assert figures(second) == alone

    # The same number of words, in another order: every shape still fits.
    words = source.Scenes.words
    monkeypatch.setattr(source.Scenes, "words", lambda self: words(self)[::-1])
    for command in (["evaluate", str(second), *asked], ["sample", str(second), "--count", "1"]):
        capsys.readouterr()
        assert cli.main(command) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("jaxgen: data.tokens: found 'words with fingerprint")
    assert cli.main(["sample", str(first), "--count", "1"]) == 0


@pytest.mark.slow
def test_published_statistics_take_the_place_of_test_pictures(evaluated, tmp_path):
    folder = pathlib.Path(shutil.copytree(evaluated, tmp_path / "first"))
    file = tmp_path / "statistics.npz"
    assert cli.main(["evaluate", str(folder), "--statistics", str(file), *sets(EVALUATION)]) == 0
    assert cli.main(["evaluate", str(folder), *sets([*EVALUATION, f"evaluation.reference={file}"])]) == 0
    found, before = figures(folder), figures(evaluated)
    assert found["reference"] == str(file)
    assert found["frechet_distance"] == pytest.approx(before["frechet_distance"], rel=1e-6)


def test_training_ends_with_the_evaluation_and_remembers_its_recipe(tmp_path):
    folder, written = tmp_path / "run", tmp_path / "figures.json"
    options = [*TRAINING[:-1], *EVALUATION, "optimizer.learning_rate=1e-3"]
    assert cli.main(["train", TINY, "--run", str(folder), "--json", str(written), *sets(options)]) == 0
    assert json.loads(written.read_text())["frechet_distance"] == figures(folder)["frechet_distance"]
    page = (folder / "evaluation" / "report.html").read_text()
    assert TINY in page and "0.001" in page and "0.002" in page
    # Going on is of the recipe that it began with, however it is asked for.
    assert cli.main(["train", str(folder), *sets(["training.steps=6"])]) == 0
    recipe = json.loads((folder / "experiment.json").read_text())["recipe"]
    assert recipe["name"] == TINY and recipe["experiment"]["training"]["steps"] == 20

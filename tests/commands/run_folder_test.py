"""What a run folder is protected from, and that drawing from it changes nothing in it."""

import pathlib
import shutil

import jax
import pytest

from jaxgen import cli, run

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
OPTIONS = ["training.steps=4", "training.checkpoint_every=2", "mesh.data=4", "mesh.tensor=2"]


def jaxgen(capsys, *arguments, options=()):
    """(exit code, last line of what it said)."""
    code = cli.main([*map(str, arguments), *(word for option in options for word in ("--set", option))])
    return code, capsys.readouterr().err.strip().rpartition("\n")[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert cli.main(["train", TINY, "--run", str(folder), *(word for option in OPTIONS for word in ("--set", option))]) == 0
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_two_processes_do_not_train_one_run(copied, capsys):
    with run.Run(copied).lock():
        code, said = jaxgen(capsys, "train", TINY, "--run", copied, options=[*OPTIONS, "training.steps=6"])
        assert code == 2 and "no other process" in said
    assert jaxgen(capsys, "train", TINY, "--run", copied, options=OPTIONS)[0] == 0


def test_checkpoints_of_an_unknown_experiment_are_not_continued(copied, capsys):
    (copied / "experiment.json").unlink()
    code, said = jaxgen(capsys, "train", TINY, "--run", copied, options=[*OPTIONS, "seed=99"])
    assert code == 2 and "without experiment.json" in said and (copied / "checkpoints" / "4").exists()


def test_a_torn_experiment_file_is_named(copied, capsys):
    file = copied / "experiment.json"
    file.write_text(file.read_text()[:100])
    code, said = jaxgen(capsys, "train", TINY, "--run", copied, options=OPTIONS)
    assert code == 2 and "experiment.json" in said


def test_checkpoints_that_are_all_damaged_are_kept(copied, capsys):
    for manifest in copied.glob("checkpoints/*/manifest-0.json"):
        manifest.write_bytes(manifest.read_bytes().replace(b"total", b"tofal"))
    code, said = jaxgen(capsys, "train", TINY, "--run", copied, options=OPTIONS)
    assert code == 2 and "damaged checkpoints [2, 4]" in said and (copied / "checkpoints" / "4").exists()


def test_drawing_replaces_nothing_and_needs_not_the_mesh_of_training(copied, capsys, monkeypatch):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    for seed in (0, 1):
        assert jaxgen(capsys, "sample", copied, "--count", 3, "--caption", "7", "--seed", seed)[0] == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list((copied / "samples").glob("*.png"))) == 3
    code, said = jaxgen(capsys, "sample", copied, options=["mesh.data=4"])
    assert code == 2 and said.startswith("jaxgen: mesh: found")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_of_32_bits_is_refused(trained, capsys, seed):
    code, said = jaxgen(capsys, "sample", trained, "--seed", seed)
    assert code == 2 and said.startswith(f"jaxgen: --seed: found {seed}")


def test_nothing_to_draw_is_found_out_before_training(tmp_path, capsys):
    from PIL import Image

    for i in range(3):
        Image.new("L", (8, 8)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("a square")
    source = ["data.source=folder", f"data.source.path={tmp_path}", "data.batch_size=8", "data.source.test_share=1e-9"]
    code, said = jaxgen(capsys, "train", TINY, "--run", tmp_path / "run", options=source)
    assert code == 2 and "data.source.test_share" in said and not (tmp_path / "run").exists()

"""Latents by the ordinary commands: an autoencoder is trained, a generator learns its latents, pictures are decoded."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen import cli, run, types
from jaxgen import experiment as experiments
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.generator import Generator
from jaxgen.training import checkpoint
from jaxgen.training import step as steps

CONFIG = str(pathlib.Path(__file__).with_name("latent_config.py"))


def command(name, *words, path=None, sets=()):
    overrides = [*sets, *([f"autoencoder.path={path}"] if path else [])]
    return cli.main([name, *words, *(part for text in overrides for part in ("--set", text))])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An autoencoder and a generator of two steps. Not to be written to."""
    root = tmp_path_factory.mktemp("latent")
    assert command("train", f"{CONFIG}:autoencoder", "--run", str(root / "autoencoder")) == 0
    assert command("train", CONFIG, "--run", str(root / "run"), path=root / "autoencoder") == 0
    return root


def test_the_generator_learns_latents_and_what_it_draws_is_decoded(trained):
    tree, _ = experiments.load(CONFIG, [f"autoencoder.path={trained / 'autoencoder'}"])
    mesh = meshes.build(tree.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = steps.build(tree, mesh)
        decoder = step.load_frozen(np.uint32(0))["autoencoder"]
        prepare = jax.jit(lambda batch: tree.objective.prepare(views(tree, decoder), batch, jax.random.key(0)))
        rows = tree.data.open("train", 0, True).rows(range(8))
        latents = prepare({name: rows[name] for name in step.batch})["latents"]
    assert latents.shape == (8, 4, 4, 4)
    np.testing.assert_allclose(latents.std(axis=-1), 1, atol=1e-2)
    with checkpoint.Checkpoints(run.Run(trained / "run")) as checkpoints:
        item = "ema.0.999.model"
        params = checkpoints.restore(2, {item: step.state.items()[item]})[item]
        assert set(checkpoints.read_about(2)["frozen"]) == {"autoencoder"}
    generator = Generator(tree, mesh, 0, decoder)
    drawn = next(generator.images(params, generator.conditions(rows), np.arange(8)))[0]
    assert drawn.shape == (8, 8, 8, 1) and drawn.dtype == np.uint8
    other = Generator(tree, mesh, 0, jax.tree.map(lambda leaf: -leaf, decoder))
    assert not np.array_equal(drawn, next(other.images(params, other.conditions(rows), np.arange(8)))[0])


def views(tree, decoder):
    return types.Views({}, {}, {"autoencoder": decoder}, modules=steps.modules(tree))


def test_commands_draw_with_it_wherever_it_lies_now(trained, tmp_path):
    root = pathlib.Path(shutil.copytree(trained, tmp_path / "copy"))
    grid = next((root / "run" / "samples").glob("step-00000002.png"))
    before = np.asarray(Image.open(grid))
    assert command("sample", str(root / "run"), "--count", "100", path=root / "autoencoder") == 0
    found = [np.asarray(Image.open(path)) for path in (root / "run" / "samples").glob("step-00000002-*.png")]
    assert len(found) == 1 and np.array_equal(found[0], before)
    further = command("train", CONFIG, "--run", str(root / "run"), path=root / "autoencoder", sets=["training.steps=3"])
    assert further == 0 and (root / "run" / "checkpoints" / "3").exists()


def test_its_drawing_is_timed_as_well(trained, tmp_path):
    figures = tmp_path / "bench.json"
    assert command("bench", CONFIG, "--sampler", "--json", str(figures), path=trained / "autoencoder") == 0
    assert figures.exists()


def test_codes_are_learned_drawn_and_timed_by_the_same_commands(tmp_path):
    path, folder, figures = tmp_path / "tokenizer", tmp_path / "run", tmp_path / "bench.json"
    assert command("train", f"{CONFIG}:tokenizer", "--run", str(path)) == 0
    assert command("train", f"{CONFIG}:codes", "--run", str(folder), path=path) == 0
    grid = np.asarray(Image.open(next((folder / "samples").glob("step-00000002.png"))))
    assert command("sample", str(folder), "--count", "100") == 0
    again = [np.asarray(Image.open(each)) for each in (folder / "samples").glob("step-00000002-*.png")]
    assert len(again) == 1 and np.array_equal(again[0], grid)
    assert command("bench", f"{CONFIG}:codes", "--sampler", "--json", str(figures), path=path) == 0
    assert json.loads(figures.read_text())["nfe"] == 16


def test_what_a_run_uses_is_trained_first_and_once(tmp_path, capsys):
    path, recipe = tmp_path / "tokenizer", f"{CONFIG}:tokenizer"
    sets = [f"autoencoder.recipe={recipe}"]
    train = lambda folder, *words: command(
        "train", f"{CONFIG}:codes", "--run", str(tmp_path / folder), *words, path=path, sets=sets
    )
    assert command("bench", f"{CONFIG}:codes", path=path, sets=sets) == 2
    assert f"`jaxgen train {recipe} --run {path}` makes one" in capsys.readouterr().err
    assert command("train", f"{CONFIG}:codes", path=path, sets=["autoencoder.recipe=nowhere.py"]) == 2
    assert "autoencoder.recipe.CONFIG: found 'nowhere.py'" in capsys.readouterr().err and not path.exists()
    assert train("run") == 0
    said = capsys.readouterr().err
    assert f"first the autoencoder, which is trained by {recipe} in {path}" in said
    newest = lambda folder: max(int(each.name) for each in (folder / "checkpoints").iterdir() if each.name.isdigit())
    assert newest(path) == newest(tmp_path / "run") == 2
    assert train("other") == 0
    assert "first the autoencoder" not in capsys.readouterr().err
    # One that was stopped goes on, as it was begun.
    shutil.rmtree(path / "checkpoints" / "2")
    assert train("third") == 0
    assert f"trained by {path} in {path}" in capsys.readouterr().err and newest(path) == 2


def test_another_autoencoder_is_refused_and_so_is_none(trained, tmp_path, capsys):
    other = tmp_path / "other"
    assert command("train", f"{CONFIG}:autoencoder", "--run", str(other), sets=["seed=1"]) == 0
    root = pathlib.Path(shutil.copytree(trained, tmp_path / "copy"))
    for name, words in (
        ("sample", ["--count", "8"]),
        ("evaluate", ["--set", "evaluation=jaxgen.evaluation.evaluation:Evaluation"]),
    ):
        capsys.readouterr()
        assert command(name, str(root / "run"), *words, path=other) == 2
        said = capsys.readouterr().err
        assert "autoencoder: found" in said and "those that step 2 was trained with" in said
    shutil.rmtree(other)
    assert command("train", CONFIG, "--run", str(tmp_path / "new"), path=other) == 2
    said = capsys.readouterr().err
    assert "path of the autoencoder" in said and "train the autoencoder first" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "override, option",
    [
        ("autoencoder.path=", "autoencoder.path"),
        ("autoencoder.module.channels=3", "autoencoder.module.channels"),
        ("model.channels=3", "model.channels"),
        ("model.patch=3", "data.resolution"),
    ],
)
def test_what_does_not_fit_is_refused(override, option, tmp_path, capsys):
    assert command("train", CONFIG, "--run", str(tmp_path / "run"), sets=[override]) == 2
    assert option in capsys.readouterr().err and not (tmp_path / "run").exists()

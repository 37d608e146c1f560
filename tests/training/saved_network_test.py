"""A teacher from a run: trained by the ordinary commands, read where it lies, held by its hash."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

from jaxgen import cli, run
from jaxgen import experiment as experiments
from jaxgen.parallel import mesh as meshes
from jaxgen.training import checkpoint
from jaxgen.training import step as steps

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs" / "digits_aligned.py")
TOWER = ("width=16", "depth=1", "mlp_ratio=1")
SHORT = ("data.source=synthetic", "data.batch_size=8", "mesh.data=1", "training.steps=2", "training.checkpoint_every=1")
ENCODER = [*(f"model.tower.{text}" for text in TOWER), *SHORT, "optimizer.warmup_steps=0"]
STUDENT = [
    *(f"objective.alignment.teacher.module.tower.{text}" for text in TOWER),
    *SHORT,
    "model.width=16",
    "model.depth=2",
    "model.mlp_ratio=1",
    "objective.time_buckets=1",
    "sampler=none",
    "evaluation=none",
    "optimizer.warmup_steps=0",
]


def sets(*overrides):
    return [part for text in overrides for part in ("--set", text)]


def encoder(folder, *more):
    assert cli.main(["train", f"{CONFIG}:encoder", "--run", str(folder), *sets(*ENCODER, *more)]) == 0
    return folder


def student(folder, teacher, *more):
    overrides = [*STUDENT, f"objective.alignment.teacher.path={teacher}", *more]
    return cli.main(["train", CONFIG, "--run", str(folder), *sets(*overrides)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An encoder and a student of two steps. Not to be written to."""
    root = tmp_path_factory.mktemp("aligned")
    teacher = encoder(root / "teacher")
    assert student(root / "student", teacher) == 0
    return root


def copied(trained, tmp_path):
    return pathlib.Path(shutil.copytree(trained, tmp_path / "copy"))


def test_the_teacher_has_the_averaged_weights_of_its_run(trained):
    tree, _ = experiments.load(CONFIG, [*STUDENT, f"objective.alignment.teacher.path={trained / 'teacher'}"])
    mesh = meshes.build(tree.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = steps.build(tree, mesh)
        found = step.load_frozen(np.uint32(0))["teacher"]
    with checkpoint.Checkpoints(run.Run(trained / "teacher")) as checkpoints:
        expected = checkpoints.restore(2, {"ema.0.999.model": step.frozen["teacher"]})["ema.0.999.model"]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # What one learned is not what one starts with.
    start = tree.objective.alignment.teacher.initial(jax.random.key(0))
    assert not np.allclose(found["tower"]["positions"]["table"], start["tower"]["positions"]["table"].value)


def test_its_weights_are_not_in_the_student_s_checkpoints_but_their_hash_is(trained):
    with checkpoint.Checkpoints(run.Run(trained / "student")) as checkpoints:
        about = checkpoints.read_about(2)
        items = {path.name for path in (trained / "student" / "checkpoints" / "2").iterdir() if path.is_dir()}
    assert set(about["frozen"]) == {"teacher"} and len(about["frozen"]["teacher"]["hash"]) == 32
    assert items == {
        "params.model",
        "optimizer.model",
        "ema.0.999.model",
        "params.projector",
        "optimizer.projector",
        "position",
        "about",
    }


@pytest.mark.slow
def test_a_run_goes_on_with_its_teacher_wherever_that_lies_now(trained, tmp_path):
    root = copied(trained, tmp_path)
    assert student(root / "student", root / "teacher", "training.steps=3") == 0


def test_a_run_does_not_go_on_with_another_teacher(trained, tmp_path, capsys):
    root = copied(trained, tmp_path)
    other = encoder(tmp_path / "other", "seed=1")
    assert student(root / "student", other, "training.steps=3") == 2
    said = capsys.readouterr().err
    assert "objective: found 'frozen networks" in said.replace('"', "'") and "those that the run began with" in said


@pytest.mark.parametrize(
    "damage, found, needed",
    [
        ("missing", "found '{teacher}'", "the folder of a run that trained the teacher; train the teacher first"),
        ("unfinished", "found '{teacher}'", "a run with a whole checkpoint; train the teacher first"),
        ("another width", "found 'step 2 with ema.0.999.model:", ", 32) float32"),
    ],
)
def test_a_teacher_that_cannot_be_read_is_refused_and_nothing_written(damage, found, needed, trained, tmp_path, capsys):
    root = copied(trained, tmp_path)
    more = []
    if damage == "missing":
        shutil.rmtree(root / "teacher")
    elif damage == "unfinished":
        shutil.rmtree(root / "teacher" / "checkpoints")
    else:
        more = ["objective.alignment.teacher.module.tower.width=32"]
    assert student(tmp_path / "new", root / "teacher", *more) == 2
    said = capsys.readouterr().err
    assert found.format(teacher=root / "teacher") in said and needed in said
    assert not (tmp_path / "new").exists()

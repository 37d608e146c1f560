"""What the user has to change is refused at once: exit code 2, one line that says what and how, no compile, no file written."""

import json
import pathlib
import shutil
import time

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen import experiment as experiments

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
DIFFUSION = "objective=jaxgen.objectives.gaussian_diffusion:GaussianDiffusion"
# Quick to compile: classes instead of text, one block, one step of sampling.
QUICK = (
    "model=jaxgen.models.dit:DiT",
    "model.width=16",
    "model.depth=1",
    "objective.time_buckets=1",
    "mesh.data=1",
    "sampler.steps=1",
    "sampler.guidance=1",
    "training.steps=2",
    "training.checkpoint_every=1",
)


def sets(*overrides):
    return [part for text in overrides for part in ("--set", text)]


@pytest.fixture
def refusal(capsys):
    """Runs a command that must be refused, and returns what it said."""
    compiled = []

    def listener(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    def run(*arguments):
        start = time.monotonic()
        assert cli.main(list(map(str, arguments))) == 2
        assert compiled == [], "compiled before refusing"
        assert time.monotonic() - start < 10
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = [line for line in shown.err.splitlines() if line.startswith("jaxgen: ")]
        return line.removeprefix("jaxgen: ")

    jax.clear_caches()  # what an earlier test compiled would hide a compile
    jax.monitoring.register_event_duration_secs_listener(listener)
    yield run
    jax.monitoring.unregister_event_duration_listener(listener)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps with its checkpoints. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert cli.main(["train", TINY, "--run", str(folder), *sets(*QUICK)]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def begun(tmp_path):
    """A run of the tiny recipe that holds its experiment and nothing else."""
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps({"experiment": experiments.dump(experiments.load(TINY)[0])}))
    return folder


# Options. `found` and `needed` are words of the message.

OPTIONS = [
    pytest.param(["model.widht=64"], "model.widht", "'64'", "did you mean model.width", id="unknown option"),
    pytest.param(["learning_rate=1"], "learning_rate", "'1'", "did you mean optimizer.learning_rate", id="without its node"),
    pytest.param(["training.steps=many"], "training.steps", "'many'", "a whole number", id="wrong type"),
    pytest.param(["optimizer.learning_rate=nan"], "optimizer.learning_rate", "nan", "a finite number", id="not a number"),
    pytest.param(["optimizer.schedule=linear"], "optimizer.schedule", "'linear'", "constant, cosine, wsd", id="no choice"),
    pytest.param(["model.width"], "--set", "'model.width'", "dotted.name=value", id="no value"),
    pytest.param(["mesh.data=8", "data.batch_size=12"], "data.batch_size", "12", "a multiple of 8 (mesh.data=8", id="batch"),
    pytest.param(
        ["mesh.data=8", "training.microbatches=4"], "data.batch_size", "16", "mesh.data=8 × training.microbatches=4", id="part"
    ),
    pytest.param(["mesh.data=1", "mesh.fsdp=64"], "mesh", "fsdp=64 = 64 devices", "at most the 8", id="too many devices"),
    pytest.param(["mesh.fsdp=3"], "mesh", "fsdp=3 on 8 devices", "divides 8", id="devices left over"),
    pytest.param(["model.width=40"], "model.width", "40", "a multiple of head_dim=16", id="heads"),
    pytest.param(["model=jaxgen.models.ddt:DDT", "model.encoder_depth=9"], "model.encoder_depth", "9", "depth=4", id="split"),
    pytest.param(["model.text_features=-1"], "model.text_features", "-1", "0", id="negative features"),
    pytest.param(["data.resolution=9"], "data.resolution", "9", "a multiple of 2", id="patches"),
    pytest.param(["sampler.steps=0"], "sampler.steps", "0", "at least 1", id="no sampling steps"),
    pytest.param(["sampler.ema=0.5"], "sampler.ema", "0.5", "training.ema=(0.999,)", id="average that is not kept"),
    pytest.param(["training.ema=", "sampler.ema=0.5"], "sampler.ema", "0.5", "training.ema=()", id="no averages"),
    pytest.param(["data.source=folder"], "data.source.path", "''", "the folder of your pictures", id="source without its path"),
    pytest.param(["model.vocabulary=50"], "model.vocabulary", "50", "at least 259", id="fewer text ids than the data have"),
    pytest.param(["model.scaling.base_head_dim=0"], "model.scaling.base_head_dim", "0", "a divisor of base_width", id="no heads"),
    pytest.param(["model.scaling.output_multiplier=0"], "model.scaling.output_multiplier", "0", "positive", id="no gradient"),
    pytest.param(["optimizer.epsilon=-1"], "optimizer.epsilon", "-1", "0 or more", id="negative epsilon"),
    pytest.param(["optimizer.weight_decay=-1"], "optimizer.weight_decay", "-1", "0 or more", id="weights that grow"),
    pytest.param(["model=jaxgen.models.dit:DiT", "model.classes=3"], "model.classes", "3", "at least 10", id="few classes"),
    pytest.param(
        ["model=jaxgen.models.dit:DiT", "model.learn_variance=true"], "model.learn_variance", "True", "False", id="variance"
    ),
    pytest.param([DIFFUSION, "objective.process.learned_variance=true"], "model.learn_variance", "False", "True", id="no variance"),
    pytest.param([DIFFUSION, "sampler.steps=1001"], "sampler.steps", "1001", "at most 1000", id="more steps than training's"),
    pytest.param([DIFFUSION, "sampler.stepper=ddpm"], "sampler.stepper.variance", "'learned_range'", "fixed_small", id="no range"),
    pytest.param(["sampler.stepper=ancestral", "sampler.stepper.eta=1.5"], "sampler.stepper.eta", "1.5", "from 0", id="eta"),
    pytest.param(["sampler.grid=respaced"], "sampler.grid.training_steps", "1000", "no steps", id="steps of a flow"),
    pytest.param(["sampler.guidance_channels=2"], "sampler.guidance_channels", "2", "at most 1", id="channels to guide"),
    pytest.param(["seed=-1"], "seed", "-1", "not negative", id="negative seed"),
    pytest.param(["data.source=jaxgen.samplers.steppers:Euler"], "data.source", "'Euler'", "features, open", id="something else"),
]


@pytest.mark.parametrize("overrides, option, found, needed", OPTIONS)
def test_train_refuses_an_option(overrides, option, found, needed, refusal, tmp_path):
    said = refusal("train", TINY, "--run", tmp_path / "run", *sets(*overrides))
    assert said.startswith(f"{option}: found ")
    assert found in said.partition(", needed ")[0]
    assert needed in said.partition(", needed ")[2]
    assert not (tmp_path / "run").exists()


ALIGNED = str(pathlib.Path(TINY).with_name("digits_aligned.py:tiny"))
TOWER = "objective.alignment.teacher.module.tower"
ALIGNMENTS = [
    pytest.param(
        ["objective.alignment.block=3"], "objective.alignment.block", "3", "1 to 2, the blocks of the model DiT", id="block"
    ),
    pytest.param(["objective.alignment.block=0"], "objective.alignment.block", "0", "at least 1", id="no block"),
    pytest.param(["objective.alignment.weight=-1"], "objective.alignment.weight", "-1", "0 or above", id="weight"),
    pytest.param([f"{TOWER}.patch=4"], "objective.alignment.teacher", "(2, 2)", "(4, 4), that of the generator's", id="other grid"),
    pytest.param(
        [f"{TOWER}.patch=4", "objective.alignment.resampling=bilinear"],
        "objective.alignment.teacher",
        "(2, 2)",
        "at least (4, 4)",
        id="coarser grid",
    ),
    pytest.param(
        ["objective.alignment.teacher.resolution=9"],
        "objective.alignment.teacher.resolution",
        "9",
        "a multiple of module.patch=2",
        id="no whole patches",
    ),
    pytest.param([f"{TOWER}.channels=3"], "objective.alignment.teacher.module.channels", "3", "1, the channels", id="channels"),
    pytest.param([f"{TOWER}.grid=0"], f"{TOWER}.grid", "0", "positive", id="no table of positions"),
    pytest.param(
        ["objective.alignment.teacher=jaxgen.training.saved_network:SavedTeacher"],
        "objective.alignment.teacher.module",
        "nothing",
        "a value",
        id="teacher without a network",
    ),
]


@pytest.mark.parametrize("overrides, option, found, needed", ALIGNMENTS)
def test_train_refuses_an_alignment(overrides, option, found, needed, refusal, tmp_path):
    said = refusal("train", ALIGNED, "--run", tmp_path / "run", *sets(*overrides))
    assert said.startswith(f"{option}: found ")
    assert found in said.partition(", needed ")[0]
    assert needed in said.partition(", needed ")[2]
    assert not (tmp_path / "run").exists()


def test_train_refuses_a_teacher_that_is_not_there(refusal, tmp_path):
    teacher = ("objective.alignment.teacher.path=nowhere", "data.source=synthetic")
    said = refusal("train", ALIGNED.removesuffix(":tiny"), "--run", tmp_path / "run", *sets(*teacher))
    assert (
        said == "path of the teacher: found 'nowhere', needed the folder of a run that trained the teacher; train the teacher first"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["config", "mup-check", "mup-sweep"])
def test_the_other_commands_refuse_an_option_as_well(command, refusal):
    assert refusal(command, TINY, *sets("model.widht=64")).startswith("model.widht: found '64'")


@pytest.mark.parametrize(
    "widths, said",
    [
        ("32", "--widths and --steps: found ([32], "),
        ("32,x", "--widths: found '32,x'"),
        ("32,40", "model.width: found 40"),
        ("0,32", "model.width: found 0"),
    ],
)
def test_mup_check_refuses_widths(widths, said, refusal):
    assert refusal("mup-check", TINY, "--widths", widths).startswith(said)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--widths", "32,x"), "--widths: found '32,x'"),
        (("--widths", "32,40"), "model.width: found 40"),
        (("--rates", "0.1,0.2"), "--rates: found '0.1,0.2'"),
        (("--set", "optimizer.b1=2"), "optimizer.b1: found 2"),
    ],
)
def test_mup_sweep_refuses(arguments, said, refusal, tmp_path):
    assert refusal("mup-sweep", TINY, "--folder", tmp_path / "sweep", *arguments).startswith(said)
    assert not (tmp_path / "sweep").exists()


def test_figures_that_cannot_be_written_are_refused_before_the_work(refusal, tmp_path):
    (tmp_path / "file").write_text("")
    assert refusal("train", TINY, "--run", tmp_path / "run", "--json", tmp_path / "file" / "x.json").startswith("--json: ")
    assert refusal("config", TINY, "--json", tmp_path).startswith("--json: ")
    assert not (tmp_path / "run").exists()


# Data.


def folder_of(kind, tmp_path):
    path = tmp_path / "pictures"
    if kind == "file":
        path.write_text("no folder")
    elif kind != "missing":
        path.mkdir()
    if kind == "texts":
        (path / "one.txt").write_text("a caption without a picture")
    if kind == "broken":
        for number in range(8):
            (path / f"{number}.png").write_bytes(b"no picture")
            (path / f"{number}.txt").write_text("a caption")
    if kind == "uncaptioned":
        for number in range(8):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "texts", "broken", "uncaptioned"])
def test_train_refuses_a_folder_without_examples(kind, refusal, tmp_path):
    pictures = folder_of(kind, tmp_path)
    source = ("data.source=folder", f"data.source.path={pictures}", "data.source.test_share=0")
    said = refusal("train", TINY, "--run", tmp_path / "run", *sets(*source))
    assert said.startswith("data.source.path: found ")
    assert str(pictures) in said
    assert not (tmp_path / "run").exists()


# Runs.


@pytest.mark.parametrize("command", ["train", "sample", "config", "mup-check"])
def test_what_is_not_there_is_refused(command, refusal, tmp_path):
    said = refusal(command, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in said
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["train", "sample", "config", "mup-check"])
def test_a_folder_that_is_no_run_is_refused(command, refusal, tmp_path):
    said = refusal(command, tmp_path)
    assert str(tmp_path) in said
    assert "experiment.json" in said
    assert list(tmp_path.iterdir()) == []


def test_sample_refuses_a_configuration_in_the_place_of_a_run(refusal):
    said = refusal("sample", TINY)
    assert said.startswith("run: found '") and said.endswith("needed the folder of a run")


def test_train_refuses_a_run_folder_that_cannot_be_made(refusal, tmp_path):
    (tmp_path / "file").write_text("")
    assert refusal("train", TINY, "--run", tmp_path / "file" / "run").startswith("run: found ")


def test_train_refuses_the_folder_of_another_experiment_and_shows_the_difference(run, refusal):
    before = (run / "experiment.json").read_bytes()
    said = refusal("train", TINY, "--run", run, *sets(*QUICK, "model.width=32", "optimizer.learning_rate=0.5", "training.steps=9"))
    assert said.startswith(f"run: found '{run}'")
    assert "model.width: 16 there, 32 asked for" in said
    assert "optimizer.learning_rate: 0.002 there, 0.5 asked for" in said
    assert "training.steps" not in said
    assert (run / "experiment.json").read_bytes() == before


def widen(run):
    """Makes the experiment say another width than the checkpoints have."""
    path = run / "experiment.json"
    content = json.loads(path.read_text())
    assert content["experiment"]["model"]["width"] == 16
    content["experiment"]["model"]["width"] = 32
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_a_checkpoint_of_another_shape_is_refused_with_both_shapes(command, run, refusal):
    widen(run)
    said = refusal(command, run)
    assert said.startswith("checkpoints: found ")
    found, _, needed = said.partition(", needed ")
    assert "16" in found and "32" in needed


def test_sample_refuses_to_draw_from_a_network_of_another_width(trained, refusal):
    assert refusal("sample", trained, *sets("model.width=32")).startswith("checkpoints: found ")


def test_sample_refuses_a_run_without_a_checkpoint(run, refusal):
    shutil.rmtree(run / "checkpoints")
    said = refusal("sample", run)
    assert said.startswith(f"run: found '{run}'")
    assert "checkpoint" in said


def test_sample_refuses_no_steps(trained, refusal):
    assert refusal("sample", trained, *sets("sampler.steps=0")) == "sampler.steps: found 0, needed at least 1"


def test_sample_refuses_an_average_that_the_run_does_not_keep(trained, refusal):
    said = refusal("sample", trained, *sets("sampler.ema=0.5"))
    assert said.startswith("sampler.ema: found 0.5")
    assert "0.999" in said


def test_sample_refuses_to_draw_without_a_sampler(trained, refusal):
    assert refusal("sample", trained, *sets("sampler=none")).startswith("sampler: found None")


def test_sample_refuses_a_caption_that_is_too_long(begun, refusal):
    length = experiments.load(str(begun))[0].data.text_length
    # Two bytes are left for start and end, and a Chinese character takes three.
    for caption in ("x" * (length - 1), "七" * (length // 3)):
        said = refusal("sample", begun, "--caption", "the digit seven", "--caption", caption)
        assert said.startswith(f"--caption: found '{caption}'")
        assert f"data.text_length={length}" in said
    # One that just fits is not what is refused.
    assert refusal("sample", begun, "--caption", "x" * (length - 2)).startswith("run: ")


def test_sample_refuses_a_caption_for_a_model_without_text(trained, refusal):
    assert refusal("sample", trained, "--caption", "the digit seven").startswith("--caption: found 'the digit seven'")


EVALUATION = ["evaluation=jaxgen.evaluation.evaluation:Evaluation"]


def test_evaluate_refuses_a_run_without_a_checkpoint(run, refusal):
    shutil.rmtree(run / "checkpoints")
    said = refusal("evaluate", run)
    assert said.startswith(f"run: found '{run}'") and "train it first" in said
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize(
    "overrides, said",
    [
        pytest.param(
            ["evaluation.features=inception"], "evaluation.features: found 'inception', needed one of pixels", id="feature space"
        ),
        pytest.param(
            ["evaluation.judge=taste"], "evaluation.judge: found 'taste', needed one of digits, scenes", id="judge"
        ),
        pytest.param(
            ["evaluation.judge=scenes"], "evaluation.judge: found 'SceneJudge with data.source Synthetic'", id="blind judge"
        ),
        pytest.param(
            ["evaluation.samples=1025"], "evaluation.samples: found 1025, needed at most 1024, the captions", id="captions"
        ),
        pytest.param(
            ["evaluation.samples=3"], "evaluation.samples: found 3, needed more than neighbours=3", id="too few samples"
        ),
        pytest.param(
            ["evaluation.neighbours=0"], "evaluation.neighbours: found 0, needed at least 1", id="no neighbours"
        ),
        pytest.param(
            ["data.source.count=3"], "data: found '3 test pictures', needed more than evaluation.neighbours=3", id="few captions"
        ),
        pytest.param(
            ["evaluation.reference=nowhere.npz"], "evaluation.reference: found 'nowhere.npz', needed a .npz", id="no reference"
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_an_evaluation_is_refused(command, overrides, said, trained, tmp_path, refusal):
    arguments = [trained] if command == "evaluate" else [TINY, "--run", tmp_path / "new"]
    assert refusal(command, *arguments, *sets(*EVALUATION, *overrides)).startswith(said)
    assert not (trained / "evaluation").exists() and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"mu": np.zeros(5), "sigma": np.zeros((5, 5))}, "of 5 dimensions', needed 64 dimensions, as Pixels gives here"),
        ({"mu": np.zeros(64), "sigma": np.zeros((5, 5))}, "needed a .npz with mu [64] and sigma [64, 64]"),
        ({"mu": np.zeros(64)}, "sigma"),
        ({"mu": np.full(64, np.nan), "sigma": np.zeros((64, 64))}, "not finite"),
    ],
)
def test_reference_statistics_that_do_not_fit_are_refused(content, reason, trained, tmp_path, refusal):
    np.savez(tmp_path / "reference.npz", **content)
    said = refusal("evaluate", trained, *sets(*EVALUATION, f"evaluation.reference={tmp_path / 'reference.npz'}"))
    assert said.startswith("evaluation.reference: found ") and reason in said


def test_runs_of_other_pictures_are_not_set_side_by_side(trained, begun, run, refusal):
    content = json.loads((run / "experiment.json").read_text())
    content["experiment"]["data"]["source"]["count"] = 512
    (run / "experiment.json").write_text(json.dumps(content))
    said = refusal("evaluate", trained, run)
    assert said.startswith("run: found ") and "(512, 8, 8, 1)" in said and "(1024, 8, 8, 1)" in said
    assert refusal("evaluate", trained, begun).startswith(f"run: found '{begun}'")
    assert refusal("evaluate", trained, "--report", "page.html").startswith("--report: ")
    assert refusal("evaluate", trained, "--seed", "-1").startswith("--seed: found -1")
    assert refusal("evaluate", trained, "nowhere").startswith("run: found ")
    assert refusal("evaluate", trained, *sets("sampler=none")).startswith("sampler: found None")


def test_what_is_refused_here_is_not_refused_without_reason(run):
    assert cli.main(["sample", str(run), "--count", "3"]) == 0
    assert cli.main(["train", str(run)]) == 0

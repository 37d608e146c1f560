"""The bench command: what it writes and prints, what it refuses, and that it leaves nothing behind."""

import inspect
import json
import pathlib
import re
import sys
import tempfile

import jax
import pytest

import jaxgen
from jaxgen import cli
from jaxgen.commands import bench

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
QUICK = (
    "model=jaxgen.models.dit:DiT",
    "model.width=16",
    "model.depth=1",
    "objective.time_buckets=1",
    "mesh.data=2",
    "sampler.steps=3",
    "sampler.guidance=2",
    "training.log_every=2",
)
BLOCKS, STEPS = 3, 2


def sets(*overrides):
    return [part for text in overrides for part in ("--set", text)]


def measured(folder, *arguments):
    """(figures, what was printed, files left behind) of a bench with NumPy alone to make data."""
    aside = folder / "aside"
    aside.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("grain", "tensorflow_datasets", "array_record", "tensorflow", "sklearn"):
            patch.setitem(sys.modules, name, None)
        patch.setattr(tempfile, "tempdir", str(aside))
        patch.chdir(folder)
        printed = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(words)))
        file = folder / "figures.json"
        assert cli.main(["bench", TINY, *sets(*QUICK), "--json", str(file), *arguments]) == 0
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - {"aside", "figures.json"}
    return json.loads(file.read_text()), "\n".join(printed), left


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("training"), "--blocks", str(BLOCKS), "--steps", str(STEPS))


@pytest.fixture(scope="module")
def sampling(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("sampling"), "--sampler", "--steps", str(STEPS))


def documented():
    """Names of figures by the heading under which the command's help lists them."""
    found, heading = {}, None
    for line in inspect.getdoc(bench).splitlines():
        if re.fullmatch(r"[a-z ]+:", line):
            heading = line.rstrip(":")
            found[heading] = set()
        elif heading and re.match(r"  \w", line):
            found[heading] |= set(re.split(r"  +", line.strip())[0].split(", "))
    return found


def test_the_figures_are_those_that_the_help_documents(training, sampling):
    names = documented()
    assert set(names) == {"in both modes", "training", "sampling"}
    assert training[0].keys() == names["in both modes"] | names["training"]
    assert sampling[0].keys() == names["in both modes"] | names["sampling"]


def test_the_figures_are_flat_but_for_mesh_and_versions(training, sampling):
    for figures, _, _ in (training, sampling):
        for name, value in figures.items():
            if name in ("mesh", "versions"):
                assert isinstance(value, dict)
            else:
                values = value if isinstance(value, list) else [value]
                assert all(isinstance(item, str | int | float | None) for item in values), name
        assert figures["versions"]["jaxgen"] == jaxgen.__version__ and figures["versions"]["jax"] == jax.__version__
        assert figures["device_kind"] == "cpu" and figures["devices"] == 2 and figures["mesh"]["data"] == 2
        assert figures["name"] == "quickstart-tiny"


def test_nothing_is_left_behind(training, sampling):
    assert training[2] == set() and sampling[2] == set()


def test_as_many_blocks_and_steps_as_asked_for(training):
    figures = training[0]
    assert figures["bench"] == "training" and (figures["blocks"], figures["steps"]) == (BLOCKS, STEPS)
    for name in ("trainer_over_bare_blocks", "trainer_ms_blocks", "bare_ms_blocks"):
        assert len(figures[name]) == BLOCKS
    lead = 2 + 1  # data.prefetch and one
    assert figures["steps_finished"] == 1 + 2 * BLOCKS * (lead + STEPS)


def test_the_training_figures_agree_with_each_other(training):
    figures = training[0]
    parts = ("input_wait", "compute", "log", "rest")
    assert sum(figures[f"{part}_ms"] for part in parts) == pytest.approx(figures["step_ms_mean"])
    assert sum(figures["trainer_ms_blocks"]) / BLOCKS == pytest.approx(figures["step_ms_mean"])
    assert figures["images_per_second"] == pytest.approx(16 / figures["step_ms_median"] * 1e3)
    assert figures["tflop_per_second"] == pytest.approx(figures["model_tflop"] / figures["step_ms_median"] * 1e3)
    pairs = zip(figures["trainer_ms_blocks"], figures["bare_ms_blocks"], strict=True)
    ratios = [trainer / bare for trainer, bare in pairs]
    assert figures["trainer_over_bare_blocks"] == pytest.approx(ratios)
    assert figures["trainer_over_bare"] == pytest.approx(sorted(ratios)[BLOCKS // 2])
    assert figures["mfu"] is None and figures["peak_memory_of"] == "process" and figures["peak_memory_bytes"] > 50e6


def test_nothing_compiles_while_it_times(training, sampling):
    assert training[0]["late_compiles"] == 0 and sampling[0]["late_compiles"] == 0
    assert training[0]["compile_seconds"] > 0 and sampling[0]["compile_seconds"] > 0


def test_the_sampling_figures_agree_with_each_other(sampling):
    figures = sampling[0]
    assert figures["bench"] == "sampling" and figures["calls"] == STEPS
    assert figures["images"] == 8 * 2, "sampler.images_per_device on each of two devices"
    assert figures["nfe"] == 3
    assert figures["images_per_second"] == pytest.approx(figures["images"] / figures["call_ms_median"] * 1e3)
    assert figures["tflop_per_second"] == pytest.approx(figures["model_tflop"] / figures["call_ms_median"] * 1e3)


def test_a_guided_call_costs_two_thirds_of_training_on_the_same_pictures(training, sampling):
    row = training[0]["model_tflop"] / 16 / 3
    assert sampling[0]["model_tflop"] == pytest.approx(row * sampling[0]["images"] * 2 * sampling[0]["nfe"])


def test_the_table_shows_the_figures(training, sampling):
    for (figures, printed, _), unit in ((training, "step"), (sampling, "call")):
        assert printed.startswith("quickstart-tiny on 2 × cpu (data=2): ")
        assert f"median {figures[f'{unit}_ms_median']:.2f} ms, p95 {figures[f'{unit}_ms_p95']:.2f} ms" in printed
        assert f"{figures['images_per_second']:.1f}" in printed and "MFU unknown" in printed
        assert "GB of the process" in printed
    shown = ", ".join(f"{ratio:.3f}" for ratio in training[0]["trainer_over_bare_blocks"])
    assert f"{training[0]['trainer_over_bare']:.3f} (median of {shown})" in training[1]
    assert "16 images a call, 3 network calls for each" in sampling[1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--sampler", *sets("sampler=none")), "sampler: found None, needed a sampler"),
        (("--sampler", "--blocks", "2"), "--blocks: found 2, needed no blocks with --sampler"),
        (sets("model.widht=64"), "model.widht: found '64'"),
        (sets("data.batch_size=7", "mesh.data=2"), "data.batch_size: found 7, needed a multiple of 2"),
        (sets("data.source=folder"), "data.source.path: found ''"),
    ],
    ids=["no sampler", "blocks of calls", "unknown option", "batch", "no data"],
)
def test_what_cannot_be_measured_is_refused_before_anything_compiles(arguments, said, capsys):
    compiled = []

    def listener(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.clear_caches()  # what an earlier test compiled would hide a compile
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        assert cli.main(["bench", TINY, *arguments]) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    shown = capsys.readouterr()
    assert compiled == [] and shown.out == ""
    assert f"jaxgen: {said}" in shown.err


@pytest.mark.parametrize("option", ["--blocks", "--steps"])
def test_no_blocks_or_steps_are_refused(option, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", TINY, option, "0"])
    assert caught.value.code == 2
    assert "found 0, needed at least 1" in capsys.readouterr().err

"""`jaxgen preflight`: what it refuses, prints, writes and returns, with a pretended compiler; and once, slowly, the real one."""

import importlib.util
import json
import pathlib

import pytest

from jaxgen import cli
from jaxgen import experiment as experiments
from jaxgen.preflight import overflow, process, target

ROOT = pathlib.Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "quickstart.py:tiny")
ON = ["--slice", "v5e:2x2"]


def figures(experiment, wanted, what):
    """A step of 2 to 2.5 seconds, 1 TFLOP an image of the model and 1.5 compiled, half of the memory in use."""
    size = experiment.data.batch_size
    return {
        "program": what,
        "slice": str(wanted.slice),
        "slices": wanted.count,
        "chips": wanted.chips,
        "chips_used": wanted.chips,
        "mesh": experiment.mesh.resolve(wanted.chips),
        "batch_size": size,
        "steps": experiment.training.steps,
        "parameters": {"model": 1_234_567},
        "memory": {
            "peak": 8 * 2**30,
            "usable": 16 * 2**30,
            "state": 2**30,
            "largest": [{"bytes": 2**30, "shape": "f32[8,8]", "source": "blocks/mlp"}],
        },
        "replicated": {"bytes": 2**21, "threshold": 2**20, "large": {"params.model.table": 2**21}},
        "model_tflop": float(size),
        "compiled_tflop": 1.5 * size,
        "peak_tflop_per_second": 788.0,
        "seconds": {"matmul": 1.0, "kernel": 0.5, "memory": 0.5, "collective": 0.5},
        "hidden_collective_seconds": 0.25,
        "step_seconds": [2.0, 2.5],
        "hbm_bytes": 1e9,
        "unknown": ["time of the kernel x"],
        "operations": [],
        "compile_seconds": 1.0,
    }


@pytest.fixture
def compiler(monkeypatch):
    """Pretends to compile; `compiler.fits` says what fits, `compiler.asked` holds what was compiled."""

    class Compiler:
        fits = staticmethod(lambda experiment: True)
        asked = []

    def pretended(experiment, wanted, trust=(), keep=None, what="training"):
        Compiler.asked.append(experiment)
        if Compiler.fits(experiment):
            return figures(experiment, wanted, what)
        return overflow.Overflow(20 * 2**30, 15.75 * 2**30, "RESOURCE_EXHAUSTED: …")

    Compiler.asked = []
    monkeypatch.setattr(process, "figures", pretended)
    monkeypatch.setattr(target, "require_compiler", lambda: None)
    return Compiler


@pytest.mark.parametrize(
    "words, said",
    [
        (["--slice", "v5e:3x3"], "--slice: found 'v5e:3x3', needed a shape that v5e is rented in"),
        (["--slice", "v9:2x2"], "--slice: found 'v9:2x2', needed generation:shape"),
        ([*ON, "--set", "mesh.data=3"], "mesh: found 'data=3 = 3 devices', needed the 4 of v5e:2x2; -1 fills an axis"),
        ([*ON, "--set", "mesh.data=8"], "mesh: found 'data=8 = 8 devices', needed at most the 4 present"),
        ([*ON, "--set", "data.batch_size=18"], "data.batch_size: found 18, needed a multiple of 4 (mesh.data=4)"),
        ([*ON, "--slices", "2"], "mesh.slice: found 1, needed 2, the number of slices"),
        ([*ON, "--price", "-1"], "--price: found -1.0, needed a positive number"),
        ([*ON, "--hlo", "/nowhere/x"], "--hlo: found '/nowhere/x', needed a file in a folder that exists"),
        ([*ON, "--set", "mesh.dat=3"], "mesh.dat: found '3', needed"),
        ([*ON, "--set", "training.tpu_options=--xla_x=1"], "training.tpu_options: found '--xla_x=1', needed name=value"),
        ([*ON, "--set", "sampler=None", "--sample"], "sampler: found None, needed a sampler, to draw with"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(compiler, capsys, words, said):
    assert cli.main(["preflight", TINY, *words]) == 2
    assert said in capsys.readouterr().err
    assert not compiler.asked


def test_a_missing_compiler_is_refused_with_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "libtpu" else found(name, *more))
    assert cli.main(["preflight", TINY, *ON]) == 2
    assert 'pip install "jaxgen[tpu]"' in capsys.readouterr().err


def test_the_table_and_the_json_say_what_follows_from_the_program(compiler, capsys, tmp_path):
    assert cli.main(["preflight", TINY, *ON, "--price", "1.5", "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    hours = [4 * 20 * seconds / 3600 for seconds in (2.0, 2.5)]
    assert found["fits"] is True
    assert found["headroom"] == 0.5
    assert found["remat_overhead"] == pytest.approx(0.5)
    assert found["mfu"] == pytest.approx([16 / (2.0 * 788), 16 / (2.5 * 788)])
    assert found["images_per_second_per_chip"] == pytest.approx([16 / (2.0 * 4), 16 / (2.5 * 4)])
    assert found["chip_hours"] == pytest.approx(hours)
    assert found["price"] == pytest.approx([1.5 * hour for hour in hours])
    shown = capsys.readouterr().out
    for text in ("1,234,567", "headroom 50.0%", "2,000.0–2,500.0 ms", "params.model.table (2.0 MiB)", "time of the kernel x"):
        assert text in shown


def test_a_draw_is_reported_as_such(compiler, capsys, tmp_path):
    # A batch of training that does not divide over the slice is no concern of who draws.
    words = ["preflight", TINY, *ON, "--sample", "--set", "data.batch_size=18"]
    assert cli.main([*words, "--json", str(tmp_path / "x.json")]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["program"] == "sampling"
    shown = capsys.readouterr().out
    assert "time of a draw" in shown and "step" not in shown


def test_what_does_not_fit_names_the_overflow_and_ends_with_1(compiler, capsys, tmp_path):
    compiler.fits = lambda experiment: False
    assert cli.main(["preflight", TINY, *ON, "--json", str(tmp_path / "x.json")]) == 1
    assert "20.00 GiB needed on a chip, 15.75 usable: 4.25 GiB too much" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["fits"] is False
    assert len(compiler.asked) == 1


def test_fit_finds_a_change_by_compiling_it(compiler, capsys, tmp_path):
    compiler.fits = lambda experiment: experiment.model.remat == "names"
    assert cli.main(["preflight", TINY, *ON, "--fit", "--json", str(tmp_path / "x.json")]) == 1
    assert "fits with --set model.remat=names" in capsys.readouterr().out
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["fits"], found["changed"]) == (False, {"model.remat": "names"})
    assert [each.model.remat for each in compiler.asked] == ["none", "dots", "names"]


@pytest.mark.parametrize(
    "recipe, slice_name",
    [("dit_xl2_imagenet256", "v5e:4x4"), ("mmdit_18b_1024", "v5p:8x8x4"), ("dit_xl2_imagenet256:tiny", "v5e:2x2")],
)
def test_the_large_recipes_are_for_the_slices_that_they_name(compiler, recipe, slice_name):
    path = str(ROOT / "configs" / f"{recipe.partition(':')[0]}.py") + (":tiny" if ":" in recipe else "")
    assert cli.main(["preflight", path, "--slice", slice_name]) == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install 'jaxgen[tpu]'")
class TestWithTheRealCompiler:
    SMALL = [*ON, "--set", "precision.compute=bfloat16"]

    def test_an_unknown_option_of_the_compiler_is_refused_by_name(self, capsys):
        assert cli.main(["preflight", TINY, *self.SMALL, "--set", "training.tpu_options=xla_tpu_no_such=1"]) == 2
        assert "training.tpu_options: found 'xla_tpu_no_such'" in capsys.readouterr().err

    def test_the_drawing_of_pictures_fits(self, tmp_path):
        answer = tmp_path / "x.json"
        assert cli.main(["preflight", TINY, *self.SMALL, "--sample", "--json", str(answer)]) == 0
        found = json.loads(answer.read_text())
        experiment, _ = experiments.load(TINY)
        # Nothing is rematerialized, so that only padding stands between the two.
        assert found["batch_size"] == 4 * experiment.sampler.images_per_device
        assert found["compiled_tflop"] >= 0.95 * found["model_tflop"] > 0
        assert found["unknown"] == [] and 0 < found["step_seconds"][0]

    def test_a_small_recipe_fits(self, tmp_path):
        answer, program = tmp_path / "x.json", tmp_path / "x.hlo"
        assert cli.main(["preflight", TINY, *self.SMALL, "--json", str(answer), "--hlo", str(program)]) == 0
        found = json.loads(answer.read_text())
        assert program.read_text().startswith("HloModule")
        assert found["unknown"] == [] and found["headroom"] > 0.9
        hidden, compiled = found["step_seconds"]
        assert 0 < hidden <= compiled < 0.1

    def test_one_that_cannot_fit_does_not_and_fit_finds_one_that_does(self, tmp_path, capsys):
        """32 pictures of 64 × 64 tokens on each chip, with everything kept."""
        large = ["data.resolution=128", "data.batch_size=128", "model.width=256", "model.depth=4", "mesh.data=-1"]
        words = ["preflight", TINY, *self.SMALL, *(word for text in large for word in ("--set", text))]
        assert cli.main([*words, "--fit", "--json", str(tmp_path / "x.json")]) == 1
        found = json.loads((tmp_path / "x.json").read_text())
        assert " GiB too much" in capsys.readouterr().out
        assert found["changed"] and found["headroom"] >= 0
        again = [word for option, value in found["changed"].items() for word in ("--set", f"{option}={value}")]
        assert cli.main([*words, *again]) == 0

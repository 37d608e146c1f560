"""The typed tree: read from every kind of CONFIG, overridden by text, checked, written as JSON and read back."""

import dataclasses
import enum
import importlib.util
import inspect
import json
import pathlib
import subprocess
import sys
from typing import Any, Literal

import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.data.folder import Folder
from jaxgen.data.synthetic import Synthetic
from jaxgen.evaluation.evaluation import Evaluation
from jaxgen.models.dit import DiT
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.timesteps import LogitNormal, Uniform
from jaxgen.samplers.steppers import Euler, Heun

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
QUICKSTART = str(CONFIGS / "quickstart.py")
TINY = f"{QUICKSTART}:tiny"


def tiny(*overrides):
    return experiments.load(TINY, overrides)[0]


def refused(call, *arguments, **options):
    with pytest.raises(types.BadInput) as caught:
        call(*arguments, **options)
    return caught.value


def variants():
    """Every configuration of the repository, as CONFIG is written."""
    found = []
    for path in sorted(CONFIGS.glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == path.stem and not name.startswith("_"):
                found.append(str(path) if name == "get_config" else f"{path}:{name}")
    return found


def write_config(folder, body):
    path = folder / "written.py"
    path.write_text(f"import dataclasses\nimport importlib.util\n{body}\n")
    return str(path)


# Reading.


def test_a_file_gives_its_main_configuration():
    tree, name = experiments.load(QUICKSTART)
    assert name == "quickstart"
    assert isinstance(tree, experiments.Experiment)
    assert tree != tiny()


def test_a_variant_is_named_after_a_colon():
    tree, name = experiments.load(TINY)
    assert name == "quickstart-tiny"
    assert isinstance(tree.data.source, Synthetic)


@pytest.mark.parametrize("inside", ["", "experiment.json"])
def test_a_run_folder_and_its_json_give_the_tree_and_the_folders_name(tmp_path, inside):
    tree = tiny("model.depth=3", "data.batch_size=24")
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps({"experiment": experiments.dump(tree)}))
    assert experiments.load(str(folder / inside)) == (tree, "my-run")


def test_a_run_on_a_remote_store_is_read():
    import upath

    folder = upath.UPath("memory://experiment-test/my-run")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps({"experiment": experiments.dump(tiny())}))
    assert experiments.load(str(folder)) == (tiny(), "my-run")


def test_overrides_apply_to_a_run_folder_in_their_order(tmp_path):
    (tmp_path / "experiment.json").write_text(json.dumps({"experiment": experiments.dump(tiny())}))
    tree, _ = experiments.load(str(tmp_path), ["training.steps=7", "training.steps=9"])
    assert tree.training.steps == 9


def test_an_unknown_variant_is_refused_with_those_that_exist():
    complaint = refused(experiments.load, f"{QUICKSTART}:tniy")
    assert complaint.option == "CONFIG"
    assert complaint.found.endswith("quickstart.py:tniy")
    assert "tiny" in complaint.needed
    assert "get_config" not in complaint.needed


@pytest.mark.parametrize("reference", ["nowhere.py", "nowhere.py:tiny", "nowhere", "nowhere.json", "nonsense://bucket/run", ""])
def test_what_is_not_there_is_refused(tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    complaint = refused(experiments.load, reference)
    assert complaint.option == "CONFIG"
    assert reference.partition(":")[0] in complaint.found


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b"{}", b'{"experiment": 3}', b"\xff\xfe", b'{"experiment": {"model": null}}', b'"x"']
)
def test_json_that_is_no_experiment_is_refused(tmp_path, content):
    (tmp_path / "experiment.json").write_bytes(content)
    refused(experiments.load, str(tmp_path))


def test_a_folder_in_the_place_of_the_json_is_refused(tmp_path):
    (tmp_path / "experiment.json").mkdir()
    assert refused(experiments.load, str(tmp_path)).option == "CONFIG"


def test_a_function_that_makes_something_else_is_refused(tmp_path):
    config = write_config(tmp_path, "def get_config():\n    return 3")
    assert "Experiment" in refused(experiments.load, config).needed


def test_a_class_defined_in_the_configuration_is_refused_because_it_cannot_be_read_back(tmp_path):
    body = f"""
from jaxgen import experiment

@dataclasses.dataclass(frozen=True)
class Own:
    def __call__(self, key, count):
        return key

def get_config():
    tree = experiment.load({TINY!r})[0]
    return dataclasses.replace(tree, objective=dataclasses.replace(tree.objective, timesteps=Own()))
"""
    complaint = refused(experiments.load, write_config(tmp_path, body))
    assert complaint.option == "objective.timesteps"
    assert "Own" in complaint.found


def test_the_module_imports_no_other_room():
    script = "import sys, jaxgen.experiment; print(*sorted(m for m in sys.modules if m.startswith('jaxgen')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["jaxgen", "jaxgen.bad_input", "jaxgen.experiment", "jaxgen.typed_tree", "jaxgen.types"]


# Overriding.


@pytest.mark.parametrize(
    "text, value",
    [
        ("training.steps=7", 7),
        ("seed=0", 0),
        ("optimizer.learning_rate=3e-4", 3e-4),
        ("optimizer.learning_rate=1", 1.0),
        ("optimizer.clip_norm=none", None),
        ("optimizer.clip_norm=0.5", 0.5),
        ("objective.base_pixels=64", 64),
        ("optimizer.schedule=cosine", "cosine"),
        ("precision.compute=bfloat16", "bfloat16"),
        ("model.gates=zero", Gates.ZERO),
        ("model.scaling.parametrization=standard", "standard"),
        ("training.ema=0.9,0.99", (0.9, 0.99)),
        ("training.ema=(0.9,)", (0.9,)),
        ("training.ema=[]", ()),
        ("sampler.guidance_interval=0.1,0.9", (0.1, 0.9)),
        ("data.source.languages=en", ("en",)),
        ("data.source=synthetic", Synthetic()),
        ("objective.timesteps=uniform", Uniform()),
        ("objective.timesteps.mean=-0.5", -0.5),
        ("sampler.stepper=heun", Heun()),
        ("sampler.stepper=jaxgen.samplers.steppers:Heun", Heun()),
        ("evaluation=jaxgen.evaluation.evaluation:Evaluation", Evaluation()),
        ("evaluation=none", None),
        ("sampler=none", None),
        ("encoders=()", ()),
    ],
)
def test_an_override_is_parsed_by_the_fields_type(text, value):
    name, _, _ = text.partition("=")
    node = tiny(text)
    for part in name.split("."):
        node = getattr(node, part)
    assert node == value
    assert type(node) is type(value) or isinstance(node, enum.Enum)


def test_an_override_changes_nothing_else():
    assert experiments.difference(tiny(), tiny("model.depth=3")) == {"model.depth": (2, 3)}


def test_a_node_that_is_chosen_starts_from_its_defaults():
    tree = tiny("objective.timesteps.mean=2", "objective.timesteps=logit_normal")
    assert tree.objective.timesteps == LogitNormal()


def test_a_source_is_chosen_first_and_its_required_path_given_after(tmp_path):
    tree = tiny("data.source=folder", f"data.source.path={tmp_path}")
    assert tree.data.source == Folder(path=str(tmp_path))


def test_a_recipe_may_leave_the_path_of_a_source_to_who_uses_it():
    assert tiny("data.source=folder").data.source.path == ""


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("sampler.stepper=heun", "objective.timesteps=uniform", "training.ema=()", "optimizer.clip_norm=none"),
        ("data.source=folder", "data.source.path=/a b/c=d", "model=jaxgen.models.dit:DiT", "objective.base_pixels=64"),
        ("sampler=none", "evaluation=jaxgen.evaluation.evaluation:Evaluation"),
    ],
    ids=" ".join,
)
def test_all_options_as_overrides_make_the_tree_of_any_other(overrides):
    tree = experiments.load(TINY)[0]
    for text in overrides:
        tree = experiments.override(tree, text)
    made = experiments.load(QUICKSTART)[0]
    for name, text in experiments.as_overrides(tree).items():
        made = experiments.override(made, f"{name}={text}")
    assert made == tree


def test_another_model_may_be_chosen():
    assert tiny("model=jaxgen.models.dit:DiT", "model.width=32").model == DiT(width=32)


@dataclasses.dataclass(frozen=True)
class Leaves:
    """One leaf of each kind that the package's own configurations do not have."""

    flag: bool = False
    either: Literal[1, 2, "auto"] = 1
    chosen: types.Source | None = dataclasses.field(
        default=None, metadata={"choices": {"synthetic": "jaxgen.data.synthetic:Synthetic"}}
    )
    gates: Gates | None = None
    several: tuple[Gates, ...] = ()
    pair: tuple[int, Gates] = (1, Gates.ZERO)
    maybe_pair: tuple[int, Gates] | None = None
    anything: Any = None


@pytest.mark.parametrize(
    "text, value",
    [
        ("flag=true", True),
        ("flag=False", False),
        ("either=2", 2),
        ("either=auto", "auto"),
        ("chosen=synthetic", Synthetic()),
        ("chosen=none", None),
        ("gates=random", Gates.RANDOM),
        ("gates=none", None),
        ("several=zero,random", (Gates.ZERO, Gates.RANDOM)),
        ("pair=3,random", (3, Gates.RANDOM)),
        ("maybe_pair=none", None),
        ("maybe_pair=3,random", (3, Gates.RANDOM)),
        ("anything=jaxgen.objectives.timesteps:Uniform", Uniform()),
    ],
)
def test_every_kind_of_leaf_is_parsed_and_survives_json(text, value):
    start = Leaves(chosen=Synthetic(), gates=Gates.ZERO, maybe_pair=(1, Gates.ZERO))
    tree = experiments.override(start, text)
    found = getattr(tree, text.partition("=")[0])
    assert found == value and type(found) is type(value)
    again = experiments.rebuild(json.loads(json.dumps(experiments.dump(tree))), trust=[__name__.partition(".")[0]])
    assert again == tree
    assert [type(getattr(again, f.name)) for f in dataclasses.fields(again)] == [
        type(getattr(tree, f.name)) for f in dataclasses.fields(tree)
    ]


@pytest.mark.parametrize(
    "text, suggested",
    [
        ("model.widht=64", "model.width"),
        ("learning_rate=1e-3", "optimizer.learning_rate"),
        ("optimizer.learning_rat=1e-3", "optimizer.learning_rate"),
        ("steps=3", "training.steps"),
        ("training.learning_rate=1", "optimizer.learning_rate"),
        ("stepper=heun", "sampler.stepper"),
        ("data.source.cuont=3", "data.source.count"),
        ("model.width.x=3", "model.width"),
        ("qqqqqqq=1", "seed"),
    ],
)
def test_an_unknown_name_is_refused_with_the_right_one(text, suggested):
    complaint = refused(tiny, text)
    assert complaint.option == text.partition("=")[0]
    assert suggested in complaint.needed


@pytest.mark.parametrize(
    "text, needed",
    [
        ("training.steps=7.5", "a whole number"),
        ("training.steps=many", "a whole number"),
        ("training.steps=none", "a whole number"),
        ("training.steps=", "a whole number"),
        ("optimizer.learning_rate=fast", "a number"),
        ("optimizer.learning_rate=nan", "a finite number"),
        ("optimizer.weight_decay=inf", "a finite number"),
        ("optimizer.clip_norm=nan", "a finite number"),
        ("training.ema=0.9,x", "a number"),
        ("training.ema=nan", "a finite number"),
        ("sampler.guidance_interval=0.1", "2 values"),
        ("optimizer.schedule=linear", "constant, cosine, wsd"),
        ("model.gates=open", "zero, random"),
        ("data.source=cinema", "digits_captioned, folder, scenes, synthetic"),
        ("objective.timesteps=none", "logit_normal, uniform"),
        ("evaluation=fine", "package.module:Class"),
        ("model=none", "package.module:Class"),
        ("data.source=jaxgen.data.synthetic:Nothing", "an existing class"),
        ("data.source=jaxgen.nowhere:Nothing", "an existing class"),
        ("data.source=jaxgen.data.text:units", "a dataclass"),
        ("sampler=jaxgen.nn.linear:Linear", "no default"),
        ("data.source=jaxgen.samplers.steppers:Euler", "a Source"),
        ("sampler.stepper=jaxgen.samplers.time_grids:Uniform", "a Stepper"),
        ("optimizer=jaxgen.samplers.steppers:Euler", "a Optimizer"),
        ("objective=jaxgen.samplers.steppers:Euler", "a Objective"),
        ("autoencoder=jaxgen.samplers.steppers:Euler", "a Autoencoder"),
        ("seed=-1", "not negative"),
        ("seed=4294967296", "32 bits"),
    ],
)
def test_a_value_of_another_type_is_refused(text, needed):
    complaint = refused(tiny, text)
    name, _, value = text.partition("=")
    assert complaint.option.startswith(name) or name == "sampler"
    assert needed in complaint.needed


@pytest.mark.parametrize("text", ["flag=1", "flag=yes", "either=3", "gates=none2", "pair=1", "several=zero,up", "anything=3"])
def test_a_value_of_another_type_is_refused_for_every_kind_of_leaf(text):
    assert refused(experiments.override, Leaves(), text).option == text.partition("=")[0]


def test_an_override_without_an_equals_sign_is_refused():
    complaint = refused(tiny, "model.width")
    assert (complaint.option, complaint.found, complaint.needed) == ("--set", "model.width", "dotted.name=value")


# To JSON and back.


@pytest.mark.parametrize("reference", variants(), ids=lambda reference: pathlib.Path(reference).name)
def test_every_configuration_is_the_same_after_json(reference):
    # Of any kind: an allocation is no experiment.
    tree, _ = experiments.load(reference, kind=object)
    text = json.dumps(experiments.dump(tree), allow_nan=False)
    again = experiments.rebuild(json.loads(text))
    experiments.validate(again)
    assert again == tree
    assert experiments.difference(tree, again) == {}


@pytest.mark.parametrize("reference", [path.name for path in sorted(CONFIGS.glob("*.py"))])
def test_every_recipe_has_a_tiny_variant(reference):
    assert f"{CONFIGS / reference}:tiny" in variants()


def outside(tmp_path, monkeypatch, name, body):
    """A package besides jaxgen, for this test alone."""
    (tmp_path / f"{name}.py").write_text(f"import dataclasses\n{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_class_of_another_package_is_refused_without_importing_it(tmp_path, monkeypatch):
    outside(tmp_path, monkeypatch, "untrusted", "raise RuntimeError('imported')")
    data = experiments.dump(tiny()) | {"optimizer": {"class": "untrusted:Thing"}}
    complaint = refused(experiments.rebuild, data)
    assert (complaint.option, complaint.found) == ("optimizer.class", "untrusted:Thing")
    assert "--trust" in complaint.needed


def test_a_package_whose_name_begins_like_a_trusted_one_is_refused():
    refused(experiments.rebuild, {"class": "jaxgenerous.x:Thing"})
    refused(experiments.rebuild, {"class": "jaxgen_x:Thing"})


def test_a_trusted_class_is_built(tmp_path, monkeypatch):
    outside(tmp_path, monkeypatch, "trusted", "@dataclasses.dataclass(frozen=True)\nclass Thing:\n    size: int = 1")
    (made,) = experiments.rebuild([{"class": "trusted:Thing", "size": 3}], trust=["trusted"])
    assert (type(made).__name__, made.size) == ("Thing", 3)


@pytest.mark.parametrize("named", ["jaxgen.data.text:units", "jaxgen.nn.modulation:Gates", "jaxgen.experiment:json"])
def test_what_is_no_dataclass_is_not_built(named):
    assert refused(experiments.rebuild, {"class": named}).needed == "a dataclass"


@pytest.mark.parametrize("named", ["jaxgen.data.text:Nothing", "jaxgen.nowhere:Thing", "jaxgen", "jaxgen:", "jaxgen.data.text"])
def test_a_class_that_does_not_exist_is_refused(named):
    assert refused(experiments.rebuild, {"class": named}).option == "class"


def test_an_unknown_field_is_refused_with_those_that_exist():
    data = experiments.dump(tiny())
    data["data"]["source"]["cuont"] = 3
    complaint = refused(experiments.rebuild, data)
    assert complaint.option == "data.source.cuont"
    assert "count" in complaint.needed


def test_a_missing_required_field_is_refused():
    data = experiments.dump(tiny())
    del data["objective"]
    assert refused(experiments.rebuild, data).option == "objective"


def test_no_value_of_an_enum_is_refused():
    data = experiments.dump(tiny())
    data["model"]["gates"] = "open"
    complaint = refused(experiments.rebuild, data)
    assert (complaint.option, complaint.found) == ("model.gates", "open")


# Types and ranges.


def changed(tree, name, value):
    """The tree with one field set in Python, by no parser."""
    head, _, rest = name.partition(".")
    if rest:
        value = changed(getattr(tree, head), rest, value)
    fields = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree) if f.init and f.name not in ("parent", "name")}
    return type(tree)(**(fields | {head: value}))


@pytest.mark.parametrize(
    "name, value, needed",
    [
        ("model.depth", True, "type int"),
        ("model.depth", 2.0, "type int"),
        ("model.depth", "2", "type int"),
        ("optimizer.learning_rate", "1e-3", "type float"),
        ("optimizer.learning_rate", True, "type float"),
        ("optimizer.learning_rate", float("nan"), "finite"),
        ("training.ema", [0.9], "tuple"),
        ("training.ema", 0.9, "tuple"),
        ("sampler.guidance_interval", (0.0, 0.5, 1.0), "tuple"),
        ("model.gates", "random", "type Gates"),
        ("model.remat", None, "type str"),
        ("model.scaling", None, "type Scaling"),
        ("optimizer.schedule", "linear", "wsd"),
        ("optimizer.clip_norm", "1", "None"),
        ("data.source", None, "a Source"),
        ("data.source", 3, "a Source"),
        ("objective.timesteps", [1], "a frozen dataclass"),
        ("evaluation", {"x": 1}, "Any"),
    ],
)
def test_a_value_of_another_type_set_in_python_is_refused(name, value, needed):
    complaint = refused(changed(tiny(), name, value).validate)
    assert complaint.option == name
    assert needed in complaint.needed


def test_an_item_of_a_tuple_is_named_by_its_index():
    assert refused(changed(tiny(), "training.ema", (0.9, "x")).validate).option == "training.ema[1]"


def test_a_whole_number_passes_for_a_float():
    changed(tiny(), "sampler.guidance", 2).validate()


@pytest.mark.parametrize(
    "text, option",
    [
        ("model.width=-4", "model.width"),
        ("model.scaling.base_width=0", "model.scaling.base_width"),
        ("data.source.count=0", "data.source.count"),
        ("data.resolution=3", "data.resolution"),
        ("objective.timesteps.std=0", "objective.timesteps.std"),
        ("sampler.grid.shift=0", "sampler.grid.shift"),
        ("mesh.data=0", "mesh.data"),
        ("training.keep=0", "training.keep"),
        # The last two are found by comparing nodes.
        ("data.channels=3", "model.channels"),
        ("training.microbatches=3", "data.batch_size"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_full_name(text, option):
    complaint = refused(tiny, text)
    assert complaint.option == option


def test_two_axes_that_fill_are_refused_under_the_name_of_the_mesh():
    assert refused(tiny, "mesh.fsdp=-1").option == "mesh"


# Resuming.


@pytest.mark.parametrize(
    "text",
    [
        "mesh.data=2",
        "training.steps=40",
        "training.log_every=3",
        "training.checkpoint_every=3",
        "training.keep=1",
        "training.sample_every=5",
        "sampler.steps=9",
        "sampler.stepper=heun",
        "sampler=none",
        "evaluation=jaxgen.evaluation.evaluation:Evaluation",
        "model.remat=full",
        "data.prefetch=1",
    ],
)
def test_a_run_may_go_on_with_another(text):
    name = text.partition("=")[0]
    changes = experiments.check_resumable(tiny(), tiny(text), "here")
    assert changes
    assert all(changed.startswith(name) for changed in changes)


@pytest.mark.parametrize(
    "text, name, old, new",
    [
        ("model.width=64", "model.width", 32, 64),
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate", 0.002, 0.5),
        ("data.batch_size=8", "data.batch_size", 16, 8),
        ("seed=7", "seed", 0, 7),
        ("training.ema=0.5", "training.ema", [0.999], [0.5]),
        ("training.microbatches=2", "training.microbatches", 1, 2),
        ("precision.compute=bfloat16", "precision.compute", "float32", "bfloat16"),
        ("objective.timesteps=uniform", "objective.timesteps.mean", 0.0, "(absent)"),
    ],
)
def test_a_run_does_not_go_on_as_another_experiment(text, name, old, new):
    complaint = refused(experiments.check_resumable, tiny(), tiny(text, "mesh.data=2"), "runs/here")
    assert (complaint.option, complaint.found) == ("run", "runs/here")
    assert f"{name}: {old!r} there, {new!r} asked for" in complaint.needed
    # What may change is not blamed.
    assert "mesh" not in complaint.needed


def test_another_class_is_a_difference():
    pairs = experiments.difference(tiny(), tiny("sampler.stepper=heun"))
    assert pairs == {"sampler.stepper.class": ("jaxgen.samplers.steppers:Euler", "jaxgen.samplers.steppers:Heun")}
    assert experiments.flatten(tiny())["sampler.stepper.class"] == f"{Euler.__module__}:Euler"

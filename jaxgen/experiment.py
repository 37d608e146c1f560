"""The experiment: a typed tree of frozen dataclasses, loaded from Python, overridden, validated, written as JSON, read back.

A configuration is a Python file with a function `get_config() -> Experiment` and one function per variant (`tiny`, …), named
on the command line as `file.py` and `file.py:tiny`. Nodes are frozen dataclasses or Flax modules, leaves are scalars, enums,
tuples or None. Nothing here imports the classes that a tree is made of: they are named `package.module:Class` and resolved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import enum
import importlib
import importlib.util
import inspect
import json
import typing
from collections.abc import Iterable
from typing import Any, Literal

import jax

from jaxgen import typed_tree, types

MAY_CHANGE = (
    "mesh",
    "sampler",
    "evaluation",
    "training.steps",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep",
    "training.sample_every",
    "training.tpu_options",
    "model.remat",
    "model.context_attention",
    "data.prefetch",
    "data.source.directory",
    "data.source.path",
    "data.source.threads",
    "data.source.verify",
    "autoencoder.path",
    "autoencoder.recipe",
    "objective.alignment.teacher.path",
    "objective.alignment.teacher.recipe",
    "swarm.site_shards",
)
"""Names (and everything below them) that a resumed run may change; anything else is another experiment.

A source may move, and so may a teacher or an autoencoder: what they hold is compared by fingerprint.
"""

MESHES = {
    "data": "jaxgen.parallel.mesh:MeshShape",
    "fsdp": "jaxgen.parallel.mesh:FSDP",
    "hsdp": "jaxgen.parallel.mesh:HSDP",
    "fsdp_tensor": "jaxgen.parallel.mesh:FSDPTensor",
    "context": "jaxgen.parallel.mesh:Context",
}
"""Meshes by name, for `--set mesh=NAME`; single sizes can be set after it."""


@dataclasses.dataclass(frozen=True)
class Precision:
    """Attributes:
    compute: dtype that networks compute in; parameters, optimizer, losses and sampler state are float32 always.
    products: what networks that compute in float32 round the inputs of their products with kernels to; sums stay float32. Matrix
      units, those of CPUs too, multiply bfloat16 several times faster.
    """

    compute: Literal["float32", "bfloat16"] = "float32"
    products: Literal["float32", "bfloat16"] = "float32"

    def validate(self) -> None:
        if self.products != "float32" and self.compute != "float32":
            raise types.BadInput("products", self.products, "float32: products of bfloat16 have nothing to round")

    def scope(self) -> contextlib.AbstractContextManager:
        """Networks traced within it multiply so."""
        return jax.default_matmul_precision(None if self.products == "float32" else self.products)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run depends on. Its top-level names are fixed.

    Attributes:
      model: the generator, a Flax module. autoencoder: pictures to latents. encoders: towers that condition or judge.
      objective: what is minimised. data: source and batch. mesh: sizes of the device mesh. precision: compute dtype.
      optimizer: update rule. training: length, logging, checkpoints, averages. sampler: from noise to data.
      evaluation: what is measured of a checkpoint. seed: root of all random streams.
    """

    model: Any
    objective: types.Objective
    data: Any
    optimizer: types.Optimizer
    training: Any
    sampler: types.Sampler | None
    mesh: Any = dataclasses.field(metadata={"choices": MESHES})
    autoencoder: types.Autoencoder
    encoders: tuple[Any, ...] = ()
    precision: Precision = Precision()
    evaluation: Any | None = None
    seed: int = 0

    def validate(self) -> None:
        """Checks every leaf's type, every node's own `validate()`, then every node's `check(experiment)` across nodes.

        Raises:
          BadInput: with the full dotted name, the value found and the value needed.
        """
        _check_types(self)
        if not 0 <= self.seed < 2**32:
            raise types.BadInput("seed", self.seed, "a whole number of 32 bits, not negative")
        _check_nodes(self)


def validate(tree: Any) -> None:
    """Checks a tree of any kind: every leaf's type, every node from the inside out, and at last the tree's own `validate()`.

    Raises:
      BadInput: as `Experiment.validate`.
    """
    if not isinstance(tree, Experiment):
        _check_types(tree)
        _check_nodes(tree)
    tree.validate()


def load(reference: str, overrides: Iterable[str] = (), trust: Iterable[str] = (), kind: type = Experiment) -> tuple[Any, str]:
    """Loads, overrides and validates an experiment, or a configuration of another kind.

    Args:
      reference: `file.py`, `file.py:variant`, a run folder, or an experiment.json.
      overrides: `dotted.name=value`, applied in order.
      trust: packages besides jaxgen whose classes a JSON file may name.
      kind: frozen dataclass that the configuration has to be.

    Returns:
      The configuration, and its name (`quickstart`, `quickstart-tiny`; of a run folder, the folder's name).

    Raises:
      BadInput: nothing there, or something wrong in it.
    """
    file, _, variant = reference.partition(".py:") if ".py:" in reference else (reference, "", "")
    if reference.endswith(".py") or variant:
        tree = _call(file if file.endswith(".py") else f"{file}.py", variant or "get_config", kind)
        name = inspect.getmodulename(file if file.endswith(".py") else f"{file}.py") or "run"
        name = f"{name}-{variant}" if variant else name
    else:
        tree, _, name = read(reference, trust, kind)
    for text in overrides:
        tree = override(tree, text)
    validate(tree)
    return tree, name


def override(tree: Any, text: str) -> Any:
    """The tree with one `dotted.name=value` applied; the value is parsed by the field's type.

    Raises:
      BadInput: unknown name (with the nearest ones), or a value of another type.
    """
    name, found, value = text.partition("=")
    if not found:
        raise types.BadInput("--set", text, "dotted.name=value")
    return _override(tree, name.split("."), value, tree, name)


def dump(node: Any) -> Any:
    """The tree as JSON-ready data; nodes carry their class as `package.module:Class`."""
    if typed_tree.is_node(node):
        cls = type(node)
        return {
            "class": f"{cls.__module__}:{cls.__qualname__}",
            **{name: dump(value) for name, _, value in typed_tree.fields(node)},
        }
    if isinstance(node, enum.Enum):
        return node.value
    if isinstance(node, tuple):
        return [dump(item) for item in node]
    return node


def rebuild(data: Any, trust: Iterable[str] = (), path: str = "", annotation: Any = Any) -> Any:
    """The inverse of `dump`, naming only classes of jaxgen and of trusted packages; `annotation` is what may stand here.

    Raises:
      BadInput: a class of another package, one that does not exist, fields that it does not have, or no value of an enum.
    """
    if isinstance(data, list):
        tuples = [kind for kind in typed_tree.alternatives(annotation) if typing.get_origin(kind) is tuple]
        kinds = typed_tree.item_types(tuples[0], len(data)) if tuples else ()
        kinds = kinds if len(kinds) == len(data) else (Any,) * len(data)
        items = enumerate(zip(data, kinds, strict=True))
        return tuple(rebuild(item, trust, f"{path}[{i}]", kind) for i, (item, kind) in items)
    if not isinstance(data, dict):
        chosen = next((kind for kind in typed_tree.alternatives(annotation) if typed_tree.is_enum(kind)), None)
        return data if chosen is None or data is None else typed_tree.enum_member(chosen, data, path)
    cls = _resolve(str(data.get("class")), path, trust)
    known = {field.name: field for field in typed_tree.config_fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for name, item in data.items():
        if name == "class":
            continue
        here = f"{path}.{name}" if path else name
        if name not in known:
            raise types.BadInput(here, item, f"a field of {data['class']}: {', '.join(known)}")
        values[name] = rebuild(item, trust, here, hints.get(name, Any))
    return _construct(cls, values, path)


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted name, as in JSON; a node's class is the leaf `<name>.class`."""
    data = dump(node) if typed_tree.is_node(node) else node
    if isinstance(data, dict):
        leaves = {}
        for name, value in data.items():
            leaves |= flatten(value, f"{path}.{name}" if path else name)
        return leaves
    return {path: data}


def as_overrides(tree: Experiment) -> dict[str, str]:
    """Every option by dotted name, in words that `override` takes: in this order they make this tree of any other."""
    texts = {}
    for name, value in flatten(tree).items():
        # The class of a node is what its own name is set to.
        name = name.removesuffix("class").removesuffix(".") if name.rpartition(".")[2] == "class" else name
        if name:
            texts[name] = f"({','.join(map(str, value))})" if isinstance(value, list) else str(value)
    return texts


def difference(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Leaves that differ, as {name: (old, new)}."""
    a, b = flatten(old), flatten(new)
    absent = "(absent)"
    return {name: (a.get(name, absent), b.get(name, absent)) for name in {**a, **b} if a.get(name, absent) != b.get(name, absent)}


def check_resumable(old: Experiment, new: Experiment, where: str) -> dict[str, tuple[Any, Any]]:
    """Returns the differences, all of them among `MAY_CHANGE`.

    Raises:
      BadInput: a difference that makes it another experiment.
    """
    changed = difference(old, new)
    refused = {
        name: pair for name, pair in changed.items() if not any(name == ok or name.startswith(f"{ok}.") for ok in MAY_CHANGE)
    }
    if refused:
        shown = "; ".join(f"{name}: {a!r} there, {b!r} asked for" for name, (a, b) in refused.items())
        raise types.BadInput("run", where, f"a folder of the same experiment, or another --run. It differs in {shown}")
    return changed


# --- reading ---------------------------------------------------------------------------------------------------------


def _call(file: str, function: str, kind: type) -> Any:
    import pathlib

    if not pathlib.Path(file).is_file():
        raise types.BadInput("CONFIG", file, "a Python file, a run folder or an experiment.json")
    spec = importlib.util.spec_from_file_location(f"jaxgen_config_{pathlib.Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = getattr(module, function, None)
    if not inspect.isfunction(made):
        variants = [
            name for name, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        shown = ", ".join(name for name in variants if name != "get_config" and not name.startswith("_"))
        raise types.BadInput("CONFIG", f"{file}:{function}", f"one of its variants: {shown or 'none'}")
    tree = made()
    if not isinstance(tree, kind):
        raise types.BadInput("CONFIG", f"{file}:{function} -> {type(tree).__name__}", f"a function that returns an {kind.__name__}")
    for path, node in typed_tree.nodes(tree, ""):
        if type(node).__module__ == module.__name__:
            needed = "a class of a package: a run is read back without its configuration file"
            raise types.BadInput(path, f"{type(node).__name__}, defined in {file}", needed)
    return tree


def read(reference: str, trust: Iterable[str] = (), kind: type = Experiment) -> tuple[Any, list[dict[str, Any]], str]:
    """Reads a run folder or an experiment.json: the tree, the history of its changes, and the folder's name.

    Raises:
      BadInput: not there, not readable, or not an experiment.
    """
    path, data = _document(reference)
    tree = _tree(data.get("experiment"), path, trust, kind)
    return tree, data.get("history", []), path.parent.name


def read_recipe(reference: str, trust: Iterable[str] = ()) -> tuple[str, Experiment]:
    """The recipe that a run was started from: its name and the tree before anything was overridden.

    Raises:
      BadInput: as `read`.
    """
    path, data = _document(reference)
    recipe = data.get("recipe", {"name": "", "experiment": data.get("experiment")})
    return recipe["name"], _tree(recipe["experiment"], path, trust, Experiment)


def _document(reference: str) -> tuple[Any, dict[str, Any]]:
    """Path and content of the experiment.json that a reference means."""
    import upath

    try:
        path = upath.UPath(reference)
        if not reference.endswith(".json"):
            path = path / "experiment.json"
        text = path.read_text() if path.is_file() else None
    # Unknown schemes, packages that are missing, and whatever a remote file system raises.
    except Exception as error:
        raise types.BadInput("CONFIG", reference, f"something that can be read ({error})") from error
    if text is None:
        raise types.BadInput("CONFIG", reference, "a Python file, a run folder or an experiment.json")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise types.BadInput("CONFIG", str(path), f"JSON; {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("history", []), list):
        raise types.BadInput("CONFIG", str(path), "a dumped experiment")
    return path, data


def _tree(data: Any, path: Any, trust: Iterable[str], kind: type) -> Any:
    tree = rebuild(data, trust)
    if not isinstance(tree, kind):
        raise types.BadInput("CONFIG", str(path), f"a dumped {kind.__name__.lower()}")
    return tree


def _resolve(name: str, path: str, trust: Iterable[str]) -> type:
    module, _, qualname = name.partition(":")
    option = f"{path}.class" if path else "class"
    if module.partition(".")[0] not in {"jaxgen", *trust}:
        raise types.BadInput(option, name, "a class of jaxgen, or of a package given by --trust")
    try:
        cls = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError):
        raise types.BadInput(option, name, "an existing class, as package.module:Class") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise types.BadInput(option, name, "a dataclass")
    return cls


def _construct(cls: type, values: dict[str, Any], path: str) -> Any:
    required = [
        field.name
        for field in typed_tree.config_fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and field.name not in values
    ]
    if required:
        raise types.BadInput(f"{path}.{required[0]}".lstrip("."), "nothing", f"a value; {cls.__name__} has no default for it")
    return cls(**values)


# --- overriding ------------------------------------------------------------------------------------------------------


def _override(node: Any, names: list[str], text: str, root: Experiment, full: str) -> Any:
    fields = {name: (annotation, value) for name, annotation, value in typed_tree.fields(node)} if typed_tree.is_node(node) else {}
    if names[0] not in fields:
        raise types.BadInput(full, text, _nearest(full, root))
    annotation, value = fields[names[0]]
    if len(names) > 1:
        new = _override(value, names[1:], text, root, full)
    else:
        field = next(field for field in typed_tree.config_fields(type(node)) if field.name == names[0])
        new = _parse(text, annotation, full, field.metadata.get("choices", {}), value)
    return type(node)(**{name: new if name == names[0] else value for name, (_, value) in fields.items()})


def _nearest(full: str, root: Experiment) -> str:
    names = list(as_overrides(root))
    last = full.rpartition(".")[2]
    near = [name for name in names if name.rpartition(".")[2] == last]
    near += difflib.get_close_matches(full, names, n=3, cutoff=0.6)
    if not near:
        tails = {name.rpartition(".")[2]: name for name in names}
        near = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=3, cutoff=0.6)]
    if near:
        return f"an option that exists; did you mean {', '.join(dict.fromkeys(near[:3]))}?"
    return f"an option that exists; at the top are {', '.join(field.name for field in dataclasses.fields(root))}"


def _parse(text: str, annotation: Any, path: str, choices: dict[str, str], old: Any) -> Any:
    """The value that `text` stands for under this annotation."""
    alternatives = typed_tree.alternatives(annotation)
    if text.lower() == "none" and type(None) in alternatives:
        return None
    annotation = next(kind for kind in alternatives if kind is not type(None))
    if choices or typed_tree.is_node(old) or annotation is Any or typed_tree.is_protocol(annotation):
        if text not in choices and ":" not in text:
            raise types.BadInput(path, text, f"one of {', '.join(choices)}" if choices else "package.module:Class")
        return _construct(_resolve(choices.get(text, text), path, {text.partition(".")[0]}), {}, path)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        by_text = {str(argument): argument for argument in arguments}
        if text not in by_text:
            raise types.BadInput(path, text, f"one of {', '.join(by_text)}")
        return by_text[text]
    if origin is tuple:
        items = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
        kinds = typed_tree.item_types(annotation, len(items))
        if len(kinds) != len(items):
            raise types.BadInput(path, text, f"{len(kinds)} values separated by commas")
        return tuple(_parse(item, kind, path, {}, None) for item, kind in zip(items, kinds, strict=True))
    if typed_tree.is_enum(annotation):
        return typed_tree.enum_member(annotation, text, path)
    if annotation is bool:
        if text.lower() not in ("true", "false"):
            raise types.BadInput(path, text, "true or false")
        return text.lower() == "true"
    if annotation in (int, float):
        try:
            return annotation(text)
        except ValueError:
            raise types.BadInput(path, text, "a whole number" if annotation is int else "a number") from None
    if annotation is str:
        return text
    raise types.BadInput(path, text, "a name below this one; it is not a leaf")


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_types(tree: Any) -> None:
    for path, node in typed_tree.nodes(tree, ""):
        for name, annotation, value in typed_tree.fields(node):
            typed_tree.conform(value, annotation, f"{path}.{name}" if path else name)


def _check_nodes(tree: Any) -> None:
    """Every node's own `validate()` below the root, then every node's `check(tree)`."""
    nodes = list(typed_tree.nodes(tree, ""))
    for method, arguments in (("validate", ()), ("check", (tree,))):
        # What lies inside comes first: a node's own check may compute with it.
        for path, node in reversed(nodes[1:]):
            if hasattr(node, method):
                try:
                    getattr(node, method)(*arguments)
                except types.BadInput as complaint:
                    # `check` names options from the root; `validate` names them from its own node.
                    raise (complaint if method == "check" else complaint.under(path)) from None

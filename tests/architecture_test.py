"""The rooms of the package and what each may import, read from the sources without importing them."""

import ast
import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import pytest

from jaxgen import cli

ROOT = pathlib.Path(__file__).parents[1]

# Bottom to top. Rooms of one floor do not import each other, except that the first five lie in this order.
FLOORS = (
    ("bad_input",),
    ("axes",),
    ("types",),
    ("typed_tree",),
    ("run", "experiment"),
    ("mup", "parallel"),
    ("nn",),
    ("models", "autoencoders", "encoders"),
    ("samplers",),
    ("objectives", "samplers.distillation"),
    ("data", "training"),
    ("evaluation", "interop", "preflight", "swarm"),
    ("reproduce",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
HARDWARE = {"devices", "local_devices", "device_count", "local_device_count", "default_backend"}
READERS = {"grain", "tensorflow_datasets", "array_record"}


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported name: `a.b.c` for both `import a.b.c` and `from a.b import c`."""

    target: str
    line: int
    inside_function: bool


def imports(tree: ast.Module) -> list[Import]:
    """All imports of a module, also those inside functions and under TYPE_CHECKING."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(alias.name, child.lineno, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                start = "." * child.level + (child.module or "")
                found.extend(Import(f"{start}.{alias.name}", child.lineno, inside) for alias in child.names)
            visit(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(tree, False)
    return found


def room(name: str) -> str | None:
    """The room of a module or of a name in it, both without the leading "jaxgen.": the longest listed prefix."""
    parts = name.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in FLOOR), None)


def wrong_imports(name: str, source: str) -> Iterator[str]:
    """Imports of jaxgen that the floors forbid, and imports of what no module may import."""
    here = room(name)
    if here is None:
        yield f"{name}: lies in no room"
        return
    for found in imports(ast.parse(source)):
        package, _, rest = found.target.partition(".")
        where = f"{name}:{found.line}: {found.target}"
        if package in ("configs", "launch", "tests"):
            yield f"{where}: nothing imports {package}"
        elif not package:
            yield f"{where}: relative"
        elif package != "jaxgen":
            continue
        elif not rest:
            # The bare package holds the version alone.
            continue
        elif (there := room(rest)) is None:
            yield f"{where}: lies in no room"
        elif here == "experiment" and there not in ("types", "typed_tree"):
            yield f"{where}: experiment imports types and their trees alone"
        elif here != there and FLOOR[there] >= FLOOR[here]:
            yield f"{where}: {there} is not below {here}"


def dynamic_imports(name: str, source: str) -> Iterator[str]:
    """Imports by a computed name, outside the loader of configurations and the command line."""
    if name in ("experiment", "cli"):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _dotted(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield f"{name}:{node.lineno}: imports by a computed name"


def misplaced_readers(name: str, source: str) -> Iterator[str]:
    """Imports of dataset libraries anywhere but inside functions of `data`."""
    for found in imports(ast.parse(source)):
        if found.target.split(".")[0] in READERS and not (room(name) == "data" and found.inside_function):
            yield f"{name}:{found.line}: {found.target}"


def asked_hardware(name: str, source: str) -> Iterator[str]:
    """Questions to JAX about the devices present, below `commands`."""
    if FLOOR.get(room(name), 0) >= FLOOR["commands"]:
        return
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in HARDWARE and _dotted(node).startswith("jax."):
            yield f"{name}:{node.lineno}: {_dotted(node)}"
    for found in imports(tree):
        if found.target.startswith("jax.") and found.target.split(".")[-1] in HARDWARE:
            yield f"{name}:{found.line}: {found.target}"


def side_effects(name: str, source: str) -> Iterator[str]:
    """Prints, and changes of JAX's global options, outside the commands."""
    if room(name) in ("commands", "cli"):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (called := _dotted(node.func)) in ("print", "jax.config.update", "config.update"):
            yield f"{name}:{node.lineno}: {called}"


def heavy_imports(name: str, source: str) -> Iterator[str]:
    """Imports at module level besides the standard library and `jaxgen.commands.options`."""
    for found in imports(ast.parse(source)):
        if found.inside_function or found.target == "jaxgen.commands.options":
            continue
        if found.target.split(".")[0] not in sys.stdlib_module_names:
            yield f"{name}:{found.line}: {found.target}"


def undocumented(name: str, source: str) -> Iterator[str]:
    if not ast.get_docstring(ast.parse(source)):
        yield f"{name}: no docstring"


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression of names; "" for the part that is something else."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def modules() -> dict[str, str]:
    """Sources by module name, without the leading "jaxgen."; the package itself is ""."""
    found = {}
    for path in sorted((ROOT / "jaxgen").rglob("*.py")):
        parts = path.relative_to(ROOT / "jaxgen").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


SOURCES = modules()
# Help is printed after these, and no others of the package, are imported.
LIGHT = ("", "cli", "commands", "commands.options", *(f"commands.{name.replace('-', '_')}" for name in cli.COMMANDS))
EVERYWHERE = (dynamic_imports, misplaced_readers, asked_hardware, side_effects, undocumented)


def test_the_sources_are_found():
    assert {"", "experiment", "parallel.mesh", "nn", "commands.train"} <= SOURCES.keys()


def test_modules_import_only_from_floors_below_their_own():
    assert not [fault for name, source in SOURCES.items() if name for fault in wrong_imports(name, source)]
    assert not imports(ast.parse(SOURCES[""]))


@pytest.mark.parametrize("check", EVERYWHERE, ids=lambda check: check.__name__)
def test_no_module_has(check):
    assert not [fault for name, source in SOURCES.items() for fault in check(name, source)]


def test_what_help_imports_is_light():
    assert not [fault for name in LIGHT for fault in heavy_imports(name, SOURCES[name])]


@pytest.mark.parametrize(
    "name, source",
    [
        pytest.param("types", "from jaxgen import run", id="up within the lowest rooms"),
        pytest.param("axes", "import jaxgen.types", id="plain import"),
        pytest.param("nn.linear", "from jaxgen.models.dit import DiT", id="up"),
        pytest.param("mup", "from jaxgen.parallel import keys", id="along a floor"),
        pytest.param("training.step", "def f():\n    from jaxgen import data", id="inside a function"),
        pytest.param("training.step", "class A:\n    def f(self):\n        import jaxgen.data.text", id="inside a method"),
        pytest.param("nn", "if TYPE_CHECKING:\n    from jaxgen.training import state", id="for types alone"),
        pytest.param("samplers.sampler", "from jaxgen.samplers import distillation", id="from the shorter prefix to the longer"),
        pytest.param("samplers.distillation.x", "from jaxgen import objectives", id="longest prefix decides"),
        pytest.param("experiment", "from jaxgen import axes", id="experiment imports types and their trees alone"),
        pytest.param("data.folder", "from jaxgen import evaluation", id="evaluation is above data"),
        pytest.param("training.loop", "from jaxgen.commands import session", id="commands are above all"),
        pytest.param("nn.mlp", "from .linear import Linear", id="relative"),
        pytest.param("nn.mlp", "from configs import quickstart", id="configs"),
        pytest.param("nn.mlp", "import tests.conftest", id="tests"),
        pytest.param("kitchen.sink", "", id="unknown room"),
        pytest.param("nn.mlp", "from jaxgen.kitchen import sink", id="of an unknown room"),
    ],
)
def test_a_forbidden_import_is_caught(name, source):
    assert len(list(wrong_imports(name, source))) == 1


@pytest.mark.parametrize(
    "name, source",
    [
        pytest.param("run", "from jaxgen import types", id="run sees types"),
        pytest.param("types", "from jaxgen import axes", id="types sees axes"),
        pytest.param("samplers.distillation.x", "from jaxgen.samplers import sampler", id="distillation sees samplers"),
        pytest.param("models.dit", "from jaxgen.models import interface", id="the same room"),
        pytest.param("evaluation.evaluation", "from jaxgen.training import step", id="evaluation sees training"),
        pytest.param("commands.train", "import jaxgen\nimport numpy as np", id="the bare package, and others"),
    ],
)
def test_an_allowed_import_is_not_caught(name, source):
    assert not list(wrong_imports(name, source))


@pytest.mark.parametrize(
    "check, name, source",
    [
        (dynamic_imports, "nn.mlp", "import importlib\nimportlib.import_module('jaxgen.data')"),
        (dynamic_imports, "nn.mlp", "__import__('jaxgen.data')"),
        (misplaced_readers, "data.folder", "import grain.python as pygrain"),
        (misplaced_readers, "data.folder", "from tensorflow_datasets import core"),
        (misplaced_readers, "training.loop", "def f():\n    import grain"),
        (misplaced_readers, "evaluation.x", "def f():\n    from array_record.python import array_record_module"),
        (asked_hardware, "training.step", "import jax\nx = jax.devices()[0]"),
        (asked_hardware, "nn.attention", "import jax\ndef f():\n    return jax.default_backend()"),
        (asked_hardware, "parallel.mesh", "from jax import local_devices"),
        (asked_hardware, "parallel.mesh", "import jax\ncount = jax.device_count()"),
        (side_effects, "training.loop", "def f():\n    print('step')"),
        (side_effects, "", "import jax\njax.config.update('jax_enable_x64', True)"),
        (side_effects, "", "from jax import config\nconfig.update('jax_enable_x64', True)"),
        (undocumented, "nn.mlp", "import jax\n'not at the top'"),
        (heavy_imports, "commands.train", "import jax"),
        (heavy_imports, "commands.train", "from jaxgen.commands import session"),
        (heavy_imports, "cli", "if True:\n    from jaxgen import types"),
    ],
)
def test_a_planted_fault_is_caught(check, name, source):
    assert len(list(check(name, source))) == 1


@pytest.mark.parametrize(
    "check, name, source",
    [
        (dynamic_imports, "experiment", "import importlib\nimportlib.import_module('x')"),
        (misplaced_readers, "data.folder", "class A:\n    def f(self):\n        import grain"),
        (asked_hardware, "commands.session", "import jax\njax.devices()"),
        (asked_hardware, "parallel.mesh", "def f(mesh):\n    return mesh.devices.size, mesh.local_devices"),
        (side_effects, "commands.config", "print('x')"),
        (side_effects, "nn.mlp", "'''print(x)'''\nx = {}\nx.update(print=1)"),
        (heavy_imports, "commands.train", "import argparse\ndef run():\n    import jax\nfrom jaxgen.commands import options"),
    ],
)
def test_what_is_allowed_is_not_caught(check, name, source):
    assert not list(check(name, source))

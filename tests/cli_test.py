"""The command line itself: help without JAX, exit codes, and what `jaxgen config` says."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from jaxgen import cli
from jaxgen import experiment as experiments

TINY = str(pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py:tiny")


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def stopped(*arguments):
    """The exit code with which argparse ends the process."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return caught.value.code


@pytest.fixture
def compiles():
    heard = []

    def listener(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            heard.append(seconds)

    jax.clear_caches()  # what an earlier test compiled would hide a compile
    jax.monitoring.register_event_duration_secs_listener(listener)
    yield heard
    jax.monitoring.unregister_event_duration_listener(listener)


def test_help_of_everything_is_printed_without_importing_jax():
    script = f"""
import sys
from jaxgen import cli
for arguments in (["--help"], *([name, "--help"] for name in {list(cli.COMMANDS)})):
    try:
        cli.main(arguments)
    except SystemExit as stop:
        assert stop.code == 0, arguments
heavy = {{"jax", "numpy", "flax", "orbax"}} & sys.modules.keys()
assert not heavy, heavy
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    for name, meaning in cli.COMMANDS.items():
        assert meaning in done.stdout
        assert f"usage: jaxgen {name}" in done.stdout


HELPS = [(command,) for command in cli.COMMANDS if command != "swarm"] + [("swarm", "train"), ("swarm", "allocate")]


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_of_a_command_says_what_it_does_and_its_exit_codes(command, capsys):
    assert stopped(*command, "--help") == 0
    shown = capsys.readouterr().out
    assert "42 stopped by a signal" in shown
    assert "--set NAME=VALUE" in shown
    assert "--json FILE" in shown


def test_an_unknown_command_is_refused_with_those_that_exist(capsys):
    assert stopped("nonsense") == 2
    shown = capsys.readouterr().err
    assert "nonsense" in shown
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "arguments, shown",
    [
        ((), "COMMAND"),
        (("train",), "CONFIG"),
        (("sample",), "RUN"),
        (("train", TINY, "--nonsense"), "--nonsense"),
        (("train", TINY, "--ru", "x"), "--ru"),
        (("train", TINY, "--set"), "--set"),
        (("sample", "x", "--count", "0"), "needed at least 1"),
        (("sample", "x", "--count", "many"), "many"),
        (("sample", "x", "--seed", "1.5"), "1.5"),
        (("mup-check", TINY, "--steps", "-1"), "needed at least 1"),
    ],
    ids=lambda value: " ".join(value[:1]) + " " + " ".join(value[2:]) if isinstance(value, tuple) else None,
)
def test_wrong_arguments_end_with_code_2_and_name_what_is_wrong(arguments, shown, capsys):
    assert stopped(*arguments) == 2
    assert shown in capsys.readouterr().err


def test_a_reader_that_stops_early_ends_a_command_in_one_line():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.Popen(
        [sys.executable, "-m", "jaxgen", "config", TINY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    # Gone before the first line, which is surer than after some that the pipe may hold whole.
    done.stdout.close()
    assert done.stderr.read() == "jaxgen: stopped: nobody reads standard output any more\n"
    assert done.wait(60) == 1


def test_the_process_ends_with_code_2_and_one_line(tmp_path):
    done = python("-m", "jaxgen", "config", "nowhere.py", cwd=tmp_path, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("jaxgen: CONFIG: found 'nowhere.py', needed ")


# A model small enough to count by hand.
WIDTH, DEPTH, TOKENS = 32, 2, 16
SMALL = ("model=jaxgen.models.dit:DiT", f"model.width={WIDTH}", f"model.depth={DEPTH}", "data.batch_size=8")
SET = [part for text in SMALL for part in ("--set", text)]


def parameters_by_hand():
    patches, labels, time = 4 * WIDTH + WIDTH, 11 * WIDTH, 256 * WIDTH + WIDTH + WIDTH**2 + WIDTH
    modulation = 6 * WIDTH**2 + 6 * WIDTH
    heads = 3 * WIDTH**2 + WIDTH**2 + WIDTH
    mlp = 8 * WIDTH**2 + 4 * WIDTH + WIDTH
    head = 2 * WIDTH**2 + 2 * WIDTH + 4 * WIDTH + 4
    return patches + labels + time + DEPTH * (modulation + heads + mlp) + head


def multiplications_by_hand():
    conditioning = 256 * WIDTH + WIDTH**2 + WIDTH
    per_token = 3 * WIDTH**2 + 2 * TOKENS * WIDTH + WIDTH**2 + 8 * WIDTH**2
    blocks = DEPTH * (6 * WIDTH**2 + TOKENS * per_token)
    return TOKENS * 4 * WIDTH + conditioning + blocks + 2 * WIDTH**2 + TOKENS * WIDTH * 4


def test_config_shows_every_option_parameters_and_flops_without_a_compile(capsys, compiles, tmp_path):
    assert cli.main(["config", TINY, *SET, "--json", str(tmp_path / "figures.json")]) == 0
    assert compiles == []
    shown = capsys.readouterr().out.splitlines()
    tree, name = experiments.load(TINY, SMALL)
    assert {f"model.width={WIDTH}", "data.source=jaxgen.data.synthetic:Synthetic", "sampler.steps=4"} <= set(shown)
    # What is shown is what --set takes: of another configuration it makes this one.
    assert experiments.load(TINY, [line for line in shown if "=" in line])[0] == tree
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["name"] == name == "quickstart-tiny"
    assert experiments.rebuild(figures["experiment"]) == tree
    assert figures["parameters"] == {"model": parameters_by_hand()}
    assert f"parameters of model: {parameters_by_hand():,}" in shown
    # A product and a sum per multiplication; the backward pass costs twice the forward.
    assert figures["flops_per_example"] == 3 * 2 * multiplications_by_hand()
    assert f"training FLOPs per example: {figures['flops_per_example']:.4g}" in shown


def test_config_needs_neither_the_mesh_nor_the_data(capsys, tmp_path):
    assert cli.main(["config", TINY, *SET, "--set", "mesh.fsdp=4096", "--set", "data.batch_size=4096"]) == 0
    source = ["--set", "data.source=folder", "--set", f"data.source.path={tmp_path / 'nowhere'}"]
    assert cli.main(["config", TINY, *source]) == 0
    assert f"data.source.path={tmp_path / 'nowhere'}" in capsys.readouterr().out


def test_config_figures_do_not_depend_on_the_batch(tmp_path):
    figures = []
    for size in (8, 64):
        path = tmp_path / f"{size}.json"
        assert cli.main(["config", TINY, *SET, "--set", f"data.batch_size={size}", "--json", str(path)]) == 0
        figures.append(json.loads(path.read_text()))
    assert figures[0]["flops_per_example"] == figures[1]["flops_per_example"]
    assert figures[0]["parameters"] == figures[1]["parameters"]


def test_a_command_leaves_the_log_as_it_was(capsys):
    import logging

    logger = logging.getLogger("jaxgen")
    before = (logger.propagate, list(logger.handlers))
    assert cli.main(["config", "nowhere.py"]) == 2
    assert (logger.propagate, logger.handlers) == before

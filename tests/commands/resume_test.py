"""Killed and started again, a run ends bit for bit as if nothing had happened."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxgen import run
from jaxgen.training import checkpoint

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from saved_run import saved  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
# At four times the base width, so that a factor of μP that is applied to what is restored, or not, shows.
TINY = [str(ROOT / "configs" / "quickstart.py:tiny"), "--set", "model.scaling.base_width=8"]
TINY += ["--set", "training.steps=200", "--set", "training.checkpoint_every=20"]
GAME = [str(ROOT / "tests" / "training" / "game_config.py"), "--trust", "game", "--set", "training.steps=200"]


def start(folder, arguments, cache=True, devices=1):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "training")}
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    if not cache:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = [sys.executable, "-m", "jaxgen", "train", *arguments, "--run", str(folder)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def logged(folder):
    file = pathlib.Path(folder) / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def wait_for(folder, process, rows):
    while logged(folder) < rows:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def metrics(folder):
    rows = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [TINY, GAME], ids=["text-to-image", "two players"])
def test_killed_at_three_random_moments(tmp_path, arguments):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, said = finish(start(whole, arguments, cache=False))
    assert code == 0, said
    moments = sorted(random.Random(0).sample(range(5, 190), 3))
    for moment in moments:
        process = start(broken, arguments)
        wait_for(broken, process, moment)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
    code, said = finish(start(broken, arguments))
    assert code == 0 and "going on from step" in said, said
    (last, expected), (also, found) = saved(whole), saved(broken)
    assert last == also == 200
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert metrics(whole) == metrics(broken) and len(metrics(whole)) == 200


def test_sigterm_saves_and_exits_42(tmp_path):
    short = [*TINY, "--set", "training.steps=60"]
    process = start(tmp_path / "run", short)
    wait_for(tmp_path / "run", process, 33)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, said = finish(process)
    assert code == 42 and time.monotonic() - began < 20, said
    stopped, _ = saved(tmp_path / "run")
    assert stopped % 20 and stopped == metrics(tmp_path / "run")[-1]["step"], "saved where it stopped, not at the next due step"
    code, said = finish(start(tmp_path / "run", short))
    assert code == 0 and f"going on from step {stopped}" in said, said


def test_sigterm_before_the_first_step_exits_at_once(tmp_path):
    process = start(tmp_path / "run", TINY, cache=False)
    while not (tmp_path / "run" / "experiment.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == -signal.SIGTERM
    assert not logged(tmp_path / "run")


@pytest.mark.slow  # two_hosts_test goes on on other devices too
def test_goes_on_on_other_devices(tmp_path):
    wide = [*TINY, "--set", "model.width=64", "--set", "training.steps=30", "--set", "training.checkpoint_every=10"]
    mesh = [*wide, "--set", "mesh.data=1", "--set", "mesh.fsdp=4", "--set", "mesh.tensor=2"]
    for devices in (8, 1, 2):
        folder = tmp_path / str(devices)
        first = [*mesh, "--set", "training.steps=10"]
        assert finish(start(folder, first, devices=8))[0] == 0
        code, said = finish(start(folder, mesh if devices == 8 else wide, devices=devices))
        assert code == 0, said
        assert ("changed since the run began: mesh.fsdp" in said) == (devices != 8)
    losses = [[row["loss"] for row in metrics(tmp_path / str(devices))] for devices in (8, 1, 2)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-6)


@pytest.mark.parametrize("damage", ["truncated", pytest.param("one bit flipped", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, damage):
    short = [*TINY, "--set", "training.steps=60"]
    assert finish(start(tmp_path / "run", short))[0] == 0
    expected = saved(tmp_path / "run")[1]
    kept = {file: file.read_bytes() for file in (tmp_path / "run" / "checkpoints" / "60").rglob("*") if file.is_file()}
    data = sorted(file for file in kept if "/d/" in str(file) and len(kept[file]) > 100)
    for file in random.Random(1).sample(data, 5):
        content = bytearray(kept[file])
        if damage == "truncated":
            content = content[: len(content) // 2]
        else:
            content[random.Random(2).randrange(len(content))] ^= 1 << 3
        (tmp_path / "run" / "checkpoints" / "60").mkdir(exist_ok=True)
        for path, whole in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if path == file else whole)
        checkpoints = checkpoint.Checkpoints(run.Run(tmp_path / "run"))
        said = []
        assert checkpoints.newest_whole(said.append) == 40
        assert len(said) == 1 and file.name in said[0]
    code, said = finish(start(tmp_path / "run", short))
    assert code == 0 and file.name in said and "going on from step 40" in said, said
    jax.tree.map(np.testing.assert_array_equal, expected, saved(tmp_path / "run")[1])

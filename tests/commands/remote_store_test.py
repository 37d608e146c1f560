"""A run on a store that is no local disk: trained, killed, gone on with, drawn from."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "quickstart.py:tiny")


def start(shelf, *arguments):
    code = "import sys, shelf; from jaxgen.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent), "SHELF": str(shelf)}
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_train_kill_resume_sample(tmp_path):
    train = ["train", TINY, "--set", "training.steps=150", "--run", "shelf://run"]
    process = start(tmp_path, *train)
    while not (tmp_path / "run" / "checkpoints" / "30" / "manifest-0.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start(tmp_path, *train)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0 and "going on from step" in said, said
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 151))
    process = start(tmp_path, "sample", "shelf://run", "--count", "4", "--caption", "画数字7")
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    assert (tmp_path / "run" / "samples" / "step-00000150.png").read_bytes().startswith(b"\x89PNG")

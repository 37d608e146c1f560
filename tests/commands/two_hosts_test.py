"""Two processes on one machine train as one: same losses, same data, one step to stop at, one end."""

import collections
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxgen import cli

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
CONFIG = str(HERE / "two_hosts_config.py")
BATCH, EXAMPLES, STEPS = 16, 48, 24


class Job:
    """One attempt: some processes with some devices each."""

    def __init__(self, folder, processes, devices, *arguments, notes=None, folders=None, **variables):
        self.folder, self.notes = folder, notes or folder / "notes"
        self.notes.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}", "NOTES": str(self.notes)} | variables
        environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
        command = [sys.executable, "-m", "jaxgen", "train", CONFIG, "--trust", "two_hosts_source", *arguments]
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free.getsockname()[1]}"
            environment["JAX_NUM_PROCESSES"] = str(processes)
        self.processes = []
        for index in range(processes):
            at = ["--run", str((folders or {}).get(index, folder / "run"))]
            own = environment | {"JAX_PROCESS_ID": str(index)} if processes > 1 else environment
            own |= {name.removeprefix(f"HOST{index}_"): value for name, value in variables.items()}
            said = (folder / f"said-{index}").open("w")
            self.processes.append(subprocess.Popen([*command, *at], env=own, stdout=said, stderr=said))

    def said(self, index):
        return (self.folder / f"said-{index}").read_text()

    def wait_for_row(self, count):
        file = self.folder / "run" / "metrics.jsonl"
        while not file.exists() or file.read_text().count("\n") < count:
            assert all(process.poll() is None for process in self.processes), self.said(0) + self.said(len(self.processes) - 1)
            time.sleep(0.01)

    def finish(self, seconds=240):
        """Exit codes."""
        try:
            return [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def rows(self):
        return [json.loads(line) for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]

    def read(self, start, stop):
        """(row number, example) of all rows that were read for steps start … stop - 1, over all processes."""
        pairs = [tuple(map(int, line.split())) for file in self.notes.iterdir() for line in file.read_text().splitlines()]
        return [(number, example) for number, example in pairs if start * BATCH <= number < stop * BATCH]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One process with eight devices, never interrupted: its losses."""
    job = Job(tmp_path_factory.mktemp("whole"), 1, 8, "--set", "mesh=fsdp", "--set", "sampler=none")
    assert job.finish() == [0], job.said(0)
    return [row["loss"] for row in job.rows()]


def test_preempted_and_resumed_on_other_hosts_it_is_the_same_run(whole, tmp_path):
    read = []
    spread = ("--set", "mesh=fsdp", "--set", "sampler=none")
    job = Job(tmp_path, 2, 4, *spread, SECONDS="0.1")
    job.wait_for_row(4)
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.finish() == [42, 42], job.said(0) + job.said(1)
    stopped = job.rows()[-1]["step"]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert 4 <= stopped < STEPS and [path.name for path in checkpoints.iterdir()] == [str(stopped)]
    assert {path.name for path in (checkpoints / str(stopped)).glob("manifest*")} == {"manifest-0.json", "manifest-1.json"}
    assert f"SIGTERM on host 1: saved step {stopped}" in job.said(0)
    assert "step 1 of" in job.said(0) and "step 1 of" not in job.said(1), "host 0 alone reports"
    read += job.read(0, stopped)

    middle = min(stopped + 5, STEPS)
    job = Job(tmp_path, 1, 8, *spread, "--set", f"training.steps={middle}", notes=tmp_path / "one")
    assert job.finish() == [0], job.said(0)
    read += job.read(stopped, middle)

    job = Job(tmp_path, 2, 2, *spread, notes=tmp_path / "two")
    assert job.finish() == [0, 0], job.said(0) + job.said(1)
    assert f"going on from step {middle}" in job.said(0)
    assert "parameters on fsdp=4 over 2 hosts" in job.said(0)
    read += job.read(middle, STEPS)

    assert [row["step"] for row in job.rows()] == list(range(1, STEPS + 1))
    np.testing.assert_allclose([row["loss"] for row in job.rows()], whole, rtol=1e-5)
    assert sorted(number for number, _ in read) == list(range(STEPS * BATCH)), "each row is read by one process, once"
    epochs = collections.defaultdict(list)
    for number, example in read:
        epochs[number // EXAMPLES].append(example)
    assert (
        all(sorted(examples) == list(range(EXAMPLES)) for examples in epochs.values()) and len(epochs) == STEPS * BATCH // EXAMPLES
    )


@pytest.mark.slow
def test_all_draw_and_host_0_writes(tmp_path, monkeypatch):
    evaluated = [f"evaluation{text}" for text in ("=jaxgen.evaluation.evaluation:Evaluation", ".samples=20", ".resamples=2")]
    options = [word for text in ("training.steps=2", *evaluated) for word in ("--set", text)]
    job = Job(tmp_path, 2, 2, *options, "--profile", "2:2", "--json", str(tmp_path / "figures.json"))
    assert job.finish() == [0, 0], job.said(0) + job.said(1)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pictures"] == 100 and figures["samples"] == 20
    assert {path.name for path in (tmp_path / "run").iterdir()} - {".lock"} == {
        "checkpoints", "evaluation", "experiment.json", "metrics.jsonl", "profile", "samples", "tensorboard"
    }  # fmt: skip
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    # One process draws the same.
    (drawn,) = (tmp_path / "run" / "evaluation").glob("*.npz")
    with np.load(drawn) as saved:
        images = saved["arr_0"]
    drawn.unlink()
    monkeypatch.setenv("NOTES", str(job.notes))
    assert cli.main(["evaluate", str(tmp_path / "run"), "--trust", "two_hosts_source"]) == 0
    with np.load(drawn) as saved:
        assert len(images) == 20 and np.abs(saved["arr_0"].astype(int) - images).max() <= 1


def test_an_error_on_one_host_ends_all_with_its_message(tmp_path):
    # Host 1 has the later rows of each batch.
    job = Job(tmp_path, 2, 2, HOST1_FAILS=str(3 * BATCH - 1))
    assert job.finish(120) == [1, 1], job.said(0) + job.said(1)
    assert "host 1 of 2 has failed: OSError: the disk is gone" in job.said(0)
    assert "jaxgen: OSError: the disk is gone" in job.said(1)


def test_a_folder_that_hosts_do_not_share_is_refused(tmp_path):
    job = Job(tmp_path, 2, 2, folders={1: tmp_path / "elsewhere"})
    assert job.finish(120) == [2, 2], job.said(0) + job.said(1)
    for index in (0, 1):
        assert "which is another folder on host 1" in job.said(index) and "gs://BUCKET" in job.said(index)
    assert not (tmp_path / "run" / "experiment.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_is_killed_ends_the_other_within_a_minute(tmp_path, killed):
    job = Job(tmp_path, 2, 2, "--set", "training.steps=10000", SECONDS="0.1")
    job.wait_for_row(3)
    job.processes[killed].send_signal(signal.SIGKILL)
    began = time.monotonic()
    codes = job.finish(90)
    assert time.monotonic() - began < 60
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] in (1, -signal.SIGABRT), codes
    said = job.said(1 - killed)
    # Who notices first, the runtime or this process, is chance; whoever does names the host.
    noticed = ("host 0 is gone", "missing: 0") if killed == 0 else ("missing: 1",)
    assert any(text in said for text in ("another task died", *noticed)), said

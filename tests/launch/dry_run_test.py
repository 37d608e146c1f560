"""`--dry-run` prints what would be called and calls nothing: not gcloud, not preflight, not a file written."""

import pathlib
import re
import shlex

import pytest
import recorded

from launch import archive, babysitter, tpu_vm, wanted

ROOT = pathlib.Path(__file__).parents[2]
JOB = ("train", "configs/scenes.py:flow", "--run", "gs://bucket/demo")
README = (ROOT / "launch" / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES if line.startswith("python launch/tpu_vm.py ")]


@pytest.fixture
def forbidden(tree, tmp_path, monkeypatch):
    """A gcloud that may not be called. Returns the folder in which nothing may appear."""
    played = recorded.Recording(tmp_path / "bin", [])
    monkeypatch.setenv("PATH", f"{played.folder}:/usr/bin:/bin")
    yield tmp_path
    played.check()
    assert not (tree / "calls").exists(), "preflight was called"
    assert not (tmp_path / "cache").exists(), "an archive was written"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_of_the_page_runs_dry(forbidden, capsys, monkeypatch, command):
    monkeypatch.chdir(forbidden)
    words = command[2:]
    if words[0] != "emit" and "--dry-run" not in words:
        words.insert(2, "--dry-run")
    assert tpu_vm.main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    assert words[0] == "emit" or any(line.startswith("gcloud compute tpus ") for line in printed)


def test_the_page_shows_each_command_and_state():
    assert {command[2] for command in COMMANDS} == set(tpu_vm.COMMANDS)
    assert any("--dry-run" in command for command in COMMANDS)
    assert all(f"`{state.name}`" in README for state in babysitter.State)


def test_what_is_printed_is_what_is_called(forbidden, tree, capsys):
    """The commands of a recorded start, which was written down by itself, are those of the dry run."""
    code = archive.digest(archive.pack(tree))
    job = wanted.Job(JOB, code, ("WANDB_MODE=offline",))
    values = {"CODE": code, "JOB": job.name, "ARCHIVE": str(archive.folder() / f"{code}.tar.gz")}
    steps = [shlex.join(step["words"]) for step in recorded.load("preempted", **values)]
    started = next(number for number, step in enumerate(steps) if "worker.sh start" in step)
    # Without the two looks at a request that still waits.
    expected = [step for number, step in enumerate(steps[: started + 1]) if number not in (2, 3)]

    words = ["run", "demo", "--slice", "v5e:4x4", "--spot", "--env", "WANDB_MODE=offline", "--zone", "us-west4-a", "--dry-run"]
    assert tpu_vm.main([*words, "--", *JOB]) == 0
    preflight, *printed = capsys.readouterr().out.splitlines()
    assert preflight == "bash launch/local.sh preflight configs/scenes.py:flow --slice v5e:4x4"
    assert printed[: len(expected)] == expected


@pytest.mark.parametrize("slices", ["1", "3"])
def test_a_dry_run_goes_to_the_end(forbidden, capsys, slices):
    words = ["run", "demo", "--slice", "v5e:4x4", "--slices", slices, "--zone", "us-west4-a", "--down", "--dry-run", "--", *JOB]
    assert tpu_vm.main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count("worker.sh start") == int(slices)
    assert printed.splitlines()[-1].startswith("gcloud compute tpus queued-resources delete demo ")


def test_options_may_lie_in_a_file(forbidden, capsys):
    file = forbidden / "pod.txt"
    file.write_text("# where\n--zone us-west4-a --project 'p'\n--slice v5e:4x4\n")
    assert tpu_vm.main(["run", "demo", f"@{file}", "--dry-run", "--", *JOB, "--caption", "@me"]) == 0
    printed = capsys.readouterr().out
    assert "--zone us-west4-a --project p" in printed and "--caption @me" in printed

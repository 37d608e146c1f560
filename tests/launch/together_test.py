"""The launcher, the babysitter and worker.sh together, on a small cloud of folders and real processes."""

import os
import signal
import sys
import time

import cloud_model
import pytest

from launch import tpu_vm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts of TPUs run Linux")
PLACE = ("--zone", "us-west4-a")
# Stands for launch/local.sh: a training that needs three steps, keeps them in the "bucket" and stops when asked to.
LOCAL = f"""case $1 in preflight | --help) exit 0 ;; esac
exec {sys.executable} -c '
import pathlib, signal, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
run = pathlib.Path(sys.argv[1])
host = pathlib.Path.home()
mine = run / (host.parent.name + "-" + host.name)
step = int(mine.read_text()) if mine.exists() else 0
print("from step", step, flush=True)
while step < 3:
    step += 1
    mine.write_text(str(step))
    if (run / "fail").exists() and host.name == "1": sys.exit("broken")
    while not (run / ("go" + str(step))).exists():
        if stop: sys.exit(42)
        time.sleep(0.01)
' "$BUCKET"
"""


@pytest.fixture
def model(tree, tmp_path, monkeypatch):
    (tree / "launch" / "local.sh").write_text(LOCAL)
    made = cloud_model.Model(tmp_path / "cloud", hosts=2)
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("PATH", f"{made.program.parent}:/usr/bin:/bin")
    yield made
    for pid in made.folder.glob("homes/*/*/.jaxgen/jobs/*/*/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass


def processes(model, name):
    return [int(path.read_text()) for path in model.folder.glob(f"homes/*/*/.jaxgen/jobs/*/*/{name}")]


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def kill(model, number):
    for pid in processes(model, "pid"):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            pass


def ended(model, attempt):
    until(lambda: len(list(model.folder.glob(f"homes/*/*/.jaxgen/jobs/*/{attempt}/exit"))) == 4)


def command(bucket, *more):
    return [
        *("run", "demo", "--slice", "v4:2x2x2", "--slices", "2", "--spot", "--env", f"BUCKET={bucket}"),
        *(*PLACE, *more, "--", "train", "configs/x.py", "--run", "gs://bucket/x"),
    ]


def test_two_slices_through_a_shutdown_and_a_preemption_to_the_end(model, tmp_path, clock, capfd):
    bucket = tmp_path / "bucket"

    def at_step(number):
        until(lambda: [path.read_text() for path in bucket.glob("demo-*")] == [str(number)] * 4)

    def shut_down():
        at_step(1)
        (bucket / "go1").touch()
        at_step(2)
        kill(model, signal.SIGTERM)
        ended(model, 1)

    def preempt():
        (bucket / "go2").touch()
        at_step(3)
        model.set(nodes="PREEMPTED")
        kill(model, signal.SIGKILL)

    def finish():
        (bucket / "go3").touch()
        ended(model, 1)

    clock.at_sleep = [shut_down, preempt, lambda: None, finish]
    assert tpu_vm.main(command(bucket), clock) == 0
    told = capfd.readouterr().err
    assert [line.split()[2] for line in told.splitlines() if line.startswith("20") and ":" in line.split()[2]] == [
        *("ABSENT:", "READY:", "INTERRUPTED:", "LOST:", "ABSENT:", "READY:", "DONE:")
    ]
    assert (model.calls.count("create"), model.calls.count("delete")) == (2, 1)
    # Shipped once to each node of each creation: the restart in place found the code there.
    assert model.calls.count("scp") == 4

    assert tpu_vm.main(["logs", "demo", *PLACE], clock) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == [f"[{slice}-{host}] from step 3" for slice in (0, 1) for host in (0, 1)]

    # The same command again, as after a kill of the babysitter: it goes on from what it sees, which is that all is done.
    before = model.calls
    assert tpu_vm.main(command(bucket), clock) == 0
    assert set(model.calls[len(before) :]) == {"describe", "list", "ssh"}
    assert tpu_vm.main(command(bucket, "--again", "--down"), clock) == 0
    assert model.calls[-1] == "delete" and not model.homes()


def test_a_babysitter_that_is_killed_and_started_again_goes_on(model, tmp_path, clock):
    bucket = tmp_path / "bucket"

    class Killed(Exception):
        pass

    def kill_babysitter():
        raise Killed

    for number in (1, 2, 3):
        (bucket / f"go{number}").touch()
    for moment in range(3):
        clock.at_sleep = [lambda: None] * moment + [kill_babysitter]
        try:
            assert tpu_vm.main(command(bucket), clock) == 0
        except Killed:
            pass
        ended(model, 1)
    clock.at_sleep = []
    assert tpu_vm.main(command(bucket), clock) == 0
    assert (model.calls.count("create"), model.calls.count("scp")) == (1, 2)
    assert sorted(path.name for path in model.folder.glob("homes/*/*/.jaxgen/jobs/*/*")) == ["1"] * 4


def test_the_first_host_to_fail_is_named_and_the_rest_is_stopped(model, tmp_path, clock, capfd):
    bucket = tmp_path / "bucket"
    (bucket / "fail").touch()

    def believe():
        until(lambda: len(list(model.folder.glob("homes/*/1/.jaxgen/jobs/*/1/exit"))) == 2)
        for path in model.folder.glob("homes/*/1/.jaxgen/jobs/*/1/exit"):
            # Long ago, by the clock of the hosts.
            code, when = path.read_text().split()
            path.write_text(f"{code} {float(when) - (200 if 'demo-1' in str(path) else 100)}\n")

    clock.at_sleep = [believe]
    assert tpu_vm.main(command(bucket), clock) == 1
    shown = capfd.readouterr()
    assert "first to fail: host 1-1, exit code 1" in shown.err
    assert "[1-1] broken" in shown.out
    codes = sorted(path.read_text().split()[0] for path in model.folder.glob("homes/*/*/.jaxgen/jobs/*/1/exit"))
    assert codes == ["1", "1", "42", "42"]

"""worker.sh, run by bash: attempts that end well and badly, outlive what started them, hear signals once, and are started once."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import archive, hosts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts of TPUs run Linux")
WORKER = pathlib.Path(__file__).parents[2] / "launch" / "worker.sh"
# Stands for launch/local.sh and jaxgen: notes that it runs, then does as its first argument says.
CHILD = f"""exec {sys.executable} -c '
import os, pathlib, signal, sys, time
heard = 0
def hear(*_):
    global heard
    heard += 1
    print("heard", heard, flush=True)
    if heard > 1: os._exit(99)
if sys.argv[1] != "deaf":
    signal.signal(signal.SIGTERM, hear)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("runs", os.environ.get("WORD"), os.environ["PYTHONPATH"], sys.argv[1:], flush=True)
with open(pathlib.Path.home() / "runs", "a") as file: file.write("x")
if sys.argv[1] == "save":
    while not heard: time.sleep(0.01)
    time.sleep(0.2)
    sys.exit(42)
if sys.argv[1] == "deaf": time.sleep(60)
sys.exit(int(sys.argv[1]))
' "$@"
"""


class Host:
    """A home folder where worker.sh works, and a metadata server that knows the host's number."""

    def __init__(self, home):
        self.home = home
        self.files = home / ".jaxgen"
        (self.files / "code" / "c0de" / "launch").mkdir(parents=True)
        (self.files / "code" / "c0de" / "pyproject.toml").write_text("")
        (self.files / "code" / "c0de" / "launch" / "local.sh").write_text(CHILD)
        (self.files / "worker.sh").write_bytes(WORKER.read_bytes())
        (home / "bin").mkdir()
        (home / "bin" / "curl").write_text("#!/bin/sh\necho 3\n")
        (home / "bin" / "curl").chmod(0o755)
        self.environment = {"HOME": str(home), "PATH": f"{home / 'bin'}:/usr/bin:/bin"}

    def bash(self, command, **more):
        return subprocess.run(
            ["bash", "-c", command], cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=60, **more
        )

    def start(self, *arguments, job="job", attempt=1, variables=()):
        return self.bash(hosts.start(job, attempt, "c0de", tuple(variables), arguments))

    def status(self, job=None):
        (host,) = hosts.parse(self.bash(hosts.status(7, job)).stdout)
        return host

    def wait(self, condition):
        """The first status that fulfils the condition."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            host = self.status()
            if condition(host):
                return host
            time.sleep(0.02)
        raise AssertionError(f"never came: {host}")

    def ended(self, attempt=1):
        return self.wait(lambda host: host.attempt(attempt).state == "exited").attempt(attempt)

    def begun(self, attempt=1):
        self.wait(lambda host: "runs" in self.log(attempt))

    def log(self, attempt=1, job="job"):
        return (self.files / "jobs" / job / str(attempt) / "log").read_text()

    def pid(self, attempt=1):
        return int((self.files / "jobs" / "job" / str(attempt) / "pid").read_text())


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    yield made
    for pid in made.files.glob("jobs/*/*/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass


@pytest.mark.parametrize("code", [0, 1, 2, 42, 127])
def test_the_exit_code_and_its_time_are_written(host, code):
    before = time.time()
    assert host.start(str(code)).returncode == 0
    ended = host.ended()
    assert ended.code == code
    assert before - 1 < ended.time < time.time() + 1
    status = host.status()
    assert (status.slice, status.host, status.job, status.busy) == (7, 3, "job", None)


def test_a_host_without_anything_answers_too(tmp_path):
    done = subprocess.run(["bash", "-c", hosts.status(4, "job")], cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True)
    assert hosts.parse(done.stdout.decode()) == (hosts.Host(4, 0, None, None, 0.0),)


def test_variables_arguments_and_code_arrive_as_they_were_given(host):
    words = ("0", "a b", "$HOME", "it's", '"', "*", "--", "ü")
    host.start(*words, variables=("WORD=two words; $HOME",))
    host.ended()
    assert host.log() == f"runs two words; $HOME {host.files}/code/c0de {list(words)}\n"


def test_configurations_are_found_and_runs_outlive_a_change_of_code(host, tree):
    (tree / "launch" / "local.sh").write_text('cat configs/x.py && echo "$1" >>runs/mine')
    (tree / "configs").mkdir()
    for number in (1, 2):
        (tree / "configs" / "x.py").write_text(f"version {number}")
        data = archive.pack(tree)
        code = archive.digest(data)
        (host.home / hosts.archive_path(code)).write_bytes(data)
        assert host.bash(hosts.unpack(code)).returncode == 0
        assert host.bash(hosts.start("job", number, code, (), (str(number),))).returncode == 0
        assert host.ended(number).code == 0
        assert host.log(number) == f"version {number}"
    assert (host.files / "runs" / "mine").read_text() == "1\n2\n"


def test_a_start_returns_at_once_and_the_job_outlives_it(host):
    began = time.monotonic()
    # All output is read to its end: a job that held on to it would block this, as it would block ssh.
    host.start("save")
    assert time.monotonic() - began < 5
    host.begun()
    assert host.status().busy == "job"
    # Its own session, so that the end of the ssh session's process group does not reach it.
    assert os.getsid(host.pid()) == host.pid() != os.getsid(0)


def test_started_twice_it_runs_once(host):
    commands = " & ".join([hosts.start("job", 1, "c0de", (), ("save",))] * 5)
    assert host.bash(f"{commands}; wait").returncode == 0
    host.begun()
    assert host.start("save").returncode == 0
    host.bash(hosts.stop(5))
    assert host.ended().code == 42
    assert host.start("save").returncode == 0
    assert [each.number for each in host.status().attempts] == [1]
    assert (host.home / "runs").read_text() == "x"


def test_of_many_jobs_started_at_once_one_runs(host):
    commands = " & ".join(hosts.start(f"job{number}", 1, "c0de", (), ("deaf",)) for number in range(8))
    host.bash(f"{commands}; wait")
    host.wait(lambda seen: seen.busy is not None)
    assert len(list(host.files.glob("jobs/*/1"))) == 1


def test_a_running_job_is_not_joined_by_another(host):
    host.start("save")
    host.begun()
    for job, attempt in (("other", 1), ("job", 2)):
        refused = host.start("0", job=job, attempt=attempt)
        assert refused.returncode == 4 and "busy: attempt 1 of job job is running" in refused.stderr
    assert host.status("other").busy == "job"
    assert (host.home / "runs").read_text() == "x"


def test_a_stop_is_heard_once_and_waits_for_saving(host):
    host.start("save")
    host.begun()
    assert host.bash(hosts.stop(10)).returncode == 0
    assert host.status().attempt(1).code == 42
    assert [line for line in host.log().splitlines() if line.startswith("heard")] == ["heard 1"]


def test_a_shutdown_that_signals_every_process_is_heard_once(host):
    host.start("save")
    host.begun()
    os.killpg(host.pid(), signal.SIGTERM)
    assert host.ended().code == 42
    assert [line for line in host.log().splitlines() if line.startswith("heard")] == ["heard 1"]


def test_what_does_not_end_is_killed(host):
    host.start("deaf")
    host.begun()
    child = pathlib.Path("/proc") / (host.files / "jobs" / "job" / "1" / "child").read_text().strip() / "stat"
    host.bash(hosts.stop(0))
    assert host.ended().code == 137
    assert not child.exists() or child.read_text().split()[2] == "Z"
    assert host.bash(hosts.stop(0)).returncode == 0


def test_an_attempt_that_is_gone_without_an_exit_code_is_lost(host):
    host.start("deaf")
    host.begun()
    os.killpg(host.pid(), signal.SIGKILL)
    host.wait(lambda seen: seen.attempt(1).state == "lost" and seen.busy is None)
    assert host.start("0", attempt=2).returncode == 0
    assert host.ended(2).code == 0


def test_after_a_restart_of_the_machine_another_process_with_its_pid_is_not_it(host):
    host.start("save")
    host.begun()
    identity = host.files / "jobs" / "job" / "1" / "identity"
    boot, started = identity.read_text().split()
    identity.write_text(f"another-boot {started}\n")
    assert host.status().attempt(1).state == "lost"
    identity.write_text(f"{boot} {int(started) - 1}\n")
    assert host.status().attempt(1).state == "lost"


def test_a_process_that_nobody_has_waited_for_does_not_run(host):
    host.start("save")
    host.begun()
    zombie = subprocess.Popen(["true"])
    stat = pathlib.Path(f"/proc/{zombie.pid}/stat")
    while stat.read_text().split()[2] != "Z":
        time.sleep(0.01)
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    attempt = host.files / "jobs" / "job" / "1"
    supervisor = host.pid()
    (attempt / "identity").write_text(f"{boot} {stat.read_text().split()[21]}\n")
    (attempt / "pid").write_text(str(zombie.pid))
    state = host.status().attempt(1).state
    (attempt / "pid").write_text(str(supervisor))
    zombie.wait()
    assert state == "lost"


def test_logs_carry_the_host_and_follow_to_the_end(host):
    host.start("save")
    host.begun()
    follower = subprocess.Popen(
        ["bash", "-c", hosts.log(7, 10, True)], cwd=host.home, env=host.environment, stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout.readline().startswith("[7-3] runs")
    host.bash(hosts.stop(10))
    rest, _ = follower.communicate(timeout=60)
    assert rest == "[7-3] heard 1\n"
    assert host.bash(hosts.log(7, 1, True)).stdout == "[7-3] heard 1\n"


def test_code_is_unpacked_whole_or_not_at_all(host, tree):
    data = archive.pack(tree)
    code = archive.digest(data)
    assert host.bash(hosts.has_code(code)).returncode == 1
    packed = host.home / hosts.archive_path(code)
    packed.write_bytes(data[:-10])
    assert host.bash(hosts.unpack(code)).returncode != 0
    assert host.bash(hosts.has_code(code)).returncode == 1
    (tree / "more").write_text("")
    packed.write_bytes(archive.pack(tree))
    assert host.bash(hosts.unpack(code)).returncode != 0
    packed.write_bytes(data)
    # What an unpacking that was killed has left.
    (host.files / "code" / f".{code}").mkdir()
    assert host.bash(hosts.unpack(code)).returncode == 0
    assert host.bash(hosts.has_code(code)).returncode == 0
    assert (host.files / "code" / code / "launch" / "worker.sh").read_bytes() == WORKER.read_bytes()
    assert host.bash(hosts.unpack(code)).returncode == 0


def test_the_environment_is_one_for_each_pyproject(host):
    local = host.files / "code" / "c0de" / "launch" / "local.sh"
    local.write_text('echo "$JAXGEN_VENV $JAXGEN_EXTRA $*" >>"$HOME/installed"\n')
    assert host.bash(hosts.environment("c0de")).returncode == 0
    (host.files / "code" / "c0de" / "pyproject.toml").write_text("[project]")
    assert host.bash(hosts.environment("c0de")).returncode == 0
    first, second = (line.split() for line in (host.home / "installed").read_text().splitlines())
    assert first[0] != second[0] and first[1:] == second[1:] == ["tpu,gcs", "--help"]
    local.write_text("exit 5")
    assert host.bash(hosts.environment("c0de")).returncode == 5

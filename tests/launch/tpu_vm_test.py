"""Slices from creation to the end of a job, against a `gcloud` that checks each command and plays back recorded answers."""

import json
import pathlib
import subprocess
import sys

import pytest
import recorded

from launch import archive, tpu_vm, wanted

ROOT = pathlib.Path(__file__).parents[2]
JOB = ("train", "configs/scenes.py:flow", "--run", "gs://bucket/demo")
PLACE = ("--zone", "us-west4-a")
RUN = ("run", "demo", "--slice", "v5e:4x4", "--spot", "--env", "WANDB_MODE=offline", *PLACE)


@pytest.fixture
def play(tree, tmp_path, monkeypatch):
    """Puts a gcloud on PATH that plays back a recording, or given steps."""

    def begin(recording):
        code = archive.digest(archive.pack(tree))
        job = wanted.Job(JOB, code, ("WANDB_MODE=offline",))
        values = {"CODE": code, "JOB": job.name, "ARCHIVE": str(archive.folder() / f"{code}.tar.gz")}
        steps = recorded.load(recording, **values) if isinstance(recording, str) else recording
        played = recorded.Recording(tmp_path / "bin", steps)
        monkeypatch.setenv("PATH", f"{played.folder}:/usr/bin:/bin")
        return played

    return begin


def states(text):
    """Names of states in the order in which the babysitter told them."""
    words = [line.split()[2] for line in text.splitlines() if line.startswith("20")]
    return [word.rstrip(":") for word in words if word.isupper() and word.endswith(":")]


def test_created_preempted_deleted_recreated_resumed_done(play, clock, tree, capsys):
    played = play("preempted")
    assert tpu_vm.main([*RUN, "--down", "--", *JOB], clock) == 0
    played.check()
    assert (tree / "calls").read_text() == "preflight configs/scenes.py:flow --slice v5e:4x4\n"
    told = capsys.readouterr().err
    assert states(told) == [
        *("ABSENT", "QUEUED", "QUEUED", "READY", "RUNNING", "ENDING", "LOST"),
        *("ABSENT", "READY", "RUNNING", "INTERRUPTED", "RUNNING", "LOST", "LOST"),
        *("ABSENT", "READY", "RUNNING", "DONE"),
    ]
    # Both recreations wait the shortest time: the job was running in between.
    assert clock.slept == [30.0] * len(clock.slept)


def test_a_failure_stops_names_its_host_and_starts_nothing_again(play, clock, capsys):
    played = play("failed")
    assert tpu_vm.main([*RUN, "--", *JOB], clock) == 1
    played.check()
    shown = capsys.readouterr()
    assert states(shown.err) == ["RUNNING", "ENDING", "FAILED"]
    assert "first to fail: host 0-2, exit code 1, 2023-11-14 22:28:20 UTC, attempt 1" in shown.err
    assert shown.out.splitlines() == ["[0-2] ValueError: broken", "[0-1] Killed"]
    assert "python launch/tpu_vm.py down demo --zone us-west4-a" in shown.err


def test_what_is_there_is_shown_and_deleted(play, capsys):
    played = play("looked_at")
    assert tpu_vm.main(["status", "demo", *PLACE]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["request demo: ACTIVE", "node demo: READY, 4 hosts"]
    assert [line.split(":")[0] for line in shown[2:6]] == ["host 0-0", "host 0-1", "host 0-2", "host 0-3"]
    assert shown[6] == "RUNNING: attempt 2 on 4 hosts"
    assert tpu_vm.main(["logs", "demo", *PLACE, "--follow", "--lines", "5"]) == 0
    assert capsys.readouterr().out.splitlines() == ["[0-1] step 1", "[0-0] step 1"]
    assert tpu_vm.main(["down", "demo", *PLACE]) == 0
    played.check()


def test_several_slices_are_one_request_and_one_job(play, clock, capsys):
    played = play("two_slices")
    words = ["run", "demo", "--slice", "v5p:2x2x2", "--slices", "2", "--reserved", "--zone", "us-east5-a", "--project", "ours"]
    words += ["--internal-ip", "--network", "net", "--subnetwork", "sub", "--service-account", "me@ours", "--runtime-version", "v3"]
    assert tpu_vm.main([*words, "--env", "WANDB_MODE=offline", "--no-preflight", "--", *JOB], clock) == 0
    played.check()
    assert states(capsys.readouterr().err) == ["ABSENT", "READY", "STARTING", "RUNNING", "DONE"]


def test_a_preflight_that_fails_stops_before_gcloud(play, tree, clock, capsys):
    played = play([])
    for code in (1, 2):
        (tree / "code").write_text(str(code))
        for command in ("run", "up"):
            words = [command, *RUN[1:5], "--spot", *PLACE] if command == "up" else RUN
            assert tpu_vm.main([*words, "--", *JOB], clock) == code
            assert f"preflight ended with {code}" in capsys.readouterr().err
    played.check()


def test_up_makes_the_slices_ready_and_starts_nothing(play, tree, clock, capsys):
    played = play("preempted")
    steps = json.loads((played.folder / "steps.json").read_text())
    started = next(number for number, step in enumerate(steps) if "worker.sh start" in step["words"][-2])
    played = play([step for step in steps[:started] if "worker.sh status" not in step["words"][-2]])
    assert tpu_vm.main(["up", *RUN[1:5], *PLACE, "--", *JOB], clock) == 0
    played.check()
    assert states(capsys.readouterr().err) == ["ABSENT", "QUEUED", "QUEUED", "READY"]
    assert (tree / "calls").exists()


def test_up_wants_to_know_what_will_run_for_preflight(play, clock, capsys):
    played = play([])
    assert tpu_vm.main(["up", *RUN[1:5], *PLACE], clock) == 2
    played.check()
    assert "-- COMMAND: found '', needed the command that will be run" in capsys.readouterr().err


def test_another_job_on_the_slices_is_left_alone(play, clock, capsys):
    played = play("failed")
    steps = json.loads((played.folder / "steps.json").read_text())[:3]
    steps[2]["out"] = steps[2]["out"].replace("busy=", "busy=another-").replace("attempts=1:running:-:-", "attempts=-")
    played = play(steps)
    assert tpu_vm.main([*RUN, "--", *JOB], clock) == 2
    played.check()
    assert "needed slices without another job; --replace stops it first" in capsys.readouterr().err


def test_preflight_is_left_out_when_told_so(play, tree, clock):
    play("failed")
    tpu_vm.main([*RUN, "--no-preflight", "--", *JOB], clock)
    assert not (tree / "calls").exists()


@pytest.mark.parametrize(
    "words, line",
    [
        (["--slice", "v5e:4x5"], "--slice: found 'v5e:4x5', needed a shape that v5e is rented in, such as v5e:4x4 or v5e:4x8"),
        (["--slice", "v9:4x4"], "--slice: found 'v9:4x4', needed generation:shape, like v5e:4x4, of v4, v5e, v5p, v6e"),
        (
            ["--slice", "v5e-16"],
            "--slice: found 'v5e-16', needed generation:shape, like v5e:4x4, of v4, v5e, v5p, v6e; perhaps v5e:4x4",
        ),
        (
            ["--slice", "v5p:4x4x16"],
            "--slice: found 'v5p:4x4x16', needed v5p:4x8x8, the shape that v5p-512 stands for; others can be had on GKE",
        ),
        (["--slices", "0"], "--slices: found 0, needed at least 1"),
        (["--env", "A"], "--env: found 'A', needed NAME=VALUE"),
        (["--", "train", "configs/x.py"], "--run: found 'runs/x', needed a gs:// folder: 4 hosts write to the same run"),
        (["--", "train", "runs/x"], "--run: found 'runs/x', needed a gs:// folder: 4 hosts write to the same run"),
        (["--", "evaluate", "runs/x"], "--run: found 'runs/x', needed a gs:// folder: 4 hosts write to the same run"),
        (
            ["--slice", "v5e:2x2", "--", "train", "configs/x.py:tiny", "--run=/tmp/x"],
            "--run: found '/tmp/x', needed a gs:// folder: the disk of a spot host is gone when it is preempted",
        ),
        (["--"], "-- COMMAND: found '', needed a jaxgen command, for example: -- train CONFIG --run gs://..."),
        (["--code", "nothing.tar.gz"], "--code: found 'nothing.tar.gz', needed an archive that an earlier start has named"),
    ],
)
def test_bad_input_is_refused_before_anything_is_called(play, tree, clock, capsys, words, line):
    played = play([])
    (tree / "code").write_text("0")
    cut = words.index("--") if "--" in words else len(words)
    job = words[cut:] or ["--", *JOB]
    calls = "--code" in words
    assert tpu_vm.main([*RUN, *words[:cut], *job], clock) == 2
    played.check()
    assert calls or not (tree / "calls").exists()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"jaxgen: {line}")


@pytest.mark.parametrize("name", ["Demo", "1demo", "demo-", "a" * 29, "demo_1", ""])
def test_names_that_a_cloud_would_refuse_are_refused(play, clock, capsys, name):
    played = play([])
    assert tpu_vm.main(["run", name, *RUN[2:], "--", *JOB], clock) == 2
    assert tpu_vm.main(["down", name, *PLACE], clock) == 2
    played.check()
    assert all(line.startswith(f"jaxgen: NAME: found {name!r}, needed") for line in capsys.readouterr().err.splitlines())


def failing(error, *, describe=False):
    """Steps: no request yet, and a creation that fails; or a question that does."""
    where = ["--zone", "us-west4-a"]
    asked = ["gcloud", "compute", "tpus", "queued-resources", "describe", "demo", *where, "--format=json"]
    absent = {"words": asked, "any": False, "out": "", "err": "ERROR: (gcloud) NOT_FOUND: no such thing", "code": 1}
    create = ["gcloud", "compute", "tpus", "queued-resources", "create", "demo", *where]
    create += [
        "--accelerator-type",
        "v5litepod-16",
        "--runtime-version",
        "v2-alpha-tpuv5-lite",
        "--node-id",
        "demo",
        "--spot",
        "--quiet",
    ]
    failed = {"words": asked if describe else create, "any": False, "out": "", "err": error, "code": 1}
    return [failed] if describe else [absent, failed]


CREATING = "ERROR: (gcloud.compute.tpus.queued-resources.create) "


@pytest.mark.parametrize(
    "error, line",
    [
        pytest.param(
            CREATING + "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerRegionForTPUAPI' has been exceeded. "
            "Limit: 0 in region us-west4.",
            "quota: found \"RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerRegionForTPUAPI' has been",
            id="quota",
        ),
        pytest.param(
            CREATING + "PERMISSION_DENIED: Location us-west4-a is not found or access is unauthorized.",
            "--zone: found 'us-west4-a', needed a zone of Cloud TPU that this project may use",
            id="zone",
        ),
        pytest.param(
            CREATING + "Cloud TPU received a bad request. the accelerator v5litepod-16 was not found in zone us-west4-a [EID: 0x9]",
            "--zone: found 'us-west4-a', needed a zone that has v5litepod-16",
            id="type not in zone",
        ),
        pytest.param(
            CREATING + "INVALID_ARGUMENT: Runtime version v2-alpha-tpuv5-lite was not found in zone us-west4-a.",
            "--runtime-version: found 'v2-alpha-tpuv5-lite', needed a version that is there",
            id="runtime",
        ),
        pytest.param(
            CREATING + "ALREADY_EXISTS: Resource 'projects/p/locations/us-west4-a/nodes/demo' already exists",
            "NAME: found 'demo', needed a name that no other request or node of the zone has",
            id="name",
        ),
        pytest.param(
            CREATING + "You do not currently have an active account selected.\nPlease run:\n\n  $ gcloud auth login\n",
            "gcloud: found 'no account that is logged in', needed gcloud auth login",
            id="login",
        ),
        pytest.param(
            CREATING + "Error parsing [queued_resource].\nThe [queued_resource] resource is not properly specified.\n"
            "Failed to find attribute [project]. The attribute can be set in the following ways: \n",
            "--project: found 'none', needed a project that exists",
            id="project",
        ),
        pytest.param(
            CREATING
            + "PERMISSION_DENIED: Cloud TPU API has not been used in project 12 before or it is disabled. Enable it by ...",
            "--project: found 'the Cloud TPU API switched off', needed gcloud services enable tpu.googleapis.com",
            id="API",
        ),
        pytest.param(
            CREATING + "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p'",
            "gcloud: found \"PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p'\", needed an account",
            id="permission",
        ),
        pytest.param(
            "ERROR: (gcloud.compute.tpus.queued-resources.create) unrecognized arguments: --node-id (did you mean '--foo'?)",
            "gcloud: found \"unrecognized arguments: --node-id (did you mean '--foo'?)\", needed a newer version",
            id="old gcloud",
        ),
        pytest.param(
            CREATING + "NOT_FOUND: Subnetwork nowhere was not there.",
            "gcloud: found 'NOT_FOUND: Subnetwork nowhere was not there.', needed a request that the cloud accepts",
            id="what nobody has thought of",
        ),
    ],
)
def test_a_failure_of_gcloud_is_one_line_with_the_remedy(play, clock, capsys, error, line):
    played = play(failing(error))
    assert tpu_vm.main([*RUN, "--no-preflight", "--", *JOB], clock) == 2
    played.check()
    (said,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("jaxgen:")]
    assert said.startswith(f"jaxgen: {line}")
    assert ", needed " in said


def test_without_gcloud_one_line_says_so(tree, tmp_path, monkeypatch, clock, capsys):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to("/usr/bin/git")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert tpu_vm.main([*RUN, "--no-preflight", "--", *JOB], clock) == 2
    assert "jaxgen: gcloud: found 'no such program on PATH', needed the Google Cloud CLI" in capsys.readouterr().err


def test_ssh_that_needs_the_user_is_not_taken_for_lost_hosts(play, clock, capsys):
    played = play("failed")
    steps = json.loads((played.folder / "steps.json").read_text())[:3]
    agent = 'SSH Key is not present in the SSH agent. Please run "ssh-add ~/.ssh/google_compute_engine" to add it, and try again.'
    steps[2] |= {"out": "", "code": 1, "err": f"ERROR: (gcloud.compute.tpus.tpu-vm.ssh) {agent}"}
    played = play(steps)
    assert tpu_vm.main([*RUN, "--", *JOB], clock) == 2
    played.check()
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxgen:")]
    assert said == "jaxgen: ssh: found 'a key that the agent does not hold', needed ssh-add ~/.ssh/google_compute_engine"


def test_a_request_for_something_else_of_that_name_is_not_touched(play, clock, capsys):
    step = failing("", describe=True)[0]
    specification = '{"nodeId": "demo", "node": {"acceleratorType": "v5litepod-64"}}'
    step |= {"code": 0, "out": f'{{"state": {{"state": "ACTIVE"}}, "tpu": {{"nodeSpec": [{specification}]}}}}'}
    played = play([step])
    assert tpu_vm.main([*RUN, "--no-preflight", "--", *JOB], clock) == 2
    played.check()
    assert "NAME: found 'demo, a request for 1 x v5litepod-64', needed a free name, or the same" in capsys.readouterr().err


def test_a_request_that_cannot_be_fulfilled_is_not_created_for_ever(play, clock, capsys):
    step = failing("", describe=True)[0]
    error = "the accelerator v5litepod-16 was not found in zone us-west4-a"
    step |= {"code": 0, "out": f'{{"state": {{"state": "FAILED", "failedData": {{"error": {{"message": "{error}"}}}}}}}}'}
    played = play([step])
    assert tpu_vm.main([*RUN, "--no-preflight", "--", *JOB], clock) == 2
    played.check()
    said = "jaxgen: --zone: found 'us-west4-a', needed a zone that has v5litepod-16"
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_passing_failures_are_waited_out_longer_each_time(play, clock, capsys):
    error = "ERROR: (gcloud) There is no more capacity in the zone"
    played = play([*failing(error), *failing(error), *failing(CREATING + "You do not currently have an active account selected.")])
    assert tpu_vm.main([*RUN, "--no-preflight", "--", *JOB], clock) == 2
    played.check()
    assert clock.slept == [30.0, 60.0]


def test_the_script_starts_as_a_script_and_without_jax(tmp_path):
    # -S: without site-packages, so that nothing but the standard library and this tree can be imported.
    done = subprocess.run(
        [sys.executable, "-S", ROOT / "launch" / "tpu_vm.py", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("up", "run", "status", "logs", "down", "emit"))

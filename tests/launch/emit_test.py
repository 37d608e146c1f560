"""The same job for GKE, xpk and SkyPilot: valid by the published schemas, and the same in what matters."""

import shlex

import jsonschema
import pytest
import yaml
from kubeflow_trainer_api import models

from launch import emit, tpu_vm

JOB = (
    "train",
    "configs/scenes.py:flow",
    "--run",
    "gs://bucket/demo",
    "--set",
    "data.batch_size=(1, 2)",
    "--caption",
    'it\'s "on": # no\n手',
)
EACH = {
    "one host": ["--slice", "v5e:2x4"],
    "one chip": ["--slice", "v6e:1x1"],
    "spot": ["--slice", "v6e:16x16", "--spot", "--env", "NAME=yes", "--env", "OTHER=a=b c"],
    "forgiving": ["--slice", "v4:4x4x4", "--failures", "2"],
}
FURTHER = {
    "slices": ["--slice", "v5p:8x8x4", "--slices", "2"],
    "reserved": ["--slice", "v5p:4x4x16", "--reserved", "--reservation", "ours", "--queue", "teams"],
}
# The part of the published schemas of a task and its resources (sky/utils/schemas.py in SkyPilot) for the fields that are emitted.
SKYPILOT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "workdir": {"type": "string"},
        "setup": {"type": "string"},
        "run": {"type": "string"},
        "envs": {
            "type": "object",
            "patternProperties": {"^[a-zA-Z_][a-zA-Z0-9_]*$": {"type": ["string", "null"]}},
            "additionalProperties": False,
        },
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "infra": {"type": "string", "pattern": "^gcp(?:/[^/]+(?:/[^/]+)?)?$"},
                "accelerators": {"type": "string"},
                "accelerator_args": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"runtime_version": {"type": "string"}},
                },
                "use_spot": {"type": "boolean"},
                "job_recovery": {
                    "type": "object",
                    "properties": {
                        "max_restarts_on_errors": {"type": "integer", "minimum": 0},
                        "recover_on_exit_codes": {
                            "type": "array",
                            "items": {"type": "integer", "minimum": 0, "maximum": 255},
                            "uniqueItems": True,
                        },
                    },
                },
            },
        },
    },
}


def emitted(capsys, form, *words, job=JOB):
    """What `emit` prints."""
    assert tpu_vm.main(["emit", form, "demo", *words, "--", *job]) == 0
    return capsys.readouterr().out


def jobset(capsys, words, job=JOB):
    return yaml.safe_load(emitted(capsys, "jobset", *words, "--image", "registry/jaxgen:1", job=job))


def checked(manifest):
    """A JobSet that came through the generated models of its API: they drop what they do not know, and refuse wrong types."""
    known = models.JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    assert known == manifest
    # The models leave this to the cluster, whose own schema wants it.
    assert all(rule["name"] for rule in manifest["spec"]["failurePolicy"]["rules"])


@pytest.mark.parametrize("name", [*EACH, *FURTHER])
def test_a_jobset_is_one(capsys, name):
    checked(jobset(capsys, (EACH | FURTHER)[name]))


@pytest.mark.parametrize(
    "plant",
    [
        lambda spec: spec["replicatedJobs"][0]["template"].update(podFailurePolicy={"rules": []}),
        lambda spec: spec["replicatedJobs"][0].update(replicas="2"),
        lambda spec: spec["failurePolicy"]["rules"][0].pop("name"),
        lambda spec: spec["failurePolicy"].update(maxRestart=1),
        lambda spec: spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"].pop("containers"),
    ],
    ids=["misplaced", "a string for a number", "no name", "misspelt", "missing"],
)
def test_a_planted_fault_in_a_jobset_is_caught(capsys, plant):
    manifest = jobset(capsys, EACH["spot"])
    plant(manifest["spec"])
    with pytest.raises((AssertionError, ValueError, KeyError)):
        checked(manifest)


def test_a_jobset_has_a_pod_a_host_and_a_job_a_slice(capsys):
    (job,) = jobset(capsys, FURTHER["slices"])["spec"]["replicatedJobs"]
    each = job["template"]["spec"]
    pod = each["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["replicas"], each["parallelism"], each["completions"], each["backoffLimit"]) == (2, 64, 64, 0)
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x8x8"
    # Without a shell between: the container ends with jaxgen's exit code, and SIGTERM reaches it.
    assert container["command"] == ["jaxgen", *JOB]


def test_a_jobset_restarts_what_was_interrupted_and_counts_what_failed(capsys):
    spec = jobset(capsys, EACH["forgiving"])["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 2
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    rules = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"] == {"containerName": "jaxgen", "operator": "In", "values": [42, 130, 143]}
    assert rules[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert all(rule["action"] == "FailJob" for rule in rules)


def test_tiers_and_queues_are_labels(capsys):
    spot, reserved = jobset(capsys, EACH["spot"]), jobset(capsys, FURTHER["reserved"])
    where = [each["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["nodeSelector"] for each in (spot, reserved)]
    assert where[0]["cloud.google.com/gke-spot"] == "true"
    assert where[1]["cloud.google.com/reservation-name"] == "ours"
    assert reserved["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "teams"}
    assert "labels" not in spot["metadata"]


@pytest.mark.parametrize("name", EACH)
def test_a_skypilot_task_is_one(capsys, name):
    task = yaml.safe_load(emitted(capsys, "skypilot", *EACH[name], "--zone", "us-east5-a"))
    jsonschema.Draft202012Validator(SKYPILOT).validate(task)
    assert task["resources"]["infra"] == "gcp/us-east5/us-east5-a"
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [42, 130, 143]
    assert shlex.split(task["run"]) == ["exec", "bash", "launch/worker.sh", "jaxgen", "$PWD", *JOB]
    assert task["resources"]["use_spot"] is (name == "spot")


def test_an_xpk_command_says_the_same(capsys):
    words = shlex.split(emitted(capsys, "xpk", *FURTHER["slices"], "--cluster", "c", "--image", "i", "--env", "A=b c", "--spot"))
    assert words[:3] == ["xpk", "workload", "create"]
    options = dict(zip(words[3::2], words[4::2]))
    assert options["--tpu-type"] == "v5p-4x8x8" and options["--num-slices"] == "2"
    assert options["--env"] == "A=b c" and words[-3] == "--spot"
    assert shlex.split(words[-1]) == ["jaxgen", *JOB]


@pytest.mark.parametrize(
    "form, words, line",
    [
        ("jobset", ["--slice", "v5e:2x4"], "--image: found None, needed a container image"),
        ("jobset", ["--slice", "v5e:2x4", "--image", "i", "--reserved"], "--reservation: found None, needed the name"),
        ("jobset", ["--slice", "v5e:2x4", "--image", "i", "--zone", "z"], "--zone: found 'z', needed no zone"),
        ("xpk", ["--slice", "v5e:2x4", "--image", "i"], "--cluster: found None, needed the cluster's name"),
        ("xpk", ["--slice", "v5e:2x4", "--image", "i", "--cluster", "c", "--failures", "1"], "--failures: found 1, needed 0"),
        ("skypilot", ["--slice", "v5e:2x4", "--slices", "2"], "--slices: found 2, needed 1"),
        ("skypilot", ["--slice", "v5e:2x4", "--reserved"], "--reserved: found True, needed --spot or --on-demand"),
        ("skypilot", ["--slice", "v5p:4x4x16"], "--slice: found 'v5p:4x4x16', needed v5p:4x8x8"),
    ],
)
def test_what_a_launcher_cannot_do_is_refused(capsys, form, words, line):
    assert tpu_vm.main(["emit", form, "demo", *words, "--", *JOB]) == 2
    assert capsys.readouterr().err.startswith(f"jaxgen: {line}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "No",
        "null",
        "~",
        "1",
        "1e3",
        "0x1",
        "4x4",
        "1:30",
        "- a",
        "a: b",
        "# a",
        "a #b",
        "*a",
        "&a",
        "!a",
        "'",
        '"',
        "\\",
        "\t\n",
        "é",
    ],
)
def test_strings_stay_strings(text):
    value = {"key": text, "list": [text, {"deep": text}], "number": 3, "truth": True}
    assert yaml.safe_load(emit.to_yaml(value)) == value

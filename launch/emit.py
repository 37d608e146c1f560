"""The same job for other launchers: a JobSet for GKE, a command for xpk, a task for SkyPilot.

Sources: the JobSet API jobset.x-k8s.io/v1alpha2, GKE's pages on TPUs, the options of `xpk workload create`, SkyPilot's task format.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from typing import Any

from jaxgen import bad_input
from launch import babysitter, wanted

# Seconds for saving after SIGTERM. Kubernetes kills after 30 by default; on spot nodes it gives less than asked for.
_GRACE = 120
# xpk counts preemptions as restarts, too.
_XPK_RESTARTS = 50
_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
# Words that YAML 1.1 readers take for booleans and null.
_RESERVED = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What only some launchers need.

    Attributes:
      failures: real failures after which the job is started once more.
      image: container image with jaxgen installed.
      queue: Kueue queue.
      cluster: name of the cluster.
      reservation: name of the reservation.
    """

    failures: int = 0
    image: str | None = None
    queue: str | None = None
    cluster: str | None = None
    reservation: str | None = None


def jobset(
    request: wanted.Request, job: tuple[str, ...], environment: tuple[str, ...], zone: str | None, settings: Settings
) -> str:
    """A JobSet, YAML: one Job a slice, one pod a host. Interrupted jobs are restarted without being counted.

    Raises:
      BadInput: no image, or no name of the reservation.
    """
    if zone:
        raise bad_input.BadInput("--zone", zone, "no zone: the cluster has one")
    where = {
        "cloud.google.com/gke-tpu-accelerator": request.slice.generation.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": request.slice.topology,
    }
    if request.tier is wanted.Tier.SPOT:
        where["cloud.google.com/gke-spot"] = "true"
    if request.tier is wanted.Tier.RESERVED:
        where["cloud.google.com/reservation-name"] = _needed("--reservation", settings.reservation, "the name of the reservation")
    container = {
        "name": "jaxgen",
        "image": _needed("--image", settings.image, "a container image with jaxgen installed"),
        # The process of the container itself, without a shell: it hears SIGTERM, and its exit code is the container's.
        "command": ["jaxgen", *job],
        "env": [dict(zip(("name", "value"), pair.split("=", 1))) for pair in environment],
        "resources": {"limits": {"google.com/tpu": request.slice.chips_per_host}},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    pod = {
        "restartPolicy": "Never",
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": _GRACE,
        "nodeSelector": where,
        "containers": [container],
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }
    interrupted = {"containerName": "jaxgen", "operator": "In", "values": sorted(babysitter.INTERRUPTIONS)}
    each_slice = {
        "parallelism": request.slice.hosts,
        "completions": request.slice.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": interrupted},
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"spec": pod},
    }
    restart = {"name": "interrupted", "action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}
    manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": request.name,
            "labels": {"kueue.x-k8s.io/queue-name": settings.queue} if settings.queue else {},
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": settings.failures, "rules": [restart]},
            "replicatedJobs": [{"name": "slice", "replicas": request.slices, "template": {"spec": each_slice}}],
        },
    }
    return to_yaml(manifest)


def xpk(request: wanted.Request, job: tuple[str, ...], environment: tuple[str, ...], zone: str | None, settings: Settings) -> str:
    """A command for xpk, one line. It restarts on 42 and on signals, by itself.

    Raises:
      BadInput: no cluster, image or name of the reservation, or restarts after failures.
    """
    if settings.failures:
        raise bad_input.BadInput(
            "--failures", settings.failures, "0: xpk does not count failures apart from preemptions; jobset does"
        )
    words = ["xpk", "workload", "create", "--cluster", _needed("--cluster", settings.cluster, "the cluster's name")]
    words += ["--workload", request.name]
    # By topology: what an accelerator type stands for is not the same in xpk as in the Cloud TPU API.
    words += ["--tpu-type", f"{request.slice.generation.type_prefix}-{request.slice.topology}"]
    words += ["--num-slices", str(request.slices)]
    words += ["--docker-image", _needed("--image", settings.image, "a container image with jaxgen installed")]
    words += ["--max-restarts", str(_XPK_RESTARTS), "--termination-grace-period-seconds", str(_GRACE)]
    words += [word for pair in environment for word in ("--env", pair)] + (["--zone", zone] if zone else [])
    if request.tier is wanted.Tier.RESERVED:
        words += ["--reservation", _needed("--reservation", settings.reservation, "the name of the reservation")]
    else:
        words.append(f"--{request.tier.value}")
    return shlex.join([*words, "--command", shlex.join(["jaxgen", *job])])


def skypilot(
    request: wanted.Request, job: tuple[str, ...], environment: tuple[str, ...], zone: str | None, settings: Settings
) -> str:
    """A task for `sky jobs launch`, YAML, which is run in the folder of the code.

    Raises:
      BadInput: several slices or a reservation, which a task cannot ask for.
    """
    if request.slices > 1:
        raise bad_input.BadInput("--slices", request.slices, "1: SkyPilot starts no jobs over several slices")
    if request.tier is wanted.Tier.RESERVED:
        raise bad_input.BadInput("--reserved", True, "--spot or --on-demand: SkyPilot names reservations in its own configuration")
    if request.slice != request.slice.usual:
        needed = f"{request.slice.usual}, the shape that {request.slice.accelerator_type} stands for"
        raise bad_input.BadInput("--slice", str(request.slice), needed)
    place = {"infra": f"gcp/{zone.rpartition('-')[0]}/{zone}" if zone else "gcp"}
    task = {
        "name": request.name,
        "resources": {
            **place,
            "accelerators": f"tpu-{request.slice.accelerator_type}:1",
            "accelerator_args": {"runtime_version": request.runtime or request.slice.generation.runtime},
            "use_spot": request.tier is wanted.Tier.SPOT,
            "job_recovery": {
                "max_restarts_on_errors": settings.failures,
                "recover_on_exit_codes": sorted(babysitter.INTERRUPTIONS),
            },
        },
        "workdir": ".",
        "envs": dict(pair.split("=", 1) for pair in environment),
        "setup": 'bash launch/worker.sh environment "$PWD"',
        "run": f'exec bash launch/worker.sh jaxgen "$PWD" {shlex.join(job)}',
    }
    return to_yaml(task)


FORMATS: dict[str, Callable[..., str]] = {"jobset": jobset, "xpk": xpk, "skypilot": skypilot}
"""By name; each takes the request, the job, its variables, a zone or None, and settings."""


def to_yaml(value: dict[str, Any]) -> str:
    """YAML of mappings, lists, strings, integers and booleans; empty mappings and lists are left out.

    A strict subset: what a reader could take for anything but a string is a JSON string, which YAML reads alike.
    """
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        pairs = [(key, each) for key, each in value.items() if each not in ({}, [])]
        return [line for key, each in pairs for line in _under(f"{_scalar(key)}:", each)]
    return [line for each in value for line in _item(each)]


def _under(key: str, value: Any) -> list[str]:
    if isinstance(value, (dict, list)):
        return [key, *(f"  {line}" for line in _lines(value))]
    return [f"{key} {_scalar(value)}"]


def _item(value: Any) -> list[str]:
    if isinstance(value, dict):
        first, *rest = _lines(value)
        return [f"- {first}", *(f"  {line}" for line in rest)]
    return [f"- {_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)


def _needed(option: str, value: str | None, what: str) -> str:
    if not value:
        raise bad_input.BadInput(option, value, what)
    return value

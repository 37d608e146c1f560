"""gcloud: its commands for queued resources and TPU hosts, and how they are run."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from typing import Protocol

from jaxgen import bad_input
from launch import failures, wanted

TPUS = ("gcloud", "compute", "tpus")


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str = ""
    err: str = ""


class Runner(Protocol):
    """Runs commands: for real, or only in print."""

    def run(self, words: tuple[str, ...]) -> Result:
        """Runs one command to its end."""

    def follow(self, words: tuple[str, ...], line: Callable[[str], None]) -> int:
        """Runs one command, hands on each line of its output as it comes, and returns the exit code."""


class Subprocess:
    """Runs commands for real."""

    def run(self, words: tuple[str, ...]) -> Result:
        """Raises:
        BadInput: the program is not installed.
        """
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        except FileNotFoundError:
            raise failures.missing(words[0]) from None
        return Result(done.returncode, done.stdout, done.stderr)

    def follow(self, words: tuple[str, ...], line: Callable[[str], None]) -> int:
        """Raises:
        BadInput: the program is not installed.
        """
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
            )
        except FileNotFoundError:
            raise failures.missing(words[0]) from None
        with process:
            assert process.stdout is not None
            try:
                for text in process.stdout:
                    line(text.rstrip("\n"))
            finally:
                process.terminate()
        return process.returncode


def create(place: wanted.Place, request: wanted.Request) -> tuple[str, ...]:
    """Asks for the slices.

    Raises:
      BadInput: a shape that cannot be asked for here.
    """
    kind = ["--accelerator-type", request.slice.accelerator_type]
    if request.slice != request.slice.usual:
        if request.slice.generation.name != "v4":
            # Only v4 can be asked for by topology in this API.
            raise bad_input.BadInput(
                "--slice",
                str(request.slice),
                f"{request.slice.usual}, the shape that {request.slice.accelerator_type} stands for; others can be had on GKE",
            )
        kind = ["--type", "v4", "--topology", request.slice.topology]
    several = request.slices > 1
    nodes = ["--node-count", str(request.slices), "--node-prefix", request.name] if several else ["--node-id", request.name]
    words = [*TPUS, "queued-resources", "create", request.name, *_where(place), *kind]
    words += ["--runtime-version", request.runtime or request.slice.generation.runtime, *nodes]
    if request.tier is not wanted.Tier.ON_DEMAND:
        words.append(f"--{request.tier.value}")
    for option, value in (
        ("network", request.network),
        ("subnetwork", request.subnetwork),
        ("service-account", request.service_account),
    ):
        if value:
            words += [f"--{option}", value]
    if place.internal_ip:
        words.append("--internal-ips")
    return (*words, "--quiet")


def describe(place: wanted.Place, name: str) -> tuple[str, ...]:
    """Asks how a request is doing."""
    return (*TPUS, "queued-resources", "describe", name, *_where(place), "--format=json")


def delete(place: wanted.Place, name: str) -> tuple[str, ...]:
    """Deletes a request and its nodes, and waits for the end of it."""
    return (*TPUS, "queued-resources", "delete", name, *_where(place), "--force", "--quiet")


def nodes(place: wanted.Place) -> tuple[str, ...]:
    """Lists the nodes of a zone."""
    return (*TPUS, "tpu-vm", "list", *_where(place), "--format=json")


def ssh(place: wanted.Place, node: str, command: str) -> tuple[str, ...]:
    """Runs a command on every host of a node."""
    address = ["--internal-ip"] if place.internal_ip else []
    return (*TPUS, "tpu-vm", "ssh", node, *_where(place), "--worker=all", *address, "--command", command, "--quiet")


def scp(place: wanted.Place, file: str, node: str, to: str) -> tuple[str, ...]:
    """Copies a file to every host of a node."""
    address = ["--internal-ip"] if place.internal_ip else []
    return (*TPUS, "tpu-vm", "scp", file, f"{node}:{to}", *_where(place), "--worker=all", *address, "--quiet")


def _where(place: wanted.Place) -> list[str]:
    return ["--zone", place.zone, *(["--project", place.project] if place.project else [])]

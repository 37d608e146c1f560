"""What is asked for: a request for slices, and the job that is to run on them. Checked before anything is called."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import pathlib
import re

from jaxgen import bad_input
from jaxgen.parallel import slices

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,26}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
# Commands of jaxgen whose first argument is the folder of a run.
_READERS = ("evaluate", "sample")


class Tier(enum.Enum):
    """How the chips are paid for; the value is the option that asks for it."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    RESERVED = "reserved"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where requests live.

    Attributes:
      zone: for example us-central2-b.
      project: None takes the one that gcloud is set to.
      internal_ip: hosts have internal addresses alone, and are reached from a machine in the same network.
    """

    zone: str
    project: str | None = None
    internal_ip: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for one slice or several equal ones.

    Attributes:
      name: of the request and, with a number behind it where there are several, of its nodes.
      slice: what each slice is.
      slices: how many.
      tier: how they are paid for.
      runtime: software version of the hosts.
      network, subnetwork: None takes the project's default.
      service_account: whose rights the hosts have; None takes the default one.

    Raises:
      BadInput: a name that some cloud would refuse, or no slices.
    """

    name: str
    slice: slices.Slice
    slices: int = 1
    tier: Tier = Tier.ON_DEMAND
    runtime: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.slices < 1:
            raise bad_input.BadInput("--slices", self.slices, "at least 1")

    @property
    def hosts(self) -> int:
        """Virtual machines of all slices together."""
        return self.slices * self.slice.hosts

    @property
    def nodes(self) -> tuple[str, ...]:
        """Name of each slice's node, as the cloud gives them out."""
        return node_names(self.name, self.slices)


@dataclasses.dataclass(frozen=True)
class Job:
    """A jaxgen command that runs on every host.

    Attributes:
      arguments: what comes after `jaxgen`.
      code: SHA-256 of the archive of the code.
      environment: variables, NAME=VALUE.
    """

    arguments: tuple[str, ...]
    code: str
    environment: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder on the hosts: the same command, code and variables are the same job."""
        return hashlib.sha256(json.dumps([self.arguments, self.code, self.environment]).encode()).hexdigest()[:12]


def node_names(name: str, count: int) -> tuple[str, ...]:
    """Names of the nodes of a request: its own name, or with -0, -1, ... behind it where it is for several slices."""
    return (name,) if count == 1 else tuple(f"{name}-{number}" for number in range(count))


def check_name(name: str) -> None:
    """Raises:
    BadInput: not a name that Cloud TPU, Kubernetes and xpk all accept.
    """
    if not _NAME.fullmatch(name):
        raise bad_input.BadInput("NAME", name, "at most 28 of a-z, 0-9 and -, beginning with a letter and not ending with -")


def check_environment(pairs: tuple[str, ...]) -> None:
    """Raises:
    BadInput: not NAME=VALUE.
    """
    for pair in pairs:
        if not _VARIABLE.fullmatch(pair):
            raise bad_input.BadInput("--env", pair, "NAME=VALUE")


def check_job(arguments: tuple[str, ...], request: Request) -> None:
    """What the job writes must outlive the hosts and be the same folder for all of them.

    Raises:
      BadInput: no command, or a run folder on a disk of a host where there are several hosts or spot ones.
    """
    if not arguments or arguments[0].startswith("-"):
        raise bad_input.BadInput("-- COMMAND", " ".join(arguments), "a jaxgen command, for example: -- train CONFIG --run gs://...")
    folder = run_folder(arguments)
    if folder is None or folder.startswith("gs://"):
        return
    if request.hosts > 1:
        raise bad_input.BadInput("--run", folder, f"a gs:// folder: {request.hosts} hosts write to the same run")
    if request.tier is Tier.SPOT:
        raise bad_input.BadInput("--run", folder, "a gs:// folder: the disk of a spot host is gone when it is preempted")


def run_folder(arguments: tuple[str, ...]) -> str | None:
    """The run folder that a command reads or writes; None where it has none."""
    command, *rest = arguments
    named = _value(rest, "--run")
    first = rest[0] if rest and not rest[0].startswith("-") else None
    if command in _READERS:
        return first
    if command != "train":
        return None
    if named is not None:
        return named
    if first is None or _is_recipe(first):
        # Where `jaxgen train` puts it.
        return f"runs/{pathlib.PurePath((first or 'CONFIG').partition('.py')[0]).name}"
    return first


def preflight_arguments(arguments: tuple[str, ...], slice_name: str, count: int) -> tuple[str, ...] | None:
    """Arguments of `jaxgen preflight` for a command that compiles a training step; None for any other command."""
    command, *rest = arguments
    if command not in ("train", "bench") or not rest or rest[0].startswith("-"):
        return None
    chosen = [word for name in ("--set", "--trust") for value in _values(rest, name) for word in (name, value)]
    several = ["--slices", str(count)] if count > 1 else []
    return ("preflight", rest[0], "--slice", slice_name, *several, *chosen)


def _is_recipe(text: str) -> bool:
    return text.endswith((".py", ".json")) or ".py:" in text


def _values(words: list[str], option: str) -> list[str]:
    """Values of a repeatable option, written `--option VALUE` or `--option=VALUE`."""
    found = [after for word, after in zip(words, words[1:]) if word == option]
    return found + [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]


def _value(words: list[str], option: str) -> str | None:
    values = _values(words, option)
    return values[-1] if values else None

"""What the failures of gcloud mean to the user: one line each, with the remedy."""

from __future__ import annotations

import re

from jaxgen import bad_input
from launch import wanted


class Failed(RuntimeError):
    """A command failed for a reason that may pass."""


class CommandFailed(Failed):
    """A command on a host ended with a code of its own: gcloud and ssh have done their part."""


class QuotaUsed(bad_input.BadInput):
    """The project may not have as many chips; or it will, once those of a deleted request are counted as free."""


# Of gcloud when ssh itself fails; any other code is that of the command on the host.
SSH_FAILED = 255
_ERROR = re.compile(r"^ERROR: (?:\([\w.-]+\) )?", re.M)
_ACCOUNT = r"active account|gcloud auth login|reauthenticat|invalid_grant"
_PROJECT = r"required property \[project\]|attribute \[project\]|project .*(not found|does not exist)"
_SWITCHED_OFF = r"SERVICE_DISABLED|has not been used in project|api.*not enabled|it is disabled"
_TYPE = r"accelerator.*(not found|not available|unsupported|not supported|invalid)"
_RUNTIME = r"(runtime|software|tensorflow).?version.*(not found|cannot be|invalid|unknown|not supported|does not exist)"
# Not the names of what lies in a location, which go on with a slash.
_ZONE = r"location \S+ (is|was) not found|locations/[\w-]+['\"]? .*(not exist|not found)|(unknown|invalid).*(zone|location)"
_DENIED = r"PERMISSION_DENIED|permission.*denied|does not have permission|required .* permission"
_OPTION = r"unrecognized arguments|invalid choice"

# Whom a meaning may be read from: any command; those that ask the service, and not a host by ssh; creations alone.
_ANY, _SERVICE, _CREATE = range(3)
_MEANINGS = (
    (_ANY, _ACCOUNT, "gcloud", "no account that is logged in", "gcloud auth login"),
    (_ANY, r"ssh key is not present", "ssh", "a key that the agent does not hold", "ssh-add ~/.ssh/google_compute_engine"),
    (_ANY, _OPTION, "gcloud", "{said}", "a newer version: gcloud components update"),
    (_SERVICE, _PROJECT, "--project", "{project}", "a project that exists (gcloud projects list)"),
    (_SERVICE, _SWITCHED_OFF, "--project", "the Cloud TPU API switched off", "gcloud services enable tpu.googleapis.com"),
    (_CREATE, _TYPE, "--zone", "{zone}", "a zone that has {kind} ({list} accelerator-types list --zone {zone})"),
    (_CREATE, _RUNTIME, "--runtime-version", "{runtime}", "a version that is there ({list} versions list --zone {zone})"),
    (_SERVICE, _ZONE, "--zone", "{zone}", "a zone of Cloud TPU that this project may use (gcloud compute tpus locations list)"),
    (_CREATE, r"ALREADY_EXISTS|already exists", "NAME", "{name}", "a name that no other request or node of the zone has"),
    (_SERVICE, _DENIED, "gcloud", "{said}", "an account with the role roles/tpu.admin"),
)
"""Who said it, a pattern in what was said, the option, what was found, what is needed; the first that fits counts.

Hosts come and go: what ssh says of one that is gone, or does not let in yet, is nothing for the user to change.
"""
_QUOTA = r"quota.*(exceed|exhaust)|insufficient.*quota"
_PASSING = r"capacity|stockout|currently unavailable|UNAVAILABLE|INTERNAL|DEADLINE|ABORTED|timed? ?out|connect|reset|\b5\d\d\b"


def meaning(err: str, words: tuple[str, ...], request: wanted.Request | None = None) -> Exception:
    """The exception for a failed command: `BadInput` where the user has to change something, `Failed` where it may pass.

    Args:
      err: what gcloud printed on standard error.
      words: the command, of the form "gcloud compute tpus GROUP COMMAND ...".
      request: what was wanted; None where that is not known.
    """
    said = sentence(err)
    speaker = {"create": _CREATE, "ssh": _ANY, "scp": _ANY}.get(words[4], _SERVICE)
    kind = request.slice.accelerator_type if request else "this type"
    if speaker == _CREATE and re.search(_QUOTA, said, re.I):
        needed = f"quota for {kind} in this zone and tier; requests that are SUSPENDED or FAILED hold quota until they are deleted"
        return QuotaUsed("quota", said, needed)
    facts = {
        "said": said,
        "list": "gcloud compute tpus tpu-vm",
        "kind": kind,
        "name": request.name if request else "the name",
        "zone": _after(words, "--zone"),
        "project": _after(words, "--project"),
        "runtime": _after(words, "--runtime-version"),
    }
    for whose, pattern, option, found, needed in _MEANINGS:
        if whose <= speaker and re.search(pattern, said, re.I):
            return bad_input.BadInput(option, found.format(**facts), needed.format(**facts))
    if speaker == _CREATE and said and not re.search(_PASSING, said, re.I):
        # Asking again and again for what cannot be had would go unseen for hours.
        return bad_input.BadInput("gcloud", said, "a request that the cloud accepts")
    return Failed(said or f"{' '.join(words[:5])} failed without a word")


def of_host(code: int, err: str, words: tuple[str, ...]) -> Exception:
    """The exception for an ssh command that ended with `code`: as `meaning`, or `CommandFailed`."""
    if code == SSH_FAILED or _ERROR.search(err):
        return meaning(err, words)
    return CommandFailed(f"a host answered with exit code {code}: {sentence(err)}")


def is_absent(err: str) -> bool:
    """True where the answer to a question about a request is that there is none."""
    return bool(re.search(r"NOT_FOUND|queuedResources/\S+.* not found|queued ?resource .*not found", sentence(err), re.I))


def sentence(err: str) -> str:
    """What was said, on one line of at most 300 characters: by gcloud from "ERROR" on; by a command on a host, the end of it."""
    start = _ERROR.search(err)
    return " ".join(err[start.end() :].split())[:300] if start else " ".join(err.split())[-300:]


def missing(program: str) -> bad_input.BadInput:
    """A program is not installed."""
    return bad_input.BadInput(program, "no such program on PATH", "the Google Cloud CLI (cloud.google.com/sdk) installed")


def _after(words: tuple[str, ...], option: str) -> str:
    return words[words.index(option) + 1] if option in words else "none"

"""What the failures of gcloud mean to the user: one line each, with the remedy."""

from __future__ import annotations

import re

from jaxgen import bad_input
from launch import wanted


class Failed(RuntimeError):
    """A command failed for a reason that may pass."""


class QuotaUsed(bad_input.BadInput):
    """The project may not have as many chips; or it will, once those of a deleted request are counted as free."""


_ACCOUNT = r"active account|gcloud auth login|reauthenticat|invalid_grant"
_PROJECT = r"required property \[project\]|attribute \[project\]|project .*(not found|does not exist)"
_SWITCHED_OFF = r"SERVICE_DISABLED|has not been used in project|api.*not enabled|it is disabled"
_TYPE = r"accelerator.*(not found|not available|unsupported|not supported|invalid)"
_RUNTIME = r"(runtime|software|tensorflow).?version.*(not found|cannot be|invalid|unknown|not supported|does not exist)"
_ZONE = r"location .*(not found|unauthorized)|locations?/.*(not exist|not found|denied)|(unknown|invalid).*(zone|location)"
_DENIED = r"PERMISSION_DENIED|permission.*denied|does not have permission|required .* permission"
_OPTION = r"unrecognized arguments|invalid choice"

_MEANINGS = (
    (_ACCOUNT, "gcloud", "no account that is logged in", "gcloud auth login"),
    (_PROJECT, "--project", "{project}", "a project that exists (gcloud projects list)"),
    (_SWITCHED_OFF, "--project", "the Cloud TPU API switched off", "gcloud services enable tpu.googleapis.com"),
    (r"ssh key is not present", "ssh", "a key that the agent does not hold", "ssh-add ~/.ssh/google_compute_engine"),
    (_TYPE, "--zone", "{zone}", "a zone that has {kind} (gcloud compute tpus tpu-vm accelerator-types list --zone {zone})"),
    (
        _RUNTIME,
        "--runtime-version",
        "{runtime}",
        "a version that is there (gcloud compute tpus tpu-vm versions list --zone {zone})",
    ),
    (_ZONE, "--zone", "{zone}", "a zone of Cloud TPU that this project may use (gcloud compute tpus locations list)"),
    (r"ALREADY_EXISTS|already exists", "NAME", "{name}", "a name that no other request or node of the zone has"),
    (_DENIED, "gcloud", "{said}", "an account with the role roles/tpu.admin"),
    (_OPTION, "gcloud", "{said}", "a newer version: gcloud components update"),
)
"""Pattern in what gcloud said, option, what was found, what is needed; the first that fits counts."""
_QUOTA = r"quota.*(exceed|exhaust)|insufficient.*quota"
_PASSING = r"capacity|stockout|currently unavailable|UNAVAILABLE|INTERNAL|DEADLINE|ABORTED|timed? ?out|connect|reset|\b5\d\d\b"


def meaning(err: str, words: tuple[str, ...], request: wanted.Request | None = None) -> Exception:
    """The exception for a failed command: `BadInput` where the user has to change something, `Failed` where it may pass.

    Args:
      err: what gcloud printed on standard error.
      words: the command.
      request: what was wanted; None where that is not known.
    """
    said = sentence(err)
    kind = request.slice.accelerator_type if request else "this type"
    if re.search(_QUOTA, said, re.I):
        needed = f"quota for {kind} in this zone and tier; requests that are SUSPENDED or FAILED hold quota until they are deleted"
        return QuotaUsed("quota", said, needed)
    facts = {
        "said": said,
        "kind": kind,
        "name": request.name if request else "the name",
        "zone": _after(words, "--zone"),
        "project": _after(words, "--project"),
        "runtime": _after(words, "--runtime-version"),
    }
    for pattern, option, found, needed in _MEANINGS:
        if re.search(pattern, said, re.I):
            return bad_input.BadInput(option, found.format(**facts), needed.format(**facts))
    if "create" in words and said and not re.search(_PASSING, said, re.I):
        # Asking again and again for what cannot be had would go unseen for hours.
        return bad_input.BadInput("gcloud", said, "a request that the cloud accepts")
    return Failed(said or f"{' '.join(words[:5])} failed without a word")


def is_absent(err: str) -> bool:
    """True where the answer to a question about a request is that there is none."""
    return bool(re.search(r"NOT_FOUND|queuedResources/\S+.* not found|queued ?resource .*not found", sentence(err), re.I))


def sentence(err: str) -> str:
    """What gcloud said, on one line: from "ERROR" on, without warnings and progress before it; at most 300 characters."""
    start = re.search(r"^ERROR: (?:\([\w.-]+\) )?", err, re.M)
    return " ".join((err[start.end() :] if start else err).split())[:300]


def missing(program: str) -> bad_input.BadInput:
    """A program is not installed."""
    return bad_input.BadInput(program, "no such program on PATH", "the Google Cloud CLI (cloud.google.com/sdk) installed")


def _after(words: tuple[str, ...], option: str) -> str:
    return words[words.index(option) + 1] if option in words else "none"

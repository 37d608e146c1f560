"""What the hosts of a slice say and are told: attempts of a job, the code and its environment. All of it goes through worker.sh."""

from __future__ import annotations

import dataclasses
import re
import shlex

# Folder on a host, below the home of its user.
HOME = ".jaxgen"
_LINE = re.compile(
    r"jaxgen-host slice=(?P<slice>\d+) host=(?P<host>\d+) job=(?P<job>\S+) busy=(?P<busy>\S+) now=(?P<now>[\d.]+) "
    r"attempts=(?P<attempts>\S+)"
)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt of a job on one host.

    Attributes:
      number: from 1; a restart is the next one.
      state: running, exited, or lost (gone without an exit code).
      code: exit code; None unless exited.
      time: when it exited, seconds since 1970 by the host's clock; None unless exited.
    """

    number: int
    state: str
    code: int | None = None
    time: float | None = None


@dataclasses.dataclass(frozen=True)
class Host:
    """What one host says of a job.

    Attributes:
      slice, host: its place.
      job: the job it speaks of; None where it has none.
      busy: the job that is running; None where none is.
      now: its clock, seconds since 1970.
      attempts: of the job, oldest first.
    """

    slice: int
    host: int
    job: str | None
    busy: str | None
    now: float
    attempts: tuple[Attempt, ...] = ()

    @property
    def label(self) -> str:
        """As it stands before lines of its log."""
        return f"{self.slice}-{self.host}"

    def attempt(self, number: int) -> Attempt | None:
        """Its attempt of this number; None where it has not begun."""
        return next((each for each in self.attempts if each.number == number), None)


def parse(output: str) -> tuple[Host, ...]:
    """Hosts in what `status` printed on all of them, in order. Other lines (banners, warnings) are skipped."""
    found = [_host(match) for match in map(_LINE.search, output.splitlines()) if match]
    return tuple(sorted(found, key=lambda host: (host.slice, host.host)))


def first_failure(hosts: tuple[Host, ...], number: int) -> tuple[Host, Attempt] | None:
    """The host whose attempt `number` ended first with a code other than 0, by the time in its exit file; None where none did."""
    ended = [(host, each) for host in hosts if (each := host.attempt(number)) and each.state == "exited" and each.code != 0]
    return min(ended, key=lambda pair: pair[1].time) if ended else None


def has_code(code: str) -> str:
    """Command that succeeds where the code is unpacked already."""
    return f"mkdir -p {HOME}/code && test -d {HOME}/code/{code}"


def archive_path(code: str) -> str:
    """Where the archive goes on a host."""
    return f"{HOME}/code/{code}.tar.gz"


def unpack(code: str) -> str:
    """Command that unpacks the archive. It brings its own worker.sh, which stays at one place for all later commands."""
    script = f"tar -xzOf {HOME}/code/{code}.tar.gz launch/worker.sh > {HOME}/.worker.$$ && mv {HOME}/.worker.$$ {HOME}/worker.sh"
    return f"{script} && {_worker('unpack', code)}"


def environment(code: str) -> str:
    """Command that makes the Python environment where it is missing."""
    return _worker("environment", f"{HOME}/code/{code}")


def start(job: str, attempt: int, code: str, variables: tuple[str, ...], arguments: tuple[str, ...]) -> str:
    """Command that starts an attempt; a second time it does nothing."""
    return _worker("start", job, str(attempt), code, *variables, "--", *arguments)


def status(slice_number: int, job: str | None = None) -> str:
    """Command that prints one line for `parse`, also on a host where nothing was ever shipped."""
    nothing = f"echo jaxgen-host slice={slice_number} host=0 job=- busy=- now=0 attempts=-"
    return f"if [ -f {HOME}/worker.sh ]; then {_worker('status', str(slice_number), *([job] if job else []))}; else {nothing}; fi"


def stop(seconds: int) -> str:
    """Command that asks the running attempt to save and end, and kills it after `seconds`."""
    return _worker("stop", str(seconds))


def log(slice_number: int, lines: int, follow: bool) -> str:
    """Command that prints the end of the newest attempt's log with the host before each line; follows it to its end if asked to."""
    return _worker("log", str(slice_number), str(lines), *(["follow"] if follow else []))


def _worker(*words: str) -> str:
    return f"bash {HOME}/worker.sh {shlex.join(words)}"


def _host(match: re.Match[str]) -> Host:
    def known(field: str) -> str | None:
        return None if match[field] == "-" else match[field]

    attempts = tuple(_attempt(text) for text in (known("attempts") or "").split(",") if text)
    return Host(int(match["slice"]), int(match["host"]), known("job"), known("busy"), float(match["now"]), attempts)


def _attempt(text: str) -> Attempt:
    number, state, code, time = text.split(":")
    return Attempt(int(number), state, int(code), float(time)) if state == "exited" else Attempt(int(number), state)

"""Several hosts as one: they join before anything touches a backend, wait for each other by name and deadline, and end together.

Everything here goes through the runtime's key-value store, which host 0 keeps: no device takes part, so none can hang.

A host that ends by an error says so to the others, which then end with its message and exit code. One that is killed says nothing;
the runtime misses its heartbeat, says so on standard error and aborts the others (SIGABRT, exit code 134). Or they notice by
themselves, as what they compute together breaks off or host 0 is no longer heard of: then they name who is missing, and exit 1.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed

from jaxgen import types

log = logging.getLogger(__name__)

Report = Callable[[BaseException], tuple[str, int]]
"""Tells the user of an error; returns it in one line, and the exit code that it means."""

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_SECONDS = 30
# What ends together need not wait long: a host that has not come by then is gone, or stuck where nobody can help it.
_LEAVING_SECONDS = 10
# Host 0 may have samples to score, when the others have nothing left to do.
_END_SECONDS = 7200
# How long a host that hears of an error elsewhere may take to meet the same one itself, and say it in its own words.
_GRACE_SECONDS = 3
_FAILED = 1


class Absent(RuntimeError):
    """Some hosts did not come to a barrier before its deadline."""


class Hosts:
    """The hosts of a job, as one of them sees them; alone, nothing here does or costs anything.

    Attributes:
      index: of this host, below `count`.
      first: whether this is host 0, which alone writes what there is to be one of.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None, report: Report | None = None) -> None:
        self.index, self.count = index, count
        self._client = client
        self._report = report
        self._uses: dict[str, int] = {}
        self._listeners: dict[str, Callable[[dict[str, Any]], None]] = {"failed": self._failed_elsewhere}
        self._ending = threading.Event()
        self._listener: threading.Thread | None = None

    @property
    def first(self) -> bool:
        return self.index == 0

    def barrier(self, name: str, seconds: float) -> None:
        """Returns when all hosts have called this with this name, as often as this one has.

        Raises:
          Absent: some have not within `seconds`; names them.
        """
        self.gather(name, "", seconds)

    def gather(self, name: str, text: str, seconds: float) -> list[str]:
        """The texts of all hosts, by index. A barrier as well.

        Raises:
          Absent: as `barrier`.
        """
        if self.count == 1:
            return [text]
        use = self._uses[name] = self._uses.get(name, 0) + 1
        folder = f"jaxgen/{name}/{use}/"
        self._client.key_value_set(f"{folder}{self.index}", text)
        try:
            self._client.wait_at_barrier(folder, int(1000 * seconds))
        except jax.errors.JaxRuntimeError as error:
            come = {int(key.rpartition("/")[2]) for key, _ in self._client.key_value_dir_get(folder)}
            missing = [host for host in range(self.count) if host not in come]
            if not missing:
                raise
            shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
            raise Absent(
                f"barrier '{name}': {len(come)} of {self.count} hosts came within {seconds:g} s; missing: {shown}"
            ) from error
        found = {int(key.rpartition("/")[2]): value for key, value in self._client.key_value_dir_get(folder)}
        return [found[host] for host in range(self.count)]

    def post(self, kind: str, **content: Any) -> None:
        """Tells all hosts, this one too; each hears all notices in one order, in a thread of its own."""
        text = json.dumps({"kind": kind, "host": self.index, **content})
        number = 0
        while True:
            try:
                self._client.key_value_set(_notice(number), text)
                return
            except jax.errors.JaxRuntimeError as error:
                if "ALREADY_EXISTS" not in str(error):
                    raise
                number += 1

    def on(self, kind: str, heard: Callable[[dict[str, Any]], None]) -> None:
        """Has `heard` called with each notice of a kind."""
        self._listeners[kind] = heard

    def listen(self) -> None:
        """Starts to hear notices."""
        self._listener = threading.Thread(target=self._listen, name="notices", daemon=True)
        self._listener.start()

    @contextlib.contextmanager
    def together(self, *excepted: type[BaseException]) -> Iterator[None]:
        """On several hosts an error, other than those that all of them meet, ends all processes at once.

        Unwinding as usual would wait, for up to half an hour, for what the others will never do, such as their part of a save.
        """
        try:
            yield
        except BaseException as error:
            if self.count > 1 and not isinstance(error, excepted):
                self.fail(*self._report(error))
            raise

    def fail(self, message: str, code: int) -> NoReturn:
        """Ends this process with this exit code, after telling the others why."""
        self._ending.set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.post("failed", message=message, code=code)
        self._leave(code)

    def finish(self) -> None:
        """Waits for all hosts, then leaves the job. To be called once, at the end."""
        if self.count > 1:
            self.barrier("the end", _END_SECONDS)
            self._ending.set()
            jax.distributed.shutdown()
            # It comes back from the runtime now, which has to be before the interpreter ends.
            self._listener.join()

    def _listen(self) -> None:
        number = 0
        while True:
            try:
                text = self._client.blocking_key_value_get(_notice(number), 60_000)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    continue
                if not self._ending.is_set():
                    # The runtime notices too, and aborts; whoever is first says so.
                    log.error("host 0 is gone: %s", str(error).partition("\n")[0])
                    _exit(_FAILED)
                return
            number += 1
            notice = json.loads(text)
            try:
                if notice["kind"] in self._listeners:
                    self._listeners[notice["kind"]](notice)
            except Exception as error:
                self.fail(*self._report(error))

    def _failed_elsewhere(self, notice: dict[str, Any]) -> None:
        if notice["host"] == self.index or self._ending.wait(_GRACE_SECONDS):
            return
        self._ending.set()
        log.error("host %d of %d has failed: %s", notice["host"], self.count, notice["message"])
        self._leave(notice["code"])

    def _leave(self, code: int) -> NoReturn:
        try:
            self.barrier("leaving", _LEAVING_SECONDS)
            if self.first:
                # The store goes with host 0, and the runtime aborts whoever is still there.
                time.sleep(1)
        except Absent as absent:
            # What failed here may only have waited for them: the error of a broken connection does not say whose it was.
            log.error("%s. They were killed or hang; look there first", absent)
        except jax.errors.JaxRuntimeError:
            log.error("host 0 is gone, or hangs; look there first")
        _exit(code)


def join(deadline: float, report: Report) -> Hosts:
    """Joins the job's hosts, where there are several: on TPU as the machine says, elsewhere as the variables of JAX say.

    To be called before anything touches a backend. Where the hosts are not all there before the deadline, the process ends with a
    message: the runtime could only abort.

    Args:
      deadline: seconds.
      report: tells of an error that ends this host.

    Raises:
      BadInput: the variables do not say who takes part.
    """
    given = _given()
    if given is None and "tpu" not in (jax.config.jax_platforms or ""):
        return Hosts()
    if given is not None and given[1] == 1:
        return Hosts()
    began = time.monotonic()
    joined = threading.Event()
    threading.Thread(target=_wait, args=(joined, began, deadline), name="joining", daemon=True).start()
    options = {"initialization_timeout": int(deadline) + 60, "heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    try:
        if given is None:
            jax.distributed.initialize(**options)
        else:
            jax.distributed.initialize(*given, cluster_detection_method="deactivate", **options)
    except ValueError as error:
        if "should be defined" not in str(error):
            raise
        # A TPU on a machine that belongs to no cluster.
        log.info("one host: %s", error)
        return Hosts()
    finally:
        joined.set()
    state = distributed.global_state
    if state.num_processes == 1:
        return Hosts()
    seconds = time.monotonic() - began
    log.info("host %d of %d (%s): all joined in %.1f s", state.process_id, state.num_processes, socket.gethostname(), seconds)
    hosts = Hosts(state.process_id, state.num_processes, state.client, report)
    hosts.listen()
    return hosts


@contextlib.contextmanager
def joined(deadline: float, report: Report) -> Iterator[Hosts]:
    """Joins as `join`; at the end waits for the others, and on an error ends them all."""
    hosts = join(deadline, report)
    with hosts.together():
        yield hosts
        hosts.finish()


def _given() -> tuple[str, int, int] | None:
    """Address of host 0, number of hosts and index of this one, from the environment; None where it says nothing of that."""
    found = {name: os.environ.get(name) for name in VARIABLES}
    address, count, index = found.values()
    if count is None and index is None and (address is None or "tpu" in (jax.config.jax_platforms or "")):
        return None
    for name, value in found.items():
        if not value:
            raise types.BadInput(name, value, f"a value: {', '.join(VARIABLES)} together say who takes part")
    if not re.fullmatch(r".+:\d+", address):
        raise types.BadInput(VARIABLES[0], address, "the address of host 0, as name:port")
    for name in VARIABLES[1:]:
        if not found[name].isdecimal():
            raise types.BadInput(name, found[name], "a whole number")
    if not int(index) < int(count):
        raise types.BadInput(VARIABLES[2], index, f"a number below {VARIABLES[1]}={count}")
    return address, int(count), int(index)


def _wait(joined: threading.Event, began: float, deadline: float) -> None:
    """Says now and then how many hosts have joined; ends the process at the deadline."""
    every = min(30.0, deadline / 4)
    while not joined.wait(min(every, max(0.0, began + deadline - time.monotonic()))):
        waited = time.monotonic() - began
        line = f"{_come()} after {waited:.0f} s"
        if waited >= deadline:
            log.error("%s; giving up. All hosts have to run the same command at the same time", line)
            _exit(_FAILED)
        log.info("%s; waiting until %.0f s", line, deadline)


def _come() -> str:
    """How many hosts have joined, as far as this one can see."""
    state = distributed.global_state
    if state.coordinator_address is None:
        return "the machine's name of host 0 is not known yet"
    name, _, port = state.coordinator_address.rpartition(":")
    if state.process_id == 0:
        return f"{_connections(int(port))} of {state.num_processes} hosts joined at {state.coordinator_address}"
    try:
        socket.create_connection((name.strip("[]"), int(port)), timeout=5).close()
        answer = "answers; others are missing"
    except OSError as error:
        answer = f"does not answer ({error})"
    return f"host {state.process_id} is there, host 0 at {state.coordinator_address} {answer}"


def _connections(port: int) -> int:
    """Established connections to a port of this machine, as Linux lists them: the runtime opens one a host."""
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(table).read_text().splitlines()[1:]:
                local, _, state = line.split()[1:4]
                count += state == "01" and int(local.rpartition(":")[2], 16) == port
    return count


def _notice(number: int) -> str:
    return f"jaxgen/notice/{number}"


def _exit(code: int) -> NoReturn:
    """Ends the process without waiting for anything."""
    for handler in logging.getLogger("jaxgen").handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

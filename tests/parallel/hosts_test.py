"""Hosts that wait for each other, tell each other and end together; here they are threads around one store."""

import concurrent.futures
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxgen import types
from jaxgen.parallel import hosts
from jaxgen.parallel.hosts import Absent, Hosts

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from store import Store, wait  # noqa: E402

JOIN = "from jaxgen.parallel import hosts; import logging, sys; logging.basicConfig(level=logging.INFO); hosts.join(2, None)"


def team(count):
    store = Store(count)
    return [Hosts(i, count, store, lambda error: (str(error), 7)) for i in range(count)]


def at_once(members, work):
    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(work, members))


@pytest.fixture
def exits(monkeypatch):
    """Exit codes of hosts that ended; each ends its thread only."""
    codes = []

    def leave(code):
        codes.append(code)
        if threading.current_thread().name == "notices":
            threading.Event().wait()
        raise SystemExit(code)

    monkeypatch.setattr(hosts, "_exit", leave)
    return codes


def test_alone_nothing_waits():
    alone = Hosts()
    assert alone.first and alone.gather("x", "mine", 1) == ["mine"]
    alone.barrier("x", 1)
    with alone.together():
        pass
    alone.finish()


def test_texts_are_gathered_by_index_and_a_name_can_be_used_again():
    members = team(3)
    for text in ("a", "b"):
        found = at_once(members, lambda host, text=text: host.gather("x", f"{text}{host.index}", 5))
        assert found == [[f"{text}0", f"{text}1", f"{text}2"]] * 3


def test_who_does_not_come_is_named_with_the_barrier_and_the_deadline():
    members = team(4)
    with pytest.raises(Absent) as caught:
        at_once([members[0], members[2]], lambda host: host.barrier("first step", 0.2))
    assert str(caught.value) == "barrier 'first step': 2 of 4 hosts came within 0.2 s; missing: 1, 3"


def test_all_hear_all_notices_in_one_order():
    members = team(3)
    heard = [[] for _ in members]
    for host, list_ in zip(members, heard, strict=True):
        host.on("news", list_.append)
        host.listen()
    at_once(members, lambda host: [host.post("news", number=n) for n in range(5)])
    wait(lambda: all(len(list_) == 15 for list_ in heard))
    assert heard[0] == heard[1] == heard[2]
    assert [n["number"] for n in heard[0] if n["host"] == 1] == [0, 1, 2, 3, 4]


def test_an_error_of_one_host_ends_all_with_its_message_and_code(exits, caplog, monkeypatch):
    monkeypatch.setattr(hosts, "_GRACE_SECONDS", 0.1)
    members = team(3)
    for host in members:
        host.listen()
    with pytest.raises(SystemExit), members[1].together():
        raise ValueError("disk full")
    wait(lambda: len(exits) == 3)
    assert exits == [7, 7, 7]
    assert caplog.text.count("host 1 of 3 has failed: disk full") == 2


def test_an_error_beside_a_host_that_is_gone_names_that_host(exits, caplog, monkeypatch):
    monkeypatch.setattr(hosts, "_LEAVING_SECONDS", 0.2)
    first = team(3)[0]
    with pytest.raises(SystemExit), first.together():
        raise ValueError("connection closed by peer")
    assert exits == [7]
    assert "1 of 3 hosts came within 0.2 s; missing: 1, 2. They were killed or hang; look there first" in caplog.text


def test_an_error_that_all_meet_is_told_by_each_in_its_own_words(exits, caplog):
    members = team(3)
    for host in members:
        host.listen()

    def work(host):
        with pytest.raises(SystemExit), host.together():
            raise ValueError("the same")

    began = time.monotonic()
    at_once(members, work)
    assert exits == [7, 7, 7] and "has failed" not in caplog.text
    assert time.monotonic() - began < hosts._GRACE_SECONDS


def test_errors_that_all_meet_unwind_as_usual(exits):
    with pytest.raises(ArithmeticError), team(2)[0].together(ArithmeticError):
        raise ArithmeticError
    assert not exits


@pytest.mark.parametrize(
    "given, option",
    [
        (("127.0.0.1:1", None, None), "JAX_NUM_PROCESSES"),
        ((None, "2", "0"), "JAX_COORDINATOR_ADDRESS"),
        (("127.0.0.1:1", "2", None), "JAX_PROCESS_ID"),
        (("127.0.0.1", "2", "0"), "JAX_COORDINATOR_ADDRESS"),
        (("127.0.0.1:1", "two", "0"), "JAX_NUM_PROCESSES"),
        (("127.0.0.1:1", "2", "2"), "JAX_PROCESS_ID"),
    ],
)
def test_variables_that_do_not_say_who_takes_part_are_refused(monkeypatch, given, option):
    for name, value in zip(hosts.VARIABLES, given, strict=True):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(types.BadInput) as caught:
        hosts.join(1, None)
    assert caught.value.option == option


@pytest.mark.parametrize("given", [(None, None, None), ("127.0.0.1:1", "1", "0")])
def test_one_host_joins_nobody(monkeypatch, given):
    for name, value in zip(hosts.VARIABLES, given, strict=True):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert hosts.join(1, None).count == 1


@pytest.mark.parametrize("index, said", [(0, "1 of 3 hosts joined at"), (1, "host 1 is there, host 0 at")])
def test_who_waits_in_vain_says_who_is_there_and_ends(index, said):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | dict(zip(hosts.VARIABLES, (address, "3", str(index)), strict=True)) | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", JOIN], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f"{said} {address}" in done.stderr and "giving up" in done.stderr, done.stderr
    assert index == 0 or "does not answer" in done.stderr

"""Freed memory of a machine without accelerators stays with the process."""

import json
import subprocess
import sys

import pytest

from jaxgen.parallel import host_memory

PROGRAM = """
import ctypes, json, resource, sys
from jaxgen.parallel import host_memory
kept = host_memory.keep_freed(sys.argv[1])
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    start = faults()
    for _ in range(20):
        b"1" * 48_000_000
    return faults() - start
work()
print(json.dumps([kept, work()]))
"""


def faults(folder):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_what_is_freed_is_not_fetched_again_unless_there_are_accelerators(tmp_path):
    kept, few = faults(tmp_path)
    (tmp_path / "accel0").touch()
    left, many = faults(tmp_path)
    assert kept and not left
    assert many > 10_000 and few < many / 100


@pytest.mark.parametrize("name", ["accel0", "nvidia0", "vfio/1"])
def test_files_of_devices_are_known(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert not host_memory.keep_freed(str(tmp_path))

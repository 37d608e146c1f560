"""A small tree of code to launch, a clock that does not wait, and PATHs with a pretended gcloud."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Where the tests are started as `pytest` alone, `launch` is not found; the pretended clouds lie beside the tests.
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests" / "launch")) if path not in sys.path]


@dataclasses.dataclass
class Clock:
    """Seconds that pass only by sleeping; `at_sleep` holds what happens in the first sleep, the second, ..."""

    time: float = 1_700_000_000.0
    slept: list = dataclasses.field(default_factory=list)
    at_sleep: list = dataclasses.field(default_factory=list)

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds
        if self.at_sleep:
            self.at_sleep.pop(0)()
        assert len(self.slept) < 200, "waits without end"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A git work tree that stands for the project's: its launch/local.sh notes its arguments, and exits as the file `code` says."""
    from launch import tpu_vm

    root = tmp_path / "tree"
    (root / "launch").mkdir(parents=True)
    (root / "launch" / "worker.sh").write_bytes((ROOT / "launch" / "worker.sh").read_bytes())
    local = 'here=$(dirname "$0")\necho "$@" >>"$here/../calls"\nexit "$(cat "$here/../code" 2>/dev/null || echo 0)"\n'
    (root / "launch" / "local.sh").write_text(local)
    (root / "pyproject.toml").write_text("[project]\n")
    (root / ".gitignore").write_text("calls\ncode\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    monkeypatch.setattr(tpu_vm, "ROOT", root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return root

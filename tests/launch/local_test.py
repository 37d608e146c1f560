"""launch/local.sh as the hosts of a slice use it: an environment at another place, with the extras asked for, made once."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def local(tmp_path):
    """Runs launch/local.sh of a small tree with an environment whose programs note how they are called."""
    (tmp_path / "code" / "launch").mkdir(parents=True)
    (tmp_path / "code" / "launch" / "local.sh").write_bytes((ROOT / "launch" / "local.sh").read_bytes())
    (tmp_path / "code" / "pyproject.toml").write_text("")
    (tmp_path / "shared" / "bin").mkdir(parents=True)
    for name in ("python", "jaxgen"):
        program = tmp_path / "shared" / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>"{tmp_path}/calls"\n')
        program.chmod(0o755)

    def run(*words, **environment):
        shared = {"JAXGEN_VENV": str(tmp_path / "shared"), "PATH": "/usr/bin:/bin"}
        script = tmp_path / "code" / "launch" / "local.sh"
        done = subprocess.run(["bash", script, *words], env=shared | environment, capture_output=True, text=True)
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return done, [line.replace(str(tmp_path), "") for line in lines]

    return run


@pytest.mark.parametrize(
    "extra, installed", [("cpu", ""), ("tpu", "[tpu]"), ("tpu,gcs", "[tpu,gcs]"), ("gpu,gcs", "[gpu,gcs]"), ("cpu,gcs", "[gcs]")]
)
def test_what_is_asked_for_is_installed_once(local, extra, installed):
    pip = f"python -m pip install --quiet --disable-pip-version-check --editable /code{installed}"
    done, calls = local("train", "x", JAXGEN_EXTRA=extra)
    assert (done.returncode, calls) == (0, [pip, "jaxgen train x"])
    assert local("train", "x", JAXGEN_EXTRA=extra)[1] == ["jaxgen train x"]


@pytest.mark.parametrize(
    "extra, installed",
    [("cpu", "[tpu]"), ("tpu", "[tpu]"), ("tpu,gcs", "[tpu,gcs]"), ("cpu,gcs", "[tpu,gcs]"), ("gpu", "[tpu,gpu]")],
)
def test_preflight_gets_the_compiler_of_tpus_whatever_the_hardware(local, extra, installed):
    done, calls = local("preflight", "x", JAXGEN_EXTRA=extra)
    assert done.returncode == 0
    assert calls == [f"python -m pip install --quiet --disable-pip-version-check --editable /code{installed}", "jaxgen preflight x"]


@pytest.mark.parametrize("extra", ["tpus", "gcs", "tpu,", "tpu,gcs,cpu"])
def test_other_extras_are_refused(local, extra):
    done, calls = local("train", JAXGEN_EXTRA=extra)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == f"launch/local.sh: JAXGEN_EXTRA: found '{extra}', needed cpu, gpu or tpu, alone or with ,gcs\n"

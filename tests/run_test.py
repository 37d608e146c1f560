import os
import pathlib
import stat

import pytest
from upath import UPath

from jaxgen import run, types


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path) -> str:
    return str(tmp_path / "a" / "run") if request.param == "local" else f"memory://{tmp_path.name}/a/run"


def test_create_makes_a_folder_and_leaves_nothing_in_it(root):
    made = run.Run(root).create()
    assert made.root.is_dir()
    assert list(made.root.iterdir()) == []
    assert not made.exists()


def test_a_run_exists_once_its_experiment_is_written(root):
    made = run.Run(root).create()
    with pytest.raises(types.BadInput) as caught:
        made.require()
    assert caught.value.option == "run"
    assert "experiment.json" in caught.value.found
    run.write_whole(made.experiment, b"{}")
    assert made.exists()
    assert run.Run(root).require().experiment.read_bytes() == b"{}"


def test_require_refuses_a_folder_that_is_not_there(root):
    with pytest.raises(types.BadInput, match="not there"):
        run.Run(root).require()


def test_all_paths_lie_below_the_run_and_differ(root):
    made = run.Run(root)
    paths = [made.experiment, made.metrics, made.checkpoints, made.samples, made.evaluation, made.tensorboard]
    assert len({str(path) for path in paths}) == 6
    assert all(path.parent == made.root for path in paths)


def test_a_relative_path_and_a_file_url_become_absolute_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(run.Run("x").root) == str(tmp_path / "x")
    assert isinstance(run.Run(f"file://{tmp_path}/y").root, pathlib.Path)
    assert not run.is_local(run.Run("memory://b/y").root)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(types.BadInput) as caught:
        run.Run("nonsense://bucket/run")
    assert caught.value.option == "run"


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(types.BadInput) as caught:
        run.Run(tmp_path / "file" / "run").create()
    assert caught.value.option == "run"


def test_a_store_that_refuses_to_write_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(run, "write_whole", refuse)
    with pytest.raises(types.BadInput, match="read-only"):
        run.Run(tmp_path / "run").create()


def test_write_whole_replaces_the_content(root):
    path = UPath(root) / "x" / "file"
    run.write_whole(path, b"first, which is longer")
    run.write_whole(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch):
    path = UPath(tmp_path / "file")
    run.write_whole(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        run.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_files_get_the_permissions_of_any_other_output(tmp_path):
    (tmp_path / "plain").write_text("")
    run.write_whole(UPath(tmp_path / "file"), b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

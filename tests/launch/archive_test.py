"""The archive of the code: the same tree gives the same bytes, and nothing that git ignores goes along."""

import gzip
import io
import os
import shutil
import subprocess
import tarfile

import pytest

from jaxgen import bad_input
from launch import archive


@pytest.fixture
def work(tmp_path):
    root = tmp_path / "work"
    root.mkdir()
    subprocess.run(["git", "init", "--quiet", root], check=True)
    (root / ".gitignore").write_text("ignored\n")
    (root / "ignored").write_text("secret")
    (root / "above.py").write_text("1")
    (root / "folder").mkdir()
    (root / "folder" / "run me.sh").write_text("echo")
    (root / "folder" / "run me.sh").chmod(0o755)
    (root / "link").symlink_to("above.py")
    subprocess.run(["git", "-C", root, "add", "above.py"], check=True)
    (root / "new ü.txt").write_text("new")
    return root


def content(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {entry.name: (entry.mode, entry.linkname or tar.extractfile(entry).read()) for entry in tar}


def test_it_holds_what_git_tracks_or_does_not_ignore_as_it_is_on_the_disk(work):
    (work / "above.py").write_text("2")
    assert content(archive.pack(work)) == {
        ".gitignore": (0o644, b"ignored\n"),
        "above.py": (0o644, b"2"),
        "folder/run me.sh": (0o755, b"echo"),
        "link": (0o777, "above.py"),
        "new ü.txt": (0o644, b"new"),
    }


def test_the_same_tree_gives_the_same_bytes_elsewhere_and_later(work, tmp_path, monkeypatch):
    first = archive.pack(work)
    monkeypatch.setattr("time.time", lambda: 2e9)
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(work, copy, symlinks=True)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (copy / "above.py").chmod(0o600)
    subprocess.run(["git", "-C", copy, "add", "--all"], check=True)
    assert archive.pack(copy) == first


def test_any_change_gives_another_name(work):
    names = {archive.digest(archive.pack(work))}
    (work / "above.py").write_text("3")
    names.add(archive.digest(archive.pack(work)))
    (work / "above.py").chmod(0o755)
    names.add(archive.digest(archive.pack(work)))
    (work / "above.py").unlink()
    names.add(archive.digest(archive.pack(work)))
    assert len(names) == 4


def test_it_is_kept_once_under_its_name_and_read_back(work, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = archive.pack(work)
    path = archive.keep(data)
    written = path.stat().st_mtime_ns
    assert archive.keep(data) == path and path.stat().st_mtime_ns == written
    assert path.name == f"{archive.digest(data)}.tar.gz"
    assert archive.read(path) == data
    path.write_bytes(data[:-1])
    with pytest.raises(bad_input.BadInput, match="no whole archive"):
        archive.read(path)
    (work / "more").write_text("")
    path.write_bytes(archive.pack(work))
    with pytest.raises(bad_input.BadInput, match="an archive named by its content"):
        archive.read(path)


def test_the_name_does_not_depend_on_the_compression(work):
    data = archive.pack(work)
    assert archive.digest(gzip.compress(gzip.decompress(data), compresslevel=1)) == archive.digest(data)


def test_a_folder_without_git_is_refused(tmp_path):
    with pytest.raises(bad_input.BadInput, match="a git work tree"):
        archive.pack(tmp_path)

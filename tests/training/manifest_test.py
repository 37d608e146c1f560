import os
import random

import pytest
from upath import UPath

from jaxgen.training import manifest


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> UPath:
    folder = UPath(tmp_path / "step") if request.param == "local" else UPath(f"memory://{tmp_path.name}/step")
    draw = random.Random(0)
    for name, size in {"params/d/a": 1000, "params/d/b": 1, "optimizer/d/c": 5000, "about": 20, "empty": 0}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw.randbytes(size))
    return folder


def _flip(path: UPath, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def test_what_was_written_verifies(folder):
    manifest.write(folder)
    assert manifest.verify(folder) == []
    assert manifest.complete(folder)
    assert set(manifest.recorded(folder)) == {"params/d/a", "params/d/b", "optimizer/d/c", "about", "empty"}


def test_a_manifest_that_another_process_is_writing_is_no_file_of_the_checkpoint(tmp_path, monkeypatch):
    folder = UPath(tmp_path / "step")
    folder.mkdir()
    for name in "abcde":
        (folder / name).write_bytes(name.encode())
    replace = os.replace
    seen = []

    def other_process_lists_before_the_rename(source, target):
        monkeypatch.setattr(os, "replace", replace)
        seen.append({path.name for path in folder.iterdir()} - set("abcde"))
        manifest.write(folder, 1, 2)
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_process_lists_before_the_rename)
    manifest.write(folder, 0, 2)
    assert len(seen) == 1 and len(seen[0]) == 1, "the first manifest was not half-written when the second was made"
    assert manifest.verify(folder) == []
    assert set(manifest.recorded(folder)) == set("abcde")


@pytest.mark.parametrize("name", ["params/d/a", "params/d/b", "optimizer/d/c", "about"])
def test_any_single_flipped_bit_is_found_and_its_file_named(folder, name):
    manifest.write(folder)
    bits = 8 * (folder / name).stat().st_size
    for bit in random.Random(1).sample(range(bits), min(bits, 8)):
        _flip(folder / name, bit)
        (complaint,) = manifest.verify(folder)
        assert name in complaint and "checksum" in complaint
        _flip(folder / name, bit)
    assert manifest.verify(folder) == []


def test_any_flipped_bit_of_a_manifest_is_found(folder):
    manifest.write(folder)
    path = folder / "manifest-0.json"
    for bit in random.Random(2).sample(range(8 * path.stat().st_size), 200):
        _flip(path, bit)
        assert any("manifest-0.json is damaged" in line for line in manifest.verify(folder)), bit
        _flip(path, bit)


def test_a_shorter_a_longer_a_missing_and_an_added_file_are_named(folder):
    manifest.write(folder)
    (folder / "params/d/a").write_bytes((folder / "params/d/a").read_bytes()[:-1])
    (folder / "about").write_bytes((folder / "about").read_bytes() + b"x")
    (folder / "params/d/b").unlink()
    (folder / "params/d/new").write_bytes(b"x")
    complaints = manifest.verify(folder)
    assert len(complaints) == 4
    for name, word in {"a": "999 bytes", "b": "missing", "new": "not in the manifest"}.items():
        assert any(f"params/d/{name}" in line and word in line for line in complaints)
    assert any("about has 21 bytes" in line for line in complaints)


def test_without_a_manifest_it_is_not_whole(folder):
    assert "manifest-0.json" in manifest.verify(folder)[0]
    assert not manifest.complete(folder)
    manifest.write(folder)
    manifest.withdraw(folder)
    assert not manifest.complete(folder)


def test_a_folder_that_is_not_there_is_not_whole(folder):
    assert manifest.verify(folder / "nowhere")


def test_each_process_writes_its_share_and_one_missing_part_is_named(folder):
    for process in (0, 2):
        manifest.write(folder, process, 3)
    (complaint,) = [line for line in manifest.verify(folder) if "manifest" in line]
    assert "manifest-1.json is missing" in complaint
    manifest.write(folder, 1, 3)
    assert manifest.verify(folder) == []
    shares = [
        {name for name in manifest.recorded(folder) if f'"{name}"'.encode() in (folder / f"manifest-{i}.json").read_bytes()}
        for i in range(3)
    ]
    assert sorted(map(len, shares)) == [1, 2, 2]
    assert not shares[0] & shares[1] and not shares[1] & shares[2]


def test_processes_that_saw_different_files_are_found_out(folder):
    manifest.write(folder, 0, 2)
    (folder / "zz").write_bytes(b"late")
    manifest.write(folder, 1, 2)
    assert any("disagree" in line for line in manifest.verify(folder))


def test_readers_that_share_the_work_find_the_damage_once(folder):
    manifest.write(folder)
    _flip(folder / "optimizer/d/c", 4321)
    complaints = [line for process in range(2) for line in manifest.verify(folder, None, process, 2)]
    assert len(complaints) == 1 and "optimizer/d/c" in complaints[0]


def test_only_the_items_asked_for_are_read(folder):
    manifest.write(folder)
    _flip(folder / "optimizer/d/c", 0)
    assert manifest.verify(folder, ["params"]) == []
    assert manifest.verify(folder, ["optimizer"])


def test_measuring_copies_on_the_way(folder, tmp_path):
    entry = manifest.measure(folder / "params/d/a", copy=tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (folder / "params/d/a").read_bytes()
    assert entry == manifest.measure(UPath(tmp_path / "copy"))
    assert entry.size == 1000

"""Manifests: what a committed checkpoint consists of, so that a missing, cut or altered file is noticed.

After the commit each process writes `manifest-<process>.json` with size and CRC-32 of its share of the files: file i of
the sorted list belongs to process i mod count. A CRC-32 finds every single flipped bit (and every burst up to 32 bits). A
manifest carries the checksum of its own content, so damage to it is noticed too.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import re
import zlib
from collections.abc import Collection

from upath import UPath

from jaxgen import run

_NAME = re.compile(r"manifest-(\d+)\.json")
# Large enough that threads hash (and wait for a remote store) outside the interpreter's lock nearly all the time.
_CHUNK_BYTES = 4 << 20
_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a file must be: `size` in bytes and `checksum`, the CRC-32 of its content."""

    size: int
    checksum: int


def write(folder: UPath, process: int = 0, processes: int = 1, into: UPath | None = None) -> None:
    """Writes the manifest of this process's share of the files below `folder`.

    Args:
      folder: a committed checkpoint.
      process: index of this process, below `processes`.
      processes: how many processes write manifests for this checkpoint; all must see the same files.
      into: folder to write the manifest to, where `folder` was copied; None is `folder` itself.

    Raises:
      OSError: a file cannot be read or the manifest cannot be written.
    """
    listed = sorted(_sizes(folder))
    mine = listed[process::processes]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        entries = dict(zip(mine, pool.map(lambda name: measure(folder / name), mine)))
    run.write_whole((into or folder) / f"manifest-{process}.json", _render(process, processes, len(listed), entries))


def measure(path: UPath, copy: pathlib.Path | None = None) -> Entry:
    """Size and checksum of a file, which is also written to the local path `copy` on the way where one is given."""
    size = checksum = 0
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(path.open("rb"))
        target = stack.enter_context(copy.open("wb")) if copy else None
        while chunk := source.read(_CHUNK_BYTES):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            if target:
                target.write(chunk)
    return Entry(size, checksum)


def complete(folder: UPath) -> bool:
    """True where every process's manifest is there and sound; the files that they list are not looked at."""
    return not _read(folder)[1]


def withdraw(folder: UPath) -> None:
    """Deletes the manifests of a checkpoint, which is not whole from then on."""
    for path in _children(folder):
        if _NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def delete(folder: UPath) -> None:
    """Deletes a checkpoint, manifests first: cut off in between, it is not whole."""
    withdraw(folder)
    folder.fs.rm(folder.path, recursive=True)


def names(folder: UPath) -> list[str]:
    """Names of what lies in a folder, as the store says now; none where it does not exist."""
    return [path.name for path in _children(folder)]


def begun(folder: UPath) -> bool:
    """Whether a manifest is there, sound or not: the checkpoint was whole once."""
    return any(_NAME.fullmatch(path.name) for path in _children(folder))


def recorded(folder: UPath) -> dict[str, Entry]:
    """The files that the manifests list, by path below `folder`; what is damaged or missing is left out."""
    return _read(folder)[0]


def verify(folder: UPath, items: Collection[str] | None = None, process: int = 0, processes: int = 1) -> list[str]:
    """Complaints about a checkpoint, each naming the file; none where it is whole.

    Every file is looked up and its size compared; checksums are read of this process's share of the files, so the
    complaints of all processes together cover the checkpoint.

    Args:
      folder: the checkpoint of one step.
      items: look only at files in these folders of the checkpoint; None looks at everything.
      process: index of this process, below `processes`.
      processes: how many processes share the reading, now; it need not be the number that wrote.
    """
    entries, complaints = _read(folder)
    sizes = _sizes(folder)
    if not sizes and not entries:
        return complaints
    if items is not None:
        entries = {name: entry for name, entry in entries.items() if name.partition("/")[0] in items}
        sizes = {name: size for name, size in sizes.items() if name.partition("/")[0] in items}
    if not complaints:
        complaints += [f"{name} is not in the manifest" for name in sorted(sizes.keys() - entries.keys())]
    readable = []
    for name, entry in sorted(entries.items()):
        if name not in sizes:
            complaints.append(f"{name} is missing")
        elif sizes[name] != entry.size:
            complaints.append(f"{name} has {sizes[name]} bytes, the manifest says {entry.size}")
        else:
            readable.append(name)

    def altered(name: str) -> str | None:
        # Any other error is the store's, perhaps for a moment: calling the file damaged would have the checkpoint replaced.
        try:
            found = measure(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        return difference(name, found, entries[name])

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        complaints += filter(None, pool.map(altered, readable[process::processes]))
    return complaints


def difference(name: str, found: Entry, needed: Entry) -> str | None:
    """Complaint about a file whose content is not the recorded one; None where it is."""
    if found == needed:
        return None
    return (
        f"{name} has checksum {found.checksum:08x} over {found.size} bytes,"
        f" the manifest says {needed.checksum:08x} over {needed.size}"
    )


def _sizes(folder: UPath) -> dict[str, int]:
    """Bytes of each file below `folder`, manifests aside, finished or not, by path below it."""
    _forget_listings(folder)
    root = folder.path.rstrip("/") + "/"
    found = {path.removeprefix(root): facts["size"] for path, facts in folder.fs.find(folder.path, detail=True).items()}
    # Another process may be writing its manifest at this moment.
    return {name: size for name, size in found.items() if not _NAME.fullmatch(run.being_written(name) or name)}


def _read(folder: UPath) -> tuple[dict[str, Entry], list[str]]:
    """What all manifests of a checkpoint list, and complaints about the manifests themselves."""
    parts: dict[int, tuple[int, int, dict[str, Entry]]] = {}
    complaints: list[str] = []
    paths = {int(match[1]): path for path in _children(folder) if (match := _NAME.fullmatch(path.name))}
    for index, path in sorted(paths.items()):
        try:
            raw = path.read_bytes()
            part = json.loads(raw)
            entries = {name: Entry(*facts) for name, facts in part["files"].items()}
            sound = raw == _render(index, part["processes"], part["total"], entries)
        # Damage can make anything of a JSON text: another type, another key, invalid UTF-8.
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if sound:
            parts[index] = (part["processes"], part["total"], entries)
        else:
            complaints.append(f"{path.name} is damaged")
    if not paths:
        return {}, ["manifest-0.json is missing: the checkpoint was not completed"]
    merged = {name: entry for _, _, entries in parts.values() for name, entry in entries.items()}
    shapes = {(processes, total) for processes, total, _ in parts.values()}
    if len(shapes) > 1:
        complaints.append(f"the manifests disagree on processes and files: {sorted(shapes)}")
    for processes, total in shapes:
        complaints += [f"manifest-{i}.json is missing" for i in range(processes) if i not in paths]
        if len(parts) == processes and len(merged) != total:
            complaints.append(f"the manifests list {len(merged)} files where the checkpoint had {total}")
    return merged, complaints


def _forget_listings(folder: UPath) -> None:
    """Makes the next look at the folder a look at the store: remote file systems remember listings."""
    folder.fs.invalidate_cache()


def _children(folder: UPath) -> list[UPath]:
    _forget_listings(folder)
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _render(process: int, processes: int, total: int, entries: dict[str, Entry]) -> bytes:
    """The one way to write a manifest: reading and rendering again must give the same bytes."""
    files = {name: [entry.size, entry.checksum] for name, entry in sorted(entries.items())}
    body = {"process": process, "processes": processes, "total": total, "files": files}
    checksum = zlib.crc32(json.dumps(body).encode())
    return json.dumps({"checksum": checksum} | body).encode()

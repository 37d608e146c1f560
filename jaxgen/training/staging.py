"""Checkpoints on stores that TensorStore cannot write: files pass through a local folder, whole, in both directions.

TensorStore writes local disks, gs:// and s3:// itself. For any other fsspec store Orbax works in a temporary folder: after
its commit the files are uploaded, and the manifest follows last; before a restore the items asked for are downloaded and
compared with the manifest on the way.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import tempfile
from collections.abc import Collection, Iterator

from upath import UPath

from jaxgen import run, types
from jaxgen.training import manifest

_TENSORSTORE_SCHEMES = ("gs", "s3")
# Enough to hide the latency of a store; more would only hold more connections open.
_THREADS = 8


def needed(folder: UPath) -> bool:
    """True for a folder on a store that TensorStore cannot write."""
    return not run.is_local(folder) and folder.protocol not in _TENSORSTORE_SCHEMES


def upload(source: pathlib.Path, target: UPath) -> None:
    """Copies all files below `source` to the same paths below `target`.

    Raises:
      OSError: a file cannot be written; what was uploaded before stays, without a manifest.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())

    def copy(path: pathlib.Path) -> None:
        remote = target / path.relative_to(source).as_posix()
        remote.parent.mkdir(parents=True, exist_ok=True)
        remote.fs.put_file(str(path), remote.path)

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, files))


@contextlib.contextmanager
def readable(folder: UPath, items: Collection[str]) -> Iterator[str]:
    """A folder that TensorStore can read with these items of the checkpoint `folder`: itself, or a copy while in use.

    Raises:
      BadInput: a file that had to be copied is missing or differs from the manifest.
    """
    if not needed(folder):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory(prefix="jaxgen-restore-") as temporary:
        _download(folder, items, pathlib.Path(temporary))
        yield temporary


def _download(source: UPath, items: Collection[str], target: pathlib.Path) -> None:
    entries = {name: entry for name, entry in manifest.recorded(source).items() if name.partition("/")[0] in items}

    def copy(name: str) -> str | None:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return manifest.difference(name, manifest.measure(source / name, copy=path), entries[name])
        except FileNotFoundError:
            return f"{name} is missing"

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        complaints = [complaint for complaint in pool.map(copy, entries) if complaint]
    if complaints:
        raise types.BadInput("checkpoints", f"{source}: {complaints[0]}", "a checkpoint as it was written")

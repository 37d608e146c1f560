"""The code as one file that is named by its content: shipped once, and a restart runs what the first start ran."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
import zlib

from jaxgen import bad_input


def pack(root: pathlib.Path) -> bytes:
    """A tar.gz of the files of a git work tree: tracked ones and new ones that git does not ignore, as they are on the disk.

    The same names, contents and executable bits give the same content, whoever packs and whenever.

    Raises:
      BadInput: not a git work tree.
    """
    listing = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=False
    )
    if listing.returncode:
        raise bad_input.BadInput("the code", str(root), f"a git work tree ({listing.stderr.decode().strip()})")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(set(filter(None, listing.stdout.split(b"\0")))):
            _add(tar, root, os.fsdecode(name))
    return gzip.compress(buffer.getvalue(), compresslevel=6, mtime=0)


def digest(data: bytes) -> str:
    """The name of an archive: SHA-256, hexadecimal, of what it holds before compression, in which versions of zlib differ.

    Raises:
      BadInput: not an archive, or a part of one.
    """
    try:
        return hashlib.sha256(gzip.decompress(data)).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise bad_input.BadInput(
            "--code", f"a file that is no whole archive ({error})", "an archive named at an earlier start"
        ) from error


def folder() -> pathlib.Path:
    """Where archives are kept on this machine."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxgen" / "code"


def keep(data: bytes) -> pathlib.Path:
    """Writes an archive under its name where it is missing, and returns the file."""
    path = folder() / f"{digest(data)}.tar.gz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(data)
        part.replace(path)
    return path


def read(path: pathlib.Path) -> bytes:
    """An archive that was kept.

    Raises:
      BadInput: it is missing, or its content is not what its name says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise bad_input.BadInput("--code", str(path), f"an archive that an earlier start has named ({error.strerror})") from error
    if path.name != f"{digest(data)}.tar.gz":
        raise bad_input.BadInput("--code", str(path), f"an archive named by its content, {digest(data)}.tar.gz")
    return data


def _add(tar: tarfile.TarFile, root: pathlib.Path, name: str) -> None:
    path = root / name
    entry = tarfile.TarInfo(name)
    if path.is_symlink():
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
        tar.addfile(entry)
    elif path.is_file():
        data = path.read_bytes()
        entry.size, entry.mode = len(data), 0o755 if path.stat().st_mode & 0o100 else 0o644
        tar.addfile(entry, io.BytesIO(data))
    # Otherwise it is deleted and not committed yet, or a repository within this one.

"""The run folder: every path of one run, on a local disk or at any URL that fsspec knows (gs://, s3://, memory://, ...).

`Run` is the only place that names what lies in a run. Paths are `upath.UPath`; a local one is also a `pathlib.Path`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import uuid

from upath import UPath

from jaxgen import types

_OPTION = "run"
# The other name under which `write_whole` writes on a local disk.
_BEING_WRITTEN = re.compile(r"\.(.+)\.[0-9a-f]{32}")


class Run:
    """One training run, as one folder.

    Args:
      path: a local path (`~` is expanded, a relative path becomes absolute) or a URL.

    Attributes:
      root: the folder.

    Raises:
      BadInput: a URL whose scheme is unknown or whose fsspec package is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]):
        try:
            root = UPath(path)
            if root.protocol in ("file", "local"):
                root = UPath(root.path)
            # Asking for the file system here reports a missing package now and not in the middle of a run.
            _ = root.fs
        except (ImportError, ValueError) as error:
            raise types.BadInput(_OPTION, str(path), f"a local folder or a URL that fsspec opens ({error})") from error
        self.root: UPath = root.expanduser().absolute() if is_local(root) else root

    def __repr__(self) -> str:
        return f"Run({str(self.root)!r})"

    @property
    def experiment(self) -> UPath:
        """The resolved experiment, JSON."""
        return self.root / "experiment.json"

    @property
    def metrics(self) -> UPath:
        """One JSON object a logged step."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> UPath:
        """Folder of checkpoints, one folder a step, named by the number."""
        return self.root / "checkpoints"

    @property
    def samples(self) -> UPath:
        """Folder of pictures drawn during training or by `jaxgen sample`."""
        return self.root / "samples"

    @property
    def evaluation(self) -> UPath:
        """Folder of scores and reports."""
        return self.root / "evaluation"

    @property
    def profile(self) -> UPath:
        """Folder of traces."""
        return self.root / "profile"

    @property
    def tensorboard(self) -> UPath:
        """Folder of TensorBoard event files."""
        return self.root / "tensorboard"

    def exists(self) -> bool:
        """True where the folder holds an experiment, so that it can be continued, sampled or evaluated."""
        return self.experiment.is_file()

    def require(self) -> Run:
        """The run itself.

        Raises:
          BadInput: the folder does not exist or holds no experiment.
        """
        if not self.root.is_dir():
            raise types.BadInput(_OPTION, f"{self.root}, which is not there", "the folder of a run")
        if not self.exists():
            raise types.BadInput(_OPTION, f"{self.root} without {self.experiment.name}", "the folder of a run")
        return self

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Takes the run for this process until the context is left or the process ends, on a local disk; elsewhere does nothing.

        Raises:
          BadInput: another process has it; two that train the same run would delete each other's checkpoints.
        """
        if not is_local(self.root):
            return contextlib.nullcontext()
        stream = (self.root / ".lock").open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            raise types.BadInput(_OPTION, str(self.root), "a run that no other process is training now") from error
        return contextlib.closing(stream)

    def create(self) -> Run:
        """Makes the folder where it is missing, writes and removes a small file in it, and returns the run.

        Raises:
          BadInput: the folder cannot be made or written.
        """
        # A name of its own: hosts that share the folder try it at the same time.
        probe = self.root / f".writable-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_whole(probe, b"jaxgen")
            probe.unlink()
        # Remote file systems raise errors of their own, which are not all OSErrors.
        except Exception as error:
            raise types.BadInput(_OPTION, str(self.root), f"a folder that can be written ({error})") from error
        return self


def is_local(path: UPath) -> bool:
    """True for a path on a disk of this machine, or mounted like one."""
    return isinstance(path, pathlib.Path)


def being_written(name: str) -> str | None:
    """Of a file of this name, which `write_whole` is writing (or was when it was killed): its name to be; None for any other."""
    match = _BEING_WRITTEN.fullmatch(name)
    return match[1] if match else None


def write_whole(path: UPath, data: bytes) -> None:
    """Writes `data` as the whole content of `path`; its folder is made where it is missing.

    On a local disk a reader sees the old content or the new, never a part, and the new one is on the disk on return.
    Elsewhere it is a single write, which object stores publish whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself lasts only once the folder is on the disk.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

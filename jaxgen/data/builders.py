"""Where the data sets that come with the package lie, and how they are written there once, through TFDS without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from jaxgen import types

_log = logging.getLogger(__name__)


def check(directory: str) -> None:
    """Raises BadInput for a directory that is not on a local disk."""
    if "://" in directory:
        raise types.BadInput("source.directory", directory, "a local folder")


@contextlib.contextmanager
def opened(make: Callable[[], type], directory: str, split: str, config: str | None = None) -> Iterator[Any]:
    """The TFDS builder of a data set, which is written first where it is not there yet; quiet while the context lasts.

    Safe for processes that start at once: each writes aside, and the first to finish puts its copy in place by one
    rename.

    Args:
      make: returns the builder's class; called here because TFDS is imported only when a source is opened.
      directory: folder of data sets; empty takes $TFDS_DATA_DIR where that is a local folder, else ~/.cache/jaxgen/tfds.
      split: named in the log.
      config: name of the builder's configuration, where it has several.

    Raises:
      BadInput: a folder that cannot be written or read.
    """
    usual = os.environ.get("TFDS_DATA_DIR", "")
    folder = pathlib.Path(directory or ("" if "://" in usual else usual) or "~/.cache/jaxgen/tfds").expanduser()
    try:
        with _quiet():
            import tensorflow_datasets as tfds

            chosen = None if config is None else tfds.core.BuilderConfig(name=config)
            build = lambda where: make()(data_dir=str(where), file_format="array_record", config=chosen)
            yield _prepared(build, folder, split)
    except OSError as error:
        raise types.BadInput("source.directory", str(folder), f"a folder to write and read ({error})") from error


def _prepared(build: Callable[[Any], Any], folder: pathlib.Path, split: str) -> Any:
    builder = build(folder)
    _log.info("reading %s, split %s, from %s", builder.info.full_name, split, folder)
    final = pathlib.Path(builder.data_dir)
    if final.exists():
        return builder
    final.parent.mkdir(parents=True, exist_ok=True)
    _log.info("writing %s", final)
    with tempfile.TemporaryDirectory(prefix="writing-", dir=folder) as aside:
        # It announces itself on the standard output, which belongs to the program's own.
        with contextlib.redirect_stdout(io.StringIO()):
            build(aside).download_and_prepare()
        try:
            os.rename(pathlib.Path(aside) / final.relative_to(folder), final)
        except OSError:
            if not final.exists():
                raise
    return build(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS from announcing what it writes and reads: progress bars, and what absl logs below an error."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl.setLevel(level)

"""Samples of an evaluation on disk, written part by part, so that a killed one goes on where it stopped.

A sample depends on its number alone, so parts can be drawn in any order, on any number of devices. When all are there they become
one file with the key `arr_0` (uint8 NHWC), which other evaluators of generative models read.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import numpy as np
import tqdm
import upath

from jaxgen import run

_log = logging.getLogger(__name__)

Drawing = Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Places [n] among the samples -> pictures uint8 [m, H, W, C] and whether each was finite, bool [m], until all n are there."""


def draw(path: upath.UPath, count: int, part: int, drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    """Samples uint8 [count, H, W, C] and whether each was finite, bool [count]: read from `path`, or drawn and written there.

    Args:
      path: of the whole, .npz; parts lie beside it in a folder of its name without the ending, until all are there. The name has to
        tell apart whatever makes samples differ.
      part: samples in a file, the same on any number of devices.
    """
    whole = _read(path, count)
    if whole is not None:
        return whole
    folder = path.with_suffix("")
    parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    starts = range(0, count, part)
    size = {start: min(part, count - start) for start in starts}
    for start in starts:
        found = _read(_part(folder, start), size[start])
        if found is not None:
            parts[start] = found
    missing = [start for start in starts if start not in parts]
    if parts:
        _log.info("%d of %d samples are there already: %s", sum(size[start] for start in parts), count, folder)
    with tqdm.tqdm(
        total=count, initial=sum(size[s] for s in parts), desc="sampling", unit="image", disable=None, leave=False
    ) as bar:
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        places = np.concatenate([np.arange(start, start + size[start]) for start in missing] or [np.arange(0)])
        for images, finite in drawing(places) if missing else ():
            waiting.append((images, finite))
            bar.update(len(images))
            images, finite = (np.concatenate(arrays) for arrays in zip(*waiting, strict=True))
            while missing and len(images) >= size[missing[0]]:
                start = missing.pop(0)
                parts[start] = images[: size[start]], finite[: size[start]]
                _write(_part(folder, start), *parts[start])
                images, finite = images[size[start] :], finite[size[start] :]
            waiting = [(images, finite)]
    images, finite = (np.concatenate(arrays) for arrays in zip(*(parts[start] for start in starts), strict=True))
    _write(path, images, finite)
    for start in starts:
        _part(folder, start).unlink(missing_ok=True)
    if run.is_local(folder):
        folder.rmdir()
    return images, finite


def _part(folder: upath.UPath, start: int) -> upath.UPath:
    return folder / f"{start:08d}.npz"


def _write(path: upath.UPath, images: np.ndarray, finite: np.ndarray) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, arr_0=images, finite=finite)
    run.write_whole(path, data.getvalue())


def _read(path: upath.UPath, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What a file holds; None where it is not there or not whole, which is logged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            images, finite = saved["arr_0"], saved["finite"]
    # A damaged archive raises errors of zipfile, zlib and NumPy.
    except Exception as error:
        _log.warning("%s is damaged (%s) and is drawn again", path, error)
        return None
    return (images, finite) if len(images) == len(finite) == count else None

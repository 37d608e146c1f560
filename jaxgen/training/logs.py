"""What a run measured, step by step: `metrics.jsonl`, one JSON object a row, and TensorBoard curves.

Floats are written in the shortest form that reads back to the same number; what is not finite is null, which JSON has
and NaN is not. Only process 0 writes either.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import tensorboardX

from jaxgen import run

_LOG = logging.getLogger(__name__)
# On a store without append each write rewrites the file, so writes are at least this far apart.
_REWRITE_SECONDS = 30.0

Row = dict[str, Any]


class MetricsLog:
    """Rows of `metrics.jsonl`.

    On a local disk a row is handed to the system when it is written. On other stores rows gather, and the file is rewritten
    whole when half a minute has passed since the last time, on `flush` and on `close`.
    """

    def __init__(self, of: run.Run):
        self._path = of.metrics
        self._local = run.is_local(self._path)
        self._file: BinaryIO | None = None
        self._lines: list[bytes] | None = None
        self._rewritten = -math.inf

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the row `{"step": step, **values}`; values are numbers (Python's or NumPy scalars), strings or None."""
        line = _line({"step": step} | {name: _plain(value) for name, value in values.items()})
        if self._local:
            if self._file is None:
                self._cut_torn_line()
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab")
            self._file.write(line)
            self._file.flush()
            return
        if self._lines is None:
            self._lines = [_line(row) for row in self.rows()]
        self._lines.append(line)
        if time.monotonic() - self._rewritten >= _REWRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Makes all rows readable by others; to be called with each checkpoint, before the process may end."""
        if self._lines is not None:
            run.write_whole(self._path, b"".join(self._lines))
            self._rewritten = time.monotonic()

    def rows(self) -> list[Row]:
        """The rows of the file, in order; a last line that a kill cut off is left out.

        Raises:
          ValueError: a line before the last is not a JSON object; names file and line.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        # Every whole line ends with a newline, so what follows the last newline is cut off, even where it parses.
        rows = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{self._path}, line {number}: found {line[:80]!r}, needed JSON") from error
            if not isinstance(row, dict):
                raise ValueError(f"{self._path}, line {number}: found {line[:80]!r}, needed a JSON object")
            rows.append(row)
        return rows

    def cut_to(self, step: int) -> None:
        """Drops rows of steps after `step`, and a line that a kill cut off; the file is replaced in one go."""
        self.close()
        if self._path.is_file():
            kept = [row for row in self.rows() if row["step"] <= step]
            run.write_whole(self._path, b"".join(map(_line, kept)))

    def close(self) -> None:
        """Writes what is left and closes the file; a later `write` opens it again."""
        self.flush()
        self._lines = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _cut_torn_line(self) -> None:
        """Without this the first new row would be glued to a line that a kill cut off."""
        if self._path.is_file() and not _ends_whole(self._path.read_bytes()):
            run.write_whole(self._path, b"".join(map(_line, self.rows())))


class Curves:
    """TensorBoard curves of a run on a local disk; elsewhere nothing is written, which is logged once.

    Args:
      of: the run.
      resumed: the step that the run goes on from, whose later points TensorBoard is told to drop; None for a new run.
    """

    def __init__(self, of: run.Run, resumed: int | None = None):
        self._writer: tensorboardX.SummaryWriter | None = None
        if run.is_local(of.tensorboard):
            purge, suffix = (None, "") if resumed is None else (resumed + 1, f".resumed-{resumed}")
            # Files are named by the second; without the suffix a quick restart would overwrite the last one's.
            self._writer = tensorboardX.SummaryWriter(str(of.tensorboard), purge_step=purge, filename_suffix=suffix)
        else:
            _LOG.info("TensorBoard curves are written on local disks alone; %s has the same numbers", of.metrics)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds a point to the curve of each value that is a number."""
        if self._writer is None:
            return
        for name, value in values.items():
            value = _plain(value)
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left and closes the event file."""
        if self._writer is not None:
            self._writer.close()


def _plain(value: Any) -> Any:
    """Python's form of a NumPy scalar; None for a number that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _ends_whole(data: bytes) -> bool:
    return not data or data.endswith(b"\n")

"""A trace of a few steps, for xprof, TensorBoard and Perfetto."""

from __future__ import annotations

import logging
import pathlib
import tempfile

import jax
from upath import UPath

from jaxgen import run
from jaxgen.training import staging
from jaxgen.training.state import State

log = logging.getLogger(__name__)


class Profile:
    """Traces steps `first` to `last`, both included, as the log counts them (from 1). A context: leaving it ends a trace that runs.

    Args:
      folder: takes `plugins/profile/TIME` with HOST.xplane.pb (xprof, TensorBoard) and perfetto_trace.json.gz (ui.perfetto.dev).
    """

    def __init__(self, first: int, last: int, folder: UPath) -> None:
        self._first, self._last, self._folder = first, last, folder
        self._written: str | None = None
        self._local: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._written is not None:
            self._stop()

    def before(self, number: int, state: State) -> None:
        """To be called before step `number`. Waits for the steps that came before the first to be traced."""
        if number == self._first:
            jax.block_until_ready(state)
            if not run.is_local(self._folder):
                self._local = tempfile.TemporaryDirectory(prefix="jaxgen-profile-")
            self._written = self._local.name if self._local else str(self._folder)
            jax.profiler.start_trace(self._written, create_perfetto_trace=True)

    def after(self, number: int, state: State) -> None:
        """To be called after step `number`. Waits for the last step to be traced."""
        if number == self._last and self._written is not None:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        written, self._written = self._written, None
        jax.profiler.stop_trace()
        if self._local is not None:
            staging.upload(pathlib.Path(written), self._folder)
            self._local.cleanup()
        log.info("traced steps %d to %d: %s", self._first, self._last, self._folder)

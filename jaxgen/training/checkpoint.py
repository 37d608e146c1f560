"""Checkpoints: saved in the background, verified file by file, read item by item onto any layout.

A checkpoint of step s is the folder `checkpoints/<s>` with one folder an item: `params.<player>`, `ema.<decay>.<player>`,
`optimizer.<player>`, `memory` (trees of arrays) and `position`, `about` (JSON). Within an item arrays are keyed by their
path in the tree (`jaxgen.training.leaves`) and come back in the structure of the reader's tree.

Orbax writes a step under another name and renames it, or marks it at the end; then each host adds its manifest
(`jaxgen.training.manifest`). A step is whole where the manifests verify: whatever a kill leaves behind does not.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from upath import UPath

from jaxgen import run, types
from jaxgen.parallel.hosts import Hosts
from jaxgen.training import leaves, manifest, staging

_JSON_ITEMS = ("position", "about")
# The file that Orbax's JSON handler writes inside an item.
_JSON_FILE = "metadata"
# How long hosts wait for each other's part of a save before it fails.
_COMMIT_SECONDS = 1800
_SHOWN = 3
_GATHERED = 4096


class Checkpoints:
    """The checkpoints of a run.

    With several hosts all methods that write, verify or restore are called by all of them, in the same order.

    Args:
      of: the run.
      keep: how many whole checkpoints `save` leaves; None keeps all.
      hosts: all hosts of the job; by default this is the only one.

    Raises:
      BadInput: `keep` below 1, or several hosts on a store that only one can write.
    """

    def __init__(self, of: run.Run, keep: int | None = None, hosts: Hosts | None = None):
        if keep is not None and keep < 1:
            raise types.BadInput("keep", keep, "at least 1")
        self._folder = of.checkpoints
        self._keep = keep
        self._hosts = hosts or Hosts()
        self._staged = staging.needed(self._folder)
        if self._staged and self._hosts.count > 1:
            needed = f"a shared disk, gs:// or s3://: {self._folder.protocol}:// serves one host and there are {self._hosts.count}"
            raise types.BadInput("run", str(of.root), needed)
        self._manager: ocp.CheckpointManager | None = None
        self._manager_items: frozenset[str] = frozenset()
        self._stage: tempfile.TemporaryDirectory[str] | None = None
        self._background = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._newest_saved: int | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, step: int, items: Mapping[str, types.PyTree], position: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Saves a checkpoint; returns once the arrays may be donated or deleted, while writing goes on.

        The save before is waited for. A step that was saved last is not saved again.

        Args:
          step: number of the step, not negative.
          items: trees of `jax.Array` by item name. Names have no "/", which Orbax would take for folders.
          position: where the data stand (step and fingerprint of the source); JSON.
          about: what the reader must know (layout, versions, hashes); JSON.

        Raises:
          BadInput: the step is in the folder already.
          TypeError: a leaf is not a `jax.Array`, or is a typed random key.
          ValueError: `hosts` are not the job's.
          Exception: whatever the save before failed with, in the background.
        """
        self.wait()
        if step == self._newest_saved:
            return
        if (self._folder / str(step)).exists():
            raise types.BadInput("checkpoints", f"step {step}, already saved", "a step newer than all that are saved")
        arrays = {item: leaves.arrays(item, tree) for item, tree in items.items()}
        arguments: dict[str, Any] = {}
        for item, tree in arrays.items():
            # Orbax refuses empty arrays and items without arrays; the description knows of them.
            if stored := {name: leaf for name, leaf in tree.items() if leaf.size}:
                arguments[item] = ocp.args.PyTreeSave(stored)
        for item, value in zip(_JSON_ITEMS, (dict(position), leaves.describe(arrays, about))):
            # A copy: the caller may change its dictionaries before they are written.
            arguments[item] = ocp.args.JsonSave(json.loads(json.dumps(value, allow_nan=False)))
        manager = self._writer(frozenset(arguments))
        # On CPU Orbax writes from the arrays' own memory. That is safe: JAX does not donate memory that NumPy looks at.
        manager.save(step, args=ocp.args.Composite(**arguments), force=True)
        self._newest_saved = step
        self._pending = self._background.submit(self._finish, manager, step)

    def wait(self) -> None:
        """Returns when the last save, if any, is committed with this host's manifest and older ones are retired.

        Raises:
          Exception: whatever that save failed with.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except BaseException as error:
            error.add_note(f"while saving checkpoint {self._newest_saved} in {self._folder}")
            self._newest_saved = None
            # Orbax raises an error once in each thread that waits; it was raised in the background and is here.
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()
            raise

    def close(self) -> None:
        """Waits like `wait`, then frees threads and temporary folders. Nothing can be saved afterwards."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            if self._manager is not None:
                self._manager.close()
            if self._stage is not None:
                self._stage.cleanup()

    def steps(self) -> list[int]:
        """Steps that have a folder, ascending, whole or not."""
        return sorted(int(name) for name in self._names() if name.isdigit())

    def newest_whole(self, report: Callable[[str], None], items: Collection[str] | None = None) -> int | None:
        """The newest step whose files are all there and unaltered; None where there is none.

        Args:
          report: called with one line about each newer checkpoint that is not whole, naming it, a file and the reason.
          items: verify these items (with `position` and `about`) alone; None verifies all.
        """
        self.wait()
        wanted = None if items is None else {*items, *_JSON_ITEMS}
        # What host 0 lists: on some stores others may see it a little later.
        names = self._hosts.gather("listed checkpoints", "\n".join(self._names()), _COMMIT_SECONDS)[0].splitlines()
        started = [(int(name.partition(".")[0]), name) for name in names if name.partition(".")[0].isdigit()]
        for step, name in sorted(started, reverse=True):
            if not name.isdigit():
                report(f"checkpoint {name} is not committed: it is being written, or writing it was cut off")
                continue
            complaints = manifest.verify(self._folder / name, wanted, self._hosts.index, self._hosts.count)
            # A few kilobytes of complaints from each are enough for all to come to one verdict.
            gathered = self._hosts.gather("verified checkpoints", "\n".join(complaints)[:_GATHERED], _COMMIT_SECONDS)
            complaints = list(dict.fromkeys(line for text in gathered for line in text.splitlines()))
            if not complaints:
                return step
            report(f"checkpoint {name} is not whole: {_shown(complaints)}")
        return None

    def discard_newer(self, step: int | None) -> None:
        """Deletes what is newer than `step`, so that these steps can be saved again; None deletes everything."""
        self.wait()
        if self._hosts.first:
            for name in self._names():
                number = name.partition(".")[0]
                if number.isdigit() and (step is None or int(number) > step):
                    manifest.delete(self._folder / name)
        # A host that lists the folder before the deletion would refuse to save these steps.
        self._hosts.barrier("newer checkpoints are deleted", _COMMIT_SECONDS)
        self._newest_saved = None
        if self._manager is not None:
            self._manager.reload()

    def shapes(self, step: int, item: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each array of an item, by its path in the tree; no array is read.

        Raises:
          BadInput: the step or the item is not there.
        """
        saved = self._leaves(step)
        if item not in saved:
            raise types.BadInput("checkpoints", f"step {step} with {', '.join(sorted(saved))}", f"one with {item}")
        return saved[item]

    def check(self, step: int, targets: Mapping[str, types.PyTree]) -> None:
        """Compares items with what a reader expects, without reading arrays and without compiling.

        Args:
          step: the checkpoint.
          targets: trees of `jax.ShapeDtypeStruct` (or arrays) by item name; items not named are not looked at.

        Raises:
          BadInput: an item is missing or leaves are missing, extra, or of another shape or dtype; names the first few.
        """
        found, needed = leaves.differences(self._leaves(step), targets)
        if found:
            raise types.BadInput("checkpoints", f"step {step} with {_shown(found)}", _shown(needed))

    def restore(self, step: int, targets: Mapping[str, types.PyTree]) -> dict[str, types.PyTree]:
        """Reads items onto new layouts, bit for bit; files of other items are not touched.

        Args:
          step: the checkpoint, verified before by `newest_whole`.
          targets: trees of `jax.ShapeDtypeStruct` with a sharding, by item name. The layout at saving does not matter.

        Returns:
          Trees of `jax.Array` by item name, with the structure of `targets`.

        Raises:
          BadInput: as `check`; or, from a store that is downloaded first, a file is damaged.
          ValueError: a target has no sharding.
        """
        self.check(step, targets)
        wanted = {item: leaves.targets(item, tree) for item, tree in targets.items()}
        stored = {item: {name: leaf for name, leaf in tree.items() if leaf.size} for item, tree in wanted.items()}
        restored = {}
        with (
            staging.readable(self._folder / str(step), [item for item, tree in stored.items() if tree]) as folder,
            contextlib.closing(ocp.Checkpointer(_handler())) as reader,
        ):
            for item, tree in targets.items():
                arrays = {name: leaves.empty(leaf) for name, leaf in wanted[item].items() if not leaf.size}
                if stored[item]:
                    restore_args = ocp.checkpoint_utils.construct_restore_args(stored[item])
                    arguments = ocp.args.PyTreeRestore(item=stored[item], restore_args=restore_args)
                    arrays |= reader.restore(f"{folder}/{item}", args=arguments)
                structure = jax.tree.structure(tree)
                restored[item] = jax.tree.unflatten(structure, [arrays[name] for name in wanted[item]])
        return restored

    def read_about(self, step: int) -> dict[str, Any]:
        """What `save` was given as `about`.

        Raises:
          BadInput: the step is not there or its description cannot be read.
        """
        return self._json(step, "about")["about"]

    def read_position(self, step: int) -> dict[str, Any]:
        """What `save` was given as `position`.

        Raises:
          BadInput: the step is not there or its position cannot be read.
        """
        return self._json(step, "position")

    def _names(self) -> list[str]:
        return manifest.names(self._folder)

    def _writer(self, items: frozenset[str]) -> ocp.CheckpointManager:
        """The Orbax manager for these items; made at the first save, since readers must not clean the folder up."""
        if self._hosts.count != jax.process_count():
            raise ValueError(f"hosts: found {self._hosts.count}, and the job has {jax.process_count()}")
        if self._manager is None or items != self._manager_items:
            if self._manager is not None:
                self._manager.close()
            if self._staged and self._stage is None:
                self._stage = tempfile.TemporaryDirectory(prefix="jaxgen-checkpoint-")
            handlers = {item: ocp.JsonCheckpointHandler() if item in _JSON_ITEMS else _handler() for item in items}
            atomicity = ocp.options.AtomicityMode
            # Renaming a folder copies every object on an object store.
            renames = self._staged or run.is_local(self._folder)
            options = ocp.CheckpointManagerOptions(
                # Retention is `_retire`: Orbax would delete the last whole step before the new one has a manifest.
                max_to_keep=None,
                cleanup_tmp_directories=True,
                save_root_metadata=False,
                lightweight_initialize=True,
                async_options=ocp.AsyncOptions(timeout_secs=_COMMIT_SECONDS),
                atomicity_options=ocp.options.AtomicityOptions(mode=atomicity.ATOMIC_RENAME if renames else atomicity.COMMIT_FILE),
            )
            directory = self._stage.name if self._stage else str(self._folder)
            self._manager = ocp.CheckpointManager(directory, options=options, item_handlers=handlers)
            self._manager_items = items
        return self._manager

    def _finish(self, manager: ocp.CheckpointManager, step: int) -> None:
        """In the background: waits for the commit, adds the manifest, deletes what is too old."""
        manager.wait_until_finished()
        folder = self._folder / str(step)
        if self._stage is not None:
            local = pathlib.Path(self._stage.name) / str(step)
            staging.upload(local, folder)
            manifest.write(UPath(local), into=folder)
            shutil.rmtree(local)
        else:
            manifest.write(folder, self._hosts.index, self._hosts.count)
        if self._hosts.first and self._keep is not None:
            self._retire(self._keep)

    def _retire(self, keep: int) -> None:
        """Deletes all steps older than the newest `keep` whole ones, so those that are not whole do not count."""
        whole = 0
        for step in reversed(self.steps()):
            folder = self._folder / str(step)
            if whole == keep:
                manifest.delete(folder)
            else:
                whole += manifest.complete(folder)

    def _json(self, step: int, item: str) -> dict[str, Any]:
        path = self._folder / str(step) / item / _JSON_FILE
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError as error:
            steps = ", ".join(map(str, self.steps())) or "none"
            raise types.BadInput("checkpoints", f"no {path}", f"one of the saved steps ({steps})") from error
        except ValueError as error:
            raise types.BadInput("checkpoints", f"{path}, damaged ({error})", "JSON") from error

    def _leaves(self, step: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        return leaves.described(self._json(step, "about"))


def _handler() -> ocp.PyTreeCheckpointHandler:
    # Saving the replicas of an array in parallel would compile a slice for each shape on each device (16 programs for
    # two arrays on 8 devices) in the middle of training; one replica writes instead, in the background.
    arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _shown(lines: list[str]) -> str:
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more

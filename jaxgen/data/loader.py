"""Batches as global arrays, prepared ahead by a thread. The position is the step and nothing else."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxgen import types

_PATIENCE = 5.0


def batches(
    examples: types.Examples,
    features: Mapping[str, jax.ShapeDtypeStruct],
    batch_size: int,
    sharding: jax.sharding.NamedSharding,
    start_step: int,
    prefetch: int,
) -> Batches:
    """Endless iterator of (step, batch) from `start_step` on; row r of step s is row number s · batch_size + r.

    Each field is a global array [batch_size, ...]. A process reads the rows that lie on its devices, each of them once.

    Args:
      examples: the opened source.
      features: shape and dtype of each field of one example.
      batch_size: rows of a batch, over all processes together.
      sharding: splits axis 0 and nothing else; used for every field.
      start_step: the first step that is wanted.
      prefetch: batches that are prepared ahead, at least 1.

    Raises:
      BadInput: the batch does not divide among the devices, or nothing is to be prepared ahead.
    """
    if prefetch < 1:
        raise types.BadInput("data.prefetch", prefetch, "at least 1")
    shards = sharding.mesh.size // sharding.shard_shape((sharding.mesh.size,))[0]
    if batch_size % shards:
        raise types.BadInput("data.batch_size", batch_size, f"a multiple of {shards}, among which devices divide it")
    load = _Load(examples, dict(features), batch_size, sharding, host_rows(sharding, batch_size))
    return Batches(load, start_step, prefetch)


def host_rows(sharding: jax.sharding.Sharding, batch_size: int) -> np.ndarray:
    """The rows of a batch that lie on this process's devices, each once, ascending; int64."""
    shards = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[shard] for shard in shards]))


class Batches:
    """Iterator of (step, batch), and a context manager that closes itself.

    An error of the source is raised by `next` at the step that it belongs to, and again by every later `next`.

    Attributes:
      waited: seconds that `next` has waited for input, altogether.
    """

    def __init__(self, load: Callable[[int], types.Batch], start_step: int, prefetch: int):
        self.waited = 0.0
        self._ready: queue.SimpleQueue = queue.SimpleQueue()
        self._slots = threading.Semaphore(prefetch)
        self._stop = threading.Event()
        self._failure: Exception | None = None
        # The thread holds no reference to this object: one that is dropped unclosed is collected, and its thread ends; as it does
        # before the interpreter, which would be aborted by a thread that still makes arrays.
        arguments = (load, start_step, self._ready, self._slots, self._stop)
        thread = threading.Thread(target=_produce, args=arguments, name="batches", daemon=True)
        self._finish = weakref.finalize(self, _finish, self._stop, self._slots, thread)
        thread.start()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[int, types.Batch]:
        if self._failure is not None:
            raise self._failure
        if self._stop.is_set():
            raise StopIteration
        started = time.perf_counter()
        item = self._ready.get()
        self.waited += time.perf_counter() - started
        if item is None:
            raise StopIteration
        if isinstance(item, Exception):
            self._failure = item
            raise item
        self._slots.release()
        return item

    def close(self) -> None:
        """Ends the iterator and its thread; waits for a read under way, at most 5 s."""
        self._finish()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _finish(stop: threading.Event, slots: threading.Semaphore, thread: threading.Thread) -> None:
    stop.set()
    slots.release()
    if thread is not threading.current_thread():
        thread.join(_PATIENCE)


def _produce(
    load: Callable[[int], types.Batch],
    step: int,
    ready: queue.SimpleQueue,
    slots: threading.Semaphore,
    stop: threading.Event,
) -> None:
    try:
        while True:
            slots.acquire()
            if stop.is_set():
                break
            ready.put((step, load(step)))
            step += 1
    except Exception as error:
        ready.put(error)
    else:
        # A consumer that waits in another thread than the one that closed is let go.
        ready.put(None)


@dataclasses.dataclass(frozen=True)
class _Load:
    examples: types.Examples
    features: dict[str, jax.ShapeDtypeStruct]
    batch_size: int
    sharding: jax.sharding.NamedSharding
    rows: np.ndarray

    def __call__(self, step: int) -> types.Batch:
        found = self.examples.rows([step * self.batch_size + int(row) for row in self.rows])
        if set(found) != set(self.features):
            raise ValueError(f"fields: found {sorted(found)}, needed {sorted(self.features)}")
        return {name: self._place(name, found[name]) for name in self.features}

    def _place(self, name: str, values: np.ndarray) -> jax.Array:
        feature = self.features[name]
        needed = (len(self.rows), *feature.shape)
        if values.shape != needed or values.dtype != feature.dtype:
            raise ValueError(f"{name}: found {values.dtype}{values.shape}, needed {feature.dtype}{needed}")

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            # A shard's rows follow one another in the batch and are all read, so they do among the rows read as well.
            start, stop, _ = index[0].indices(self.batch_size)
            place = int(np.searchsorted(self.rows, start))
            return values[place : place + stop - start]

        # This transfer is meant, though JAX counts it as implicit; the training loop forbids those.
        with jax.transfer_guard_host_to_device("allow"):
            return jax.make_array_from_callback((self.batch_size, *feature.shape), self.sharding, shard)

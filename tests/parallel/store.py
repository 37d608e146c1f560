"""The runtime's key-value store, for hosts that are threads."""

import threading
import time

import jax


class Store:
    """As much of the client of `jax.distributed` as `jaxgen.parallel.hosts` uses."""

    def __init__(self, count):
        self.count, self.values, self.barriers = count, {}, {}
        self.changed = threading.Condition()

    def key_value_set(self, key, value):
        with self.changed:
            if key in self.values:
                raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: key {key}")
            self.values[key] = value
            self.changed.notify_all()

    def key_value_dir_get(self, key):
        with self.changed:
            return [(name, value) for name, value in self.values.items() if name.startswith(key)]

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self.values[key]

    def wait_at_barrier(self, name, milliseconds):
        with self.changed:
            self.barriers[name] = self.barriers.get(name, 0) + 1
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.barriers[name] == self.count, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {name}")


def wait(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

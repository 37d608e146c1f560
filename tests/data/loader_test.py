import gc
import threading
import time

import jax
import numpy as np
import pytest

from jaxgen import types
from jaxgen.data import loader, pipeline
from jaxgen.data.synthetic import Synthetic

DATA = pipeline.Data(source=Synthetic(count=50), batch_size=16)


def sharding(shape=(1, 2, 2, 1, 2)):
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    mesh = jax.sharding.Mesh(devices, ("slice", "data", "fsdp", "context", "tensor"))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("slice", "data", "fsdp")))


def opened(seed=0):
    return DATA.open("train", seed, shuffle=True)


def take(steps, start=0, where=None, seed=0):
    with loader.batches(opened(seed), DATA.features(), 16, where or sharding(), start, 2) as stream:
        return [next(stream) for _ in range(steps)]


class Recorder:
    """Examples that hold their row number, and remember which were asked for."""

    fingerprint = "recorder"
    features = {"number": jax.ShapeDtypeStruct((), np.int32), "image": jax.ShapeDtypeStruct((2, 3), np.float32)}

    def __init__(self, fails_at=None, seconds=0.0, fault=None):
        self.asked, self.fails_at, self.seconds, self.fault = [], fails_at, seconds, fault

    def __len__(self):
        return 1000

    def rows(self, numbers):
        time.sleep(self.seconds)
        self.asked.append(list(numbers))
        if self.fails_at in numbers:
            raise OSError("the disk is gone")
        values = {
            "number": np.array(numbers, np.int32),
            "image": np.asarray(numbers, np.float32)[:, None, None] * np.ones((2, 3), np.float32),
        }
        return self.fault(values) if self.fault else values


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 2, 1, 1, 1), (1, 2, 2, 1, 2), (2, 2, 2, 1, 1), (1, 1, 1, 2, 4)])
def test_the_global_batch_is_the_same_on_any_mesh(shape):
    examples = opened()
    for step, batch in take(3, where=sharding(shape)):
        whole = examples.rows(range(step * 16, step * 16 + 16))
        assert set(batch) == set(whole)
        for name, value in batch.items():
            assert value.sharding.is_equivalent_to(sharding(shape), value.ndim)
            np.testing.assert_array_equal(value, whole[name])


class HostOf:
    """What one of several processes sees of a sharding: only its own devices."""

    def __init__(self, whole, host, hosts):
        self.whole, self.host, self.hosts = whole, host, hosts

    def addressable_devices_indices_map(self, shape):
        items = list(self.whole.addressable_devices_indices_map(shape).items())
        return dict(items[self.host :: self.hosts])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_together_read_the_batch_once(hosts):
    read = [loader.host_rows(HostOf(sharding((1, 4, 2, 1, 1)), host, hosts), 16) for host in range(hosts)]
    assert sorted(np.concatenate(read)) == list(range(16))


@pytest.mark.parametrize("hosts", [2, 4])
def test_a_host_reads_each_row_once_though_devices_repeat_it(hosts):
    # Tensor parallel devices hold the same rows; interleaved hosts both need them.
    for host in range(hosts):
        rows = loader.host_rows(HostOf(sharding((1, 2, 1, 1, 4)), host, hosts), 16)
        assert len(set(rows)) == len(rows) == 16


def test_rows_are_read_once_by_their_number():
    examples = Recorder()
    with loader.batches(examples, examples.features, 8, sharding(), 5, 1) as stream:
        _, batch = next(stream)
    assert examples.asked[0] == list(range(40, 48))
    np.testing.assert_array_equal(batch["number"], range(40, 48))
    np.testing.assert_array_equal(batch["image"][:, 1, 2], range(40, 48))


def test_starting_at_a_step_equals_skipping_to_it():
    for (step, one), (other_step, other) in zip(take(6)[4:], take(2, start=4), strict=True):
        assert step == other_step
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_seeds_differ():
    (_, one), (_, other) = take(1, seed=0)[0], take(1, seed=1)[0]
    assert not np.array_equal(one["index"], other["index"])
    assert not np.array_equal(one["text"], other["text"])


def test_at_most_prefetch_batches_are_prepared_ahead():
    examples = Recorder()
    with loader.batches(examples, examples.features, 8, sharding(), 0, 3) as stream:
        deadline = time.monotonic() + 5
        while len(examples.asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(examples.asked) == 3
        next(stream)


def test_errors_surface_at_their_step_and_stay():
    examples = Recorder(fails_at=20)
    with loader.batches(examples, examples.features, 8, sharding(), 0, 4) as stream:
        assert [next(stream)[0] for _ in range(2)] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(stream)


@pytest.mark.parametrize("fault, message", [
    (lambda values: values | {"extra": values["number"]}, "extra"),
    (lambda values: {"number": values["number"]}, "image"),
    (lambda values: values | {"image": values["image"].astype(np.float64)}, "image: found float64"),
    (lambda values: values | {"image": values["image"][:, :1]}, r"image: found float32\(8, 1, 3\)"),
])  # fmt: skip
def test_examples_unlike_their_description_are_refused(fault, message):
    examples = Recorder(fault=fault)
    with loader.batches(examples, examples.features, 8, sharding(), 0, 1) as stream:
        with pytest.raises(ValueError, match=message):
            next(stream)


def threads():
    return {thread for thread in threading.enumerate() if thread.name == "batches"}


def test_closing_ends_the_thread_and_the_iterator():
    before = threads()
    examples = Recorder(seconds=0.05)
    stream = loader.batches(examples, examples.features, 8, sharding(), 0, 2)
    next(stream)
    assert len(threads() - before) == 1
    stream.close()
    assert not threads() - before
    assert list(stream) == []


def test_dropping_the_iterator_ends_the_thread():
    before = threads()
    stream = loader.batches(Recorder(), Recorder.features, 8, sharding(), 0, 2)
    next(stream)
    assert len(threads() - before) == 1
    del stream
    gc.collect()
    deadline = time.monotonic() + 5
    while threads() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads() - before


def test_waiting_for_input_is_counted():
    slow = Recorder(seconds=0.1)
    with loader.batches(slow, slow.features, 8, sharding(), 0, 1) as stream:
        next(stream), next(stream)
        assert 0.1 < stream.waited < 2


def test_nothing_is_compiled_and_no_transfer_is_refused():
    compiled = []

    def listen(event, *_, **__):
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    # For all threads: the context manager would bind this one alone.
    jax.config.update("jax_transfer_guard", "disallow")
    try:
        with loader.batches(Recorder(), Recorder.features, 24, sharding(), 0, 1) as stream:
            next(stream)
        assert not compiled
        jax.jit(lambda: jax.numpy.zeros(24))()
        assert compiled
    finally:
        jax.config.update("jax_transfer_guard", None)
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(types.BadInput, match="multiple of 4") as complaint:
        loader.batches(Recorder(), Recorder.features, 10, sharding(), 0, 1)
    assert complaint.value.option == "data.batch_size"

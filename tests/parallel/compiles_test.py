"""Compiles are counted, and the slow ones named."""

import contextlib
import logging

import jax
import numpy as np

from jaxgen.parallel import compiles

EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def counting():
    log = compiles.CompileLog()
    try:
        yield log
    finally:
        jax.monitoring.unregister_event_duration_listener(log._heard)


def fresh():
    """A function that no one has traced before."""
    return jax.jit(lambda x: x * 2 + 1)


def test_a_program_counts_once_and_again_for_another_shape():
    program, small, large = fresh(), np.ones(3, np.float32), np.ones(5, np.float32)
    with counting() as log:
        program(small)
        assert log.count == 1
        program(small)
        assert log.count == 1
        program(large)
        assert log.count == 2
    assert log.seconds > 0


def test_building_shapes_alone_compiles_nothing():
    program = fresh()
    with counting() as log:
        jax.eval_shape(program, np.ones(3, np.float32))
        program.lower(np.ones(3, np.float32))
        assert log.count == 0


def test_what_was_compiled_before_does_not_count():
    fresh()(np.ones(3, np.float32))
    with counting() as log:
        assert (log.count, log.seconds) == (0, 0.0)


def test_slow_compiles_are_logged_with_their_name_and_cause(caplog):
    caplog.set_level(logging.INFO, "jaxgen")
    with counting() as log:
        jax.monitoring.record_event_duration_secs(EVENT, 0.9, fun_name="jit(quick)")
        log.because("drawing samples")
        jax.monitoring.record_event_duration_secs(EVENT, 2.5, fun_name="jit(slow)")
        jax.monitoring.record_event_duration_secs("/jax/core/compile/jaxpr_trace_duration", 9.0, fun_name="jit(other)")
    assert (log.count, log.seconds) == (2, 3.4)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "jit(slow)" in message and "2.5 s" in message and "drawing samples" in message


def test_jax_tells_the_name_of_what_it_compiles():
    heard = []

    def listener(event, seconds, **details):
        if event == EVENT:
            heard.append(details.get("fun_name"))

    def a_name_of_its_own(x):
        return x + 1

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        jax.jit(a_name_of_its_own)(np.ones(3, np.float32))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert any("a_name_of_its_own" in str(name) for name in heard)

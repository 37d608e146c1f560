import json
import logging
import math
import random
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from jaxgen import run
from jaxgen.training import logs


@pytest.fixture(params=["local", "memory"])
def made(request, tmp_path) -> run.Run:
    return run.Run(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path.name}/run").create()


def _write(of: run.Run, steps: range) -> None:
    log = logs.MetricsLog(of)
    for step in steps:
        log.write(step, {"loss": 1 / step})
    log.close()


def test_rows_come_back_in_order(made):
    _write(made, range(1, 4))
    assert logs.MetricsLog(made).rows() == [{"step": s, "loss": 1 / s} for s in (1, 2, 3)]
    assert all(json.loads(line) for line in made.metrics.read_text().splitlines())


def test_floats_read_back_to_the_same_bits(made):
    draw = random.Random(0)
    values = [struct.unpack("d", draw.randbytes(8))[0] for _ in range(200)] + [5e-324, -0.0, 0.1 + 0.2]
    values = [value for value in values if math.isfinite(value)]
    singles = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    log = logs.MetricsLog(made)
    log.write(1, {str(i): value for i, value in enumerate(values)})
    log.write(2, {str(i): value for i, value in enumerate(singles)})
    log.close()
    first, second = log.rows()
    assert [struct.pack("d", first[str(i)]) for i in range(len(values))] == [struct.pack("d", v) for v in values]
    assert [np.float32(second[str(i)]) for i in range(len(singles))] == list(singles)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_null(made, value):
    log = logs.MetricsLog(made)
    log.write(1, {"loss": value, "note": None, "cause": "größer", "count": np.int32(3)})
    log.close()
    assert log.rows() == [{"step": 1, "loss": None, "note": None, "cause": "größer", "count": 3}]


def test_a_local_row_is_readable_at_once(tmp_path):
    log = logs.MetricsLog(run.Run(tmp_path).create())
    log.write(1, {"loss": 1.0})
    assert len(log.rows()) == 1
    log.close()


def test_elsewhere_rows_gather_until_flushed(tmp_path):
    made = run.Run(f"memory://{tmp_path.name}").create()
    log = logs.MetricsLog(made)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    assert len(log.rows()) == 1
    log.flush()
    assert len(log.rows()) == 3


def test_cutting_drops_later_rows_and_goes_on(made):
    _write(made, range(1, 6))
    log = logs.MetricsLog(made)
    log.cut_to(3)
    assert [row["step"] for row in log.rows()] == [1, 2, 3]
    log.write(4, {"loss": 7.0})
    log.close()
    assert [row["step"] for row in log.rows()] == [1, 2, 3, 4]
    assert log.rows()[-1]["loss"] == 7.0


def test_cutting_a_log_that_is_not_there_does_nothing(made):
    logs.MetricsLog(made).cut_to(3)
    assert not made.metrics.exists()


def test_a_file_cut_at_any_byte_keeps_its_whole_rows(tmp_path):
    made = run.Run(tmp_path).create()
    _write(made, range(1, 4))
    data = made.metrics.read_bytes()
    for length in range(len(data)):
        made.metrics.write_bytes(data[:length])
        whole = data[:length].count(b"\n")
        log = logs.MetricsLog(made)
        assert [row["step"] for row in log.rows()] == [1, 2, 3][:whole]
        log.write(9, {"loss": 0.5})
        log.close()
        assert [row["step"] for row in log.rows()] == [1, 2, 3][:whole] + [9]


def test_cutting_removes_a_half_written_line(made):
    _write(made, range(1, 3))
    made.metrics.write_bytes(made.metrics.read_bytes() + b'{"step": 3, "lo')
    logs.MetricsLog(made).cut_to(3)
    assert made.metrics.read_text().endswith("}\n")
    assert len(logs.MetricsLog(made).rows()) == 2


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(made):
    _write(made, range(1, 3))
    made.metrics.write_bytes(b"oops\n" + made.metrics.read_bytes())
    with pytest.raises(ValueError, match="metrics.jsonl, line 1"):
        logs.MetricsLog(made).rows()


def test_curves_do_not_double_on_resume(tmp_path):
    made = run.Run(tmp_path).create()
    curves = logs.Curves(made)
    for step in range(1, 6):
        curves.write(step, {"loss": float(step), "note": "text", "bad": math.nan})
    curves.close()
    curves = logs.Curves(made, resumed=3)
    for step in range(4, 6):
        curves.write(step, {"loss": 10.0 * step})
    curves.close()
    shown = _curves_as_tensorboard_shows_them(made)
    assert shown == {"loss": [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50)]}


def _curves_as_tensorboard_shows_them(of: run.Run) -> dict[str, list[tuple[int, float]]]:
    """Points by curve: files in order of name, and the start of a session drops what is not before its step."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(of.tensorboard.iterdir()):
        data, offset = path.read_bytes(), 0
        while offset < len(data):
            # A record is its length, 4 bytes of checksum, the event, 4 bytes of checksum.
            (length,) = struct.unpack_from("<Q", data, offset)
            event = event_pb2.Event.FromString(data[offset + 12 : offset + 12 + length])
            offset += length + 16
            if event.session_log.status == event_pb2.SessionLog.START:
                curves = {name: [p for p in points if p[0] < event.step] for name, points in curves.items()}
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_curves_elsewhere_are_left_out_with_one_line(tmp_path, caplog):
    made = run.Run(f"memory://{tmp_path.name}").create()
    with caplog.at_level(logging.INFO, logger="jaxgen"):
        curves = logs.Curves(made)
        curves.write(1, {"loss": 1.0})
        curves.close()
    assert len(caplog.records) == 1 and "metrics.jsonl" in caplog.records[0].getMessage()
    assert not made.tensorboard.exists()

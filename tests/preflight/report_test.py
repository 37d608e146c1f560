import pytest

from jaxgen.preflight import report

MIB = 2**20


@pytest.mark.parametrize(
    "count, said",
    [
        (0, "0.0 MiB of what is kept lie whole on every chip, no array above 1 MiB"),
        (2, "4.0 MiB of what is kept lie whole on every chip; a0 (2.0 MiB), a1 (2.0 MiB)"),
        (
            5,
            "10.0 MiB of what is kept lie whole on every chip; a0 (2.0 MiB), a1 (2.0 MiB), a2 (2.0 MiB)"
            " and 2 more above 1 MiB (--json lists them)",
        ),
    ],
)
def test_of_many_replicated_arrays_the_first_three_are_named(count, said):
    large = {f"a{number}": 2 * MIB for number in range(count)}
    figures = {
        "program": "training",
        "slices": 1,
        "slice": "v5e:2x2",
        "chips": 4,
        "chips_used": 4,
        "mesh": {"data": 4},
        "batch_size": 8,
        "steps": 1,
        "parameters": {"model": 1},
        "memory": {"peak": 1, "usable": 2, "state": 1, "largest": []},
        "replicated": {"bytes": 2 * MIB * count, "threshold": MIB, "large": large},
        "model_tflop": 1.0,
        "compiled_tflop": 1.0,
        "peak_tflop_per_second": 1.0,
        "seconds": dict.fromkeys(("matmul", "kernel", "memory", "collective"), 1.0),
        "hidden_collective_seconds": 0.0,
        "step_seconds": [1.0, 1.0],
        "unknown": [],
        "compile_seconds": 1.0,
    }
    lines = report.table(report.derived(figures, None)).splitlines()
    assert [line.removeprefix("replicated").strip() for line in lines if line.startswith("replicated")] == [said]

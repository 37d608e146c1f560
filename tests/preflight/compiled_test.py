"""The reader on programs of the real compiler: products against the peak, loops against the same written out, a kernel."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from jaxgen.preflight import chips, target

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install 'jaxgen[tpu]'"),
]
HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


def compiled(name, slice_name, folder):
    made = target.environment(str(folder))
    made["PYTHONPATH"] = f"{ROOT}:{made.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, HERE / "compiled.py", name, slice_name, folder], env=made, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("generation, within", [("v4", 0.15), ("v5e", 0.15), ("v5p", 0.15), ("v6e", 0.35)])
def test_a_large_product_runs_at_about_the_peak(generation, within, tmp_path):
    shape = "2x2" if generation in ("v5e", "v6e") else "2x2x1"
    found = compiled("matmul", f"{generation}:{shape}", tmp_path)
    assert found["flops"] == 2 * 8192**3
    reached = 2 * 8192**3 / found["seconds"]["matmul"] / chips.CHIPS[generation].flops
    print(f"{generation}: {reached:.3f} of the peak")
    assert 1 - within <= reached <= 1


# What a loop alone moves: a layer's weights out of their stack, and the room, cleared, for what it stacks.
OF_LOOPS = ("dynamic-slice", "broadcast_in_dim")
# The sum of the parts' gradients.
SUMS = "add_fusion"


@pytest.mark.parametrize("loop, written_out, parts", [("scanned", "unrolled", 1), ("nested", "nested unrolled", 3)])
def test_a_scan_costs_what_its_layers_written_out_cost(loop, written_out, parts, tmp_path):
    scanned, unrolled = (compiled(name, "v5p:2x2x1", tmp_path) for name in (loop, written_out))
    assert not scanned["unknown"] and not unrolled["unknown"]
    assert scanned["flops"] == pytest.approx(unrolled["flops"], rel=0.01)
    assert scanned["seconds"]["matmul"] == pytest.approx(unrolled["seconds"]["matmul"], rel=0.1)

    def moved(program, wanted):
        return sum(size for name, size in program["bytes"].items() if wanted(name))

    rest = lambda name: not any(text in name for text in (*OF_LOOPS, SUMS))
    assert moved(scanned, rest) == pytest.approx(moved(unrolled, rest), rel=0.1)
    sums = [moved(program, lambda name: SUMS in name) for program in (scanned, unrolled)]
    # A loop reads the sum and a part and writes the sum, for each part; written out, all parts are read and their sum written once.
    assert sums[0] * (parts + 1) == pytest.approx(sums[1] * 3 * parts if parts > 1 else 0.0, rel=0.01)


def test_a_kernel_takes_the_cycles_of_its_blocks(tmp_path):
    """1024 blocks of 512 × 512 × 128 twice, half of them on each core: 1024 cycles of matrix units a block, and what hides
    behind them not all: the forward kernel runs between a third of the peak and the whole."""
    found = compiled("attention", "v5p:2x2x1", tmp_path)
    (seconds, flops) = found["kernels"][0]
    work = 4 * 2 * 8 * 4096**2 * 128
    assert flops == pytest.approx(work, rel=0.01)
    assert 512 * 1024 / 1.75e9 < seconds < 3 * 512 * 1024 / 1.75e9
    assert found["seconds"]["kernel"] == seconds

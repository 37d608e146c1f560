"""Kernels from their bundles: a loop of a known length, waits for matrix units, and what cannot be read."""

import pytest

from jaxgen.preflight import chips, hlo, kernels

V5P = chips.CHIPS["v5p"]


def bundles(body, trips, marks="LB"):
    lines = ["= control target key start", "LB: loop body", "     0   :  { %s1 = smov 0 }", "   0x1   :  { %s2 = smov 0 }"]
    lines += [f"  0x{number + 2:x} {marks if not number else '  '}: > {{ {text} }}" for number, text in enumerate(body)]
    lines.append(f"  0x90   : > {{ %p1 = scmp.ge.s32.totalorder %s3, {trips} /* loop exit test */  ;;  %s4 = smov 1 }}")
    lines += ["  0x91   :  {}", "  0x92   :  { %39 = sbr.rel (!%p1) target = $region1 }", "  0x93   : > { %s5 = smov 0 }"]
    return lines


PRODUCT = "%1691 = vmatmul.bf16.vlgmr.msra.gmra.mxu{} %v1  ;;  %v2 = vmul.f32 %v3, %v4"


def test_a_loop_takes_its_bundles_times_its_trips():
    found = kernels.schedule(bundles(["%v1 = vadd.f32 %v2, %v3"] * 10, 514), V5P)
    # The exit test and the empty bundle behind it belong to the loop; two bundles stand before it and two behind.
    assert found == kernels.Kernel(2 + 12 * 514 + 2, 0)


def test_a_product_waits_until_its_unit_has_taken_the_rows_before():
    found = kernels.schedule(bundles([PRODUCT.format(0)] * 4, 100), V5P)
    waits = 3 * 16 * V5P.cycles_a_row
    assert found.cycles == pytest.approx(2 + (waits + 3) * 100 + 2)
    assert found.rows == 4 * 16 * 100
    assert V5P.cycles_a_row == pytest.approx(1, rel=1e-3)


def test_units_work_side_by_side():
    found = kernels.schedule(bundles([PRODUCT.format(unit) for unit in (0, 1, 2, 3)], 1), V5P)
    assert found.cycles == 2 + 4 + 2 + 2


def test_a_loop_without_a_constant_length_is_not_read():
    lines = [line.replace(", 7 /*", ", %s9 /*") for line in bundles(["%v1 = vadd.f32 %v2, %v3"], 7)]
    assert kernels.schedule(lines, V5P) is None


CALL = """HloModule m, is_scheduled=true

ENTRY %e (q: bf16[8,128]) -> bf16[8,128] {{
  %q = bf16[8,128]{{1,0}} parameter(0)
  ROOT %attend.1 = bf16[8,128]{{1,0}} custom-call(%q), custom_call_target="tpu_custom_call", backend_config={{{config}}}
}}
"""


def test_a_kernel_goes_by_its_bundles(tmp_path):
    lines = bundles([PRODUCT.format(0)] * 4, 100)
    (tmp_path / "17955-attend.1-72-final_bundles.txt").write_text("\n".join(lines))
    (tmp_path / "17955-attend.1-71-schedule-analysis_final_bundles.txt").write_text("no bundles")
    (seconds, flops) = kernels.read(hlo.parse(CALL.format(config="")), tmp_path, V5P)["attend.1"]
    assert seconds == kernels.schedule(lines, V5P).cycles / V5P.clock
    assert flops == 4 * 16 * 100 * 2 * 128 * 128


def test_kernels_with_equal_bodies_have_been_scheduled_once_and_share_the_bundles(tmp_path):
    (tmp_path / "17955-attend.1-72-final_bundles.txt").write_text("\n".join(bundles([PRODUCT.format(0)] * 4, 100)))
    config = 'custom_call_target="tpu_custom_call", backend_config={{"body":"{}"}}'
    call = f"  %attend.{{}} = bf16[8,128]{{{{1,0}}}} custom-call(%q), {config}\n"
    text = CALL.format(config='"body":"QUJD"').replace("  ROOT", call.format(2, "QUJD") + call.format(3, "QUJE") + "  ROOT")
    found = kernels.read(hlo.parse(text), tmp_path, V5P)
    assert found["attend.2"] == found["attend.1"]
    assert "attend.3" not in found


def test_without_bundles_it_goes_by_the_flops_that_it_states():
    stated = '"custom_call_config":{"cost_estimate":{"flops":"1000000","bytes_accessed":"1"}}'
    (seconds, flops) = kernels.read(hlo.parse(CALL.format(config=stated)), None, V5P)["attend.1"]
    assert (seconds, flops) == (1e6 / (kernels.EFFICIENCY * V5P.flops), 1e6)


def test_and_without_those_it_is_left_out():
    assert kernels.read(hlo.parse(CALL.format(config="")), None, V5P) == {}

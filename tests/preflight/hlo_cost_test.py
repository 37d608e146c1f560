"""Times of programs that can be worked out on paper, and that a reader with a fault gets them wrong."""

import dataclasses

import programs
import pytest

from jaxgen.preflight import chips, collectives, hlo, hlo_cost, traffic

V5E = chips.CHIPS["v5e"]
CLOCK, BANDWIDTH, LINK = 1.5e9, 0.819e12, 45e9
SQUARE = collectives.Torus(V5E, tuple((0, x, y, 0) for y in range(2) for x in range(2)), (False,) * 3, (2, 2, 1))
WIDE_SECONDS = 2 * programs.WIDE_BYTES / BANDWIDTH
# 4 chips in a square: two lines of 2 carry three quarters of the array.
GATHER_SECONDS = 0.75 * programs.GATHERED_BYTES / (2 * LINK)


def read(text: str, torus: collectives.Torus = SQUARE) -> hlo_cost.Reading:
    return hlo_cost.read(hlo.parse(text), torus, {})


def test_a_stack_of_products_takes_its_cycles_and_the_rest_its_bytes():
    reading = read(programs.STACK)
    assert reading.waited("matmul") == pytest.approx((1_500_000 + 750_000) / CLOCK)
    assert reading.waited("memory") == pytest.approx(WIDE_SECONDS)
    assert reading.flops == 2 * programs.PRODUCT_FLOPS
    assert reading.seconds == (reading.seconds[0], reading.seconds[0])


@pytest.mark.parametrize("stride, times", [(1, 8), (2, 4), (3, 3)])
def test_nested_loops_multiply_and_unrolled_ones_count_by_their_stride(stride, times):
    reading = read(programs.nested(outer=3, inner=8, stride=stride))
    assert {line.name: line.times for line in reading.lines if line.kind == "matmul"} == {
        "product.inner": 3 * times,
        "product.outer": 3,
    }
    assert reading.waited("matmul") == pytest.approx(3 * (times * 15_000 + 30_000) / CLOCK)
    assert reading.flops == 3 * (times + 1) * programs.PRODUCT_FLOPS
    assert not reading.unknown


def test_a_loop_without_a_constant_bound_counts_once_and_is_named():
    text = programs.nested(3, 8, 1).replace("s32[]{:T(128)} constant(8)", "s32[]{:T(128)} get-tuple-element(%c), index=0")
    reading = read(text)
    assert reading.unknown == ("length of the loop inner",)
    assert reading.waited("matmul") == pytest.approx(3 * (15_000 + 30_000) / CLOCK)


@pytest.mark.parametrize("groups", programs.GROUPS.values(), ids=programs.GROUPS)
def test_a_collective_alone_is_exposed(groups):
    hidden, compiled = read(programs.gather("alone", groups)).seconds
    assert hidden == pytest.approx(300_000 / CLOCK)
    assert compiled == pytest.approx(300_000 / CLOCK + GATHER_SECONDS)


@pytest.mark.parametrize("how", ["between", "carried"])
def test_a_collective_is_exposed_as_far_as_nothing_runs_beside_it(how):
    reading = read(programs.gather(how))
    assert reading.waited("collective") == pytest.approx(GATHER_SECONDS - 300_000 / CLOCK)
    assert reading.hidden == pytest.approx(300_000 / CLOCK)


def test_collectives_under_way_share_the_links():
    text = programs.gather("between")
    start = next(line for line in text.splitlines() if "all-gather-start" in line)
    second = start.replace("gather-start =", "second-start =").replace("channel_id=7", "channel_id=8")
    done = next(line for line in text.splitlines() if "all-gather-done" in line)
    after = done.replace("gather-done =", "second-done =").replace("(%gather-start", "(%second-start").replace("ROOT ", "")
    text = text.replace(start, f"{start}\n{second}").replace(done, f"{after}\n{done}")
    assert read(text).waited("collective") == pytest.approx(2 * GATHER_SECONDS - 300_000 / CLOCK)


def test_what_lies_in_vmem_is_no_traffic_of_hbm():
    inside = programs.WIDE.replace("T(8,128)", "T(8,128)S(1)")
    text = programs.STACK.replace(f"%y = {programs.WIDE}", f"%y = {inside}")
    assert read(text).bytes == read(programs.STACK).bytes - programs.WIDE_BYTES


def test_copies_run_beside_products_and_wait_for_what_is_left():
    copy = f"""  %copy-start = ({programs.WIDE}, {programs.WIDE.replace("T(8,128)", "T(8,128)S(1)")}, u32[]{{:S(2)}}) copy-start(%y)
{programs.product("product.1", 15_000)}
  %copy-done = {programs.WIDE.replace("T(8,128)", "T(8,128)S(1)")} copy-done(%copy-start)"""
    text = programs.STACK.replace(programs.product("product.1", 1_500_000), copy)
    once = programs.WIDE_BYTES / BANDWIDTH
    assert read(text).waited("memory") == pytest.approx(once - 15_000 / CLOCK + 2 * once)


CUT = """HloModule jit_cut, is_scheduled=true

%fused_cut (p: f32[28,1024,1024], i: s32[]) -> f32[1,1024,1024] {
  %p = f32[28,1024,1024]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  ROOT %cut = f32[1,1024,1024]{2,1,0:T(8,128)} dynamic-slice(%p, %i, %i, %i), dynamic_slice_sizes={1,1024,1024}
}

%fused_put (q: f32[28,1024,1024], r: f32[1,1024,1024], j: s32[]) -> f32[28,1024,1024] {
  %q = f32[28,1024,1024]{2,1,0:T(8,128)} parameter(0)
  %r = f32[1,1024,1024]{2,1,0:T(8,128)} parameter(1)
  %j = s32[]{:T(128)} parameter(2)
  ROOT %put = f32[28,1024,1024]{2,1,0:T(8,128)} dynamic-update-slice(%q, %r, %j, %j, %j)
}

ENTRY %main (a: f32[28,1024,1024], k: s32[]) -> f32[28,1024,1024] {
  %a = f32[28,1024,1024]{2,1,0:T(8,128)} parameter(0)
  %k = s32[]{:T(128)S(6)} parameter(1)
  %layer = f32[1,1024,1024]{2,1,0:T(8,128)} fusion(%a, %k), kind=kLoop, calls=%fused_cut
  ROOT %stack = f32[28,1024,1024]{2,1,0:T(8,128)} fusion(%a, %layer, %k), kind=kLoop, calls=%fused_put
}
"""


def test_of_a_stack_of_layers_only_the_layer_moves():
    module = hlo.parse(CUT)
    layer = 4 * 2**20
    moved = [traffic.of(module, module.entry, each).hbm for each in module.entry.instructions[2:]]
    assert moved == [2 * layer, 2 * layer]


def _once(self, computation, loop):
    return 1


def _by_one(body, index):
    return 1


FAULTS = {
    "loops run once": (hlo.Module, "trips", _once),
    "every loop counts by one": (hlo, "_stride", _by_one),
    "cycles are of another clock": (hlo_cost._Reader, "_cycles", lambda self, each: 1),
    "no operation is a product": (hlo_cost._Reader, "_flops", lambda self, computation, each: 0.0),
    "all collectives are asynchronous": (hlo_cost._Reader, "_role", lambda self, each: "start"),
    "tiles are not padded": (hlo.Array, "bytes", property(lambda self: 0)),
}


@pytest.mark.parametrize("where, name, fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_noticed(monkeypatch, where, name, fault):
    monkeypatch.setattr(where, name, fault)
    with pytest.raises((AssertionError, KeyError)):
        test_a_stack_of_products_takes_its_cycles_and_the_rest_its_bytes()
        test_nested_loops_multiply_and_unrolled_ones_count_by_their_stride(2, 4)
        test_a_collective_alone_is_exposed(programs.GROUPS["listed"])


def test_slices_pay_their_network():
    two = dataclasses.replace(SQUARE, places=tuple((index // 2, index % 2, 0, 0) for index in range(4)))
    whole = 2**30
    within = 0.5 * whole / LINK
    across = whole / 2 * 0.5 / V5E.network
    assert two.seconds("all-gather", whole, (0, 1, 2, 3)) == pytest.approx(within + across)

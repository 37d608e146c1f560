"""Shapes, lines and loops of optimized programs as the TPU compiler prints them."""

import pytest

from jaxgen.preflight import hlo


@pytest.mark.parametrize(
    "text, size, space",
    [
        ("bf16[1024,2048]{1,0:T(8,128)(2,1)}", 1024 * 2048 * 2, 0),
        ("f32[3,16,256,1]{2,1,3,0:T(8,128)S(1)}", 3 * 16 * 256 * 4, 1),
        ("f32[16,256,1]{2,1,0:T(8,128)}", 16 * 256 * 128 * 4, 0),
        ("bf16[100,100]{0,1:T(8,128)(2,1)}", 104 * 128 * 2, 0),
        ("bf16[1152]{0:T(1024)(128)(2,1)S(1)}", 2048 * 2, 1),
        ("pred[]{:T(512)}", 1, 0),
        ("s4[8,128]{1,0:T(8,128)(8,1)}", 8 * 128 // 2, 0),
        ("f8e4m3fn[32,128]{1,0}", 32 * 128, 0),
    ],
)
def test_an_array_takes_whole_tiles_in_its_memory(text, size, space):
    (array,) = hlo.arrays(text)
    assert (array.bytes, array.space) == (size, space)


def test_tuples_are_flat_and_comments_are_none_of_them():
    found = hlo.arrays("(s32[2]{0}, (bf16[4,8]{1,0}, /*index=5*/u32[]{:S(2)}))")
    assert [(array.dtype, array.dims) for array in found] == [("s32", (2,)), ("bf16", (4, 8)), ("u32", ())]


LINE = (
    "  ROOT %fusion.1 = (bf16[4,8]{1,0:T(8,128)(2,1)}, s32[]) fusion(%a.1, /*index=5*/%b), kind=kOutput, calls=%inner, "
    'metadata={op_name="jit(f)/blocks/dot_general"}, backend_config={"window_config":{"estimated_cycles":"17"}}'
)


def test_a_line_is_an_instruction():
    module = hlo.parse(f"HloModule m\n\nENTRY %e (a: s32[]) -> s32[] {{\n{LINE}\n}}\n")
    (each,) = module.entry.instructions
    assert (each.name, each.opcode, each.operands, each.root) == ("fusion.1", "fusion", ("a.1", "b"), True)
    assert (each.kind, each.called, each.op_name) == ("kOutput", {"calls": "inner"}, "jit(f)/blocks/dot_general")
    assert each.quoted("estimated_cycles") == "17"


@pytest.mark.parametrize("text", ["", "HloModule m\n", "ENTRY %e (a: s32[]) -> s32[] {\n  %a = s32[] parameter(0)\n"])
def test_what_is_no_whole_program_is_unreadable(text):
    with pytest.raises(hlo.Unreadable):
        hlo.parse(text)


LOOP = """HloModule m

%condition (c: (s32[])) -> pred[] {{
  %c = (s32[]) parameter(0)
  %bound = s32[] constant({bound})
  %counter = s32[] get-tuple-element(%c), index=0
  ROOT %test = pred[] compare({sides}), direction={direction}
}}

%body (b: (s32[])) -> (s32[]) {{
  %b = (s32[]) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %one = s32[] constant({stride})
  %next = s32[] {change}(%i, %one)
  %again = s32[] {change}(%next, %one)
  ROOT %out = (s32[]) tuple({carried})
}}

ENTRY %main () -> (s32[]) {{
  %start = s32[] constant({start})
  %first = (s32[]) tuple(%start)
  ROOT %loop = (s32[]) while(%first), condition=%condition, body=%body
}}
"""
UP = {"sides": "%counter, %bound", "direction": "LT", "change": "add", "carried": "%next", "stride": 1, "start": 0}


@pytest.mark.parametrize(
    "options, trips",
    [
        ({"bound": 28}, 28),
        ({"bound": 28, "start": 4}, 24),
        ({"bound": 8, "stride": 2}, 4),
        ({"bound": 7, "stride": 2}, 4),
        ({"bound": 8, "carried": "%again"}, 4),
        ({"bound": 27, "direction": "LE"}, 28),
        ({"bound": 28, "sides": "%bound, %counter", "direction": "GT"}, 28),
        ({"bound": 0, "start": 28, "direction": "GT", "change": "subtract"}, 28),
        ({"bound": 0, "start": 27, "direction": "GE", "change": "subtract"}, 28),
        ({"bound": 28, "direction": "NE"}, 28),
        ({"bound": 0}, 0),
        ({"bound": 28, "carried": "%i"}, None),
    ],
)
def test_loops_run_as_often_as_their_constants_say(options, trips):
    module = hlo.parse(LOOP.format(**UP | options))
    loop = module.entry.root
    assert module.trips(module.entry, loop) == trips

"""FLOPs of products that are written as convolutions, against a count of the pairs that meet."""

import itertools

import pytest

from jaxgen.preflight import hlo, traffic

TEXT = """HloModule m

ENTRY %e (a: bf16[1], b: bf16[1]) -> bf16[1] {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {out} convolution(%a, %b), {window}dim_labels={labels}
}}
"""


def flops(left, right, out, labels, window=""):
    module = hlo.parse(TEXT.format(left=left, right=right, out=out, labels=labels, window=window))
    return traffic.flops(module, module.entry)


def test_a_product_is_a_convolution_without_a_window():
    assert flops("bf16[64,288]{1,0}", "bf16[288,512]{1,0}", "bf16[64,512]{1,0}", "bf_io->bf") == 2 * 64 * 288 * 512


def test_what_falls_on_padding_does_not_count():
    """64 × 288 times 288 × 6 × 1152, with the 6 as a window over one place and five of padding on each side."""
    window = "window={size=6 pad=5_5 rhs_reversal=1}, "
    found = flops("bf16[64,288,1]{2,1,0}", "bf16[288,6,1152]{2,1,0}", "bf16[64,6,1152]{2,1,0}", "bf0_i0o->b0f", window)
    assert found == 2 * 64 * 288 * 6 * 1152


def test_a_dot_counts_what_it_contracts():
    text = TEXT.format(left="f32[2,3,5]{2,1,0}", right="f32[5,7]{1,0}", out="f32[2,3,7]{2,1,0}", window="", labels="")
    text = text.replace("convolution(%a, %b), dim_labels=", "dot(%a, %b), lhs_contracting_dims={2}, rhs_contracting_dims={0}")
    module = hlo.parse(text)
    assert traffic.flops(module, module.entry) == 2 * 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    "size, taps, stride, low, high, spread, gap", list(itertools.product((1, 7), (1, 3), (1, 2), (0, 2), (1,), (1, 2, 3), (1, 2)))
)
def test_pairs_are_those_that_meet_an_input(size, taps, stride, low, high, spread, gap):
    whole = (size - 1) * spread + 1 + low + high
    outputs = max(0, (whole - (taps - 1) * gap - 1) // stride + 1)
    meets = {low + place * spread for place in range(size)}
    wanted = sum(o * stride + tap * gap in meets for o in range(outputs) for tap in range(taps))
    assert traffic._pairs(size, taps, outputs, stride, low, spread, gap) == wanted

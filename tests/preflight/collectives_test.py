"""Ring formulas against hand-worked times, and groups in every form in which the compiler writes them."""

import itertools

import pytest

from jaxgen.preflight import chips, collectives, hlo

V5P = chips.CHIPS["v5p"]
LINK = 90e9
SIZE = 2**30


def torus(*extents, wraps):
    places = tuple((0, *place) for place in itertools.product(*map(range, extents)))
    return collectives.Torus(V5P, places, (wraps,) * 3, extents)


WHOLE = torus(4, 8, 8, wraps=True)
PART = torus(2, 2, 1, wraps=False)
ALONG = tuple(range(8))  # the last axis, whole
HALF = tuple(range(4))


@pytest.mark.parametrize(
    "where, kind, group, seconds",
    [
        pytest.param(WHOLE, "all-gather", ALONG, SIZE / (2 * LINK), id="a closed ring carries both ways"),
        pytest.param(WHOLE, "all-gather", HALF, SIZE * 3 / 4 / LINK, id="a part of a ring is a line"),
        pytest.param(WHOLE, "all-gather", tuple(range(256)), SIZE / (2 * LINK * 3), id="three axes carry three times"),
        pytest.param(WHOLE, "reduce-scatter", ALONG, SIZE / (2 * LINK), id="as much as an all-gather"),
        pytest.param(WHOLE, "all-reduce", ALONG, 2 * SIZE / (2 * LINK), id="twice that"),
        pytest.param(WHOLE, "all-to-all", ALONG, SIZE / (2 * LINK) / 4, id="a quarter"),
        pytest.param(PART, "all-gather", (0, 1, 2, 3), SIZE * 3 / 4 / (2 * LINK), id="a square without closed rings"),
        pytest.param(PART, "all-gather", (0, 1), SIZE / 2 / LINK, id="two chips"),
        pytest.param(WHOLE, "all-gather", (0, 2, 4, 6), SIZE * 3 / 4 / LINK, id="chips that are no neighbours"),
        pytest.param(WHOLE, "collective-permute", (0, 1), SIZE / LINK + 1e-6, id="one link"),
        pytest.param(WHOLE, "all-gather", (5,), 0.0, id="one chip"),
    ],
)
def test_times_are_those_of_the_ring_formulas(where, kind, group, seconds):
    assert where.seconds(kind, SIZE, group) == pytest.approx(seconds)


def test_small_messages_take_a_hop_each():
    assert WHOLE.seconds("all-gather", 8, ALONG) == pytest.approx(4e-6)


@pytest.mark.parametrize(
    "written, group",
    [
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups={}", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", (0, 4)),
        ("source_target_pairs={{3,4},{4,5}}", (3, 4)),
    ],
)
def test_groups_in_all_forms(written, group):
    text = (
        f"HloModule m\n\nENTRY %e () -> f32[] {{\n  ROOT %a = f32[] all-gather(), channel_id=1, {written}, dimensions={{0}}\n}}\n"
    )
    assert collectives.group(hlo.parse(text).entry.root, 8) == group


def test_an_unknown_form_is_said():
    text = "HloModule m\n\nENTRY %e () -> f32[] {\n  ROOT %a = f32[] all-gather(), replica_groups=<new>\n}\n"
    with pytest.raises(hlo.Unreadable, match="replica groups"):
        collectives.group(hlo.parse(text).entry.root, 8)


def test_a_generation_without_a_published_network_has_no_price_across_slices():
    two = collectives.Torus(chips.CHIPS["v4"], ((0, 0, 0, 0), (1, 0, 0, 0)), (False,) * 3, (1, 1, 1))
    with pytest.raises(hlo.Unreadable, match="not published"):
        two.seconds("all-reduce", SIZE, (0, 1))

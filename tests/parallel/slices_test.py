"""Slices that can be rented: shapes, names, hosts and links, against the cloud's published tables."""

import math
import subprocess
import sys

import pytest

from jaxgen import bad_input
from jaxgen.parallel import slices

ALL = [slices.Slice(generation, shape) for generation in slices.GENERATIONS.values() for shape in generation.shapes]


@pytest.mark.parametrize(
    "name, chips, hosts, chips_per_host, kind, machine, wraps",
    [
        ("v4:2x2x1", 4, 1, 4, "v4-8", "ct4p-hightpu-4t", (False,) * 3),
        ("v4:8x16x16", 2048, 512, 4, "v4-4096", "ct4p-hightpu-4t", (True,) * 3),
        ("v5e:1x1", 1, 1, 1, "v5litepod-1", "ct5lp-hightpu-1t", (False, False)),
        ("v5e:2x2", 4, 1, 4, "v5litepod-4", "ct5lp-hightpu-4t", (False, False)),
        ("v5e:2x4", 8, 1, 8, "v5litepod-8", "ct5lp-hightpu-8t", (False, False)),
        ("v5e:4x4", 16, 4, 4, "v5litepod-16", "ct5lp-hightpu-4t", (False, False)),
        ("v5e:8x16", 128, 32, 4, "v5litepod-128", "ct5lp-hightpu-4t", (False, True)),
        ("v5p:2x4x4", 32, 8, 4, "v5p-64", "ct5p-hightpu-4t", (False,) * 3),
        ("v5p:4x4x4", 64, 16, 4, "v5p-128", "ct5p-hightpu-4t", (True,) * 3),
        ("v5p:4x8x8", 256, 64, 4, "v5p-512", "ct5p-hightpu-4t", (True,) * 3),
        ("v5p:16x16x24", 6144, 1536, 4, "v5p-12288", "ct5p-hightpu-4t", (True,) * 3),
        ("v6e:16x16", 256, 64, 4, "v6e-256", "ct6e-standard-4t", (True, True)),
    ],
)
def test_a_slice_is_what_the_tables_say(name, chips, hosts, chips_per_host, kind, machine, wraps):
    found = slices.parse(name)
    assert str(found) == name
    assert (found.chips, found.hosts, found.chips_per_host, found.accelerator_type) == (chips, hosts, chips_per_host, kind)
    assert (found.gke_machine, found.wraps) == (machine, wraps)


@pytest.mark.parametrize("written, meant", [("v5p:8x8x4", "v5p:4x8x8"), ("v6e:4x2", "v6e:2x4"), ("v4:1x2x2", "v4:2x2x1")])
def test_the_order_of_axes_does_not_matter(written, meant):
    assert str(slices.parse(written)) == meant


@pytest.mark.parametrize("each", ALL, ids=str)
def test_every_slice_is_read_back_and_has_whole_hosts(each):
    assert slices.parse(str(each)) == each
    assert each.hosts * each.chips_per_host == each.chips == math.prod(each.shape)
    assert each.usual.accelerator_type == each.accelerator_type
    assert max(each.usual.shape) <= max(each.shape)


def test_large_shapes_are_whole_cubes_within_the_largest_slice():
    for generation, largest in (("v4", 2048), ("v5p", 6144)):
        shapes = slices.GENERATIONS[generation].shapes
        assert max(map(math.prod, shapes)) == largest
        assert all(length % 4 == 0 for shape in shapes if math.prod(shape) >= 64 for length in shape)


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "needed generation:shape, like v5e:4x4"),
        ("v5e", "needed generation:shape"),
        ("v3:4x4", "of v4, v5e, v5p, v6e"),
        ("v5litepod-16", "perhaps v5e:4x4"),
        ("tpu-v6e-8", "perhaps v6e:2x4"),
        ("v5p-512", "perhaps v5p:4x8x8"),
        ("v5e:4x5", "such as v5e:4x4 or v5e:4x8"),
        ("v5e:32x16", "such as v5e:16x16"),
        ("v5p:6x6x6", "needed a shape that v5p is rented in"),
        ("v5p:4x4", "needed a shape that v5p is rented in"),
        ("v5e:-4x-4", "needed a shape that v5e is rented in"),
        ("v5e:4xx4", "needed a shape that v5e is rented in"),
        ("v5e:0x0", "needed a shape that v5e is rented in"),
    ],
)
def test_others_are_refused_with_the_nearest(text, part):
    with pytest.raises(bad_input.BadInput) as refused:
        slices.parse(text, "--slice")
    assert str(refused.value).startswith(f"--slice: found {text!r}, needed ") and part in str(refused.value)


def test_they_are_known_without_jax():
    code = "import sys; from jaxgen.parallel import slices; slices.parse('v5e:4x4'); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

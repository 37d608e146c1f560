"""Sizes of the mesh: filled in, refused, built over the devices that are handed in."""

import dataclasses
import itertools
import math
import pathlib

import jax
import numpy as np
import pytest

from jaxgen import axes, types
from jaxgen import experiment as experiments
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.mesh import MeshShape

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")


def refused(call, *arguments):
    with pytest.raises(types.BadInput) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize(
    "shape, sizes",
    [
        (MeshShape(), (1, 8, 1, 1, 1)),
        (MeshShape(fsdp=2), (1, 4, 2, 1, 1)),
        (MeshShape(data=1, fsdp=-1, tensor=2), (1, 1, 4, 1, 2)),
        (MeshShape(data=2, fsdp=2, tensor=-1), (1, 2, 2, 1, 2)),
        (MeshShape(slice=2, data=2, context=-1), (2, 2, 1, 2, 1)),
        (MeshShape(data=8, fsdp=-1), (1, 8, 1, 1, 1)),
        # Fewer devices than there are, on purpose.
        (MeshShape(data=1), (1, 1, 1, 1, 1)),
        (MeshShape(data=3), (1, 3, 1, 1, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(shape, sizes):
    shape.validate()
    assert shape.resolve(8) == dict(zip(axes.MESH_AXES, sizes, strict=True))


@pytest.mark.parametrize("shape", [MeshShape(data=16), MeshShape(fsdp=64), MeshShape(data=4, fsdp=2, tensor=2)])
def test_more_devices_than_there_are_is_refused_with_both_numbers(shape):
    complaint = refused(shape.resolve, 8)
    assert complaint.option == "mesh"
    wanted = np.prod([size for size in shape.sizes().values() if size > 0])
    assert f"= {wanted} devices" in complaint.found
    assert "8 present" in complaint.needed


@pytest.mark.parametrize("shape", [MeshShape(fsdp=3), MeshShape(data=5, tensor=-1), MeshShape(fsdp=2, tensor=3)])
def test_a_product_that_does_not_divide_the_devices_is_refused(shape):
    complaint = refused(shape.resolve, 8)
    assert complaint.option == "mesh"
    assert "on 8 devices" in complaint.found
    assert "divides 8" in complaint.needed


@pytest.mark.parametrize("size", [0, -2])
@pytest.mark.parametrize("name", axes.MESH_AXES)
def test_a_size_that_is_no_size_is_refused(name, size):
    complaint = refused(MeshShape(**{name: size}).validate)
    assert (complaint.option, complaint.found) == (name, size)


def test_two_axes_that_fill_are_refused():
    assert "at most one" in refused(MeshShape(fsdp=-1).validate).needed


def test_a_batch_that_does_not_divide_is_refused_with_the_axes_that_share_it():
    shape = MeshShape(slice=2, data=2, fsdp=-1, tensor=1)
    complaint = refused(shape.check_batch, 12, 1, 8)
    assert (complaint.option, complaint.found) == ("data.batch_size", 12)
    assert complaint.needed == "a multiple of 8 (mesh.slice=2 × mesh.data=2 × mesh.fsdp=2)"


def test_each_part_of_a_batch_divides_and_the_whole_is_what_was_found():
    MeshShape(data=4, tensor=2).check_batch(16, 4, 8)
    complaint = refused(MeshShape(data=8).check_batch, 16, 4, 8)
    assert complaint.found == 16
    assert complaint.needed == "a multiple of 32 (mesh.data=8 × training.microbatches=4)"


def test_axes_that_do_not_share_the_batch_do_not_count():
    MeshShape(data=2, context=2, tensor=2).check_batch(2, 1, 8)


@pytest.mark.parametrize("shape", [MeshShape(), MeshShape(data=2, fsdp=2, tensor=2), MeshShape(data=1)])
def test_a_mesh_has_all_five_axes_and_leaves_layout_to_the_compiler(shape):
    mesh = meshes.build(shape, jax.devices())
    assert mesh.axis_names == axes.MESH_AXES
    assert dict(mesh.shape) == shape.resolve(8)
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_a_mesh_lies_on_the_devices_that_are_handed_in_and_on_no_others():
    devices = jax.devices()[4:]
    assert list(meshes.build(MeshShape(data=2, fsdp=2), devices).devices.flat) == devices
    assert list(meshes.build(MeshShape(data=1, tensor=2), devices).devices.flat) == devices[:2]


def test_the_last_axis_runs_over_neighbouring_devices():
    mesh = meshes.build(MeshShape(data=4, tensor=2), jax.devices())
    assert mesh.devices[0, 0, 0, 0].tolist() == jax.devices()[:2]


@pytest.mark.parametrize(
    "shape, parts", [(MeshShape(), 8), (MeshShape(fsdp=4), 8), (MeshShape(fsdp=2, tensor=2), 4), (MeshShape(data=1, tensor=8), 1)]
)
def test_a_batch_has_as_many_parts_as_its_axes_have_devices(shape, parts):
    assert meshes.batch_shards(meshes.build(shape, jax.devices())) == parts


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks a TPU device."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int
    device_kind: str = "TPU v5"
    platform: str = "tpu"
    core_on_chip: int = 0
    process_index: int = 0


def chips(shape, slices=1):
    """Devices of slices in an order of no meaning."""
    places = list(itertools.product(range(slices), *(range(size) for size in reversed(shape))))
    made = [Chip(i, place[:0:-1], place[0]) for i, place in enumerate(places)]
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def distance(a, b):
    return sum(abs(x - y) for x, y in zip(a.coords, b.coords, strict=True))


@pytest.mark.parametrize("shape", [MeshShape(data=1, fsdp=-1), MeshShape(data=2, fsdp=4, tensor=2)])
def test_axes_lie_along_the_links_of_a_slice(shape):
    devices = chips((4, 2, 2))
    array = meshes.arranged(shape.resolve(16), devices)
    assert set(array.flat) == set(devices)
    for tensor in np.moveaxis(array, 4, -1).reshape(-1, array.shape[4]):
        assert all(distance(a, b) == 1 for a, b in itertools.pairwise(tensor))


def test_the_slice_axis_alone_crosses_slices():
    devices = chips((2, 2, 2), slices=2)
    array = meshes.arranged(MeshShape(slice=2, data=1, fsdp=4, tensor=2).resolve(16), devices)
    assert array.shape == (2, 1, 4, 1, 2) and set(array.flat) == set(devices)
    for number, part in enumerate(array):
        assert {chip.slice_index for chip in part.flat} == {number}


@pytest.mark.parametrize("shape", [MeshShape(), MeshShape(slice=4), MeshShape(data=1, fsdp=-1)])
def test_another_number_of_slices_than_there_are_is_refused(shape):
    complaint = refused(meshes.arranged, shape.resolve(16), chips((2, 2, 2), slices=2))
    assert (complaint.option, complaint.found) == ("mesh.slice", shape.slice) and complaint.needed.startswith("2,")


@pytest.mark.parametrize(
    "override, sizes",
    [
        ("mesh=data", (1, 8, 1, 1, 1)),
        ("mesh=fsdp", (1, 1, 8, 1, 1)),
        ("mesh=hsdp", (2, 1, 4, 1, 1)),
        ("mesh=fsdp_tensor", (1, 1, 2, 1, 4)),
        ("mesh=context", (1, 1, 4, 2, 1)),
    ],
)
def test_meshes_have_names(override, sizes):
    wide = ["model.width=128", override]
    experiment, _ = experiments.load(TINY, wide)
    assert tuple(experiment.mesh.resolve(8).values()) == sizes
    assert experiments.rebuild(experiments.dump(experiment)) == experiment
    changed, _ = experiments.load(TINY, [*wide, "mesh.tensor=8", "mesh.slice=1", "mesh.context=1"])
    assert changed.mesh.resolve(8)["tensor"] == 8 and math.prod(changed.mesh.resolve(8).values()) == 8


def test_an_unknown_mesh_is_refused_with_the_names_that_there_are():
    with pytest.raises(types.BadInput, match="one of data, fsdp, hsdp, fsdp_tensor, context"):
        experiments.load(TINY, ["mesh=pipeline"])


@pytest.mark.parametrize(
    "overrides, option, needed",
    [
        (
            ["model.width=96", "mesh.tensor=4"],
            "mesh.tensor",
            "a divisor of the model's 6 heads (model.width=96 / model.head_dim=16)",
        ),
        (["mesh.context=3"], "mesh.context", "a divisor of an image's 16 tokens"),
    ],
)
def test_heads_and_tokens_have_to_divide(overrides, option, needed):
    complaint = refused(experiments.load, TINY, overrides)
    assert (complaint.option, complaint.needed) == (option, needed)

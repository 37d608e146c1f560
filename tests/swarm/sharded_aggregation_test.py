"""Updates that lie on many devices are merged where they lie: the same result, and little memory besides."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgen import types
from jaxgen.swarm import stack
from jaxgen.swarm.aggregation import ARC, NNM, CenteredClipping, GeometricMedian, Krum, Meamed, Mean, Median, Robust, TrimmedMean
from jaxgen.swarm.stack import Layout

N, F = 8, 2
SHAPES = {"a": (64, 24), "b": (13,), "c": {"d": (8, 6, 5), "e": ()}}
INNER = {"a": PartitionSpec("fsdp"), "b": PartitionSpec(), "c": {"d": PartitionSpec(None, None, None), "e": PartitionSpec()}}
RULES = [
    Mean(),
    TrimmedMean(F),
    Median(F),
    Meamed(F),
    GeometricMedian(F),
    Krum(F),
    CenteredClipping(F, radius=20.0, iterations=2),
    Robust(("arc", "nnm", "cwtm"), F),
]
MESHES = {"site=8": (8, 1), "site=2 x fsdp=4": (2, 4), "site=4 x fsdp=2": (4, 2)}


def mesh_of(name):
    sizes = MESHES[name]
    devices = np.array(jax.devices()[:8]).reshape(sizes)
    return jax.sharding.Mesh(devices, ("site", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def is_leaf(value):
    return isinstance(value, tuple)


def layout_of(mesh, inner=INNER):
    leaf = lambda value: isinstance(value, PartitionSpec)
    return Layout(mesh, jax.tree.map(lambda spec: PartitionSpec("site", *spec), inner, is_leaf=leaf))


def placed(layout, tree):
    leaf = lambda value: isinstance(value, PartitionSpec)
    where = jax.tree.map(lambda spec: NamedSharding(layout.mesh, spec), layout.specs, is_leaf=leaf)
    return jax.device_put(tree, where)


@functools.cache
def updates():
    random = np.random.default_rng(0)
    made = jax.tree.map(lambda shape: random.normal(1, 1, (N, *shape)).astype(np.float32), SHAPES, is_leaf=is_leaf)
    # Lengths that differ, and one site that breaks, in a leaf that is shared out.
    made = jax.tree.map(lambda x: x * (1 + np.arange(N).reshape(-1, *(1,) * (x.ndim - 1))).astype(np.float32), made)
    return made


def compare(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mesh", [list(MESHES)[1], pytest.param(list(MESHES)[0], marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_result_is_that_of_one_device(rule, mesh, monkeypatch):
    # Several chunks a leaf, of a size that divides nothing.
    monkeypatch.setattr(stack, "_CHUNK", 37)
    monkeypatch.setattr(stack, "_EXCHANGES", 5)
    given = jax.tree.map(np.copy, updates())
    if not isinstance(rule, Mean):
        given["a"][5, 40, 3] = np.nan
    layout = layout_of(mesh_of(mesh))
    expected = jax.jit(rule)(given)
    found = jax.jit(lambda tree: rule(tree, layout))(placed(layout, given))
    compare(found, expected)


@pytest.mark.parametrize("mix", [ARC(F), NNM(F)], ids=["arc", "nnm"])
def test_mixed_updates_stay_where_they_lie(mix):
    layout = layout_of(mesh_of("site=4 x fsdp=2"))
    given = placed(layout, updates())
    found = jax.jit(lambda tree: mix(tree, layout))(given)
    compare(found, jax.jit(mix)(updates()))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True):
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


MANY = [(4096, 4096)] * 5 + [(16384, 1024), (1024,), (1000, 1000)]
MANY_INNER = [PartitionSpec("fsdp"), *[PartitionSpec(None, "fsdp")] * 5, PartitionSpec(), PartitionSpec("fsdp")]
PARAMETERS = sum(int(np.prod(shape)) for shape in MANY)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", list(MESHES)[:2])
@pytest.mark.parametrize(
    "rule",
    [TrimmedMean(F), Krum(F), GeometricMedian(F), Robust(("arc", "nnm", "cwtm"), F)],
    ids=["cwtm", "krum", "gm", "arc,nnm,cwtm"],
)
def test_temporaries_of_a_hundred_million_parameters_are_few(rule, mesh):
    mesh = mesh_of(mesh)
    layout = layout_of(mesh, MANY_INNER)
    given = [
        jax.ShapeDtypeStruct((N, *shape), jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(MANY, layout.specs, strict=True)
    ]
    assert 1e8 < PARAMETERS < 1.1e8
    share = 4 * PARAMETERS / mesh.shape["fsdp"]
    memory = jax.jit(lambda tree: rule(tree, layout)).lower(given).compile().memory_analysis()
    print(f"temporaries {memory.temp_size_in_bytes / share:.2f} of one device's share of an update")
    assert memory.temp_size_in_bytes <= 3 * share


@functools.cache
def many():
    """Eight updates of a hundred million parameters; those of the last two sites are far away."""
    random = np.random.default_rng(0)
    found = [random.standard_normal((N, *shape), dtype=np.float32) for shape in MANY]
    for leaf in found:
        leaf[-F:] *= 30
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rule", [TrimmedMean(F), Robust(("arc", "nnm", "cwtm"), F)], ids=["cwtm", "arc,nnm,cwtm"])
def test_a_hundred_million_parameters_on_eight_devices_are_merged_as_on_one(rule):
    expected = jax.device_get(jax.jit(rule)(many()))
    for name in list(MESHES)[:2]:
        layout = layout_of(mesh_of(name), MANY_INNER)
        found = jax.jit(lambda tree, layout=layout: rule(tree, layout))(placed(layout, many()))
        compare(jax.device_get(found), expected)


def test_a_layout_that_does_not_fit_is_refused():
    layout = layout_of(mesh_of("site=8"), {"a": PartitionSpec()})
    with pytest.raises(types.BadInput, match="updates: found '12 sites', needed a multiple of site=8"):
        TrimmedMean(1)({"a": jnp.zeros((12, 3))}, layout)
    with pytest.raises(types.BadInput, match="layout.specs: found"):
        TrimmedMean(1)({"a": jnp.zeros((8, 3))}, Layout(layout.mesh, {"a": PartitionSpec("fsdp")}))
    with pytest.raises(types.BadInput, match="layout.mesh: found"):
        TrimmedMean(1)({"a": jnp.zeros((8, 3))}, Layout(layout.mesh, layout.specs, "slice"))

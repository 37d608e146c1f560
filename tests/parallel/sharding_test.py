"""From axis names to layouts, and that the layouts reach the program that is compiled."""

import collections
import itertools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxgen import axes, types
from jaxgen import experiment as experiments
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.parallel.mesh import MeshShape
from jaxgen.training import step as steps

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
SPREAD = ("mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2")


def built(*overrides):
    experiment, _ = experiments.load(TINY, overrides)
    mesh = meshes.build(experiment.mesh, jax.devices())
    with jax.set_mesh(mesh):
        return steps.build(experiment, mesh), mesh


def lowered(step):
    return step.update.lower(step.state, step.frozen, step.batch).as_text()


def constraints(program):
    """How often each layout is demanded in a lowered program."""
    return collections.Counter(re.findall(r"sdy\.sharding_constraint .*?<@mesh, \[(.*?)\]>", program))


# Layouts.

MESHES = [
    dict(zip(axes.MESH_AXES, sizes, strict=True))
    for sizes in [(1, 1, 1, 1, 1), (1, 1, 4, 1, 2), (1, 2, 2, 1, 2), (2, 2, 2, 2, 2), (1, 1, 3, 1, 5), (1, 1, 8, 1, 1)]
]


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: "x".join(map(str, mesh.values())))
def test_a_layout_uses_no_mesh_axis_twice_and_always_divides(mesh):
    for names in itertools.permutations(axes.AXES, 2):
        for shape in itertools.product((1, 6, 8, 60, 64), repeat=2):
            spec = sharding.partition_spec(names, shape, mesh)
            used = [axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
            assert len(used) == len(set(used))
            for size, entry in zip(shape, spec, strict=True):
                group = (entry,) if isinstance(entry, str) else entry or ()
                assert size % math.prod(mesh[axis] for axis in group) == 0
                # An axis of one device is left out: it would only make layouts unequal that are the same.
                assert all(mesh[axis] > 1 for axis in group)


@pytest.mark.parametrize(
    "names, shape, mesh, spec",
    [
        pytest.param(("embed", "mlp"), (64, 256), {"fsdp": 4, "tensor": 2}, ("fsdp", "tensor"), id="first preferences"),
        pytest.param(("embed", "embed_out"), (64, 64), {"fsdp": 4, "tensor": 2}, ("fsdp", "tensor"), id="the second where taken"),
        pytest.param(("embed", "embed_out"), (64, 64), {"fsdp": 4}, ("fsdp", None), id="whole where all are taken"),
        pytest.param(("embed",), (6,), {"fsdp": 4, "tensor": 2}, ("tensor",), id="the second where the first does not divide"),
        pytest.param(("embed",), (7,), {"fsdp": 4, "tensor": 2}, (None,), id="whole where none divides"),
        pytest.param(("heads", "kv"), (3, 16), {"tensor": 2}, (None, None), id="finite axes are whole"),
        pytest.param(("layers", None, "heads"), (4, 3, 4), {"fsdp": 2, "tensor": 2}, (None, None, "tensor"), id="nameless"),
        pytest.param(("batch", "length"), (8, 6), {"data": 2, "fsdp": 4, "context": 2}, (("data", "fsdp"), "context"), id="batch"),
        pytest.param(("batch",), (4,), {"data": 2, "fsdp": 4}, (None,), id="a batch is split over all its axes or none"),
        pytest.param(("batch", "features"), (8, 8), {"data": 2, "fsdp": 4}, (("data", "fsdp"), None), id="taken by a group"),
    ],
)
def test_a_dimension_takes_the_first_mesh_axes_that_are_free_and_divide(names, shape, mesh, spec):
    assert sharding.partition_spec(names, shape, mesh) == PartitionSpec(*spec)


def test_names_and_dimensions_must_agree_and_be_known():
    with pytest.raises(ValueError):
        sharding.partition_spec(("embed",), (4, 4), {})
    with pytest.raises(KeyError, match="width"):
        sharding.partition_spec(("width",), (4,), {})


def test_every_preferred_mesh_axis_exists():
    preferred = {a for axis in axes.AXES.values() for entry in axis.mesh for a in ((entry,) if isinstance(entry, str) else entry)}
    assert preferred <= set(axes.MESH_AXES)


def test_a_batch_is_split_over_its_axes_and_repeated_over_the_others():
    mesh = meshes.build(MeshShape(data=2, fsdp=2, tensor=2), jax.devices())
    placed = jax.device_put(np.arange(8), sharding.batch_sharding(mesh))
    parts = collections.Counter(tuple(np.asarray(shard.data).tolist()) for shard in placed.addressable_shards)
    assert parts == {(0, 1): 2, (2, 3): 2, (4, 5): 2, (6, 7): 2}


# Constraints on activations.


def test_a_constraint_fixes_the_layout_within_a_mesh_and_is_nothing_outside():
    mesh = meshes.build(MeshShape(data=1, fsdp=4, tensor=2), jax.devices())

    def double(x):
        return sharding.constrain(x * 2, "batch", "activation_mlp")

    x = jnp.ones((8, 6))
    with jax.set_mesh(mesh):
        assert jax.jit(double)(x).sharding.spec == PartitionSpec("fsdp", "tensor")
    # A function of its own: JAX keeps what it has traced.
    outside = jax.jit(lambda x: double(x))
    assert sum(constraints(outside.lower(x).as_text()).values()) == 0
    assert len(outside(x).sharding.device_set) == 1


def test_a_constraint_leaves_values_as_they_are():
    mesh = meshes.build(MeshShape(data=2, fsdp=2, tensor=2), jax.devices())
    x = np.random.default_rng(0).normal(size=(8, 4, 6)).astype(np.float32)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(x, "batch", "length", "activation_mlp"))(x)
    np.testing.assert_array_equal(y, x)


def test_a_gathered_parameter_is_whole_along_the_axes_of_the_batch_and_split_along_the_others():
    mesh = meshes.build(MeshShape(data=2, fsdp=2, tensor=2), jax.devices())
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.gathered(x, "embed", "mlp"))(x)
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(sharding.gathered(x, "embed", "mlp") * y)))(x)
    assert y.sharding.is_equivalent_to(jax.NamedSharding(mesh, PartitionSpec(None, "tensor")), 2)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(gradient, x)
    assert sharding.gathered(x, "embed", "mlp") is x


# What MMDiT demands, by hand. Before the blocks: the looked-up text, the tokens of both modalities and the condition. In the block,
# for each of two modalities: query, key and value by heads; the tokens after attention and after the feed-forward layer; the hidden
# feed-forward layer. All of it holds for the gradient as well.
TOKENS, HEADS, HIDDEN = 1 + 2 + 1 + 2 * 2, 2 * 3, 2 * 1
DEMANDED = {
    '{"fsdp"}, {}, {}': TOKENS,
    '{"fsdp"}, {}, {"tensor"}, {}': HEADS,
    '{"fsdp"}, {}, {"tensor"}': HIDDEN,
}
# Kernels are gathered over fsdp. Before the blocks those of the text, the pooled text (2), the time (2), and the patches; behind
# them the output. In the block, for each modality: query-key-value, from heads, in and out of the feed-forward layer. A
# modulation's kernel stays divided: what it reads, one vector a picture, goes to all devices and is divided as the kernel is; each
# vector that it makes, two behind the blocks and six for a modality, goes to all, and from there to the devices of the batch.
MODULATIONS, VECTORS = 1 + 2 * 1, 2 + 2 * 6
KERNELS = {
    '{}, {"tensor"}': 1 + 2 + 2 + 2 * 1,
    "{}, {}": 1 + 1,
    '{"fsdp"}, {}, {"tensor"}': MODULATIONS,
    "{}, {}, {}": MODULATIONS + VECTORS,
    '{"fsdp"}, {}, {}': VECTORS,
    '{}, {}, {"fsdp"}': MODULATIONS,
    '{}, {}, {"tensor"}, {}': 2 * 1,
    '{"tensor"}, {}, {}': 2 * 1,
    '{"tensor"}, {}': 2 * 1,
}


@pytest.mark.parametrize("depth", [1, 3])
def test_the_train_step_lowers_each_constraint_once_forward_and_once_backward(depth):
    step, mesh = built(*SPREAD, f"model.depth={depth}")
    with jax.set_mesh(mesh):
        found = constraints(lowered(step))
    # The scan holds its block once, however deep.
    wanted = collections.Counter({layout: 2 * count for layout, count in DEMANDED.items()})
    wanted.update({layout: 2 * count for layout, count in KERNELS.items()})
    assert found == wanted


def test_the_train_step_lowers_no_constraint_outside_of_a_mesh():
    step, _ = built(*SPREAD)
    assert sum(constraints(lowered(step)).values()) == 0


# What devices hold.


def test_state_is_shared_out_over_fsdp_and_tensor():
    step, mesh = built(*SPREAD, "model.width=64")
    held, whole = sharding.bytes_per_device(step.state.items())
    # An eighth where everything divides; sinusoid tables, gains and biases split over fewer.
    assert whole / 8 <= held <= 0.2 * whole
    # Parameters, two moments and an average, float32.
    count = sum(leaf.size for leaf in jax.tree.leaves(step.state.params))
    assert whole == pytest.approx(4 * 4 * count, rel=1e-4)


def test_the_initial_state_lies_as_it_is_described():
    step, mesh = built(*SPREAD)
    with jax.set_mesh(mesh):
        state = step.initial(np.uint32(0))
    for found, described in zip(jax.tree.leaves(state), jax.tree.leaves(step.state), strict=True):
        assert found.sharding.is_equivalent_to(described.sharding, found.ndim)
    assert sharding.bytes_per_device(state) == sharding.bytes_per_device(step.state)
    per_device = collections.Counter()
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            per_device[shard.device] += shard.data.nbytes
    assert set(per_device.values()) == {sharding.bytes_per_device(step.state)[0]}


def test_one_device_holds_everything():
    step, _ = built("mesh.data=1")
    held, whole = sharding.bytes_per_device(step.state)
    assert held == whole


def test_every_matrix_of_the_blocks_is_split_eight_ways():
    step, _ = built(*SPREAD, "model.width=64")
    for path, leaf in jax.tree_util.tree_leaves_with_path(step.state.params["model"]["blocks"]):
        if path[-1].key == "kernel":
            held = math.prod(leaf.sharding.shard_shape(leaf.shape))
            assert held * 8 == leaf.size, jax.tree_util.keystr(path)


def abstract(mesh, shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.sharding.NamedSharding(mesh, PartitionSpec(*spec)))


def test_what_every_device_holds_whole_is_counted_and_named():
    mesh = meshes.build(MeshShape(data=2, fsdp=4), jax.devices())
    tree = {"a": {"kernel": abstract(mesh, (8, 8), "fsdp")}, "b": abstract(mesh, (5,)), "c": abstract(mesh, (3, 7))}
    assert list(sharding.replicated_bytes(tree).items()) == [("c", 84), ("b", 20)]


@pytest.mark.parametrize("rows, refused", [(2**28, True), (2**28 - 1, False)])
def test_too_much_held_whole_is_refused_where_the_mesh_is_to_share_it_out(rows, refused):
    for shape, shares in ((MeshShape(data=1, fsdp=8), True), (MeshShape(data=1, tensor=8), True), (MeshShape(), False)):
        mesh = meshes.build(shape, jax.devices())
        tree = {"table": abstract(mesh, (rows,)), "kernel": abstract(mesh, (2**28, 8), ("data", "fsdp", "tensor"))}
        if refused and shares:
            with pytest.raises(types.BadInput, match=r"1\.00 GiB of state whole on every device.*table \(1\.00 GiB\)"):
                sharding.check_replicated(tree, mesh)
        else:
            sharding.check_replicated(tree, mesh)


def test_a_small_share_may_be_whole():
    mesh = meshes.build(MeshShape(data=1, fsdp=8), jax.devices())
    tree = {"table": abstract(mesh, (2**28,)), "kernel": abstract(mesh, (2**28, 16), "fsdp")}
    sharding.check_replicated(tree, mesh)


def test_a_value_is_placed_and_fetched_whole():
    mesh = meshes.build(MeshShape(data=2, fsdp=4), jax.devices())
    value = np.arange(64.0, dtype=np.float32).reshape(16, 4)
    placed = sharding.place(value, sharding.batch_sharding(mesh))
    assert placed.sharding.shard_shape(placed.shape) == (2, 4)
    np.testing.assert_array_equal(sharding.fetch(placed), value)

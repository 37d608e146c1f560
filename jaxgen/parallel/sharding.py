"""From axis names to layouts on the mesh, for parameters and for activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import axes, types

# Below the first it does not matter; above, a share that is not vectors and small tables alone means axes that do not divide.
_REPLICATED_BYTES = 2**30
_REPLICATED_SHARE = 0.1


def partition_spec(names: Sequence[str | None], shape: Sequence[int], mesh: Mapping[str, int]) -> PartitionSpec:
    """Layout of an array whose dimensions carry these axis names, on a mesh with these axis sizes.

    Each dimension takes the first of its preferred mesh axes (`axes.AXES`) that no earlier dimension took and that divides
    its size; otherwise it is replicated.
    """
    taken: set[str] = set()
    entries: list[tuple[str, ...] | None] = []
    for name, size in zip(names, shape, strict=True):
        entry = None
        for wanted in axes.AXES[name].mesh if name else ():
            group = (wanted,) if isinstance(wanted, str) else wanted
            group = tuple(axis for axis in group if mesh.get(axis, 1) > 1)
            if group and not taken & set(group) and size % math.prod(mesh[axis] for axis in group) == 0:
                entry = group
                taken |= set(group)
                break
        entries.append(entry)
    return PartitionSpec(*entries)


def automatic(mesh: Any) -> dict[str, int]:
    """Sizes of the mesh axes over which the compiler shares out work: all but those that a surrounding `shard_map` is over."""
    kinds = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in kinds if kind != jax.sharding.AxisType.Manual}


def device() -> Any:
    """What the mesh entered by `jax.set_mesh` consists of, a topology that is only compiled for too: its `platform` and
    `device_kind`. None outside of a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh.abstract_device


def constrain(value: jax.Array, *names: str | None) -> jax.Array:
    """`value` with its layout fixed by axis names, on the mesh entered by `jax.set_mesh`; unchanged outside of one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return value
    return jax.lax.with_sharding_constraint(value, partition_spec(names, value.shape, automatic(mesh)))


def gathered(value: jax.Array, *names: str | None) -> jax.Array:
    """A parameter as a replica computes with it: laid out by axis names, but whole along the axes that share out the batch.

    Left to itself the compiler may rather move activations, or cut one product into many small ones.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return value
    spec = partition_spec(names, value.shape, automatic(mesh))
    # A dimension's entry is one axis, several, or None.
    named = [(entry,) if isinstance(entry, str) else entry or () for entry in spec]
    kept = (tuple(axis for axis in entry if axis not in axes.BATCH_MESH_AXES) for entry in named)
    return jax.lax.with_sharding_constraint(value, PartitionSpec(*(entry or None for entry in kept)))


def parameter_shardings(boxed: types.PyTree, mesh: jax.sharding.Mesh) -> types.PyTree:
    """NamedSharding per parameter, from a boxed abstract tree (`jaxgen.mup.Parameter` leaves)."""

    def one(box) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(box.names, box.value.shape, mesh.shape))

    return jax.tree.map(one, boxed, is_leaf=lambda leaf: hasattr(leaf, "names"))


def with_layout(tree: types.PyTree, layout: types.PyTree) -> types.PyTree:
    """Abstract arrays where `layout` says that they lie."""
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), tree, layout)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Layout of every field of a batch: the leading axis over slice, data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(axes.BATCH_MESH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def place(value: np.ndarray, layout: NamedSharding) -> jax.Array:
    """A global array of a value that every host holds whole."""
    return jax.make_array_from_callback(value.shape, layout, lambda index: value[index])


def fetch(array: jax.Array) -> np.ndarray:
    """The whole of a global array on every host. Where it is spread over hosts, all of them call this in the same order."""
    if not array.is_fully_addressable and not array.is_fully_replicated:
        array = jax.jit(lambda whole: whole, out_shardings=replicated(array.sharding.mesh))(array)
    return np.asarray(jax.device_get(array))


def replicated_bytes(tree: types.PyTree) -> dict[str, int]:
    """Bytes of each array that every device holds whole, by its path, the largest first. Takes what `bytes_per_device` takes."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if leaf.sharding.is_fully_replicated:
            found[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf.size * leaf.dtype.itemsize
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def check_replicated(tree: types.PyTree, mesh: jax.sharding.Mesh) -> None:
    """Refuses a state of which a mesh that is to share it out leaves too much whole on every device.

    Raises:
      BadInput: that is a GiB or more, and a tenth of the whole; names the largest arrays.
    """
    ways = mesh.shape["fsdp"] * mesh.shape["tensor"]
    left = replicated_bytes(tree)
    _, whole = bytes_per_device(tree)
    total = sum(left.values())
    if ways > 1 and total >= _REPLICATED_BYTES and total >= _REPLICATED_SHARE * whole:
        shown = ", ".join(f"{name} ({size / 2**30:.2f} GiB)" for name, size in list(left.items())[:3])
        found = (
            f"fsdp={mesh.shape['fsdp']} × tensor={mesh.shape['tensor']} with {total / 2**30:.2f} GiB of state whole on every device"
        )
        needed = f"sizes that divide the arrays' axes, so that less than {_REPLICATED_SHARE:.0%} of the state stays whole: {shown}"
        raise types.BadInput("mesh", found, needed)


def bytes_per_device(tree: types.PyTree) -> tuple[int, int]:
    """(bytes that one device holds, bytes of the whole) for arrays or ShapeDtypeStructs with shardings."""
    held = whole = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        held += math.prod(leaf.sharding.shard_shape(leaf.shape)) * size
        whole += math.prod(leaf.shape) * size
    return held, whole

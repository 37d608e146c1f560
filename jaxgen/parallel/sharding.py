"""From axis names to layouts on the mesh, for parameters and for activations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import axes, types


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


def constrain(value: jax.Array, *names: str | None) -> jax.Array:
    """`value` with its layout fixed by axis names, on the mesh entered by `jax.set_mesh`; unchanged outside of one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return value
    return jax.lax.with_sharding_constraint(value, partition_spec(names, value.shape, mesh.shape))


def parameter_shardings(boxed: types.PyTree, mesh: jax.sharding.Mesh) -> types.PyTree:
    """NamedSharding per parameter, from a boxed abstract tree (`jaxgen.mup.Parameter` leaves)."""

    def one(box) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(box.names, box.value.shape, mesh.shape))

    return jax.tree.map(one, boxed, is_leaf=lambda leaf: hasattr(leaf, "names"))


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Layout of every field of a batch: the leading axis over slice, data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(axes.BATCH_MESH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def bytes_per_device(tree: types.PyTree) -> tuple[int, int]:
    """(bytes that one device holds, bytes of the whole) for arrays or ShapeDtypeStructs with shardings."""
    held = whole = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        held += math.prod(leaf.sharding.shard_shape(leaf.shape)) * size
        whole += math.prod(leaf.shape) * size
    return held, whole

"""Gradients of single slices, merged by a rule that stands broken or hostile ones (`training.merge`).

Each slice computes the gradient of its own rows, as if it were alone; the rule merges them, each counting as one vote however many
rows it had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgen import types

AXIS = "slice"
Whole = Callable[[types.Batch, jax.Array], tuple[types.Metrics, types.PyTree]]


def check(merge: types.GradientMerge, mesh: jax.sharding.Mesh, memory: types.PyTree) -> None:
    """Raises BadInput unless the mesh has slices enough, and the objective nothing that slices would have to agree on."""
    merge.check_slices(mesh.shape[AXIS])
    if jax.tree.leaves(memory):
        raise types.BadInput(
            "training.merge", type(merge).__name__, "none: the objective has a memory, which slices would not agree on"
        )


@dataclasses.dataclass(frozen=True)
class Merged:
    """Metrics and gradient of a batch, merged from those of its slices.

    Attributes:
      layout: `NamedSharding` of each parameter.
    """

    merge: types.GradientMerge
    mesh: jax.sharding.Mesh
    layout: types.PyTree

    def __call__(self, whole: Whole, batch: types.Batch, key: jax.Array) -> tuple[types.Metrics, types.PyTree]:
        """Of `whole(rows, key)`, applied to the rows of each slice with a key of its own.

        A slice whose loss or gradient is not finite is left out of the metrics. Where there are more of them than the rule
        stands, the loss is NaN, which stops the training.
        """
        slices = self.mesh.shape[AXIS]

        def one(rows: types.Batch, number: jax.Array) -> tuple[types.Metrics, types.PyTree]:
            found = whole(rows, jax.random.fold_in(key, number[0]))
            return jax.tree.map(lambda leaf: leaf[None], found)

        split = PartitionSpec(AXIS)
        mapped = jax.shard_map(one, mesh=self.mesh, in_specs=(split, split), out_specs=split, axis_names={AXIS}, check_vma=False)
        metrics, gradients = mapped(batch, jnp.arange(slices))
        specs = jax.tree.map(lambda where: PartitionSpec(AXIS, *where.spec), self.layout)
        gradients = jax.lax.with_sharding_constraint(
            gradients, jax.tree.map(lambda spec: jax.sharding.NamedSharding(self.mesh, spec), specs)
        )
        gradient = self.merge.over_mesh(gradients, self.mesh, specs, AXIS)

        lost = ~(jnp.isfinite(metrics["loss"].total) & jnp.isfinite(_squares(gradients)))
        kept = jax.tree.map(lambda values: jnp.sum(jnp.where(lost, 0, values)), metrics)
        total = jnp.where(jnp.sum(lost) > self.merge.f, jnp.nan, kept["loss"].total)
        kept["loss"] = types.Mean(total, kept["loss"].weight)
        # A slice that stands apart step after step is one to look at.
        away = jnp.sqrt(_squares(jax.tree.map(lambda all, merged: all - merged[None], gradients, gradient)))
        for number in range(slices):
            distance = jnp.where(lost[number], 0, away[number])
            kept[f"slice_distance/{number}"] = types.Mean(distance, 1.0 - lost[number])
        return kept, gradient


def _squares(gradients: types.PyTree) -> jax.Array:
    """[slices] squared norms of whole trees."""
    return sum(jnp.sum(jnp.square(leaf.reshape(leaf.shape[0], -1)), axis=1) for leaf in jax.tree.leaves(gradients))

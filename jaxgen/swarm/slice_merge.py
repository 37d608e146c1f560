"""Robust merging of gradients over the slices of one job (`training.merge=robust`)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxgen import types
from jaxgen.swarm import aggregation
from jaxgen.swarm.stack import Layout


@dataclasses.dataclass(frozen=True)
class RobustMerge(aggregation.Robust):
    """A chain of rules by names: `--set training.merge=robust --set training.merge.rules=arc,nnm,cwtm --set training.merge.f=1`.

    It is for slices that compute wrongly or on bad data without anyone noticing. With f = 0 all steps are the plain mean or,
    for a median, need no f.
    """

    def check(self, experiment: Any) -> None:
        """The mesh has slices enough, where their number is written down."""
        if experiment.mesh.slice > 0:
            self.check_slices(experiment.mesh.slice)

    def check_slices(self, slices: int) -> None:
        """Raises BadInput for fewer than three slices, or where f of them are no minority."""
        if slices < 3:
            raise types.BadInput("mesh.slice", slices, "at least 3 slices, for training.merge to outvote one of them")
        try:
            self.check_sites(slices)
        except types.BadInput as complaint:
            raise complaint.under("training.merge") from None

    def over_mesh(self, gradients: types.PyTree, mesh: jax.sharding.Mesh, specs: types.PyTree, axis: str) -> types.PyTree:
        """Leaves [slices, ...] to leaves [...]; see `types.GradientMerge`."""
        return self(gradients, Layout(mesh, specs, axis))

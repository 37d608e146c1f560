"""Representation alignment: hidden tokens of a generator learn to say what a frozen encoder sees in the clean picture.

REPA (Yu et al., arXiv 2410.06940): beside its own loss the network minimises -λ · mean over tokens of the cosine between a
projection of its tokens behind one block, at x_t, and the encoder's features of the same place of x_0 (equation 8 there; DDT, arXiv
2504.05741, has 1 minus it, of the same gradient). The projection is a player of its own beside the generator, trained by the same
backward pass; it has no average, and nobody who draws samples knows of it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.nn.linear import Linear
from jaxgen.nn.resampling import resample

TEACHER, PROJECTOR = "teacher", "projector"
"""Names of the frozen network, of the player, and of the features in a prepared batch."""


class Projector(nn.Module):
    """Three linear maps with SiLU between, from the generator's width to the channels of the features.

    Attributes:
      width: D. hidden: width of the layers between. features: F.
    """

    width: int
    hidden: int
    features: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] to [B, L, F]."""
        inner = (("embed_out", self.hidden),)
        x = nn.silu(Linear((("embed", self.width),), inner, self.scale, name="in")(x))
        x = nn.silu(Linear((("embed", self.hidden),), inner, self.scale, name="hidden")(x))
        return Linear((("embed", self.hidden),), (("features", self.features),), self.scale, kind="output", name="out")(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
    """A term of a denoising objective.

    Attributes:
      teacher: the frozen encoder.
      block: behind which tokens are aligned, counted from 1.
      weight: λ; 0 is as if there were no alignment at all.
      projector_ratio: width of the projector's hidden layers over D; 1 as in DDT, while REPA has 2048 channels at every width.
      resampling: of the teacher's features where its grid is not that of the generator's tokens.
    """

    teacher: types.Teacher
    block: int = 8
    weight: float = 0.5
    projector_ratio: int = 1
    resampling: Literal["none", "bilinear"] = "none"

    def validate(self) -> None:
        if self.block < 1:
            raise types.BadInput("block", self.block, "at least 1")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise types.BadInput("weight", self.weight, "a finite number, 0 or above")
        if self.projector_ratio < 1:
            raise types.BadInput("projector_ratio", self.projector_ratio, "at least 1")

    def check(self, experiment: Any) -> None:
        """The generator must have the block, and the teacher see its places."""
        here, model, data = "objective.alignment", experiment.model, experiment.data
        count = getattr(model, "block_count", 0)
        if self.block > count:
            raise types.BadInput(f"{here}.block", self.block, f"1 to {count}, the blocks of the model {type(model).__name__}")
        try:
            seen = self.teacher.grid(data.resolution, data.channels)
        except types.BadInput as complaint:
            raise complaint.under(f"{here}.teacher") from None
        side = data.resolution // experiment.autoencoder.factor // model.patch
        if seen == (side, side):
            return
        if self.resampling == "none":
            needed = f"({side}, {side}), that of the generator's tokens, or {here}.resampling=bilinear"
            raise types.BadInput(f"{here}.teacher", f"a grid of {seen}", needed)
        if min(seen) < side:
            needed = f"at least ({side}, {side}), that of the generator's tokens: a coarser one says nothing of single tokens"
            raise types.BadInput(f"{here}.teacher", f"a grid of {seen}", needed)

    def player(self, generator: types.Player) -> types.Player:
        """The projector, which learns with the generator."""
        model = generator.module
        scale = model.scaling.at(model.width)
        module = Projector(model.width, self.projector_ratio * model.width, self.teacher.width, scale)
        inputs = lambda: (jnp.zeros((1, 1, model.width)),)
        return types.Player(PROJECTOR, module, inputs, generator.optimizer, ema=(), joint_with=generator.name)

    def frozen(self) -> types.Frozen:
        """The teacher's network."""
        return self.teacher.frozen(TEACHER)

    def targets(self, views: types.Views, images: jax.Array, grid: tuple[int, int], resolution: int) -> jax.Array:
        """Features [B, L, F] of clean pictures in [-1, 1], on the generator's grid of (rows, columns)."""
        found = self.teacher.features(views.frozen[TEACHER], images, views.compute)
        rows, columns = self.teacher.grid(resolution, images.shape[-1])
        found = resample(found.reshape(found.shape[0], rows, columns, -1), grid, "bilinear")
        return found.reshape(found.shape[0], grid[0] * grid[1], -1)

    def cosines(self, views: types.Views, hidden: jax.Array, targets: jax.Array) -> jax.Array:
        """Mean over tokens [B] of the cosine between projected tokens [B, L, D] and features [B, L, F], float32."""
        projected = views.modules[PROJECTOR].apply({"params": views.params[PROJECTOR]}, hidden)
        return jnp.mean(jnp.sum(_unit(projected) * _unit(targets), axis=-1), axis=-1)


def _unit(x: jax.Array) -> jax.Array:
    """Vectors along the last axis at length 1; float32. One of length 0 stays so, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)

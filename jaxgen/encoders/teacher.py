"""Frozen encoders of pictures as teachers (`types.Teacher`): how pictures enter, what comes out; here with random weights.

A random encoder is the control of what one that was trained is good for. Trained ones differ in where their weights lie:
`training.saved_network` reads those of a run, `interop.dinov2` published ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.nn.resampling import resample

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "centred": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation by channel of pixels from 0 to 1 that an encoder was trained with; `centred` is -1 to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomTeacher:
    """An encoder with the weights that it starts with.

    Attributes:
      module: a Linen module with `width`, `patch`, `channels` and `features(images) -> [B, L, width]`, such as
        `encoders.dinov2.DINOv2` and `encoders.self_supervised.MaskedEncoder`.
      normalization: of pixels, a name in `NORMALIZATIONS`.
      resolution: side that pictures are resized to (bicubic, behind the normalisation, as REPA does it), pixels; 0 leaves them.
    """

    module: Any
    normalization: str = "centred"
    resolution: int = 0

    @property
    def width(self) -> int:
        """Channels of the features."""
        return self.module.width

    def validate(self) -> None:
        if not isinstance(self.module, nn.Module) or not hasattr(self.module, "features"):
            raise types.BadInput("module", type(self.module).__name__, "an encoder of pictures: a Linen module with `features`")
        if self.normalization not in NORMALIZATIONS:
            raise types.BadInput("normalization", self.normalization, f"one of {', '.join(NORMALIZATIONS)}")
        if len(NORMALIZATIONS[self.normalization][0]) not in (1, self.module.channels):
            needed = f"one of pictures with module.channels={self.module.channels}"
            raise types.BadInput("normalization", self.normalization, needed)
        if self.resolution < 0:
            raise types.BadInput("resolution", self.resolution, "a number of pixels, or 0")

    def grid(self, resolution: int, channels: int) -> tuple[int, int]:
        """See `types.Teacher`."""
        if channels != self.module.channels:
            raise types.BadInput("module.channels", self.module.channels, f"{channels}, the channels of the pictures")
        side = self.resolution or resolution
        if side % self.module.patch:
            needed = f"a multiple of module.patch={self.module.patch}, so that pictures are a whole number of patches"
            raise types.BadInput("resolution", side, needed)
        return side // self.module.patch, side // self.module.patch

    def frozen(self, name: str) -> types.Frozen:
        return types.Frozen(name, self.module, self.initial, "random weights")

    def initial(self, key: jax.Array) -> types.PyTree:
        """Boxed parameters as drawn at the start."""
        side = self.module.patch
        return self.module.init(key, jnp.zeros((1, side, side, self.module.channels)))["params"]

    def features(self, params: types.PyTree, images: jax.Array, compute: Any) -> jax.Array:
        """Images [B, H, W, C] in [-1, 1] to features [B, rows·columns, F] in dtype `compute`."""
        mean, deviation = (jnp.asarray(values, jnp.float32) for values in NORMALIZATIONS[self.normalization])
        x = ((images + 1) / 2 - mean) / deviation
        if self.resolution:
            x = resample(x, (self.resolution, self.resolution), "bicubic")
        return self.module.apply({"params": params}, x.astype(compute), method="features")

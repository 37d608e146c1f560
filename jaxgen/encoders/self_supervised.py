"""An encoder that learns from pictures alone, without labels or captions: it fills in patches that it does not see.

Masked image modelling (Xie et al., SimMIM, arXiv 2111.09886): the tower of `encoders.dinov2` reads the picture with a mask token in
the place of hidden patches, and one linear map of its features says what their pixels are. The objective is
`objectives.masked_modelling`; what is learned serves as a teacher where there is no published one.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.nn.linear import Linear


class MaskedEncoder(nn.Module):
    """A tower and the map from its features to pixels.

    Attributes:
      tower: sizes of the encoder.
    """

    tower: DINOv2 = DINOv2()

    streams = ()

    @property
    def width(self) -> int:
        """D."""
        return self.tower.width

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.tower.patch

    @property
    def channels(self) -> int:
        """Channels of the pictures."""
        return self.tower.channels

    def setup(self) -> None:
        values = self.patch * self.patch * self.channels
        scale = self.tower.scaling.at(self.width)
        self.pixels = Linear((("embed", self.width),), (("patch", values),), scale, kind="output")

    def __call__(self, images: jax.Array, hidden: jax.Array | None = None) -> jax.Array:
        """Pictures [B, H, W, C] in [-1, 1] and hidden patches, bool [B, L], to values of all patches [B, L, p·p·C]."""
        return self.pixels(self.tower(images, hidden).patches)

    def features(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] to the features of patches [B, L, D], nothing hidden."""
        return self.tower.features(images)

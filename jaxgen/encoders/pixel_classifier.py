"""A classifier of tiny pictures: one hidden layer on the pixels."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax

from jaxgen import mup, types
from jaxgen.nn.linear import Linear


class PixelClassifier(nn.Module):
    """Linear, ReLU, Linear.

    Attributes:
      width: of the hidden layer.
      classes: number of classes.
      scaling: μP base width and parametrization.
    """

    width: int = 32
    classes: int = 10
    scaling: mup.Scaling = mup.Scaling(base_width=32)

    streams = ()

    def validate(self) -> None:
        """Raises BadInput, naming the field at fault."""
        for name in ("width", "classes"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "a positive number")

    def check(self, experiment: Any) -> None:
        """There must be a class for every label of the data."""
        count = experiment.data.id_counts().get("label", 0)
        if self.classes < count:
            raise types.BadInput("model.classes", self.classes, f"at least {count}, the number of labels of the data")

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Pictures [B, H, W, C] to logits [B, classes]."""
        scale = self.scaling.at(self.width)
        size = math.prod(images.shape[1:])
        x = Linear((("features", size),), (("embed_out", self.width),), scale, name="in")(images.reshape(-1, size))
        return Linear((("embed", self.width),), (("classes", self.classes),), scale, kind="output", name="out")(nn.relu(x))

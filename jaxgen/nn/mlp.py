"""The feed-forward layer."""

from __future__ import annotations

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from jaxgen import mup
from jaxgen.nn.linear import Linear
from jaxgen.parallel.sharding import constrain


class MLP(nn.Module):
    """Linear, GELU (tanh), Linear."""

    width: int
    hidden: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] to [B, L, D]."""
        x = Linear((("embed", self.width),), (("mlp", self.hidden),), self.scale, name="in")(x)
        x = constrain(checkpoint_name(x, "mlp_hidden"), "batch", "length", "activation_mlp")
        return Linear((("mlp", self.hidden),), (("embed_out", self.width),), self.scale, name="out")(nn.gelu(x))

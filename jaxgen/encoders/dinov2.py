"""DINOv2: a vision transformer whose features of patches say what is in a picture (Oquab et al., arXiv 2304.07193).

A class token, register tokens where there are any (Darcet et al., arXiv 2309.16588), and patches, under pre-norm blocks with
LayerScale. The same network, smaller, is what `encoders.self_supervised` trains from scratch. Under μP (arXiv 2505.15270).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen import mup, types
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import Table
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norms import LayerNorm
from jaxgen.nn.patches import patches
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.resampling import resample
from jaxgen.nn.stack import REMAT, scanned
from jaxgen.parallel.sharding import constrain

VARIANTS = {
    "S/14": {"width": 384, "depth": 12, "head_dim": 64, "patch": 14, "channels": 3, "grid": 37},
    "B/14": {"width": 768, "depth": 12, "head_dim": 64, "patch": 14, "channels": 3, "grid": 37},
    "L/14": {"width": 1024, "depth": 24, "head_dim": 64, "patch": 14, "channels": 3, "grid": 37},
}
"""Published sizes; the table of positions is that of pictures of 518 pixels. With `registers` 4 where the name says so."""

EPSILON = 1e-6


class Encoded(NamedTuple):
    """What the network makes of a picture, behind its last norm: the class token [B, D], registers [B, R, D], patches [B, L, D]."""

    class_token: jax.Array
    registers: jax.Array
    patches: jax.Array


class LayerScale(nn.Module):
    """A learned factor a channel on what a branch adds (Touvron et al., arXiv 2103.17239), 1 at the start."""

    width: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] to [B, L, D]."""
        return x * mup.param(self, "gain", outputs=(("embed_out", self.width),), kind="gain").astype(x.dtype)


class ViTBlock(nn.Module):
    """Pre-norm attention and feed-forward, each scaled by channel."""

    width: int
    head_dim: int
    mlp_ratio: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        """x [B, L, D]."""
        normed = LayerNorm(self.width, self.scale, EPSILON, name="norm_1")(x)
        q, k, v = QueryKeyValue(self.width, self.head_dim, self.scale, bias=True, name="heads")(normed)
        attended = attention(q, k, v, Mask(), self.scale.attention_scale(self.head_dim))
        attended = FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(attended)
        x = x + LayerScale(self.width, self.scale, name="layer_scale_1")(attended)
        x = constrain(x, "batch", "length", "activation_embed")
        normed = LayerNorm(self.width, self.scale, EPSILON, name="norm_2")(x)
        hidden = MLP(self.width, self.mlp_ratio * self.width, self.scale, "gelu_exact", name="mlp")(normed)
        x = x + LayerScale(self.width, self.scale, name="layer_scale_2")(hidden)
        return constrain(x, "batch", "length", "activation_embed"), None


class DINOv2(nn.Module):
    """Pictures to features.

    Attributes:
      width: D. depth: number of blocks. head_dim: K, the same at every width. mlp_ratio: feed-forward width over D.
      patch: side of a patch in pixels. channels: of the pictures.
      grid: rows and columns of the learned table of positions, which is resampled for pictures with others.
      registers: tokens that belong to no place.
      resampling: of the table of positions, a name in `nn.resampling.METHODS`. The published networks without registers have it
        bicubic, those with registers bicubic_antialiased.
      remat: rematerialization policy, a name in `nn.stack.REMAT`.
      scaling: μP base width and parametrization.
    """

    width: int = 64
    depth: int = 4
    head_dim: int = 16
    mlp_ratio: int = 4
    patch: int = 2
    channels: int = 1
    grid: int = 4
    registers: int = 0
    resampling: str = "bicubic"
    remat: str = "none"
    scaling: mup.Scaling = mup.Scaling()

    def validate(self) -> None:
        """Raises BadInput, naming the field at fault."""
        for name in ("width", "depth", "head_dim", "mlp_ratio", "patch", "channels", "grid"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "a positive number")
        if self.registers < 0:
            raise types.BadInput("registers", self.registers, "0 or more")
        if self.width % self.head_dim:
            raise types.BadInput("width", self.width, f"a multiple of head_dim={self.head_dim} (heads = width / head_dim)")
        for name, known in (("resampling", ("bicubic", "bicubic_antialiased")), ("remat", tuple(REMAT))):
            if getattr(self, name) not in known:
                raise types.BadInput(name, getattr(self, name), f"one of {', '.join(known)}")

    @nn.compact
    def __call__(self, images: jax.Array, hidden: jax.Array | None = None) -> Encoded:
        """Features of pictures, in their dtype.

        Args:
          images: [B, H, W, C] as the network was trained with them (normalised), H and W multiples of `patch`.
          hidden: bool [B, L], patches in whose place the network sees a learned mask token.
        """
        scale, dtype = self.scaling.at(self.width), images.dtype
        batch, height, width, _ = images.shape
        rows, columns = height // self.patch, width // self.patch
        values = self.patch * self.patch * self.channels
        x = Linear((("patch", values),), (("embed_out", self.width),), scale, name="patches")(patches(images, self.patch))
        # Parameters do not depend on what is asked of them.
        mask_token = Table("position", 1, self.width, scale, std=0.02, name="mask_token")(jnp.zeros((1, 1), jnp.int32))
        if hidden is not None:
            x = jnp.where(hidden[..., None], mask_token.astype(dtype), x)
        table = Table("position", 1 + self.grid**2, self.width, scale, std=0.02, name="positions")(jnp.arange(1 + self.grid**2))
        places = resample(table[1:].reshape(self.grid, self.grid, self.width), (rows, columns), self.resampling)
        x = x + places.reshape(1, rows * columns, self.width).astype(dtype)
        class_token = Table("position", 1, self.width, scale, std=0.02, name="class_token")(jnp.zeros((1, 1), jnp.int32)) + table[0]
        front = [class_token]
        if self.registers:
            own = Table("position", self.registers, self.width, scale, std=0.02, name="registers")
            front.append(own(jnp.arange(self.registers)[None]))
        front = jnp.concatenate(front, axis=1).astype(dtype)
        x = jnp.concatenate([jnp.broadcast_to(front, (batch, *front.shape[1:])), x], axis=1)
        x = constrain(x, "batch", "length", "activation_embed")
        block = scanned(ViTBlock, self.depth, self.remat, broadcast=0)
        x, _ = block(self.width, self.head_dim, self.mlp_ratio, scale, name="blocks")(x)
        x = LayerNorm(self.width, scale, EPSILON, name="norm")(x)
        return Encoded(x[:, 0], x[:, 1 : 1 + self.registers], x[:, 1 + self.registers :])

    def features(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] to the features of patches [B, L, D]."""
        return self(images).patches

"""DDT, the decoupled diffusion transformer (Wang et al., arXiv 2504.05741), and the improved DiT, which is DDT without the split.

A condition encoder turns noisy tokens, time and label into one vector a token; a velocity decoder reads the noisy tokens afresh
under these vectors. Both are stacks of one block: RMSNorm, RoPE over a picture of fixed extent, QK-norm, SwiGLU and modulation.
Under μP (arXiv 2505.15270), or standard (`scaling.parametrization`).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.transformer import Transformer
from jaxgen.nn import rope
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import Table, TimeEmbedding
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import SwiGLU, gated_hidden
from jaxgen.nn.modulation import Gates, Modulation, per_token
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.stack import scanned
from jaxgen.nn.start import Start, normal, uniform_over_fan_in, xavier_uniform, zeros
from jaxgen.nn.velocity_head import VelocityHead
from jaxgen.parallel.sharding import constrain

VARIANTS: dict[str, dict[str, int]] = {
    "B/2": {"width": 768, "depth": 12, "encoder_depth": 8, "head_dim": 64, "patch": 2},
    "L/2": {"width": 1024, "depth": 24, "encoder_depth": 20, "head_dim": 64, "patch": 2},
    "XL/2": {"width": 1152, "depth": 28, "encoder_depth": 22, "head_dim": 72, "patch": 2},
}
"""Published sizes of DDT; those of the improved DiT are the same without `encoder_depth`."""

MAX_PERIOD = 10.0
"""Of the sinusoids of t, which is taken as it is, from 0 to 1: frequencies from 1 to about a tenth."""


START = Start(
    (
        ("*patches.kernel", xavier_uniform),
        ("*patches.bias", zeros),
        ("time.*.kernel", normal(0.02)),
        ("labels.table", normal(0.02)),
        ("velocity.*", zeros),
        ("*", uniform_over_fan_in),
    )
)
"""Of the published code (MCG-NJU/DDT), which leaves all within blocks as PyTorch starts it, gates too."""


class ImprovedBlock(nn.Module):
    """Self-attention and gated feed-forward, each modulated and gated by a vector whose SiLU is taken already."""

    width: int
    head_dim: int
    mlp_ratio: int
    gates: Gates
    scale: mup.Scale
    context_attention: str

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, positions: jax.Array, segments: jax.Array) -> tuple[jax.Array, None]:
        """x [B, L, D], c [B, 1 or L, D], positions [B, L, 2] as the rotations take them, segments [B, L]."""
        modulation = Modulation(6, self.width, self.scale, self.gates, silu=False, name="modulation")
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation(c)
        embed = ("embed", self.width)
        normed = RMSNorm(embed, self.scale, name="attention_norm")(x) * (1 + scale_1) + shift_1
        q, k, v = QueryKeyValue(self.width, self.head_dim, self.scale, qk_norm=True, name="heads")(normed, positions)
        attended = attention(q, k, v, Mask(segments, segments), self.scale.attention_scale(self.head_dim), self.context_attention)
        x = x + self.scale.branch(gate_1 * FromHeads(self.width, self.head_dim, self.scale, name="from_heads")(attended))
        x = constrain(x, "batch", "length", "activation_embed")
        normed = RMSNorm(embed, self.scale, name="mlp_norm")(x) * (1 + scale_2) + shift_2
        hidden = (gated_hidden(self.width, self.mlp_ratio), gated_hidden(self.scale.base_width, self.mlp_ratio))
        x = x + self.scale.branch(gate_2 * SwiGLU(self.width, hidden, self.scale, name="mlp")(normed))
        return constrain(x, "batch", "length", "activation_embed"), None


class Trunk(nn.Module):
    """A patch embedding of its own and `depth` blocks, which have a scale of theirs."""

    width: int
    depth: int
    head_dim: int
    mlp_ratio: int
    values: int
    gates: Gates
    scale: mup.Scale
    block_scale: mup.Scale
    context_attention: str
    remat: str

    @nn.compact
    def __call__(self, tokens: types.Tokens, c: jax.Array, tap: int | None = None) -> jax.Array:
        """tokens of values [B, L, p·p·C] and c [B, 1 or L, D] to [B, L, D]; `tap` as of `nn.stack.scanned`."""
        x = Linear((("patch", self.values),), (("embed_out", self.width),), self.scale, name="patches")(tokens.values)
        x = constrain(x, "batch", "length", "activation_embed")
        positions = rope.stretched(tokens.positions, tokens.segments, tokens.grid)
        block = scanned(ImprovedBlock, self.depth, self.remat, broadcast=3, tap=tap)
        like = (self.width, self.head_dim, self.mlp_ratio, self.gates, self.block_scale, self.context_attention)
        return block(*like, name="blocks")(x, c, positions, tokens.segments)[0]


class ImprovedDiT(Transformer):
    """Predicts the velocity of image tokens given a class label, in one stack of blocks.

    Attributes:
      width: D. depth: number of blocks. head_dim: K, the same at every width; a multiple of 4.
      mlp_ratio: feed-forward width over D if it were not gated; gated, it is two thirds of that.
      classes: number of labels; one more row stands for the null label.
      gates: zero or random start of modulation; the published code has it random, whatever the paper says of adaLN-Zero.
    """

    classes: int = 10
    gates: Gates = Gates.RANDOM

    streams = ("label",)
    published_start = START

    def validate(self) -> None:
        super().validate()
        if self.head_dim % 4:
            raise types.BadInput("head_dim", self.head_dim, "a multiple of 4 (rotations over two axes)")

    def check(self, experiment: Any) -> None:
        """The table must have a row for every label of the data."""
        interface.require_rows("model.classes", self.classes, experiment.data, "label")

    def setup(self) -> None:
        self._set_up_ends()
        self.trunk = self._trunk(self.depth)

    def __call__(
        self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None
    ) -> jax.Array:
        """tokens of values [B, L, p·p·C], t [B] or [B, L], the stream "label" of integers [B, S]; returns [B, L, p·p·C].

        `tap` as of `Transformer`.
        """
        c = self._condition(tokens, t, streams)
        return self.velocity(self.trunk(tokens, c, tap), c)

    def _condition(self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition]) -> jax.Array:
        """[B, 1 or L, D] in the dtype of the tokens."""
        t, owners = per_token(t, tokens.segments)
        c = nn.silu(self.time(t) + interface.label_vectors(self.labels, streams["label"], owners))
        return constrain(c.astype(tokens.values.dtype), "batch", "length", "activation_embed")

    def _set_up_ends(self) -> None:
        scale = self.scale
        self.time = TimeEmbedding(self.width, scale, factor=1.0, max_period=MAX_PERIOD)
        self.labels = Table("vocabulary", self.classes + 1, self.width, scale)
        self.velocity = VelocityHead(self.width, self._values, self.gates, scale, silu=False)

    def _trunk(self, depth: int) -> Trunk:
        scales = (self.scale, self.block_scale)
        like = (self.head_dim, self.mlp_ratio, self._values, self.gates, *scales, self.context_attention, self.remat)
        return Trunk(self.width, depth, *like)

    @property
    def _values(self) -> int:
        return self.patch * self.patch * self.channels


class DDT(ImprovedDiT):
    """Predicts the velocity of image tokens given a class label, by a condition encoder and a velocity decoder.

    `encode` and `decode` may be called apart (`apply(…, method="encode")`), so that a sampler may use z again at later times.

    Attributes:
      depth: number of blocks of encoder and decoder together.
      encoder_depth: how many of them are the encoder's, from 1 to depth - 1. Weights do not tell the split: keep it with them.
    """

    encoder_depth: int = 3

    def validate(self) -> None:
        super().validate()
        if not 1 <= self.encoder_depth < self.depth:
            needed = f"1 to {self.depth - 1}, so that of the depth={self.depth} blocks one is left to the decoder"
            raise types.BadInput("encoder_depth", self.encoder_depth, needed)

    def setup(self) -> None:
        self._set_up_ends()
        self.encoder = self._trunk(self.encoder_depth)
        self.decoder = self._trunk(self.depth - self.encoder_depth)

    def __call__(
        self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None
    ) -> jax.Array:
        """tokens of values [B, L, p·p·C], t [B] or [B, L], the stream "label" of integers [B, S]; returns [B, L, p·p·C].

        `tap` as of `Transformer`; blocks of the decoder count on from the encoder's.
        """
        behind = None if tap is None else tap - self.encoder_depth
        return self.decode(tokens, self.encode(tokens, t, streams, tap), behind)

    def encode(self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None) -> jax.Array:
        """z [B, L, D], by which the decoder is modulated: all that it is told of time and label."""
        return self.timed(self.states(tokens, t, streams, tap), t, tokens.segments)

    def states(self, tokens: types.Tokens, t: jax.Array, streams: dict[str, types.Condition], tap: int | None = None) -> jax.Array:
        """The encoder's last hidden states s [B, L, D]."""
        return self.encoder(tokens, self._condition(tokens, t, streams), tap)

    def timed(self, states: jax.Array, t: jax.Array, segments: jax.Array) -> jax.Array:
        """z = SiLU(e_t + s) [B, L, D]. The published code keeps z from step to step, so that the decoder sees the time at which it
        was made; who keeps `states` instead gives it the present time, as in the paper's equation 6."""
        z = nn.silu(self.time(per_token(t, segments)[0]) + states).astype(states.dtype)
        return constrain(z, "batch", "length", "activation_embed")

    def decode(self, tokens: types.Tokens, z: jax.Array, tap: int | None = None) -> jax.Array:
        """Velocity [B, L, p·p·C] of tokens under z [B, L, D]."""
        return self.velocity(self.decoder(tokens, z, tap), z)

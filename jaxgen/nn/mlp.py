"""Feed-forward layers, plain and gated."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxgen import mup
from jaxgen.nn.linear import Linear
from jaxgen.parallel.sharding import constrain

ACTIVATIONS = {
    "gelu": nn.gelu,
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "squared_relu": lambda x: jnp.square(nn.relu(x)),
}
"""By name: GELU in its tanh form, and in its exact form x Φ(x), which differs by up to 5e-4; the square of ReLU (So et al.,
arXiv 2109.08668), which costs a third of it on a CPU."""


class MLP(nn.Module):
    """Linear, activation, Linear.

    Attributes:
      activation: a name in `ACTIVATIONS`.
      bias: both maps add biases.
    """

    width: int
    hidden: int
    scale: mup.Scale
    activation: str = "gelu"
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] to [B, L, D]."""
        embed, hidden, embed_out = (("embed", self.width),), (("mlp", self.hidden),), (("embed_out", self.width),)
        x = Linear(embed, hidden, self.scale, bias=self.bias, name="in")(x)
        x = constrain(checkpoint_name(x, "mlp_hidden"), "batch", "length", "activation_mlp")
        return Linear(hidden, embed_out, self.scale, bias=self.bias, name="out")(ACTIVATIONS[self.activation](x))


class SwiGLU(nn.Module):
    """A linear map of silu(gate) · value, both linear in the input, without biases (Shazeer, arXiv 2002.05202, equation 6).

    Attributes:
      hidden: size of gate and of value, and that size at the base width: rounded as it is, it does not grow as the width does.
    """

    width: int
    hidden: tuple[int, int]
    scale: mup.Scale

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, L, D] to [B, L, D]."""
        hidden = ("mlp", *self.hidden)
        both = Linear((("embed", self.width),), (("branch", 2), hidden), self.scale, bias=False, split="before", name="in")(x)
        gate, value = (constrain(checkpoint_name(one, "mlp_hidden"), "batch", "length", "activation_mlp") for one in both)
        x = nn.silu(gate) * value
        return Linear((hidden,), (("embed_out", self.width),), self.scale, bias=False, name="out")(x)


def gated_hidden(width: int, ratio: int) -> int:
    """F with which a gated layer of three maps has about the parameters of a plain one of `ratio` · D: two thirds of it."""
    return 2 * ratio * width // 3

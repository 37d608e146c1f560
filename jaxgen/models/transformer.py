"""What every transformer here has, whatever its family: its size, and how it is computed."""

from __future__ import annotations

import flax.linen as nn

from jaxgen import mup, types
from jaxgen.nn.context_parallel import METHODS
from jaxgen.nn.mlp import ACTIVATIONS
from jaxgen.nn.stack import REMAT


class Blocks(nn.Module):
    """The options that all families share; each adds its own, `streams`, the fields of the data that it is conditioned on, and
    `published_start`, with which its authors start it.

    Attributes:
      width: D. depth: number of blocks. head_dim: K, the same at every width.
      mlp_ratio: feed-forward width over D.
      context_attention: how attention crosses the mesh axis `context`, a name in `nn.context_parallel.METHODS`.
      remat: rematerialization policy, a name in `nn.stack.REMAT`.
      scaling: μP base width and parametrization.
    """

    width: int = 64
    depth: int = 4
    head_dim: int = 16
    mlp_ratio: int = 4
    context_attention: str = "all_gather"
    remat: str = "none"
    scaling: mup.Scaling = mup.Scaling()

    @property
    def block_count(self) -> int:
        """Number of blocks behind which tokens can be tapped, counted from 1 in the order in which tokens pass them."""
        return self.depth

    @property
    def scale(self) -> mup.Scale:
        """Multipliers and start at this width."""
        return self.scaling.at(self.width, self.published_start)

    @property
    def block_scale(self) -> mup.Scale:
        """The same inside of blocks."""
        return self.scaling.at(self.width, self.published_start, self.block_count)

    def validate(self) -> None:
        """Raises BadInput, naming the field at fault."""
        for name in ("width", "depth", "head_dim", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "a positive number")
        if self.width % self.head_dim:
            raise types.BadInput("width", self.width, f"a multiple of head_dim={self.head_dim} (heads = width / head_dim)")
        base = self.scaling.base_depth
        if base is not None and self.scaling.depth_rule == mup.DepthRule.NONE and self.block_count != base:
            needed = f"{self.block_count}, the number of blocks, or a scaling.depth_rule (complete_p)"
            raise types.BadInput("scaling.base_depth", base, needed)
        choices = {"activation": ACTIVATIONS, "context_attention": METHODS, "remat": REMAT}
        for name, known in choices.items():
            # Gated layers have no choice of activation.
            if hasattr(self, name) and getattr(self, name) not in known:
                raise types.BadInput(name, getattr(self, name), f"one of {', '.join(known)}")


class Transformer(Blocks):
    """A generator that predicts a velocity, or what else a process asks for, at patches of latents.

    Its `__call__(tokens, t, streams, tap=None)` puts the image tokens behind block `tap` into the collection `nn.stack.HIDDEN`
    (`models.interface.velocity_and_hidden`).

    Attributes:
      patch: side of a patch. channels: channels of the latents.
    """

    patch: int = 2
    channels: int = 1

    def validate(self) -> None:
        super().validate()
        for name in ("patch", "channels"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "a positive number")

"""A stack of equal blocks as one scan, with a rematerialization policy chosen by name, and a tap on the tokens behind one block.

A tap costs one array of tokens, carried along, however deep the stack is; without one the program is that of the plain scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.parallel.sharding import constrain, device

HIDDEN = "hidden"
"""Collection into which a tapped stack puts its tokens; whoever asks for them makes it mutable."""

REMAT: dict[str, Callable | None] = {
    "none": None,  # keep every activation
    "dots": jax.checkpoint_policies.save_from_both_policies(  # keep results of matrix products with weights, and of attention
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names("attention")
    ),
    "names": jax.checkpoint_policies.save_only_these_names("attention", "mlp_hidden"),
    "full": jax.checkpoint_policies.nothing_saveable,  # keep only what passes between blocks
}


def scanned(
    block: type[nn.Module],
    depth: int,
    remat: str,
    broadcast: int,
    per_layer: int = 0,
    tap: int | None = None,
    tokens: Callable[[Any], jax.Array] = lambda carry: carry,
) -> type[nn.Module]:
    """The block class repeated `depth` times in one `scan`, so that compile time does not grow with depth.

    Args:
      block: its `__call__(carry, *per_layer, *broadcast) -> (carry, out)`; what it puts out is stacked over layers, or None.
      depth: number of repetitions; parameters gain a leading axis "layers" of this size.
      remat: a name in `REMAT`.
      broadcast: how many arguments every repetition gets unchanged.
      per_layer: how many arguments before them have a leading axis of layers, of which each repetition gets its part.
      tap: the block, counted from 1, behind which tokens are put into the collection `HIDDEN`; None, or a block that this stack
        does not have, taps nothing.
      tokens: the tokens [B, L, D] of a carry.
    """
    policy = REMAT[remat]
    if policy is not None:
        block = nn.remat(block, policy=policy, prevent_cse=False)
    if tap is not None and 1 <= tap <= depth:
        stack = _scan(_keeping(block, tokens), depth, broadcast, per_layer + 1)
        return _tapped(stack, depth, tap, tokens)
    return _scan(block, depth, broadcast, per_layer)


UNROLLED = 4
"""Blocks up to which CPUs get them one after another: a loop's layers are slices of stacked weights, copied at every turn."""


def _scan(block: type[nn.Module], depth: int, broadcast: int, per_layer: int) -> type[nn.Module]:
    known = device()
    on_cpus = known is not None and known.platform == "cpu"
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=(0,) * per_layer + (nn.broadcast,) * broadcast,
        length=depth,
        unroll=depth if on_cpus and depth <= UNROLLED else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def _keeping(block: type[nn.Module], tokens: Callable[[Any], jax.Array]) -> type[nn.Module]:
    """The block with tokens carried beside its carry, which it replaces by its own where its first argument says so."""

    class Keeping(block):
        def __call__(self, carry: tuple[Any, jax.Array], here: jax.Array, *arguments: Any) -> tuple[tuple[Any, jax.Array], Any]:
            x, kept = carry
            x, out = super().__call__(x, *arguments)
            # The backward pass needs `here` alone. Outputs stacked over layers would be kept whole, and their gradients too.
            return (x, _laid_out(jnp.where(here, tokens(x), kept))), out

    return Keeping


def _tapped(stack: type[nn.Module], depth: int, tap: int, tokens: Callable[[Any], jax.Array]) -> type[nn.Module]:
    """The stack of such blocks with the interface of one of plain blocks."""

    class Tapped(stack):
        def __call__(self, x: Any, *arguments: Any) -> tuple[Any, Any]:
            here = jnp.arange(1, depth + 1) == tap
            (x, kept), out = super().__call__((x, _laid_out(jnp.zeros_like(tokens(x)))), here, *arguments)
            self.sow(HIDDEN, "tokens", kept)
            return x, out

    return Tapped


def _laid_out(x: jax.Array) -> jax.Array:
    return constrain(x, "batch", "length", "activation_embed")

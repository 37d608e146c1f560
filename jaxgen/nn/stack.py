"""A stack of equal blocks as one scan, with a rematerialization policy chosen by name."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

REMAT: dict[str, Callable | None] = {
    "none": None,  # keep every activation
    "dots": jax.checkpoint_policies.save_from_both_policies(  # keep results of matrix products with weights, and of attention
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names("attention")
    ),
    "names": jax.checkpoint_policies.save_only_these_names("attention", "mlp_hidden"),
    "full": jax.checkpoint_policies.nothing_saveable,  # keep only what passes between blocks
}


def scanned(block: type[nn.Module], depth: int, remat: str, broadcast: int, per_layer: int = 0) -> type[nn.Module]:
    """The block class repeated `depth` times in one `scan`, so that compile time does not grow with depth.

    Args:
      block: its `__call__(carry, *per_layer, *broadcast) -> (carry, out)`; what it puts out is stacked over layers, or None.
      depth: number of repetitions; parameters gain a leading axis "layers" of this size.
      remat: a name in `REMAT`.
      broadcast: how many arguments every repetition gets unchanged.
      per_layer: how many arguments before them have a leading axis of layers, of which each repetition gets its part.
    """
    policy = REMAT[remat]
    if policy is not None:
        block = nn.remat(block, policy=policy, prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=(0,) * per_layer + (nn.broadcast,) * broadcast,
        length=depth,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )

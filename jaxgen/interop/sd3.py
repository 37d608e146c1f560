"""Checkpoints of Stable Diffusion 3 and 3.5 large under the names of diffusers' `SD3Transformer2DModel`.

Those of 3.5 medium have a second attention in some blocks, which the network here has not: they are refused as unknown tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from jaxgen import mup, types
from jaxgen.interop import names
from jaxgen.models.mmdit import PUBLISHED, MMDiT, PositionTable
from jaxgen.nn.embeddings import TIME_FEATURES

_SCALE_FIRST = names.Pick(-2, np.array([1, 0]), 2)
"""Of the last layer, and of the text in the last block, the scale is published before the shift."""


def sd3(model: MMDiT, grid: int = 64, table: int = 192) -> tuple[MMDiT, names.Table]:
    """The network of a published Stable Diffusion 3 of the size of `model`, and its table.

    Args:
      model: width, depth, head dimension, patch, channels, text, QK-norm and scaling are read from it.
      grid: side in tokens of the pictures by which the table of positions is spaced.
      table: side in tokens of that table. A picture takes its middle, so its own side must differ from it by an even number.

    Raises:
      BadInput: an impossible option.
    """
    for name, side in (("grid", grid), ("table", table)):
        if side < 1:
            raise types.BadInput(name, side, "a positive number of tokens")
    spacing = grid / table
    model = model.clone(**PUBLISHED, position_table=PositionTable(table / 2, spacing))
    model.validate()
    width = model.width
    order = names.sinusoid_order(width)
    multiplier = mup.forward_multiplier(model.scale, (("embed", width),))
    values = model.patch**2 * model.channels
    entries = [
        *names.patches("pos_embed.proj", "patches", model.patch, model.channels, width, order),
        *names.dense("context_embedder", "text_features", (model.text_features,), (width,)),
        *names.dense("time_text_embed.timestep_embedder.linear_1", "time.in", (TIME_FEATURES,), (width,)),
        *names.dense("time_text_embed.timestep_embedder.linear_2", "time.out", (width,), (width,)),
        *names.dense("time_text_embed.text_embedder.linear_1", "pooled_in", (model.pooled_features,), (width,)),
        *names.dense("time_text_embed.text_embedder.linear_2", "pooled_out", (width,), (width,)),
        *names.dense("norm_out.linear", "velocity.modulation.linear", (width,), (2, width), out=order, both_steps=(_SCALE_FIRST,)),
        *names.dense("proj_out", "velocity.out", (width,), (values,), into=order, kernel_steps=(names.Times(1 / multiplier),)),
    ]
    for i in range(model.depth):
        entries += _block(model, i, order)
    return model, names.Table(tuple(entries), {"pos_embed.pos_embed": names.position_table(table, table, width, spacing)})


def _block(model: MMDiT, i: int, order: np.ndarray) -> list[names.Entry]:
    last = i == model.depth - 1
    source = f"transformer_blocks.{i}"
    target, layer = ("last_block", None) if last else ("blocks", i)
    own = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
    added = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")
    # The stream of text has no table of positions, so its channels keep their order.
    entries = _heads(model, f"{source}.attn", own, f"{target}.image_heads", layer, order)
    entries += _heads(model, f"{source}.attn", added, f"{target}.text_heads", layer, None)
    width, hidden, heads = model.width, model.mlp_ratio * model.width, (model.width // model.head_dim, model.head_dim)
    dense = functools.partial(names.dense, layer=layer)
    image, text = f"{target}.image", f"{target}.text"
    entries += dense(f"{source}.norm1.linear", f"{image}_modulation.linear", (width,), (6, width), out=order)
    entries += dense(f"{source}.attn.to_out.0", f"{image}_from_heads.out", heads, (width,), out=order)
    entries += dense(f"{source}.ff.net.0.proj", f"{image}_mlp.in", (width,), (hidden,), into=order)
    entries += dense(f"{source}.ff.net.2", f"{image}_mlp.out", (hidden,), (width,), out=order)
    if last:
        swapped = (_SCALE_FIRST,)
        entries += dense(f"{source}.norm1_context.linear", f"{text}_modulation.linear", (width,), (2, width), both_steps=swapped)
        return entries
    entries += dense(f"{source}.norm1_context.linear", f"{text}_modulation.linear", (width,), (6, width))
    entries += dense(f"{source}.attn.to_add_out", f"{text}_from_heads.out", heads, (width,))
    entries += dense(f"{source}.ff_context.net.0.proj", f"{text}_mlp.in", (width,), (hidden,))
    entries += dense(f"{source}.ff_context.net.2", f"{text}_mlp.out", (hidden,), (width,))
    return entries


def _heads(
    model: MMDiT, source: str, published: Sequence[str], target: str, layer: int | None, into: np.ndarray | None
) -> list[names.Entry]:
    """Maps to queries, keys and values of one modality, and the gains of queries and keys, `published` under these five names."""
    width, head_dim = model.width, model.head_dim
    factor = (names.Times(names.query_factor(model.scale, head_dim)),)
    dense = functools.partial(names.dense, inputs=(width,), outputs=(width // head_dim, head_dim), layer=layer, into=into)
    *maps, query_norm, key_norm = published
    entries = []
    for part, name in enumerate(maps):
        # Behind a norm a query is as large as its gain.
        steps = factor if part == 0 and not model.qk_norm else ()
        entries += dense(f"{source}.{name}", f"{target}.qkv", part=part, both_steps=steps)
    if model.qk_norm:
        gain = lambda name, path, steps: names.Entry(f"{source}.{name}.weight", (head_dim,), f"{target}.{path}.gain", steps, layer)
        entries += [gain(query_norm, "query_norm", factor), gain(key_norm, "key_norm", ())]
    return entries

"""Checkpoints of PixArt-α under the names of diffusers' `PixArtTransformer2DModel`.

Those of 1024 pixels also take the resolution and the aspect ratio, which the network here does not.
"""

from __future__ import annotations

import functools

import numpy as np

from jaxgen import mup, types
from jaxgen.interop import names
from jaxgen.models.pixart import PUBLISHED, PixArt
from jaxgen.nn.embeddings import TIME_FEATURES


def pixart(model: PixArt, grid: int) -> tuple[PixArt, names.Table]:
    """The network of a published PixArt-α of the size of `model`, and its table.

    The null caption is no part of such a checkpoint (diffusers encodes an empty text for it): read parameters lack `null`, see
    `with_null`.

    Args:
      model: width, depth, head dimension, patch, channels, text and scaling are read from it.
      grid: side of a picture in tokens, 32 for 512 × 512 pixels.
    """
    if grid < 1:
        raise types.BadInput("grid", grid, "a positive number of tokens")
    model = model.clone(**PUBLISHED | {"learn_variance": model.learn_variance, "position_offset": grid / 2})
    model.validate()
    width, hidden = model.width, model.mlp_ratio * model.width
    scale = model.scale
    order = names.sinusoid_order(width)
    multiplier = mup.forward_multiplier(scale, (("embed", width),))
    values = model.patch**2 * model.channels * (1 + model.learn_variance)
    last = (names.Times(1 / multiplier),)
    # The last table is added to the time's embedding, whose channels thereby take the order of the stream's.
    entries = [
        *names.patches("pos_embed.proj", "patches", model.patch, model.channels, width, order),
        *names.dense("adaln_single.emb.timestep_embedder.linear_1", "time.in", (TIME_FEATURES,), (width,)),
        *names.dense("adaln_single.emb.timestep_embedder.linear_2", "time.out", (width,), (width,), out=order),
        *names.dense("adaln_single.linear", "modulation.linear", (width,), (6, width), into=order, out=order),
        *names.dense("caption_projection.linear_1", "text_in", (model.text_features,), (width,)),
        *names.dense("caption_projection.linear_2", "text_out", (width,), (width,)),
        names.Entry("scale_shift_table", (2, width), "last_modulation.table", (names.Pick(1, order, width),)),
        *names.dense("proj_out", "velocity", (width,), (values,), into=order, kernel_steps=last),
    ]
    for i in range(model.depth):
        entries += _block(model, i, width, hidden, order)
    return model, names.Table(tuple(entries))


def with_null(params: types.PyTree, null: np.ndarray) -> types.PyTree:
    """Parameters with the null caption's features, [text_length, text_features]."""
    return params | {"null": {"table": null}}


def _block(model: PixArt, i: int, width: int, hidden: int, order: np.ndarray) -> list[names.Entry]:
    dense = functools.partial(names.dense, layer=i)
    source, heads = f"transformer_blocks.{i}", (width // model.head_dim, model.head_dim)
    query = names.Times(names.query_factor(model.scale, model.head_dim))
    table = names.Entry(f"{source}.scale_shift_table", (6, width), "blocks.modulation.table", (names.Pick(1, order, width),), i)
    entries = [
        table,
        *dense(f"{source}.attn1.to_out.0", "blocks.from_heads.out", heads, (width,), out=order),
        *dense(f"{source}.attn2.to_q", "blocks.cross_heads.query", (width,), heads, into=order, both_steps=(query,)),
        *dense(f"{source}.attn2.to_out.0", "blocks.from_cross_heads.out", heads, (width,), out=order),
        *dense(f"{source}.ff.net.0.proj", "blocks.mlp.in", (width,), (hidden,), into=order),
        *dense(f"{source}.ff.net.2", "blocks.mlp.out", (hidden,), (width,), out=order),
    ]
    for part, name in enumerate(("to_q", "to_k", "to_v")):
        steps = (query,) if name == "to_q" else ()
        to = functools.partial(dense, inputs=(width,), outputs=heads, part=part, both_steps=steps)
        entries += to(f"{source}.attn1.{name}", "blocks.heads.qkv", into=order)
    for part, name in enumerate(("to_k", "to_v")):
        entries += dense(f"{source}.attn2.{name}", "blocks.cross_heads.key_value", (width,), heads, part=part)
    return entries

"""Checkpoints of U-ViT (baofff/U-ViT)."""

from __future__ import annotations

import functools

from jaxgen import mup
from jaxgen.interop import names
from jaxgen.models.uvit import UViT


def uvit(model: UViT) -> names.Table:
    """The table of a published U-ViT of the size and kind of `model`.

    Raises:
      BadInput: an impossible option of the model.
    """
    model.validate()
    width, hidden = model.width, model.mlp_ratio * model.width
    values, tokens = model.patch**2 * model.channels, 2 + model.grid[0] * model.grid[1]
    multiplier = mup.forward_multiplier(model.scale, (("embed", width),))
    entries = [
        *names.patches("patch_embed.proj", "patches", model.patch, model.channels, width),
        names.Entry("label_emb.weight", (model.classes + 1, width), "labels.table"),
        names.Entry("pos_embed", (1, tokens, width), "positions.table", (names.Shape((1, tokens, width), (tokens, width)),)),
        *_norm("norm", "norm", width),
        *names.dense("decoder_pred", "velocity", (width,), (values,), kernel_steps=(names.Times(1 / multiplier),)),
    ]
    if model.time_network:
        entries += names.dense("time_embed.0", "time_in", (width,), (4 * width,))
        entries += names.dense("time_embed.2", "time_out", (4 * width,), (width,))
    if model.convolution:
        channels = model.channels
        steps = (names.Turn((2, 3, 1, 0)), names.Shape((3, 3, channels, channels), (9, channels, channels)))
        entries.append(names.Entry("final_layer.weight", (channels, channels, 3, 3), "convolution.kernel", steps))
        entries.append(names.Entry("final_layer.bias", (channels,), "convolution.bias"))
    half = model.depth // 2
    for stack, count in (("in_blocks", half), ("mid_block", None), ("out_blocks", half)):
        for i in range(count or 1):
            layer = None if count is None else i
            source = stack if layer is None else f"{stack}.{i}"
            entries += _block(model, source, stack, layer, width, hidden)
    return names.Table(tuple(entries))


def _block(model: UViT, source: str, target: str, layer: int | None, width: int, hidden: int) -> list[names.Entry]:
    dense = functools.partial(names.dense, layer=layer)
    heads = (width // model.head_dim, model.head_dim)
    even = names.fused_query(model.scale, model.head_dim)
    entries = [
        *_norm(f"{source}.norm1", f"{target}.norm_1", width, layer),
        *_norm(f"{source}.norm2", f"{target}.norm_2", width, layer),
        *dense(f"{source}.attn.qkv", f"{target}.heads.qkv", (width,), (3, *heads), bias=model.qkv_bias, both_steps=(even,)),
        *dense(f"{source}.attn.proj", f"{target}.from_heads.out", heads, (width,)),
        *dense(f"{source}.mlp.fc1", f"{target}.mlp.in", (width,), (hidden,)),
        *dense(f"{source}.mlp.fc2", f"{target}.mlp.out", (hidden,), (width,)),
    ]
    if target == "out_blocks":
        entries += dense(f"{source}.skip_linear", f"{target}.skip", (2 * width,), (width,))
    return entries


def _norm(source: str, target: str, width: int, layer: int | None = None) -> tuple[names.Entry, ...]:
    return (
        names.Entry(f"{source}.weight", (width,), f"{target}.gain", (), layer),
        names.Entry(f"{source}.bias", (width,), f"{target}.bias", (), layer),
    )

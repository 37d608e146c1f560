"""Checkpoints of DINOv2 as transformers has them (`facebook/dinov2-base`, `…-with-registers-base`), also as teachers."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from jaxgen import types
from jaxgen.encoders.dinov2 import VARIANTS, DINOv2
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.interop import names, safetensors
from jaxgen.parallel import sharding


def dinov2(model: DINOv2) -> names.Table:
    """The table of a network of this size."""
    width, hidden = model.width, model.mlp_ratio * model.width
    heads = (width // model.head_dim, model.head_dim)
    query = names.Times(names.query_factor(model.scaling.at(width), model.head_dim))
    token = lambda source, target, *shape: names.Entry(
        f"embeddings.{source}", shape, target, (names.Shape(shape, (shape[-2], width)),)
    )
    entries = [
        token("cls_token", "class_token.table", 1, 1, width),
        token("mask_token", "mask_token.table", 1, width),
        token("position_embeddings", "positions.table", 1, 1 + model.grid**2, width),
        *names.patches("embeddings.patch_embeddings.projection", "patches", model.patch, model.channels, width),
        names.Entry("layernorm.weight", (width,), "norm.gain"),
        names.Entry("layernorm.bias", (width,), "norm.bias"),
    ]
    if model.registers:
        entries.append(token("register_tokens", "registers.table", 1, model.registers, width))
    for i in range(model.depth):
        layer, start = functools.partial(names.dense, layer=i), f"encoder.layer.{i}"
        for part, name in enumerate(("query", "key", "value")):
            steps = (query,) if name == "query" else ()
            source = f"{start}.attention.attention.{name}"
            entries += layer(source, "blocks.heads.qkv", (width,), heads, part=part, both_steps=steps)
        entries += layer(f"{start}.attention.output.dense", "blocks.from_heads.out", heads, (width,))
        entries += layer(f"{start}.mlp.fc1", "blocks.mlp.in", (width,), (hidden,))
        entries += layer(f"{start}.mlp.fc2", "blocks.mlp.out", (hidden,), (width,))
        for place in (1, 2):
            for kind, own in (("weight", "gain"), ("bias", "bias")):
                entries.append(names.Entry(f"{start}.norm{place}.{kind}", (width,), f"blocks.norm_{place}.{own}", layer=i))
            source = f"{start}.layer_scale{place}.lambda1"
            entries.append(names.Entry(source, (width,), f"blocks.layer_scale_{place}.gain", layer=i))
    return names.Table(tuple(entries))


def published(size: str, registers: bool = False) -> DINOv2:
    """The network of a published size, a name in `encoders.dinov2.VARIANTS`.

    Its μP base width is its own: nothing of it is rescaled.

    Raises:
      BadInput: another size.
    """
    if size not in VARIANTS:
        raise types.BadInput("size", size, f"one of {', '.join(VARIANTS)}")
    more = {"registers": 4, "resampling": "bicubic_antialiased"} if registers else {}
    model = DINOv2(**VARIANTS[size], **more)
    return model.clone(scaling=dataclasses.replace(model.scaling, base_width=model.width))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedTeacher(RandomTeacher):
    """A DINOv2 with published weights.

    As REPA and DDT use it: ImageNet's normalisation, pictures of 256 pixels resized to 224 (512 to 448), which makes as many
    patches as a generator on latents with patch 2 has tokens.

    Attributes:
      module: as `published` gives it.
      path: of the safetensors file, local or any that fsspec opens.
    """

    path: str = ""
    normalization: str = "imagenet"
    resolution: int = 224

    def validate(self) -> None:
        super().validate()
        if not self.path:
            raise types.BadInput("path", self.path, "a safetensors file of the published network")

    def frozen(self, name: str) -> types.Frozen:
        return types.Frozen(name, self.module, self.initial, "a published DINOv2", functools.partial(self._read, name))

    def _read(self, name: str, target: types.PyTree) -> types.PyTree:
        checkpoint = safetensors.read(self.path, f"path of the {name}")
        params = dinov2(self.module).read(checkpoint)
        return _placed(params, target)


def _placed(params: types.PyTree, target: types.PyTree) -> types.PyTree:
    """Arrays laid out as `target`, whose tree has the same names."""
    if isinstance(target, dict):
        return {name: _placed(params[name], below) for name, below in target.items()}
    return sharding.place(np.asarray(params, target.dtype), target.sharding)

"""Checkpoints of DiT (facebookresearch/DiT) and SiT (willisma/SiT): the names and shapes are the same.

What differs from the conventions here turns with the weights, so that a converted network is used as any other: a SiT, whose t runs
from noise to data and whose output is x_0 - ε, becomes one of t from data to noise and of ε - x_0.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from jaxgen import mup, types
from jaxgen.interop import names
from jaxgen.models.dit import PUBLISHED, DiT
from jaxgen.nn.embeddings import TIME_FEATURES


def dit(model: DiT, grid: int) -> tuple[DiT, names.Table]:
    """The network of a published DiT of the size of `model`, and its table.

    Args:
      model: width, depth, head dimension, patch, channels, classes and scaling are read from it.
      grid: side of a picture in tokens, 16 for 256 × 256 pixels.
    """
    return _network(model, grid, model.learn_variance, 1 + model.learn_variance, reverse=False)


def sit(model: DiT, grid: int, learned_sigma: bool = True) -> tuple[DiT, names.Table]:
    """The network of a published SiT of the size of `model`, and its table.

    Args:
      grid: as of `dit`.
      learned_sigma: the checkpoint has outputs for a variance, which SiT drops and which are left out here (zero when written).
    """
    return _network(model, grid, learn_variance=False, published=1 + learned_sigma, reverse=True)


def _network(model: DiT, grid: int, learn_variance: bool, published: int, reverse: bool) -> tuple[DiT, names.Table]:
    """`published` counts outputs a channel in the checkpoint; `reverse` is for t from noise to data, without a factor."""
    options = PUBLISHED | {"learn_variance": learn_variance, "time_factor": 1.0 if reverse else 1000.0, "position_offset": grid / 2}
    model = model.clone(**options)
    model.validate()
    if grid < 1:
        raise types.BadInput("grid", grid, "a positive number of tokens")
    width, hidden = model.width, model.mlp_ratio * model.width
    heads = (width // model.head_dim, model.head_dim)
    scale = model.scale
    order = names.sinusoid_order(width)
    even = names.fused_query(scale, model.head_dim)
    turn = (names.Rotate(names.reversed_time(TIME_FEATURES).T),) if reverse else ()
    entries = [
        *names.patches("x_embedder.proj", "patches", model.patch, model.channels, width, order),
        *names.dense("t_embedder.mlp.0", "time.in", (TIME_FEATURES,), (width,), kernel_steps=turn),
        *names.dense("t_embedder.mlp.2", "time.out", (width,), (width,)),
        names.Entry("y_embedder.embedding_table.weight", (model.classes + 1, width), "labels.table"),
        *names.dense("final_layer.adaLN_modulation.1", "velocity.modulation.linear", (width,), (2, width), out=order),
        *_output(model, scale, order, published, -1.0 if reverse else 1.0),
    ]
    for i in range(model.depth):
        layer = functools.partial(names.dense, layer=i)
        entries += layer(f"blocks.{i}.adaLN_modulation.1", "blocks.modulation.linear", (width,), (6, width), out=order)
        entries += layer(f"blocks.{i}.attn.qkv", "blocks.heads.qkv", (width,), (3, *heads), into=order, both_steps=(even,))
        entries += layer(f"blocks.{i}.attn.proj", "blocks.from_heads.out", heads, (width,), out=order)
        entries += layer(f"blocks.{i}.mlp.fc1", "blocks.mlp.in", (width,), (hidden,), into=order)
        entries += layer(f"blocks.{i}.mlp.fc2", "blocks.mlp.out", (hidden,), (width,), out=order)
    return model, names.Table(tuple(entries), {"pos_embed": names.position_table(grid, grid, width)})


def _output(model: DiT, scale: mup.Scale, order: np.ndarray, published: int, sign: float) -> tuple[names.Entry, ...]:
    """The last layer: rows (p, p, outputs a channel, C), of which those that the model has are kept."""
    outputs = (model.patch**2, published * model.channels)
    kept = model.channels * (1 + model.learn_variance)
    here = model.patch**2 * kept
    multiplier = mup.forward_multiplier(scale, (("embed", model.width),))
    found = []
    for entry in names.dense("final_layer.linear", "velocity.out", (model.width,), outputs):
        if entry.target.endswith("kernel"):
            rows = (model.width,)
            extra = (names.Pick(0, order, model.width), names.Times(sign / multiplier))
        else:
            rows, extra = (), (names.Times(sign),)
        steps = (
            names.Pick(len(rows) + 1, np.arange(kept), outputs[1]),
            names.Shape((*rows, outputs[0], kept), (*rows, here)),
            *extra,
        )
        found.append(dataclasses.replace(entry, steps=(*entry.steps, *steps)))
    return tuple(found)

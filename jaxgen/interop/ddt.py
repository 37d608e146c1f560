"""Checkpoints of DDT and of the improved DiT (MCG-NJU/DDT).

Published, t runs from noise to data and the output is x_0 - ε, patches lie as (channel, row, column), and rotations turn channels
2m and 2m + 1, by columns for even m and by rows for odd m. All of this turns with the weights: a converted network is used as any
other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from jaxgen import mup, types
from jaxgen.interop import names
from jaxgen.models.ddt import DDT, MAX_PERIOD, ImprovedDiT
from jaxgen.nn.embeddings import TIME_FEATURES
from jaxgen.nn.mlp import gated_hidden

_AVERAGED = "ema_denoiser."


def averaged(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The averaged network in the "state_dict" of a training checkpoint, without prefixes.

    Raises:
      BadInput: there is none.
    """
    plain = {name.replace("_orig_mod.", ""): value for name, value in state.items()}  # a compiled module's prefix
    found = {name.removeprefix(_AVERAGED): value for name, value in plain.items() if name.startswith(_AVERAGED)}
    if not found:
        raise types.BadInput("checkpoint", f"names like {', '.join(sorted(state)[:3])}", f"some that start with {_AVERAGED!r}")
    return found


def ddt(model: ImprovedDiT) -> names.Table:
    """The table of a published network of the sizes of `model`, a `DDT` or an `ImprovedDiT`.

    One list of blocks serves encoder and decoder, so a checkpoint does not tell where they part: `model.encoder_depth` does.
    """
    width, values = model.width, model.patch**2 * model.channels
    inside = np.arange(values).reshape(model.channels, model.patch, model.patch).transpose(1, 2, 0).reshape(-1)
    time = names.Rotate(names.reversed_time(TIME_FEATURES, MAX_PERIOD).T)
    multiplier = names.Times(1 / mup.forward_multiplier(model.scale, (("embed", width),)))
    entries = [
        *names.dense("t_embedder.mlp.0", "time.in", (TIME_FEATURES,), (width,), kernel_steps=(time,)),
        *names.dense("t_embedder.mlp.2", "time.out", (width,), (width,)),
        names.Entry("y_embedder.embedding_table.weight", (model.classes + 1, width), "labels.table"),
        *names.dense("final_layer.adaLN_modulation.0", "velocity.modulation.linear", (width,), (2, width)),
        *names.dense(
            "final_layer.linear",
            "velocity.out",
            (width,),
            (values,),
            out=inside,
            both_steps=(names.Times(-1.0),),
            kernel_steps=(multiplier,),
        ),
    ]
    trunks = {"trunk": ("x_embedder", range(model.depth))}
    if isinstance(model, DDT):
        trunks = {
            "encoder": ("s_embedder", range(model.encoder_depth)),
            "decoder": ("x_embedder", range(model.encoder_depth, model.depth)),
        }
    for trunk, (embedder, blocks) in trunks.items():
        entries += names.dense(f"{embedder}.proj", f"{trunk}.patches", (values,), (width,), into=inside)
        for layer, number in enumerate(blocks):
            entries += _block(model, f"blocks.{number}", f"{trunk}.blocks", layer)
    return names.Table(tuple(entries))


def _block(model: ImprovedDiT, source: str, target: str, layer: int) -> list[names.Entry]:
    width, head_dim, hidden = model.width, model.head_dim, gated_hidden(model.width, model.mlp_ratio)
    heads = (width // head_dim, head_dim)
    turned = _turned_channels(head_dim)
    factor = names.query_factor(model.scale, head_dim)
    pick = names.Pick(0, turned, head_dim)
    dense = functools.partial(names.dense, layer=layer)
    linear = functools.partial(dense, bias=False)
    gain = lambda name, size, path, *steps: names.Entry(f"{source}.{name}.weight", (size,), f"{target}.{path}.gain", steps, layer)
    return [
        gain("norm1", width, "attention_norm"),
        gain("norm2", width, "mlp_norm"),
        gain("attn.q_norm", head_dim, "heads.query_norm", pick, names.Times(factor)),
        gain("attn.k_norm", head_dim, "heads.key_norm", pick),
        # Values go along: whatever the order of their channels, the map from heads undoes it.
        *linear(f"{source}.attn.qkv", f"{target}.heads.qkv", (width,), (3, *heads), out=turned),
        *dense(f"{source}.attn.proj", f"{target}.from_heads.out", heads, (width,), into=turned),
        *linear(f"{source}.mlp.w1", f"{target}.mlp.in", (width,), (hidden,), part=0),
        *linear(f"{source}.mlp.w3", f"{target}.mlp.in", (width,), (hidden,), part=1),
        *linear(f"{source}.mlp.w2", f"{target}.mlp.out", (hidden,), (width,)),
        *dense(f"{source}.adaLN_modulation.0", f"{target}.modulation.linear", (width,), (6, width)),
    ]


def _turned_channels(head_dim: int) -> np.ndarray:
    """[K] published channel of each of ours: those of rows first, of each axis all first members of pairs, then all second."""
    axis, member, frequency = np.indices((2, 2, head_dim // 4))
    return (2 * (2 * frequency + 1 - axis) + member).reshape(-1)

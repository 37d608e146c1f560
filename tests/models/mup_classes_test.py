"""The μP class of every parameter of U-ViT, PixArt-α, a published DiT, Stable Diffusion 3 and FLUX.1, by name; `tests/mup_test.py`
has those of the others.

From the table of arXiv 2505.15270 and its base-shape files: what enters from a finite size is an input, what maps width to width is
hidden, what leaves to a finite size an output, biases and gains of the width's size are vectors, and the rest is finite.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface, mmdit
from jaxgen.models.dit import PUBLISHED, DiT
from jaxgen.models.mmdit import MMDiT, PositionTable
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT
from jaxgen.nn.modulation import Gates
from jaxgen.training.step import dotted

BASE = 64


def linear(name, group, output_bias="vector"):
    return {f"{name}.kernel": group, f"{name}.bias": output_bias}


def below(prefix, classes):
    return {f"{prefix}.{name}": group for name, group in classes.items()}


ENDS = linear("patches", "input")
TIME = linear("time.in", "input") | linear("time.out", "hidden")
ATTENTION = {"heads.qkv.kernel": "hidden"} | linear("from_heads.out", "hidden")
MLP = linear("mlp.in", "hidden") | linear("mlp.out", "hidden")

DIT = ENDS | TIME | {"labels.table": "input"} | linear("velocity.modulation.linear", "hidden")
DIT |= linear("velocity.out", "output", "finite")
DIT |= below("blocks", ATTENTION | MLP | linear("modulation.linear", "hidden") | {"heads.qkv.bias": "vector"})

UVIT_BLOCK = ATTENTION | MLP | {f"norm_{i}.{name}": "vector" for i in (1, 2) for name in ("gain", "bias")}
UVIT = ENDS | {"labels.table": "input", "positions.table": "input", "norm.gain": "vector", "norm.bias": "vector"}
# The sinusoid of the time has as many features as the model is wide.
UVIT |= linear("time_in", "hidden") | linear("time_out", "hidden")
UVIT |= linear("velocity", "output", "finite") | linear("convolution", "finite", "finite")
UVIT |= below("in_blocks", UVIT_BLOCK) | below("mid_block", UVIT_BLOCK)
UVIT |= below("out_blocks", UVIT_BLOCK | linear("skip", "hidden"))

PIXART = ENDS | TIME | linear("modulation.linear", "hidden") | linear("text_in", "input") | linear("text_out", "hidden")
# The null caption is a buffer in the published networks; it stands where text features stand.
PIXART |= {"null.table": "finite", "last_modulation.table": "input"} | linear("velocity", "output", "finite")
CROSS = {"cross_heads.query.kernel": "hidden", "cross_heads.key_value.kernel": "hidden"}
CROSS |= linear("from_cross_heads.out", "hidden")
PIXART |= below("blocks", ATTENTION | CROSS | MLP | {"modulation.table": "input"})
BIASED = PIXART | {f"blocks.{name}.bias": "vector" for name in ("heads.qkv", "cross_heads.query", "cross_heads.key_value")}

POOLED = linear("pooled_in", "input") | linear("pooled_out", "hidden")
MMDIT = ENDS | TIME | POOLED | linear("text_features", "input") | linear("velocity.modulation.linear", "hidden")
MMDIT |= linear("velocity.out", "output", "finite")
WRITTEN = linear("modulation.linear", "hidden") | linear("from_heads.out", "hidden") | MLP
READ = {f"heads.{name}_norm.gain": "finite" for name in ("query", "key")} | {"heads.qkv.kernel": "hidden"}


def stream(block, classes):
    return {f"{block}_{name}": group for name, group in classes.items()}


BIASED_READ = READ | {"heads.qkv.bias": "vector"}
SD3 = MMDIT | stream("last_block.text", BIASED_READ | linear("modulation.linear", "hidden"))
for block in ("blocks.image", "blocks.text", "last_block.image"):
    SD3 |= stream(block, BIASED_READ | WRITTEN)
FLUX = MMDIT | {"null.table": "input", "text_positions.table": "input"} | below("single_blocks", READ | WRITTEN)
FLUX |= below("guidance", {name.removeprefix("time."): group for name, group in TIME.items()})
FLUX |= stream("blocks.image", READ | WRITTEN) | stream("blocks.text", READ | WRITTEN)
TEXT = {"text_features": 7, "text_length": 5}

FAMILIES = {
    "dit_published": (DiT(depth=2, **PUBLISHED), DIT),
    "uvit": (UViT(depth=4, time_network=True), UVIT),
    "pixart": (PixArt(depth=2, **TEXT), PIXART),
    "pixart_published": (PixArt(depth=2, **TEXT, **PUBLISHED), BIASED),
    "sd3": (MMDiT(depth=3, **mmdit.PUBLISHED, **TEXT, pooled_features=9, position_table=PositionTable(4.0)), SD3),
    "flux": (MMDiT(depth=2, single_depth=2, vocabulary=0, **TEXT, pooled_features=9, guidance=4.0), FLUX),
}
# Factors at eight times the base width: learning rate, weight decay, epsilon.
FACTORS = {
    "input": (1, 1, 1 / 8),
    "hidden": (1 / 8, 8, 1 / 8),
    "output": (1, 1, 1 / 8),
    "vector": (1, 1, 1 / 8),
    "finite": (1, 1, 1),
}
each_family = pytest.mark.parametrize("model, expected", FAMILIES.values(), ids=FAMILIES)


def inputs(model):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4 * model.patch, 4 * model.patch, model.channels)), jnp.float32)
    values = {"label": jnp.zeros((2, 3), jnp.int32), "text": jnp.ones((2, 3, 7)), "pooled": jnp.ones((2, 1, 9))}
    streams = {name: types.Condition(values[name], jnp.ones(values[name].shape[:2], jnp.int32)) for name in model.streams}
    return interface.image_tokens(x, model.patch, jnp.float32), jnp.full((2,), 0.5), streams


def boxes(model):
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs(model))["params"])
    return {dotted(path): box for path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)}


@each_family
def test_every_parameter_has_the_class_of_the_published_table(model, expected):
    assert {name: box.group for name, box in boxes(model).items()} == expected


@each_family
def test_every_parameter_has_the_factors_of_its_class_at_eight_times_the_base_width(model, expected):
    wide = dataclasses.replace(model, width=8 * BASE, scaling=mup.Scaling(base_width=BASE))
    for name, box in boxes(wide).items():
        learning_rate, weight_decay, epsilon = FACTORS[expected[name]]
        if box.kind in ("gain", "bias"):
            weight_decay = 0
        assert (box.learning_rate, box.weight_decay, box.epsilon) == (learning_rate, weight_decay, epsilon), name


@each_family
@pytest.mark.parametrize("width, parametrization", [(BASE, "mup"), (4 * BASE, "standard")], ids=["base_width", "standard"])
def test_all_factors_are_one_at_base_width_and_under_the_standard_parametrization(model, expected, width, parametrization):
    scaling = mup.Scaling(base_width=BASE, parametrization=mup.Parametrization(parametrization))
    for name, box in boxes(dataclasses.replace(model, width=width, scaling=scaling)).items():
        assert (box.learning_rate, box.epsilon) == (1, 1), name
        assert box.weight_decay == (0 if box.kind in ("gain", "bias") else 1), name


@pytest.mark.parametrize("name", ["uvit", "pixart"])
def test_the_network_starts_at_zero_whatever_its_gates(name):
    model = FAMILIES[name][0].clone(depth=2, width=32)
    model = model.clone(gates=Gates.RANDOM) if hasattr(model, "gates") else model
    out = jax.jit(model.init_with_output)(jax.random.key(0), *inputs(model))[0]
    np.testing.assert_array_equal(out, 0)

"""From what every parameter of every family is drawn, by name: under μP, and as its authors publish it by one switch."""

import functools
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, ImprovedDiT
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import PUBLISHED, MMDiT, PositionTable
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT
from jaxgen.nn.modulation import Gates
from jaxgen.training.step import dotted

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from creation import created  # noqa: E402

BASE, WIDTH = 32, 128
FEATURES, POOLED, CLASSES = 48, 40, 60
SIZES = {"patch": 4, "channels": 4}
TEXT = {"text_features": FEATURES, "text_length": 50}
SD3 = {**PUBLISHED, **TEXT, "pooled_features": POOLED, "position_table": PositionTable(2.0), "qk_norm": True}
FAMILIES = {
    "dit": DiT(depth=2, classes=CLASSES, qkv_bias=True, **SIZES),
    "uvit": UViT(depth=2, classes=CLASSES, grid=(8, 8), time_network=True, **SIZES),
    "pixart": PixArt(depth=2, qkv_bias=True, **TEXT, **SIZES),
    "mmdit": MMDiT(depth=3, **SD3, **SIZES),
    "ddt": DDT(depth=3, encoder_depth=2, classes=CLASSES, **SIZES),
    "improved_dit": ImprovedDiT(depth=2, classes=CLASSES, **SIZES),
}
each_family = pytest.mark.parametrize("name", FAMILIES)


def inputs(model):
    tokens = interface.image_tokens(jnp.zeros((1, 8, 8, 4)), model.patch, jnp.float32)
    values = {"label": jnp.zeros((1, 1), jnp.int32), "text": jnp.zeros((1, 5, FEATURES)), "pooled": jnp.zeros((1, 1, POOLED))}
    condition = lambda x: types.Condition(x, jnp.ones(x.shape[:2], jnp.int32))
    return tokens, jnp.zeros(1), {stream: condition(values[stream]) for stream in model.streams}


@functools.cache
def made(name, parametrization, gates=Gates.RANDOM):
    """Parameters by name, and their boxes by name."""
    model = FAMILIES[name].clone(width=WIDTH, scaling=mup.Scaling(BASE, mup.Parametrization(parametrization)))
    model = model.clone(gates=gates) if hasattr(model, "gates") else model
    model.validate()
    found, boxed = created(model, inputs(model))
    return found, {dotted(path): box for path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)}


def is_drawn(value, std, uniform):
    """Whether a sample's deviation and its largest value are those of the distribution, as far as its size tells."""
    near = abs(value.std() / std - 1) < 3.5 / math.sqrt(2 * value.size) + 0.003
    most = np.abs(value).max() / std
    return near and abs(value.mean()) < 4 * std / math.sqrt(value.size) and (most <= math.sqrt(3) if uniform else most > 2)


# Deviations under μP that are not 1/√fan_in of a map and 1 of a table.
OWN = {
    "uvit": {"positions.table": 0.02},
    "pixart": {"blocks.modulation.table": 0.02, "last_modulation.table": 0.02, "null.table": 1 / math.sqrt(FEATURES)},
}
AT_ZERO = {"uvit": ("velocity.",), "pixart": ("velocity.", "blocks.from_cross_heads.")}


@each_family
def test_under_mup_every_map_starts_at_one_over_the_root_of_its_fan_in_and_the_output_at_zero(name):
    for leaf, parameter in made(name, "mup")[0].items():
        value = parameter.value()
        if parameter.kind == "gain":
            assert (value == 1).all(), leaf
        elif parameter.kind == "bias" or leaf.startswith(AT_ZERO.get(name, ("velocity.out.",))):
            assert not value.any(), leaf
        elif parameter.kind == "embedding":
            assert is_drawn(value, OWN.get(name, {}).get(leaf, 1.0), uniform=False), leaf
        else:
            assert is_drawn(value, 1 / math.sqrt(parameter.fan_in), uniform=False), leaf


def normal(std):
    return lambda width: (std, False)


def at(size, width):
    return size(width) if callable(size) else size


def wide(ratio=1):
    return lambda width: ratio * width


def xavier(inputs, outputs):
    return lambda width: (math.sqrt(2 / (at(inputs, width) + at(outputs, width))), True)


def torch(inputs):
    """What PyTorch draws for weights and biases of a linear layer or a convolution of so many inputs."""
    return lambda width: (1 / math.sqrt(3 * at(inputs, width)), True)


def both(name, draw):
    return {f"{name}.kernel": draw, f"{name}.bias": draw}


PATCH = 4 * 4 * 4
SMALL = normal(0.02)
XAVIER_BLOCK = {
    "blocks.heads.qkv.kernel": xavier(wide(), wide(3)),
    "blocks.from_heads.out.kernel": xavier(wide(), wide()),
    "blocks.mlp.in.kernel": xavier(wide(), wide(4)),
    "blocks.mlp.out.kernel": xavier(wide(4), wide()),
}
TIME = {"time.in.kernel": SMALL, "time.out.kernel": SMALL}
DIT = {"patches.kernel": xavier(PATCH, wide()), "labels.table": SMALL} | TIME | XAVIER_BLOCK
UVIT = both("patches", torch(PATCH)) | both("convolution", torch(9 * 4)) | {"labels.table": normal(1.0), "positions.table": SMALL}
UVIT |= {f"{name}.kernel": SMALL for name in ("time_in", "time_out", "velocity", "out_blocks.skip")}
for stack in ("in_blocks", "mid_block", "out_blocks"):
    UVIT |= {f"{stack}.{name}.kernel": SMALL for name in ("heads.qkv", "from_heads.out", "mlp.in", "mlp.out")}
PIXART = {"patches.kernel": xavier(PATCH, wide()), "patches.bias": torch(PATCH)} | TIME | XAVIER_BLOCK
PIXART |= {f"{name}.kernel": SMALL for name in ("modulation.linear", "text_in", "text_out")}
PIXART |= {
    "blocks.cross_heads.query.kernel": xavier(wide(), wide()),
    "blocks.cross_heads.key_value.kernel": xavier(wide(), wide(2)),
}
PIXART |= {f"{name}.table": lambda width: (1 / math.sqrt(width), False) for name in ("blocks.modulation", "last_modulation")}
PIXART |= {"null.table": normal(1 / math.sqrt(FEATURES))}
MMDIT = both("patches", torch(PATCH)) | both("time.in", torch(256)) | both("text_features", torch(FEATURES))
MMDIT |= both("pooled_in", torch(POOLED))
for layer in ("time.out", "pooled_out", "velocity.modulation.linear", "velocity.out", "last_block.text_modulation.linear"):
    MMDIT |= both(layer, torch(wide()))
MMDIT |= both("last_block.text_heads.qkv", torch(wide()))
for block in ("blocks.image", "blocks.text", "last_block.image"):
    for layer, ratio in (("modulation.linear", 1), ("heads.qkv", 1), ("from_heads.out", 1), ("mlp.in", 1), ("mlp.out", 4)):
        MMDIT |= both(f"{block}_{layer}", torch(wide(ratio)))
DDT_ENDS = TIME | {"labels.table": SMALL, "time.in.bias": torch(256), "time.out.bias": torch(wide())}


def trunk(name):
    maps = both(f"{name}.blocks.modulation.linear", torch(wide())) | both(f"{name}.blocks.from_heads.out", torch(wide()))
    maps |= {f"{name}.blocks.{layer}.kernel": torch(wide()) for layer in ("heads.qkv", "mlp.in")}
    hidden = torch(lambda width: 2 * 4 * width // 3)
    return maps | {f"{name}.blocks.mlp.out.kernel": hidden, f"{name}.patches.kernel": xavier(PATCH, wide())}


# All else is zero, gains aside.
STARTS = {
    "dit": DIT,
    "uvit": UVIT,
    "pixart": PIXART,
    "mmdit": MMDIT,
    "ddt": DDT_ENDS | trunk("encoder") | trunk("decoder"),
    "improved_dit": DDT_ENDS | trunk("trunk"),
}


@each_family
def test_published_every_parameter_starts_as_in_the_authors_code(name):
    found, _ = made(name, "published")
    assert STARTS[name].keys() < found.keys()
    for leaf, parameter in found.items():
        if leaf in STARTS[name]:
            assert is_drawn(parameter.value(), *STARTS[name][leaf](WIDTH)), leaf
        else:
            assert (parameter.value() == (parameter.kind == "gain")).all(), leaf


@each_family
def test_published_is_standard_but_for_the_start(name):
    for leaf, box in made(name, "published")[1].items():
        decay = 0 if box.kind in ("gain", "bias") else 1
        assert (box.learning_rate, box.weight_decay, box.epsilon) == (1, decay, 1), leaf
    scaling = mup.Scaling(BASE, mup.Parametrization.PUBLISHED, base_head_dim=8)
    scale = FAMILIES[name].clone(width=WIDTH, scaling=scaling).scale
    assert mup.forward_multiplier(scale, (("embed", WIDTH),)) == 1 and scale.attention_scale(16) == 1 / 4


def test_gates_start_as_published_whichever_are_asked_for():
    for gates in Gates:
        assert not made("dit", "published", gates)[0]["blocks.modulation.linear.kernel"].value().any()
        assert made("ddt", "published", gates)[0]["decoder.blocks.modulation.linear.kernel"].value().any()


def test_a_model_of_which_no_start_is_known_is_refused():
    with pytest.raises(types.BadInput) as error:
        mup.Scaling(BASE, mup.Parametrization.PUBLISHED).at(BASE)
    assert (error.value.option, error.value.found) == ("parametrization", "published")

"""Under μP the gradient of every parameter falls with the width as 1/n, that of a parameter of no width not at all."""

import functools
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.ddt import DDT
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import PUBLISHED, MMDiT
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT
from jaxgen.nn.modulation import Gates
from jaxgen.training.step import dotted

BASE, WIDTHS, SEEDS, EXAMPLES = 64, (64, 512), 2, 8
SCALING = mup.Scaling(BASE)
FAMILIES = {
    "dit": DiT(depth=1, gates=Gates.RANDOM, scaling=SCALING),
    "uvit": UViT(depth=2, grid=(2, 2), time_network=True, scaling=SCALING),
    "pixart": PixArt(depth=1, text_features=12, text_length=3, gates=Gates.RANDOM, scaling=SCALING),
    "mmdit": MMDiT(depth=2, **PUBLISHED, text_features=12, text_length=3, pooled_features=9, gates=Gates.RANDOM, scaling=SCALING),
    "ddt": DDT(depth=2, encoder_depth=1, scaling=SCALING),
}
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


X, TARGET, T = draw(EXAMPLES, 4, 4, 1), draw(EXAMPLES, 4, 4), jnp.asarray(DRAWS.uniform(size=EXAMPLES), jnp.float32)
VALUES = {"label": jnp.arange(EXAMPLES)[:, None] % 10, "text": draw(EXAMPLES, 3, 12), "pooled": draw(EXAMPLES, 1, 9)}
# One example has no condition, so that what stands for one is read too.
STREAMS = {name: types.Condition(values, jnp.ones(values.shape[:2], jnp.int32).at[-1].set(0)) for name, values in VALUES.items()}


def parameters(boxed, key):
    """As a few steps leave them: what starts at zero has sizes of its class, so that nothing holds gradients back."""

    def grown(path, box):
        if box.kind == "bias" or bool(jnp.any(box.value)):
            return box.value
        inputs = box.value.shape[box.names.index("layers") + 1 if "layers" in box.names else 0]
        fan_in = BASE if box.group == "output" else inputs if box.group == "hidden" else 1
        own = jax.random.fold_in(key, zlib.crc32(dotted(path).encode()))
        return jax.random.normal(own, box.value.shape) / math.sqrt(fan_in)

    return jax.tree_util.tree_map_with_path(grown, boxed, is_leaf=mup.is_parameter)


@functools.cache
def sizes(name, width):
    """Root mean square of each gradient, averaged over seeds, and the boxes, by name."""
    model = FAMILIES[name].clone(width=width)
    streams = {stream: STREAMS[stream] for stream in model.streams}
    tokens = interface.image_tokens(X, model.patch, jnp.float32)

    def loss(params):
        return jnp.mean((model.apply({"params": params}, tokens, T, streams) - TARGET) ** 2)

    init = jax.jit(lambda key: model.init(key, tokens, T, streams)["params"])
    gradient, found = jax.jit(jax.grad(loss)), {}
    for seed in range(SEEDS):
        key = jax.random.key(seed, impl="unsafe_rbg")
        boxed = init(key)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(parameters(boxed, key))):
            found.setdefault(dotted(path), []).append(float(jnp.mean(leaf**2)))
    boxes = {dotted(path): box for path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)}
    return {leaf: math.sqrt(np.mean(squares)) for leaf, squares in found.items()}, boxes


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_fall_as_one_over_the_width(name):
    narrow, boxes = sizes(name, WIDTHS[0])
    wide, _ = sizes(name, WIDTHS[1])
    slopes = {leaf: math.log2(wide[leaf] / size) / math.log2(WIDTHS[1] / WIDTHS[0]) for leaf, size in narrow.items()}
    print({leaf: round(slope, 3) for leaf, slope in slopes.items()})
    for leaf, slope in slopes.items():
        if boxes[leaf].group != "finite":
            assert abs(slope + 1) <= 0.1, (leaf, slope)
        else:
            assert slope > -0.6, (leaf, slope)

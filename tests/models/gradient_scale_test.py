"""Under μP the gradient of every parameter that grows with the width falls as one over it."""

import functools
import math
import pathlib
import sys
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

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from creation import created  # noqa: E402

BASE, WIDTHS, EXAMPLES = 64, (64, 512), 8
# Of three networks of width 64 the gradient of a bias is known to a third, and so the slope to 0.15.
SEEDS = 32
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


def parameters(found, boxed, seed):
    """As a few steps leave them: what starts at zero has a size of its class, so that nothing holds gradients back. Outputs are so
    small that the error is that of the target at every width."""

    def grown(path, box):
        name, draws = dotted(path), np.random.default_rng([seed, zlib.crc32(dotted(path).encode())])
        layers = box.value.shape[0] if box.names[0] == "layers" else 1
        values = [found[name].value(draws.integers(2**31)) for _ in range(layers)]
        if box.kind != "bias" and not np.any(values):
            std = 0.1 / math.sqrt(BASE) if box.group == "output" else 1 / math.sqrt(found[name].fan_in)
            values = [std * draws.normal(size=value.shape) for value in values]
        return jnp.asarray(np.reshape(values, box.value.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(grown, boxed, is_leaf=mup.is_parameter)


@functools.cache
def sizes(name, width):
    """Root mean square of each gradient over seeds, and the class of its parameter, by name."""
    model = FAMILIES[name].clone(width=width)
    streams = {stream: STREAMS[stream] for stream in model.streams}
    tokens = interface.image_tokens(X, model.patch, jnp.float32)

    def loss(params):
        return jnp.mean((model.apply({"params": params}, tokens, T, streams) - TARGET) ** 2)

    found, boxed = created(model, (tokens, T, streams))
    gradient, squares = jax.jit(jax.grad(loss)), {}
    for seed in range(SEEDS):
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(parameters(found, boxed, seed))):
            squares.setdefault(dotted(path), []).append(float(jnp.mean(leaf**2)))
    groups = {dotted(path): box.group for path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)}
    return {leaf: math.sqrt(np.mean(values)) for leaf, values in squares.items()}, groups


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_fall_as_one_over_the_width(name):
    (narrow, groups), (wide, _) = (sizes(name, width) for width in WIDTHS)
    # Of the last block nobody asks the text's queries for anything.
    assert {leaf for leaf, size in narrow.items() if not size} <= {"last_block.text_heads.query_norm.gain"}
    octaves = math.log2(WIDTHS[1] / WIDTHS[0])
    slopes = {leaf: math.log2(wide[leaf] / size) / octaves for leaf, size in narrow.items() if size}
    print(name, {leaf: round(slope, 2) for leaf, slope in sorted(slopes.items(), key=lambda item: -abs(item[1] + 1))})
    for leaf, slope in slopes.items():
        if groups[leaf] != "finite":
            assert abs(slope + 1) <= 0.1, (leaf, slope)

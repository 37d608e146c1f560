"""DiT against recorded runs of facebookresearch/DiT, every parameter random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup
from jaxgen.interop import dit as interop
from jaxgen.interop import names
from jaxgen.models import interface
from jaxgen.models.dit import DiT, DiTBlock
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.mlp import MLP
from jaxgen.nn.modulation import Gates
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.velocity_head import VelocityHead

RUNS = published.load("dit")
SCALING = mup.Scaling(base_width=64)
MODEL, TABLE = interop.dit(DiT(width=64, depth=3, channels=4, learn_variance=True, scaling=SCALING), 4)
PARAMS = {doubled: TABLE.read(published.weights(RUNS, doubled, ["pos_embed"])) for doubled in (False, True)}
INPUTS = (published.here(RUNS["input/x"]), jnp.asarray(RUNS["input/t"] / 1000, jnp.float32), published.labels(RUNS["input/y"], 10))
ORDER = names.sinusoid_order(64)
each_size = pytest.mark.parametrize("doubled", [False, True], ids=["recorded", "doubled"])


recorded = functools.partial(published.recorded, RUNS)


@each_size
def test_the_output_is_the_authors(doubled):
    found = published.network(MODEL)(PARAMS[doubled], *INPUTS)
    published.close(published.there(found), recorded("output", doubled)["out"])


@each_size
def test_the_output_under_guidance_is_the_authors(doubled):
    x = published.here(np.concatenate([RUNS["input/cfg_x"]] * 2))
    t = jnp.asarray(RUNS["input/cfg_t"] / 1000, jnp.float32)
    found = published.network(MODEL)(PARAMS[doubled], x, t, published.labels(RUNS["input/cfg_y"], 10))
    published.close(published.guided(published.there(found), 2.0), recorded("output", doubled)["cfg_out_scale2"])


@each_size
def test_gradients_are_the_authors(doubled):
    params, x = published.gradients(MODEL, PARAMS[doubled], *INPUTS, published.here(RUNS["input/grad_seed"]))
    expected = recorded("grad", doubled)
    published.close(published.there(x), expected.pop("x"), published.GRADIENTS)
    published.close_gradients(TABLE, params, expected)


@jax.jit
def watched(params, x, t, streams):
    """What every module puts out."""
    tokens = interface.image_tokens(x, 2, jnp.float32)
    kept = MODEL.apply({"params": params}, tokens, t, streams, capture_intermediates=True, mutable=["intermediates"])
    return kept[1]["intermediates"]


@each_size
def test_the_embedded_time_and_the_output_of_every_block_are_the_authors(doubled):
    kept = watched(PARAMS[doubled], *INPUTS)
    expected = recorded("output", doubled)
    published.close(kept["time"]["__call__"][0][:, 0], expected["t_embed"])
    blocks = kept["blocks"]["__call__"][0][0]
    for i in range(3):
        published.close(blocks[i], expected[f"block{i}"][..., ORDER])


# Single modules of the first block, fed with numbers of deviation 4.

BLOCK = jax.tree.map(lambda leaf: leaf[0], PARAMS[False]["blocks"])
SCALE = SCALING.at(64)
SEGMENTS = jnp.ones((2, 16), jnp.int32)
PROBE, CONDITION = jnp.asarray(RUNS["input/probe"][..., ORDER]), jnp.asarray(RUNS["input/probe_cond"])[:, None]


def probed_attention():
    q, k, v = QueryKeyValue(64, 16, SCALE, bias=True).apply({"params": BLOCK["heads"]}, PROBE)
    attended = attention(q, k, v, Mask(), SCALE.attention_scale(16))
    return FromHeads(64, 16, SCALE).apply({"params": BLOCK["from_heads"]}, attended)


PROBES = {
    "attn_block0": probed_attention,
    "mlp_block0": lambda: MLP(64, 256, SCALE).apply({"params": BLOCK["mlp"]}, PROBE),
    "block0": lambda: DiTBlock(64, 16, 4, "gelu", Gates.ZERO, SCALE, qkv_bias=True).apply(
        {"params": BLOCK}, PROBE, CONDITION, SEGMENTS
    )[0],
}


@pytest.mark.parametrize("name", PROBES)
def test_a_single_module_is_the_authors(name):
    published.close(PROBES[name](), RUNS[f"output/probe_{name}"][..., ORDER])


def test_the_last_layer_is_the_authors():
    head = VelocityHead(64, 32, Gates.ZERO, SCALE)
    published.close(head.apply({"params": PARAMS[False]["velocity"]}, PROBE, CONDITION), RUNS["output/probe_final_layer"])

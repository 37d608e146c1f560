"""U-ViT against recorded runs of baofff/U-ViT, every parameter random."""

import jax
import jax.numpy as jnp
import published
import pytest

from jaxgen import mup
from jaxgen.interop import uvit as interop
from jaxgen.models.uvit import UViT, UViTBlock
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norms import LayerNorm
from jaxgen.nn.projections import FromHeads, QueryKeyValue

RUNS = published.load("uvit")
SCALING = mup.Scaling(base_width=64)
MODELS = {kind: UViT(width=64, depth=4, channels=4, time_network=kind == "mlp", scaling=SCALING) for kind in ("identity", "mlp")}
INPUTS = (published.here(RUNS["input/x"]), jnp.asarray(RUNS["input/t"] / 1000), published.labels(RUNS["input/y"], 10))
each_kind = pytest.mark.parametrize("kind", MODELS)
each_size = pytest.mark.parametrize("doubled", [False, True], ids=["recorded", "doubled"])


def params(kind, doubled):
    found = published.weights(RUNS, doubled)
    if kind == "identity":
        # Recorded with both kinds, and not used by this one.
        found = {name: value for name, value in found.items() if not name.startswith("time_embed.")}
    return interop.uvit(MODELS[kind]).read(found)


def recorded(what, kind, doubled):
    return published.recorded(RUNS, f"{what}/time_{kind}", doubled)


@each_kind
@each_size
def test_the_output_is_the_authors(kind, doubled):
    found = published.network(MODELS[kind])(params(kind, doubled), *INPUTS)
    published.close(published.there(found), recorded("output", kind, doubled)["out"])


@each_kind
@each_size
def test_gradients_are_the_authors(kind, doubled):
    seed = published.here(RUNS["input/grad_seed"])
    found, x = published.gradients(MODELS[kind], params(kind, doubled), *INPUTS, seed)
    expected = recorded("grad", kind, doubled)
    published.close(published.there(x), expected.pop("x"), published.GRADIENTS)
    published.close_gradients(interop.uvit(MODELS[kind]), found, expected)


# Single modules of the first blocks of both halves, fed with numbers of deviation 4.


def first(stack):
    return jax.tree.map(lambda leaf: leaf[0], params("identity", False)[stack])


SCALE = SCALING.at(64)
PROBE, SKIP, SEGMENTS = jnp.asarray(RUNS["input/probe"]), jnp.asarray(RUNS["input/probe_skip"]), jnp.ones((2, 18), jnp.int32)


def probed_attention():
    block = first("in_blocks")
    q, k, v = QueryKeyValue(64, 16, SCALE).apply({"params": block["heads"]}, PROBE)
    attended = attention(q, k, v, Mask(), SCALE.attention_scale(16))
    return FromHeads(64, 16, SCALE).apply({"params": block["from_heads"]}, attended)


PROBES = {
    "attn_in_block0": probed_attention,
    "mlp_in_block0": lambda: MLP(64, 256, SCALE, "gelu_exact").apply({"params": first("in_blocks")["mlp"]}, PROBE),
    "norm1_in_block0": lambda: LayerNorm(64, SCALE).apply({"params": first("in_blocks")["norm_1"]}, PROBE),
    "out_block0": lambda: UViTBlock(64, 16, 4, "gelu_exact", SCALE).apply({"params": first("out_blocks")}, PROBE, SKIP, SEGMENTS)[
        0
    ],
}


@pytest.mark.parametrize("name", PROBES)
def test_a_single_module_is_the_authors(name):
    published.close(PROBES[name](), RUNS[f"output/probe_{name}"])

"""DDT against recorded runs of its authors' code (MCG-NJU/DDT), every weight random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup
from jaxgen.interop import ddt as interop
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, ImprovedBlock
from jaxgen.nn import rope
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import Mask
from jaxgen.nn.embeddings import TimeEmbedding
from jaxgen.nn.mlp import SwiGLU
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.nn.velocity_head import VelocityHead
from jaxgen.samplers import guidance
from jaxgen.samplers.sampler import Sampler
from jaxgen.samplers.time_grids import Uniform

RUNS = published.load("ddt")
MODEL = DDT(width=64, depth=5, encoder_depth=3, head_dim=16, patch=2, channels=4, classes=10, scaling=mup.Scaling(base_width=64))
SCALE = MODEL.scaling.at(64)
TABLE = interop.ddt(MODEL)
# Doubled weights too: labels and guidance hardly move the others.
each_size = pytest.mark.parametrize("doubled", [False, True], ids=["weights", "doubled"])


@functools.cache
def params(doubled=False):
    return jax.tree.map(jnp.asarray, TABLE.read(published.weights(RUNS, doubled)))


def output(name, doubled=False):
    return published.recorded(RUNS, "output", doubled)[name]


def inputs(suffix=""):
    """Tokens, times and labels of a recorded call."""
    x, t, y = (RUNS[f"input/{name}{suffix}"] for name in ("x", "t", "y"))
    return interface.image_tokens(published.here(x), 2, jnp.float32), 1 - jnp.asarray(t), published.labels(y, 10)


@functools.cache
def applied(method):
    return jax.jit(lambda params, *inputs: MODEL.apply({"params": params}, *inputs, method=method))


def close_velocity(values, expected):
    """Token values against a published velocity, which points the other way."""
    batch, channels, height, width = expected.shape
    found = interface.image(values, (batch, height, width, channels), 2)
    published.close(-published.there(found), expected)


@each_size
@pytest.mark.parametrize("shape", ["", "_rect"], ids=["square", "rectangular"])
def test_velocity_and_z_are_those_of_the_published_network(doubled, shape):
    tokens, t, streams = inputs(shape)
    z = applied("encode")(params(doubled), tokens, t, streams)
    published.close(z, output(f"z{shape}", doubled))
    expected = output(f"out{shape}", doubled)
    close_velocity(applied("__call__")(params(doubled), tokens, t, streams), expected)
    close_velocity(applied("decode")(params(doubled), tokens, z), expected)


@each_size
def test_velocity_under_a_given_z_is_that_of_the_published_network(doubled):
    values = applied("decode")(params(doubled), inputs()[0], jnp.asarray(RUNS["input/z_fixed"]))
    close_velocity(values, output("out_given_z_fixed", doubled))


@jax.jit
def blocks_and_time(params, *inputs):
    kept = lambda module, _: isinstance(module, ImprovedBlock | TimeEmbedding)
    _, state = MODEL.apply({"params": params}, *inputs, capture_intermediates=kept, mutable=["intermediates"])
    return state["intermediates"]


@each_size
def test_what_blocks_and_time_embedding_put_out_is_that_of_the_published_network(doubled):
    found = blocks_and_time(params(doubled), *inputs())
    encoder, decoder = (found[name]["blocks"]["__call__"][0][0] for name in ("encoder", "decoder"))
    assert (encoder.shape, decoder.shape) == ((3, 3, 16, 64), (2, 3, 16, 64))
    published.close(encoder[0], output("block0", doubled))
    published.close(encoder[2], output("block2_encoder_last", doubled))
    published.close(decoder[0], output("block3_decoder_first", doubled))
    published.close(found["time"]["__call__"][0][:, 0], output("t_embed", doubled))


@each_size
def test_gradients_are_those_of_the_published_network(doubled):
    _, t, streams = inputs()
    x, seed = (published.here(RUNS[f"input/{name}"]) for name in ("x", "grad_seed"))
    expected = published.recorded(RUNS, "grad", doubled)
    assert "x" in expected and len(expected) > 5
    by_params, by_x = published.gradients(MODEL, params(doubled), x, t, streams, -seed)
    assert published.error(published.there(by_x), expected.pop("x")) < published.GRADIENTS
    published.close_gradients(TABLE, by_params, expected)


def layer(stack, index):
    return jax.tree.map(lambda leaf: leaf[index], params()[stack]["blocks"])


PROBE, CONDITION = (jnp.asarray(RUNS[f"input/{name}"]) for name in ("probe", "probe_cond"))
TOKENS = interface.image_tokens(jnp.zeros((2, 8, 8, 4)), 2, jnp.float32)
POSITIONS = rope.stretched(TOKENS.positions, TOKENS.segments, TOKENS.grid)


def test_a_norm_alone_is_the_published_one():
    found = RMSNorm(("embed", 64), SCALE).apply({"params": layer("encoder", 0)["attention_norm"]}, PROBE)
    published.close(found, output("probe_norm1_block0"))


def test_attention_alone_is_the_published_one():
    @jax.jit
    def attended(block):
        q, k, v = QueryKeyValue(64, 16, SCALE, qk_norm=True).apply({"params": block["heads"]}, PROBE, POSITIONS)
        heads = attention(q, k, v, Mask(TOKENS.segments, TOKENS.segments), SCALE.attention_scale(16))
        return FromHeads(64, 16, SCALE).apply({"params": block["from_heads"]}, heads)

    published.close(attended(layer("encoder", 0)), output("probe_attn_block0"))


def test_a_feed_forward_layer_alone_is_the_published_one():
    found = SwiGLU(64, (170, 170), SCALE).apply({"params": layer("encoder", 0)["mlp"]}, PROBE)
    published.close(found, output("probe_mlp_block0"))


def test_a_decoder_block_alone_under_a_condition_for_each_token_is_the_published_one():
    block = ImprovedBlock(64, 16, 4, MODEL.gates, SCALE, "all_gather")
    found, _ = jax.jit(block.apply)({"params": layer("decoder", 1)}, PROBE, CONDITION, POSITIONS, TOKENS.segments)
    published.close(found, output("probe_block4_per_token_cond"))


def test_the_last_layer_alone_is_the_published_one():
    found = VelocityHead(64, 16, MODEL.gates, SCALE, silu=False).apply({"params": params()["velocity"]}, PROBE, CONDITION)
    inside = np.arange(16).reshape(4, 2, 2).transpose(1, 2, 0).reshape(-1)
    published.close(found, -output("probe_final_layer")[..., inside])


@pytest.mark.parametrize("rows, columns", [(4, 4), (4, 6)])
def test_pairs_of_channels_turn_by_the_published_angles(rows, columns):
    tokens = interface.image_tokens(jnp.zeros((1, 2 * rows, 2 * columns, 4)), 2, jnp.float32)
    positions = rope.stretched(tokens.positions, tokens.segments, tokens.grid)
    # First members of pairs 1 and second ones 0: what comes out are the cosines and sines themselves.
    ones = jnp.tile(jnp.repeat(jnp.array([1.0, 0.0]), 4), 2)
    turned = rope.rotate(jnp.broadcast_to(ones, (1, rows * columns, 1, 16)), positions).reshape(-1, 2, 2, 4)
    found = np.asarray(turned[:, :, 0] + 1j * turned[:, :, 1])  # [token, row or column, frequency]
    cos, sin = (output(f"rope_angle_{name}_{rows}x{columns}") for name in ("cos", "sin"))
    expected = (cos + 1j * sin).reshape(-1, 4, 2).transpose(0, 2, 1)[:, ::-1]  # published pairs: column, row, column, …
    # We count places from the centre and they from a corner: angles differ by one constant, which attention does not see.
    np.testing.assert_allclose(found / found[:1], expected / expected[:1], atol=1e-5)


NOISE = published.here(RUNS["input/sampler_noise"])
# Published: strictly between 0.3 and 1, of a time that runs the other way. No step of these lies on an end.
GUIDED = {"guidance": 2.0, "guidance_interval": (0.0, 0.7)}


@functools.cache
def drawing(shift, guided):
    sampler = Sampler(steps=10, grid=Uniform(shift=shift, last_step=0.04), **(GUIDED if guided else {}))
    sampler.validate()
    streams = published.labels(RUNS["input/sampler_labels"], 10)
    if guided:
        streams = jax.tree.map(guidance.interleaved, streams, interface.null(streams))
    rows = len(NOISE) * (2 if guided else 1)

    @jax.jit
    def draw(params):
        def velocity(x, t, carry):
            step, kept = carry
            v = interface.velocity(MODEL, params, x, t, streams, jnp.float32)
            return v, (step + 1, kept.at[step].set(v))

        carry = jnp.int32(0), jnp.zeros((10, rows, *NOISE.shape[1:]))
        path, (_, kept) = sampler.trajectory(sampler.guided(velocity), NOISE, carry)
        return path, kept

    return draw


def sampled(doubled, shift, guided):
    """(published form of x at each time, of what the network put out at each step)."""
    path, kept = drawing(shift, guided)(params(doubled))
    return [published.there(x) for x in path], [-published.there(v) for v in kept]


@each_size
def test_a_guided_trajectory_is_the_published_one(doubled):
    path, put_out = sampled(doubled, 1.0, True)
    for found, expected in zip(path, output("euler_x", doubled), strict=True):
        published.close(found, expected)
    for step in (0, 5):
        apart = np.concatenate([put_out[step][1::2], put_out[step][::2]])  # published: all without condition, then all with
        published.close(apart, output(f"euler_net_out_step{step}", doubled))


@each_size
@pytest.mark.parametrize(
    "name, shift, guided", [("euler_x_no_cfg", 1.0, False), ("euler_x_timeshift2", 2.0, True)], ids=["unguided", "shifted"]
)
def test_the_end_of_another_trajectory_is_the_published_one(doubled, name, shift, guided):
    published.close(sampled(doubled, shift, guided)[0][-1], output(name, doubled))


def test_guidance_moves_the_recorded_trajectory_by_far_more_than_the_tolerance():
    assert published.error(output("euler_x_no_cfg", True), output("euler_x", True)[-1]) > 1e-2


GRIDS = {
    "euler_time_grid": (10, Uniform(last_step=0.04)),
    "grid_n1": (1, Uniform(last_step=0.04)),
    "grid_n10_uniform": (10, Uniform()),
    "grid_n10_last004_shift2": (10, Uniform(2.0, 0.04)),
    "grid_n50_last004_shift15": (50, Uniform(1.5, 0.04)),
    "grid_n250_last004": (250, Uniform(last_step=0.04)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_times_are_the_published_ones(name):
    steps, grid = GRIDS[name]
    np.testing.assert_allclose(1 - grid(steps), output(name), atol=1e-6)

"""SiT against recorded runs of willisma/SiT: time and sign turn with the weights, so the network here is an ordinary one."""

import functools

import jax.numpy as jnp
import numpy as np
import published
import pytest

from jaxgen import mup
from jaxgen.interop import dit as interop
from jaxgen.models.dit import DiT
from jaxgen.nn.embeddings import TimeEmbedding
from jaxgen.nn.modulation import Gates
from jaxgen.nn.velocity_head import VelocityHead

RUNS = published.load("sit")
SCALING = mup.Scaling(base_width=64)
MODEL, TABLE = interop.sit(DiT(width=64, depth=3, channels=4, scaling=SCALING), 4)
PARAMS = {doubled: TABLE.read(published.weights(RUNS, doubled, ["pos_embed"])) for doubled in (False, True)}
INPUTS = (published.here(RUNS["input/x"]), jnp.asarray(1 - RUNS["input/t"]), published.labels(RUNS["input/y"], 10))
each_size = pytest.mark.parametrize("doubled", [False, True], ids=["recorded", "doubled"])


recorded = functools.partial(published.recorded, RUNS)


@each_size
def test_the_output_is_the_authors_with_the_sign_of_a_velocity_towards_noise(doubled):
    found = published.network(MODEL)(PARAMS[doubled], *INPUTS)
    published.close(-published.there(found), recorded("output", doubled)["out"])


@each_size
def test_the_output_under_guidance_is_the_authors(doubled):
    x = published.here(np.concatenate([RUNS["input/cfg_x"]] * 2))
    t = jnp.asarray(1 - RUNS["input/cfg_t"])
    found = published.network(MODEL)(PARAMS[doubled], x, t, published.labels(RUNS["input/cfg_y"], 10))
    published.close(published.guided(-published.there(found), 2.0), recorded("output", doubled)["cfg_out_scale2"])


@each_size
def test_gradients_are_the_authors(doubled):
    params, x = published.gradients(MODEL, PARAMS[doubled], *INPUTS, -published.here(RUNS["input/grad_seed"]))
    expected = recorded("grad", doubled)
    published.close(published.there(x), expected.pop("x"), published.GRADIENTS)
    published.close_gradients(TABLE, params, expected)


@each_size
def test_the_embedding_of_a_time_that_runs_the_other_way_is_the_authors(doubled):
    time = TimeEmbedding(64, SCALING.at(64), 1.0)
    published.close(time.apply({"params": PARAMS[doubled]["time"]}, INPUTS[1]), recorded("output", doubled)["t_embed"])


def test_the_last_layer_is_the_authors_without_the_outputs_that_it_drops():
    order = interop.names.sinusoid_order(64)
    probe, condition = jnp.asarray(RUNS["input/probe"][..., order]), jnp.asarray(RUNS["input/probe_cond"])[:, None]
    found = VelocityHead(64, 16, Gates.ZERO, SCALING.at(64)).apply({"params": PARAMS[False]["velocity"]}, probe, condition)
    expected = RUNS["output/probe_final_layer"].reshape(2, 16, 4, 8)[..., :4].reshape(2, 16, 16)
    published.close(-np.asarray(found), expected)

"""The published start of DiT: which parameters are zero, and the spread of the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import upath

from jaxgen import mup
from jaxgen.models import interface
from jaxgen.models.dit import DiT
from jaxgen.reproduce import claim, published_start, small_runs
from jaxgen.training.step import dotted


def leaves(width):
    model = DiT(width=width, depth=2, head_dim=16, scaling=mup.Scaling(64, mup.Parametrization.STANDARD))

    def init():
        tokens = interface.image_tokens(jnp.zeros((1, 8, 8, 1)), 2, jnp.float32)
        label = interface.conditions({"label": jnp.zeros((1,), jnp.int32)}, ("label",))
        return model.init(jax.random.key(0), tokens, jnp.zeros((1,)), label)["params"]

    found = published_start.parameters(jax.eval_shape(init), jax.random.key(3, impl="threefry2x32"))
    return {dotted(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


@pytest.mark.parametrize("width", [64, 256])
def test_the_spread_of_every_kernel(width):
    found = leaves(width)
    uniform = lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out))
    spread = {
        "patches.kernel": uniform(4, width),
        "labels.table": 0.02,
        "time.in.kernel": 0.02,
        "time.out.kernel": 0.02,
        "blocks.heads.qkv.kernel": uniform(width, 3 * width),
        "blocks.from_heads.out.kernel": uniform(width, width),
        "blocks.mlp.in.kernel": uniform(width, 4 * width),
        "blocks.mlp.out.kernel": uniform(4 * width, width),
    }
    for name, value in found.items():
        if name in spread:
            assert value.std() == pytest.approx(spread[name], rel=0.1 if value.size < 2000 else 0.03), name
        else:
            assert not value.any(), name
    assert spread.keys() < found.keys()
    assert {"blocks.modulation.linear.kernel", "velocity.modulation.linear.kernel", "velocity.out.kernel"} < found.keys()


def test_layers_and_seeds_differ():
    kernel = leaves(64)["blocks.mlp.in.kernel"]
    assert np.abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.05


def test_a_sweep_starts_there_and_is_named_apart(tmp_path):
    quick = ("model.depth=1", "data.batch_size=2", "data.source=synthetic")
    runs = small_runs.SmallRuns(claim.Workplace(jax.devices()[:1], upath.UPath(tmp_path), quick), small_runs.digits)
    with jax.set_mesh(runs.mesh):
        published, own = runs.published(64), runs.sweep(64, mup.Parametrization.STANDARD)
        state, plain = published.initial(0), own.initial(0)
    assert not np.asarray(state.params["model"]["blocks"]["modulation"]["linear"]["kernel"]).any()
    assert np.asarray(plain.params["model"]["blocks"]["modulation"]["linear"]["kernel"]).any()
    assert jax.tree.map(lambda a: a.sharding, state) == jax.tree.map(lambda a: a.sharding, plain)
    assert published.start and not own.start

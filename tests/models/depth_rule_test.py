"""What another depth than that of the hyper-parameters changes in every family: it is refused, or is as CompleteP has it."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, ImprovedDiT
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import MMDiT
from jaxgen.models.pixart import PixArt
from jaxgen.models.uvit import UViT
from jaxgen.nn.modulation import Gates
from jaxgen.parallel import mesh as meshes
from jaxgen.training import step as steps
from jaxgen.training.step import dotted

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SIZE = {"width": 16, "head_dim": 8, "mlp_ratio": 1}
TEXT = {"text_features": 5, "text_length": 3}
FAMILIES = {
    "dit": DiT(depth=4, **SIZE),
    "mmdit": MMDiT(depth=2, single_depth=2, vocabulary=0, **TEXT, **SIZE),
    "improved_dit": ImprovedDiT(depth=4, **SIZE),
    "ddt": DDT(depth=4, encoder_depth=3, **SIZE),
    "pixart": PixArt(depth=4, **TEXT, **SIZE),
    "uvit": UViT(depth=4, grid=(2, 2), **SIZE),
}
each_family = pytest.mark.parametrize("model", FAMILIES.values(), ids=FAMILIES)
INSIDE = re.compile(r"(^|\.)(blocks|single_blocks|in_blocks|mid_block|out_blocks)\.(?!skip\.)")
LAST_OF_A_BRANCH = re.compile(r"(from_heads|from_cross_heads|mlp)\.out\.(kernel|bias)$")
DRAWS = np.random.default_rng(0)
X, T = DRAWS.normal(size=(2, 4, 4, 1)).astype(np.float32), jnp.full((2,), 0.5)


def scaled(model, base_depth, rule=mup.DepthRule.COMPLETE_P, **options):
    return model.clone(scaling=mup.Scaling(base_width=16, base_depth=base_depth, depth_rule=rule, **options))


def inputs(model):
    values = {"label": jnp.zeros((2, 1), jnp.int32), "text": jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5)))}
    streams = {name: types.Condition(values[name], jnp.ones(values[name].shape[:2], jnp.int32)) for name in model.streams}
    return interface.image_tokens(X, 2, jnp.float32), T, streams


def boxes(model):
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs(model))["params"])
    return {dotted(path): box for path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)}


@each_family
def test_epsilons_inside_of_blocks_fall_with_the_depth_and_nothing_else_does(model):
    base, deep = boxes(scaled(model, model.block_count)), boxes(scaled(model, 1))
    inside = [name for name in base if INSIDE.search(name)]
    assert len(inside) >= 6 and len(base) - len(inside) >= 6
    for name, box in base.items():
        assert deep[name].epsilon == box.epsilon / (model.block_count if name in inside else 1), name
        for field in ("learning_rate", "weight_decay", "group", "names"):
            assert getattr(deep[name], field) == getattr(box, field), (name, field)


@each_family
def test_every_residual_branch_is_multiplied_by_base_depth_over_depth(model):
    base, deep = scaled(model, model.block_count), scaled(model, 1)
    boxed = jax.eval_shape(lambda: base.init(jax.random.key(0), *inputs(model))["params"])
    draw = lambda box: jnp.asarray(0.5 * DRAWS.normal(size=box.value.shape), jnp.float32)
    params = jax.tree.map(draw, boxed, is_leaf=mup.is_parameter)
    last = lambda path: INSIDE.search(dotted(path)) and LAST_OF_A_BRANCH.search(dotted(path))
    smaller = jax.tree_util.tree_map_with_path(lambda path, x: x / model.block_count if last(path) else x, params)
    found = jax.jit(lambda params: deep.apply({"params": params}, *inputs(model)))(params)
    run = jax.jit(lambda params: base.apply({"params": params}, *inputs(model)))
    np.testing.assert_allclose(found, run(smaller), rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(found - run(params)).max()) > 1e-2


@each_family
def test_another_depth_is_refused_unless_there_is_a_rule(model):
    scaled(model, model.block_count, mup.DepthRule.NONE).validate()
    scaled(model, None, mup.DepthRule.NONE).validate()
    scaled(model, 7).validate()
    with pytest.raises(types.BadInput, match=rf"found 7, needed {model.block_count}\b.*complete_p") as error:
        scaled(model, 7, mup.DepthRule.NONE).validate()
    assert error.value.option == "scaling.base_depth"


@pytest.mark.parametrize(
    "options, option",
    [
        ({"base_depth": 0}, "base_depth"),
        ({"depth_rule": mup.DepthRule.COMPLETE_P}, "base_depth"),
        ({"base_depth": 2, "depth_rule": mup.DepthRule.COMPLETE_P, "parametrization": mup.Parametrization.STANDARD}, "depth_rule"),
    ],
    ids=["no_blocks", "no_base", "standard"],
)
def test_a_rule_without_what_it_needs_is_refused(options, option):
    with pytest.raises(types.BadInput) as error:
        mup.Scaling(**options).validate()
    assert error.value.option == option


@pytest.mark.slow
def test_the_size_of_tokens_and_what_steps_change_depend_on_the_depth_only_without_the_rule():
    depths = (4, 8, 16, 32)
    settings = ["data.source=synthetic", "data.batch_size=8", "optimizer.learning_rate=0.001", "optimizer.schedule=constant"]
    settings += ["optimizer.warmup_steps=0", "optimizer.clip_norm=none", "evaluation=none", "training.ema=0.9"]
    experiment, _ = experiments.load(f"{CONFIGS / 'quickstart.py'}:labels", settings)
    mesh = meshes.build(experiment.mesh, jax.devices()[:1])
    rows = experiment.data.open("train", 0, shuffle=False).rows(range(8))
    pictures = jnp.asarray(rows["image"], jnp.float32) / 127.5 - 1
    labels = interface.conditions({"label": jnp.asarray(rows["label"])}, ("label",))

    def sizes(model):
        """Mean size of the tokens behind the last block at the start, and of what three steps have changed of them."""
        built = steps.build(dataclasses.replace(experiment, model=model), mesh)
        state = built.initial(np.uint32(0))
        batch = {name: jax.device_put(rows[name], of.sharding) for name, of in built.batch.items()}
        t = jnp.full(len(pictures), 0.5)
        hidden = jax.jit(
            lambda params: interface.velocity_and_hidden(model, params, pictures, t, labels, jnp.float32, model.depth)[1]
        )
        first = hidden(state.params["model"])
        for _ in range(3):
            state, _ = built(state, {}, batch)
        return float(jnp.abs(first).mean()), float(jnp.abs(hidden(state.params["model"]) - first).mean())

    def slopes(scaling):
        with jax.set_mesh(mesh):
            found = [sizes(experiment.model.clone(depth=depth, gates=Gates.RANDOM, scaling=scaling)) for depth in depths]
        return np.polyfit(np.log2(depths), np.log2(found), 1)[0]

    ruled = slopes(mup.Scaling(base_width=64, base_depth=4, depth_rule=mup.DepthRule.COMPLETE_P))
    without = slopes(mup.Scaling(base_width=64))
    print(f"slopes over depth of size and change: {ruled} with the rule, {without} without")
    # With the rule the sum of branches that started at random falls towards nothing beside what entered, and is bounded.
    assert np.all(np.abs(ruled) <= 0.25) and np.all(without >= 0.4)

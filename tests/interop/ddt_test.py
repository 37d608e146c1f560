"""Published names of DDT: every tensor once, there and back, and what does not fit refused by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.interop import ddt as interop
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, VARIANTS, ImprovedDiT

SIZES = {"width": 16, "depth": 3, "head_dim": 8, "patch": 2, "channels": 3, "classes": 5, "scaling": mup.Scaling(base_width=16)}
MODELS = {"ddt": DDT(encoder_depth=2, **SIZES), "improved": ImprovedDiT(**SIZES)}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def checkpoint(model):
    draws = np.random.default_rng(0)
    return {entry.source: (0.3 * draws.normal(size=entry.shape)).astype(np.float32) for entry in interop.ddt(model).entries}


def arguments(model):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 6, model.channels)), jnp.float32)
    tokens = interface.image_tokens(x, model.patch, jnp.float32)
    label = jnp.asarray([[1], [4]])
    return tokens, jnp.asarray([0.3, 0.8]), {"label": types.Condition(label, jnp.ones_like(label))}


@each_model
def test_a_checkpoint_makes_exactly_the_parameters_of_the_model(model):
    params = interop.ddt(model).read(checkpoint(model))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments(model))["params"])
    expected = jax.tree.map(lambda box: box.value.shape, boxed, is_leaf=mup.is_parameter)
    assert jax.tree.map(np.shape, params, is_leaf=lambda leaf: isinstance(leaf, np.ndarray)) == expected


@each_model
def test_what_is_read_is_written_again(model):
    given = checkpoint(model)
    written = interop.ddt(model).write(interop.ddt(model).read(given))
    assert written.keys() == given.keys()
    for name, value in given.items():
        np.testing.assert_allclose(written[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name, count", [("B/2", 157), ("L/2", 301), ("XL/2", 349)])
def test_published_sizes_have_the_published_number_of_tensors(name, count):
    model = DDT(**VARIANTS[name], channels=4, classes=1000)
    table = interop.ddt(model)
    assert len({entry.source for entry in table.entries}) == len(table) == count
    shapes = {entry.source: entry.shape for entry in table.entries}
    if name == "XL/2":
        assert shapes["blocks.27.attn.qkv.weight"] == (3456, 1152) and shapes["blocks.0.mlp.w2.weight"] == (1152, 3072)
        assert shapes["final_layer.linear.weight"] == (16, 1152) and shapes["y_embedder.embedding_table.weight"] == (1001, 1152)
        assert sum(np.prod(shape) for shape in shapes.values()) == 674_646_352


WRONG = {
    "missing": (lambda found: found.pop("blocks.2.norm1.weight"), "blocks.2.norm1.weight"),
    "unknown": (lambda found: found.update({"pos_embed": np.zeros(3)}), "pos_embed"),
    "shape": (lambda found: found.update({"s_embedder.proj.bias": np.zeros(3)}), "s_embedder.proj.bias"),
}


@pytest.mark.parametrize("change, named", WRONG.values(), ids=WRONG)
def test_a_checkpoint_that_does_not_fit_is_refused_by_the_tensors_name(change, named):
    found = checkpoint(MODELS["ddt"])
    change(found)
    with pytest.raises(types.BadInput, match=named):
        interop.ddt(MODELS["ddt"]).read(found)


def test_the_averaged_network_is_taken_from_a_training_state():
    plain = checkpoint(MODELS["improved"])
    state = {f"ema_denoiser._orig_mod.{name}": value for name, value in plain.items()}
    state |= {f"denoiser._orig_mod.{name}": 0 * value for name, value in plain.items()}
    state["diffusion_trainer.proj.0.0.weight"] = np.zeros((2, 2))
    found = interop.averaged(state)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(found[name], value)
    with pytest.raises(types.BadInput, match="ema_denoiser"):
        interop.averaged(plain)


SCALINGS = {
    "wider_than_its_base": mup.Scaling(base_width=8),
    "multiplier": mup.Scaling(base_width=8, output_multiplier=3.0),
    "growing_heads": mup.Scaling(base_width=8, base_head_dim=4),
}


@each_model
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_a_published_network_is_the_same_function_under_any_scaling(model, scaling):
    given = checkpoint(model)
    run = lambda model: jax.jit(model.apply)({"params": interop.ddt(model).read(given)}, *arguments(model))
    np.testing.assert_allclose(run(dataclasses.replace(model, scaling=scaling)), run(model), rtol=1e-4, atol=1e-4)

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import mup, types
from jaxgen.autoencoders.identity import Identity
from jaxgen.data.pipeline import Data
from jaxgen.experiment import Experiment
from jaxgen.models import interface
from jaxgen.models.ddt import DDT, ImprovedDiT
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import MMDiT
from jaxgen.nn.attention import Mask, attention
from jaxgen.nn.linear import Linear
from jaxgen.nn.modulation import Gates
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.projections import FromHeads, QueryKeyValue
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.parallel.mesh import build as build_mesh
from jaxgen.samplers.sampler import Sampler
from jaxgen.training import step as steps
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than threefry; only statistics are asked of it
BASE = 64
EIGHTFOLD = mup.Scaling(base_width=BASE).at(8 * BASE)

EMBED, EMBED_OUT = ("embed", 512), ("embed_out", 512)


def inputs_of(model):
    """Arguments of a generator's `__call__`, two examples of 2 × 2 tokens."""
    tokens = interface.image_tokens(jnp.zeros((2, 2 * model.patch, 2 * model.patch, model.channels)), model.patch, jnp.float32)
    present = jnp.ones((2, 3), jnp.int32)
    streams = {name: types.Condition(jnp.zeros((2, 3), jnp.int32), present) for name in model.streams}
    return tokens, jnp.full((2,), 0.5), streams


def boxes_of(module, *inputs):
    return jax.eval_shape(lambda: module.init(KEY, *inputs)["params"])


def by_name(boxed):
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)
    return {steps.dotted(path): leaf for path, leaf in leaves}


# Class of every parameter, from the published μP models (arXiv 2505.15270, and its base-shape files).
SHARED = {
    "patches.kernel": "input",
    "patches.bias": "vector",
    "time.in.kernel": "input",
    "time.in.bias": "vector",
    "time.out.kernel": "hidden",
    "time.out.bias": "vector",
    "velocity.modulation.linear.kernel": "hidden",
    "velocity.modulation.linear.bias": "vector",
    "velocity.out.kernel": "output",
    "velocity.out.bias": "finite",
}
BLOCK = {
    "modulation.linear.kernel": "hidden",
    "modulation.linear.bias": "vector",
    "heads.qkv.kernel": "hidden",
    "from_heads.out.kernel": "hidden",
    "from_heads.out.bias": "vector",
    "mlp.in.kernel": "hidden",
    "mlp.in.bias": "vector",
    "mlp.out.kernel": "hidden",
    "mlp.out.bias": "vector",
}
DIT = SHARED | {"labels.table": "input"} | {f"blocks.{name}": group for name, group in BLOCK.items()}
MMDIT = (
    SHARED
    | {
        "text_ids.tables": "input",
        "text_ids.out.kernel": "hidden",
        "text_ids.out.bias": "vector",
        "null.table": "input",
        "text_positions.table": "input",
        "pooled_in.kernel": "hidden",
        "pooled_in.bias": "vector",
        "pooled_out.kernel": "hidden",
        "pooled_out.bias": "vector",
    }
    | {f"blocks.{modality}_{name}": group for modality in ("image", "text") for name, group in BLOCK.items()}
    | {f"blocks.{modality}_heads.{name}_norm.gain": "finite" for modality in ("image", "text") for name in ("query", "key")}
)
IMPROVED_BLOCK = {
    "attention_norm.gain": "vector",
    "mlp_norm.gain": "vector",
    "modulation.linear.kernel": "hidden",
    "modulation.linear.bias": "vector",
    "heads.qkv.kernel": "hidden",
    "heads.query_norm.gain": "finite",
    "heads.key_norm.gain": "finite",
    "from_heads.out.kernel": "hidden",
    "from_heads.out.bias": "vector",
    "mlp.in.kernel": "hidden",  # w1 and w3 in one
    "mlp.out.kernel": "hidden",
}
TRUNK = {"patches.kernel": "input", "patches.bias": "vector"} | {f"blocks.{name}": group for name, group in IMPROVED_BLOCK.items()}
IMPROVED_ENDS = {name: group for name, group in SHARED.items() if not name.startswith("patches")} | {"labels.table": "input"}
IMPROVED_DIT = IMPROVED_ENDS | {f"trunk.{name}": group for name, group in TRUNK.items()}
DECOUPLED = IMPROVED_ENDS | {f"{stack}.{name}": group for stack in ("encoder", "decoder") for name, group in TRUNK.items()}
MODELS = {
    "dit": (DiT(depth=2), DIT),
    "mmdit": (MMDiT(depth=2), MMDIT),
    # A hidden size of 192 at the base width, so that the ratio of widths is that of hidden sizes too (`nn.mlp_test` has the other).
    "improved_dit": (ImprovedDiT(depth=2, mlp_ratio=3), IMPROVED_DIT),
    "ddt": (DDT(depth=3, encoder_depth=2, mlp_ratio=3), DECOUPLED),
}
# Factors at eight times the base width: learning rate, weight decay, epsilon.
FACTORS = {
    "input": (1, 1, 1 / 8),
    "hidden": (1 / 8, 8, 1 / 8),
    "output": (1, 1, 1 / 8),
    "vector": (1, 1, 1 / 8),
    "finite": (1, 1, 1),
}


@pytest.mark.parametrize("model, expected", MODELS.values(), ids=MODELS)
def test_every_parameter_has_the_class_of_the_published_table(model, expected):
    found = {name: box.group for name, box in by_name(boxes_of(model, *inputs_of(model))).items()}
    assert found == expected


@pytest.mark.parametrize("model, expected", MODELS.values(), ids=MODELS)
def test_every_parameter_has_the_factors_of_its_class_at_eight_times_the_base_width(model, expected):
    wide = dataclasses.replace(model, width=8 * BASE, scaling=mup.Scaling(base_width=BASE))
    for name, box in by_name(boxes_of(wide, *inputs_of(wide))).items():
        learning_rate, weight_decay, epsilon = FACTORS[expected[name]]
        if name.endswith(("bias", "gain")):
            weight_decay = 0
        assert (box.learning_rate, box.weight_decay, box.epsilon) == (learning_rate, weight_decay, epsilon), name


@pytest.mark.parametrize("model", [model for model, _ in MODELS.values()], ids=MODELS)
@pytest.mark.parametrize("width, parametrization", [(BASE, "mup"), (4 * BASE, "standard")], ids=["base_width", "standard"])
def test_all_factors_are_one_at_base_width_and_under_the_standard_parametrization(model, width, parametrization):
    scaling = mup.Scaling(base_width=BASE, parametrization=mup.Parametrization(parametrization))
    model = dataclasses.replace(model, width=width, scaling=scaling)
    for name, box in by_name(boxes_of(model, *inputs_of(model))).items():
        assert (box.learning_rate, box.epsilon) == (1, 1), name
        assert box.weight_decay == (0 if box.kind in ("gain", "bias") else 1), name
    assert mup.forward_multiplier(scaling.at(width), (("embed", width),)) == 1


def test_the_forward_multiplier_of_an_output_falls_with_width_and_follows_its_option():
    assert mup.forward_multiplier(EIGHTFOLD, (EMBED,)) == 1 / 8
    tuned = mup.Scaling(base_width=BASE, output_multiplier=4.0)
    assert mup.forward_multiplier(tuned.at(8 * BASE), (EMBED,)) == 4 / 8
    standard = dataclasses.replace(tuned, parametrization=mup.Parametrization.STANDARD)
    assert mup.forward_multiplier(standard.at(8 * BASE), (EMBED,)) == 4


def test_the_factor_of_a_rounded_hidden_size_is_its_own_ratio():
    # The hidden size of a gated layer, int(8 D / 3): 170 at D = 64 and 1365 at D = 512.
    box = mup.describe(EIGHTFOLD, "kernel", (("mlp", 1365, 170),), (EMBED_OUT,), "dense")
    assert box.learning_rate == pytest.approx(170 / 1365) != 1 / 8
    assert box.weight_decay == pytest.approx(1365 / 170)
    assert mup.forward_multiplier(EIGHTFOLD, (("mlp", 1365, 170),)) == pytest.approx(170 / 1365)


GROWING = mup.Scaling(base_width=BASE, base_head_dim=16)


def test_growing_heads_scale_their_products_by_the_inverse_of_their_dimension():
    assert GROWING.at(256).attention_scale(64) == math.sqrt(16) / 64
    assert GROWING.at(BASE).attention_scale(16) == 1 / math.sqrt(16)
    assert mup.Scaling(base_width=BASE).at(256).attention_scale(16) == 1 / math.sqrt(16)
    standard = dataclasses.replace(GROWING, parametrization=mup.Parametrization.STANDARD)
    assert standard.at(256).attention_scale(64) == 1 / math.sqrt(64)


@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_hidden_factors_follow_the_width_however_it_divides_into_heads(head_dim):
    scale = GROWING.at(256)
    into = by_name(boxes_of(QueryKeyValue(256, head_dim, scale), jnp.zeros((1, 1, 256))))["qkv.kernel"]
    out = by_name(boxes_of(FromHeads(256, head_dim, scale), jnp.zeros((1, 1, 256 // head_dim, head_dim))))["out.kernel"]
    for box in (into, out):
        assert (box.group, box.learning_rate, box.weight_decay, box.epsilon) == ("hidden", 1 / 4, 4, 1 / 4)


def test_gains_of_heads_that_grow_are_vectors_and_of_fixed_heads_finite():
    def gain(scale, head_dim):
        norm = RMSNorm(scale.head_axes(256 // head_dim, head_dim)[1], scale)
        return by_name(boxes_of(norm, jnp.zeros((1, head_dim))))["gain"]

    grown, fixed = gain(GROWING.at(256), 64), gain(mup.Scaling(base_width=BASE).at(256), 16)
    assert (grown.group, grown.epsilon) == ("vector", 1 / 4)
    assert (fixed.group, fixed.epsilon) == ("finite", 1)


def test_growing_heads_keep_the_size_of_aligned_logits():
    # Queries that have learned their keys have products of size K, which only a factor 1/K keeps finite.
    def largest(width, head_dim):
        q = jnp.ones((1, 1, 1, head_dim))
        k, v = jnp.concatenate([q, 0 * q], axis=1), jnp.array([1.0, 0.0]).reshape(1, 2, 1, 1)
        weight = attention(q, k, jnp.broadcast_to(v, k.shape), Mask(), GROWING.at(width).attention_scale(head_dim))
        return float(weight[0, 0, 0, 0])

    assert largest(256, 64) == pytest.approx(largest(64, 16))


REFUSED = {
    "width_to_finite_dense": ({"inputs": (EMBED,), "outputs": (("patch", 4),), "kind": "dense"}, "kind='output'"),
    "finite_to_width_output": ({"inputs": (("patch", 4),), "outputs": (EMBED_OUT,), "kind": "output"}, "declared an output"),
    "unknown_input_axis": ({"inputs": (("embeds", 512),), "outputs": (EMBED_OUT,), "kind": "dense"}, "'embeds'"),
    "unknown_output_axis": ({"inputs": (EMBED,), "outputs": (("embed_in", 512),), "kind": "dense"}, "'embed_in'"),
    "unknown_kind": ({"inputs": (EMBED,), "outputs": (EMBED_OUT,), "kind": "hidden"}, "'hidden'"),
    "no_axes": ({"outputs": (), "kind": "gain"}, "axes are missing"),
    "dense_without_inputs": ({"outputs": (EMBED_OUT,), "kind": "dense"}, "axes are missing"),
}


class One(nn.Module):
    """A module of one parameter."""

    arguments: dict
    scale: mup.Scale = EIGHTFOLD

    @nn.compact
    def __call__(self):
        return mup.param(self, "odd", **self.arguments)


@pytest.mark.parametrize("arguments, complaint", REFUSED.values(), ids=REFUSED)
def test_a_parameter_that_cannot_be_classified_is_refused_by_name(arguments, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        boxes_of(One(arguments))
    assert "'odd'" in str(error.value)


class WithBare(nn.Module):
    """Described parameters beside one that is not."""

    dense: bool

    @nn.compact
    def __call__(self, x):
        x = Linear((EMBED,), (EMBED_OUT,), EIGHTFOLD, name="described")(x)
        return nn.Dense(4, use_bias=False, name="plain")(x) if self.dense else x * self.param("bare", nn.initializers.ones, ())


@pytest.mark.parametrize("dense, leaf", [(True, "['plain']['kernel']"), (False, "['bare']")], ids=["nn.Dense", "self.param"])
def test_a_parameter_without_axes_is_refused_by_name(dense, leaf):
    boxed = boxes_of(WithBare(dense), jnp.zeros((1, 512)))
    with pytest.raises(ValueError) as error:
        mup.require_boxes(boxed, "model")
    assert leaf in str(error.value) and "described" not in str(error.value)


def test_a_scan_adds_the_axis_of_layers_and_keeps_the_description():
    single = by_name(boxes_of(MMDiT(depth=2), *inputs_of(MMDiT())))["blocks.image_mlp.out.kernel"]
    assert single.names == ("layers", "mlp", "embed_out")
    assert single.value.shape == (2, 256, 64)
    assert (single.kind, single.group) == ("dense", "hidden")


def test_boxes_hold_no_layers_in_the_ratio_of_widths():
    wide = dataclasses.replace(DiT(), depth=6, width=8 * BASE)
    assert by_name(boxes_of(wide, *inputs_of(wide)))["blocks.mlp.out.kernel"].learning_rate == 1 / 8


def test_layers_of_a_scan_start_at_different_values():
    model = DiT(depth=2, width=16, head_dim=8, scaling=mup.Scaling(base_width=16))
    kernel = by_name(nn.meta.unbox(jax.jit(lambda: model.init(KEY, *inputs_of(model))["params"])()))["blocks.mlp.in.kernel"]
    assert not np.any(np.asarray(kernel[0] == kernel[1]))


@pytest.mark.parametrize("parametrization", [mup.Parametrization.MUP, mup.Parametrization.STANDARD])
def test_an_output_starts_at_its_base_fan_in_under_mup_and_at_its_own_under_the_standard_parametrization(parametrization):
    for width in (BASE, 8 * BASE):
        scale = mup.Scaling(base_width=BASE, parametrization=parametrization).at(width)
        arguments = {"inputs": (("embed", width),), "outputs": (("patch", 256),), "kind": "output"}
        kernel = nn.meta.unbox(One(arguments, scale).init(KEY)["params"])["odd"]
        fan_in = BASE if parametrization == mup.Parametrization.MUP else width
        assert float(jnp.std(kernel)) * math.sqrt(fan_in) == pytest.approx(1, rel=0.03)


def test_a_given_deviation_holds_at_base_width_and_falls_with_the_root_of_the_hidden_ratio():
    for width, ratio in ((BASE, 1), (8 * BASE, 8)):
        scale = mup.Scaling(base_width=BASE).at(width)
        hidden = {"inputs": (("embed", width),), "outputs": (("embed_out", width),), "kind": "dense", "std": 0.02}
        table = {"inputs": (("vocabulary", 100),), "outputs": (("embed_out", width),), "kind": "embedding", "std": 0.02}
        for arguments, expected in ((hidden, 0.02 / math.sqrt(ratio)), (table, 0.02)):
            value = nn.meta.unbox(One(arguments, scale).init(KEY)["params"])["odd"]
            assert float(jnp.std(value)) == pytest.approx(expected, rel=0.03)


class Watched:
    """A model that keeps what it returns."""

    def __init__(self, module):
        self.module, self.patch, self.streams, self.outputs = module, module.patch, module.streams, []

    def apply(self, *arguments):
        self.outputs.append(self.module.apply(*arguments))
        return self.outputs[-1]


@pytest.mark.parametrize("model", [DiT, MMDiT], ids=["dit", "mmdit"])
def test_the_network_starts_at_zero_so_the_first_loss_is_the_mean_square_of_the_target(model):
    model = model(depth=1, width=32, gates=Gates.RANDOM, scaling=mup.Scaling(base_width=16))
    draws = np.random.default_rng(0)
    latents, noise = draws.normal(size=(2, 2, 4, 4, 1)).astype(np.float32)
    _, t, streams = inputs_of(model)
    batch = {name: stream.values for name, stream in streams.items()}
    batch |= {"latents": latents, "noise": noise, "t": t, "weight": jnp.ones(2), "dropped": jnp.array([False, True])}

    @jax.jit
    def first():
        params = nn.meta.unbox(model.init(KEY, *inputs_of(model))["params"])
        watched = Watched(model)
        views = types.Views({}, {}, {}, modules={"model": watched})
        return FlowMatching().loss("model", params, views, batch, KEY, jnp.int32(0), ())[0], watched.outputs

    loss, outputs = first()
    assert [out.shape for out in outputs] == [(2, 4, 4)]
    np.testing.assert_array_equal(outputs[0], 0)
    assert float(loss) == pytest.approx(np.mean((noise.astype(np.float64) - latents) ** 2), rel=1e-6)


@dataclasses.dataclass(frozen=True)
class Plain(AdamW):
    """Optax's own AdamW, which knows nothing of μP; gains and biases do not decay."""

    def build(self, multipliers, steps):
        mask = jax.tree.map(bool, multipliers.weight_decay)
        return optax.adamw(self.learning_rate, self.b1, self.b2, self.epsilon, weight_decay=self.weight_decay, mask=mask)


def after_a_step(rule, parametrization):
    scaling = mup.Scaling(base_width=16, parametrization=parametrization)
    experiment = Experiment(
        model=DiT(width=16, depth=1, head_dim=8, scaling=scaling),
        autoencoder=Identity(),
        objective=FlowMatching(time_buckets=1),
        data=Data(batch_size=4, resolution=4, text_length=48),
        optimizer=rule(learning_rate=1e-2, weight_decay=0.1, clip_norm=None),
        training=Training(steps=2, ema=()),
        sampler=Sampler(),
        mesh=MeshShape(),
    )
    mesh = build_mesh(experiment.mesh, jax.devices()[:1])
    draws = np.random.default_rng(0)
    with jax.set_mesh(mesh):
        built = steps.build(experiment, mesh)
        state = jax.tree.map(lambda of: jax.device_put(np.zeros(of.shape, of.dtype), of.sharding), built.state)
        params = jax.tree.map(lambda p: jax.device_put(draws.normal(size=p.shape).astype(np.float32)), state.params)
        rows = experiment.data.source.open(experiment.data, "train", 0, False).rows(range(4))
        batch = {name: jax.device_put(rows[name], of.sharding) for name, of in built.batch.items()}
        state, _ = built(state.replace(params=params), {}, batch)
    return by_name(state.params["model"])


def test_at_base_width_a_train_step_is_that_of_plain_adamw_bit_for_bit():
    ours = after_a_step(AdamW, mup.Parametrization.MUP)
    plain = after_a_step(Plain, mup.Parametrization.STANDARD)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, plain[name], err_msg=name)

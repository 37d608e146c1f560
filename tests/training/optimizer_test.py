import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import mup, types
from jaxgen.nn.linear import Linear
from jaxgen.nn.norms import RMSNorm
from jaxgen.training.optimizer import SGD, AdamW

BASE = 64


class Net(nn.Module):
    """One parameter of every class: a map in, a hidden map, a gain, a map out, with biases."""

    width: int
    scale: mup.Scale

    @nn.compact
    def __call__(self, x):
        x = Linear((("patch", 3),), (("embed_out", self.width),), self.scale, name="input")(x)
        x = RMSNorm(("embed_out", self.width), self.scale, name="norm")(x)
        x = Linear((("embed", self.width),), (("embed_out", self.width),), self.scale, name="hidden")(x)
        return Linear((("embed", self.width),), (("patch", 3),), self.scale, kind="output", name="output")(x)


@functools.cache
def boxes(width):
    """{class: box} for the kernels of `Net`, and "vector" and "finite" for a gain and the last bias."""
    net = Net(width, mup.Scaling(base_width=BASE).at(width))
    tree = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 3)))["params"]
    named = {name: tree[name]["kernel"] for name in ("input", "hidden", "output")}
    named |= {"vector": tree["norm"]["gain"], "bias": tree["hidden"]["bias"], "finite": tree["output"]["bias"]}
    assert all(box.group == {"bias": "vector"}.get(name, name) for name, box in named.items())
    return named


def shapes(width):
    return {name: box.value.shape for name, box in boxes(width).items()}


def updates(optimizer, width, gradients, params=None, count=1, multipliers=None):
    """The updates that follow `count` equal gradients, the parameters moving along."""
    rule = optimizer.build(multipliers or mup.multipliers(boxes(width)), 1000)
    params = params or {name: jnp.ones(shape) for name, shape in shapes(width).items()}
    state = rule.init(params)
    for _ in range(count):
        step, state = rule.update(gradients, state, params)
        params = optax.apply_updates(params, step)
    return step, params


@pytest.mark.parametrize("width", [BASE, 2 * BASE, 8 * BASE])
def test_without_gradient_matrices_shrink_by_the_same_share_at_every_width_and_gains_and_biases_stay(width):
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.2)
    zeros = {name: jnp.zeros(shape) for name, shape in shapes(width).items()}
    _, params = updates(optimizer, width, zeros, count=5)
    for name, value in params.items():
        expected = (1 - 0.1 * 0.2) ** 5 if name in ("input", "hidden", "output") else 1.0
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)


def test_hidden_updates_fall_with_the_width_ratio_and_all_others_are_those_of_the_base():
    def size(width):
        # A gradient that is Θ(1/ñ), as that of every parameter of more than finite size is.
        step, _ = updates(AdamW(learning_rate=0.01, clip_norm=None), width, {n: jnp.ones(s) for n, s in shapes(width).items()})
        return {name: float(jnp.mean(value)) for name, value in step.items()}

    base, wide = size(BASE), size(8 * BASE)
    for name, value in base.items():
        assert value == pytest.approx(-0.01, rel=1e-5)
        assert wide[name] == pytest.approx(value / 8 if name == "hidden" else value, rel=1e-6), name


WIDTHS = (64, 128, 256, 512, 1024)


def slope(values):
    return np.polyfit(np.log2(WIDTHS), np.log2(values), 1)[0]


@pytest.mark.parametrize("kept", [True, False], ids=["with_the_factor", "without_it"])
@pytest.mark.parametrize("name", ["input", "hidden", "output", "vector"])
def test_the_factor_on_epsilon_makes_updates_independent_of_width(name, kept):
    # Gradients as large as the epsilon at the base width, and Θ(1/ñ).
    sizes = []
    for width in WIDTHS:
        draws = np.random.default_rng(0)
        gradients = {n: jnp.asarray(1e-3 * BASE / width * draws.normal(size=s)) for n, s in shapes(width).items()}
        multipliers = mup.multipliers(boxes(width))
        if not kept:
            multipliers = multipliers.replace(epsilon=jax.tree.map(lambda _: 1.0, multipliers.epsilon))
        step, _ = updates(AdamW(epsilon=1e-3, clip_norm=None), width, gradients, multipliers=multipliers)
        sizes.append(float(jnp.sqrt(jnp.mean(step[name] ** 2))) / multipliers.learning_rate[name])
    if kept:
        assert abs(slope(sizes)) <= 0.05
    else:
        assert slope(sizes) < -0.1


def test_the_factor_on_epsilon_is_that_of_adam_with_a_scaled_epsilon():
    # By the formula: m̂ / (√v̂ + ε/ñ), after two different gradients.
    optimizer = AdamW(learning_rate=1.0, epsilon=1e-2, b1=0.8, b2=0.9, clip_norm=None)
    first, second = 3e-3, -1e-3
    rule = optimizer.build(mup.multipliers({"vector": boxes(8 * BASE)["vector"]}), 10)
    state = rule.init({"vector": jnp.zeros(1)})
    for gradient in (first, second):
        step, state = rule.update({"vector": jnp.full(1, gradient)}, state, {"vector": jnp.zeros(1)})
    mean = (0.8 * 0.2 * first + 0.2 * second) / (1 - 0.8**2)
    square = (0.9 * 0.1 * first**2 + 0.1 * second**2) / (1 - 0.9**2)
    assert float(step["vector"][0]) == pytest.approx(-mean / (math.sqrt(square) + 1e-2 / 8), rel=1e-5)


def test_a_gradient_above_the_clip_norm_is_scaled_down_to_it_and_one_below_is_not():
    # With ε far above the gradient Adam is linear in it, so the update shows the gradient's size.
    def size(scale, clip_norm, epsilon=1.0):
        gradients = {"vector": jnp.full(4, scale)}
        multipliers = mup.Multipliers({"vector": 1.0}, {"vector": 1.0}, {"vector": epsilon})
        rule = AdamW(epsilon=1e6, learning_rate=1e6, clip_norm=clip_norm).build(multipliers, 10)
        step, _ = rule.update(gradients, rule.init(gradients), gradients)
        return float(jnp.linalg.norm(step["vector"]))

    assert size(5.0, 1.0) == pytest.approx(1.0, rel=1e-4)
    assert size(0.25, 1.0) == pytest.approx(0.5, rel=1e-4)
    assert size(5.0, None) == pytest.approx(10.0, rel=1e-4)
    # The norm is that of the gradient itself: the factor on ε, which makes the update eight times as large, comes after.
    assert size(0.25, 1.0, epsilon=1 / 8) == pytest.approx(8 * 0.5, rel=1e-4)


def rates(steps=100, **options):
    return np.array([AdamW(learning_rate=2.0, **options).rate(step, steps) for step in range(steps + 1)])


def test_a_constant_schedule_stays_at_the_peak():
    np.testing.assert_array_equal(rates(), 2.0)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
def test_the_warm_up_rises_linearly_to_the_peak_and_never_starts_at_zero(schedule):
    found = rates(schedule=schedule, warmup_steps=10)
    np.testing.assert_allclose(found[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
    assert found.argmax() in (9, 10) and found.max() == pytest.approx(2.0)


def test_a_cosine_falls_by_half_midway_and_to_zero_at_the_end():
    found = rates(schedule="cosine", warmup_steps=20)
    assert found[60] == pytest.approx(1.0)
    assert found[100] == pytest.approx(0.0, abs=1e-6)
    assert np.all(np.diff(found[20:]) < 0)


def test_wsd_is_flat_and_then_falls_linearly_to_zero_over_its_share():
    found = rates(schedule="wsd", decay_share=0.25)
    np.testing.assert_array_equal(found[:76], 2.0)
    np.testing.assert_allclose(np.diff(found[75:]), -2.0 / 25, rtol=1e-4)
    assert found[100] == 0


def test_the_rate_of_the_step_is_the_one_that_is_applied():
    optimizer = AdamW(learning_rate=0.5, schedule="wsd", warmup_steps=2, decay_share=0.5, clip_norm=None)
    rule = optimizer.build(mup.Multipliers(*(3 * [{"a": 1.0}])), 8)
    state = rule.init({"a": jnp.zeros(1)})
    for count in range(8):
        step, state = rule.update({"a": jnp.ones(1)}, state, {"a": jnp.zeros(1)})
        assert float(step["a"][0]) == pytest.approx(-float(optimizer.rate(count, 8)), rel=1e-4)


def test_an_output_multiplier_is_the_same_as_smaller_weights_with_a_smaller_rate():
    # (a, b, c) = (1, 0, 0) and (0, 1, 1) of an output layer train alike where ε and weight decay are zero.
    ratio, width = 4, 4 * BASE
    draws = np.random.default_rng(0)
    x = jnp.asarray(draws.normal(size=(16, 3)), jnp.float32)
    target = jnp.asarray(draws.normal(size=(16, 3)), jnp.float32)
    kernels = {name: jnp.asarray(draws.normal(size=shapes(width)[name]), jnp.float32) for name in ("input", "output")}
    kernels["output"] = kernels["output"] / math.sqrt(BASE)
    multipliers = mup.multipliers({name: boxes(width)[name] for name in kernels})

    def losses(multiplier, params, multipliers):
        rule = AdamW(learning_rate=0.01, epsilon=0.0, clip_norm=None).build(multipliers, 20)

        def loss(params):
            hidden = jnp.tanh(x @ params["input"])
            return jnp.mean((multiplier * hidden @ params["output"] - target) ** 2)

        @jax.jit
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            change, state = rule.update(gradient, state, params)
            return (optax.apply_updates(params, change), state), value

        return jax.lax.scan(step, (params, rule.init(params)), length=20)[1]

    scale = mup.Scaling(base_width=BASE).at(width)
    with_multiplier = losses(mup.forward_multiplier(scale, (("embed", width),)), kernels, multipliers)
    free = multipliers.replace(learning_rate=multipliers.learning_rate | {"output": 1 / ratio})
    without = losses(1.0, kernels | {"output": kernels["output"] / ratio}, free)
    assert with_multiplier[-1] < 0.9 * with_multiplier[0]
    np.testing.assert_allclose(with_multiplier, without, rtol=1e-4)


def test_gradient_descent_goes_against_the_gradient_with_a_heavy_ball():
    for momentum, expected in ((0.0, [-0.1, -0.1, -0.1]), (0.5, [-0.1, -0.15, -0.175])):
        rule = SGD(learning_rate=0.1, clip_norm=None, momentum=momentum).build(mup.Multipliers(*(3 * [{"a": 1.0}])), 8)
        state = rule.init({"a": jnp.zeros(1)})
        for change in expected:
            step, state = rule.update({"a": jnp.ones(1)}, state, {"a": jnp.zeros(1)})
            assert float(step["a"][0]) == pytest.approx(change)


def test_rates_of_gradient_descent_are_those_of_table_8_for_sgd():
    # Tensor Programs V: ñ for inputs, vectors and outputs, 1 for hidden maps; so that with gradients Θ(1/ñ) of the former (and of
    # each entry Θ(1/ñ) of a hidden map) every update has the size that width needs.
    step, _ = updates(SGD(learning_rate=1.0, clip_norm=None), 8 * BASE, {n: jnp.ones(s) for n, s in shapes(8 * BASE).items()})
    rates = {name: -float(jnp.mean(value)) for name, value in step.items()}
    assert rates == pytest.approx({"input": 8, "hidden": 1, "output": 8, "vector": 8, "bias": 8, "finite": 1})


BAD = {
    "learning_rate": 0.0,
    "b1": 1.0,
    "b2": -0.1,
    "clip_norm": 0.0,
    "epsilon": -1e-8,
    "weight_decay": -0.1,
    "warmup_steps": -1,
    "decay_share": 0.0,
}


@pytest.mark.parametrize("option, value", BAD.items(), ids=BAD)
def test_an_option_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(types.BadInput) as error:
        dataclasses.replace(AdamW(), **{option: value}).validate()
    assert (error.value.option, error.value.found) == (option, value)


def test_a_momentum_out_of_range_is_refused():
    with pytest.raises(types.BadInput, match="momentum: found 1"):
        SGD(momentum=1.0).validate()

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxgen import mup
from jaxgen.nn import mlp

DRAWS = np.random.default_rng(0)


def test_the_two_forms_of_gelu_differ_by_what_parity_sees():
    x = jnp.linspace(-5, 5, 2001)
    assert 4e-4 < float(jnp.max(jnp.abs(mlp.ACTIVATIONS["gelu"](x) - mlp.ACTIVATIONS["gelu_exact"](x)))) < 5e-4


def draw(*shape):
    return DRAWS.normal(size=shape).astype(np.float32)


FORMS = {
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_exact": lambda x: x * special.ndtr(x),
    "squared_relu": lambda x: np.where(x > 0, x * x, 0),
}


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "none"])
@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
def test_a_feed_forward_layer_is_two_maps_around_its_activation(activation, bias):
    params = {"in": {"kernel": draw(4, 6), "bias": draw(6)}, "out": {"kernel": draw(6, 4), "bias": draw(4)}}
    x = draw(2, 3, 4)
    if not bias:
        params = {name: {"kernel": of["kernel"], "bias": 0 * of["bias"]} for name, of in params.items()}
    hidden = x @ params["in"]["kernel"] + params["in"]["bias"]
    expected = FORMS[activation](hidden) @ params["out"]["kernel"] + params["out"]["bias"]
    if not bias:
        params = {name: {"kernel": of["kernel"]} for name, of in params.items()}
    found = mlp.MLP(4, 6, mup.Scaling(base_width=4).at(4), activation, bias=bias).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_gated_layer_is_a_map_of_the_activated_gate_times_the_value():
    params = {"in": {"kernel": draw(4, 2, 6)}, "out": {"kernel": draw(6, 4)}}
    x = draw(2, 3, 4)
    gate, value = (x @ params["in"]["kernel"][:, i] for i in (0, 1))
    expected = gate / (1 + np.exp(-gate)) * value @ params["out"]["kernel"]
    found = mlp.SwiGLU(4, (6, 6), mup.Scaling(base_width=4).at(4)).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("width, hidden", [(64, 170), (768, 2048), (1024, 2730), (1152, 3072)])
def test_gated_layers_have_the_published_hidden_sizes(width, hidden):
    assert mlp.gated_hidden(width, 4) == int(2 * int(4 * width) / 3) == hidden


def test_rates_of_a_gated_layer_follow_its_rounded_hidden_size():
    scale = mup.Scaling(base_width=64).at(1024)
    boxed = jax.eval_shape(mlp.SwiGLU(1024, (2730, 170), scale).init, jax.random.key(0), jnp.zeros((1, 1, 1024)))["params"]
    into, out = boxed["in"]["kernel"], boxed["out"]["kernel"]
    assert (into.group, out.group) == ("hidden", "hidden")
    assert into.learning_rate == 1 / 16 and out.learning_rate == pytest.approx(170 / 2730) != 1 / 16
    # Gate and value are two matrices side by side.
    assert (into.matrix.inputs, into.matrix.outputs) == ((-3,), (-1,))

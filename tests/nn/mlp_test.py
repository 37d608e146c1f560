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


@pytest.mark.parametrize("activation", mlp.ACTIVATIONS)
def test_a_feed_forward_layer_is_two_maps_around_its_activation(activation):
    params = {"in": {"kernel": draw(4, 6), "bias": draw(6)}, "out": {"kernel": draw(6, 4), "bias": draw(4)}}
    x = draw(2, 3, 4)
    hidden = x @ params["in"]["kernel"] + params["in"]["bias"]
    expected = FORMS[activation](hidden) @ params["out"]["kernel"] + params["out"]["bias"]
    found = mlp.MLP(4, 6, mup.Scaling(base_width=4).at(4), activation).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)

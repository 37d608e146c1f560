import jax.numpy as jnp
import numpy as np

from jaxgen import mup
from jaxgen.nn.mlp import MLP

DRAWS = np.random.default_rng(0)


def draw(*shape):
    return DRAWS.normal(size=shape).astype(np.float32)


def test_a_feed_forward_layer_is_two_maps_around_the_tanh_form_of_gelu():
    params = {"in": {"kernel": draw(4, 6), "bias": draw(6)}, "out": {"kernel": draw(6, 4), "bias": draw(4)}}
    x = draw(2, 3, 4)
    hidden = x @ params["in"]["kernel"] + params["in"]["bias"]
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    expected = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    found = MLP(4, 6, mup.Scaling(base_width=4).at(4)).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)

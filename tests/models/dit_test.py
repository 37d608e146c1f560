import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.models import interface
from jaxgen.models.dit import PUBLISHED, VARIANTS, DiT, DiTBlock
from jaxgen.nn.modulation import Gates

SCALE = mup.Scaling(base_width=8).at(8)
DRAWS = np.random.default_rng(0)


def test_the_number_of_parameters_is_that_of_the_layers_counted_by_hand():
    width, depth, hidden, values, classes = 16, 3, 32, 12, 10
    model = DiT(width=width, depth=depth, head_dim=8, mlp_ratio=2, patch=2, channels=3, classes=classes)
    ends = (values + 1) * width + (width + 1) * values  # patches in, velocity out
    ends += (256 + 1) * width + (width + 1) * width  # time
    ends += (classes + 1) * width  # labels and their null
    ends += (width + 1) * 2 * width  # modulation of the last layer
    block = (width + 1) * 6 * width  # modulation
    block += 3 * width * width + (width + 1) * width  # attention, no bias on the way in
    block += (width + 1) * hidden + (hidden + 1) * width  # feed-forward

    def init():
        tokens = interface.image_tokens(jnp.zeros((1, 4, 4, 3)), 2, jnp.float32)
        label = types.Condition(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32))
        return model.init(jax.random.key(0), tokens, jnp.zeros(1), {"label": label})

    assert sum(x.size for x in jax.tree.leaves(jax.eval_shape(init))) == ends + depth * block


def test_a_block_with_zero_gates_starts_as_the_identity_and_one_with_random_gates_does_not():
    x, c = (jnp.asarray(DRAWS.normal(size=shape), jnp.float32) for shape in ((2, 4, 8), (2, 1, 8)))
    key, segments = jax.random.key(0, impl="unsafe_rbg"), jnp.ones((2, 4), jnp.int32)

    def start(gates):
        return DiTBlock(8, 4, 2, "gelu", gates, SCALE).init_with_output(key, x, c, segments)[0][0]

    np.testing.assert_array_equal(start(Gates.ZERO), x)
    assert float(jnp.max(jnp.abs(start(Gates.RANDOM) - x))) > 0.1


def parameters(model, grid=2):
    def init():
        side = grid * model.patch
        tokens = interface.image_tokens(jnp.zeros((1, side, side, model.channels)), model.patch, jnp.float32)
        label = types.Condition(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32))
        return model.init(jax.random.key(0), tokens, jnp.zeros(1), {"label": label})["params"]

    return jax.eval_shape(init)


def test_the_published_size_has_the_published_number_of_parameters():
    # Those of the published network count its frozen table of positions, 16 × 16 places of width 1152, which is computed here.
    model = DiT(**VARIANTS["XL"], **PUBLISHED, channels=4, classes=1000)
    assert sum(x.size for x in jax.tree.leaves(parameters(model))) + 16 * 16 * 1152 == 675_129_632


def test_a_network_that_learns_the_variance_puts_out_twice_the_channels():
    model = DiT(width=16, depth=1, head_dim=8, channels=3, learn_variance=True)
    assert parameters(model)["velocity"]["out"]["kernel"].value.shape == (16, 2 * 2 * 2 * 3)


def test_an_offset_of_positions_is_a_network_that_stands_elsewhere():
    base = DiT(width=16, depth=1, head_dim=8, channels=3)
    tokens = interface.image_tokens(jnp.asarray(DRAWS.normal(size=(1, 4, 4, 3)), jnp.float32), 2, jnp.float32)
    arguments = (jnp.asarray([0.5]), {"label": types.Condition(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32))})
    params = jax.tree.map(
        lambda p: jnp.asarray(DRAWS.normal(size=p.value.shape), jnp.float32), parameters(base), is_leaf=mup.is_parameter
    )
    found = base.clone(position_offset=3.0).apply({"params": params}, tokens, *arguments)
    expected = base.apply({"params": params}, tokens.replace(positions=tokens.positions + 3.0), *arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "option, value", [("time_factor", 0.0), ("time_factor", np.inf), ("position_offset", np.nan), ("width", 66)]
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(types.BadInput) as error:
        DiT(**{"head_dim": 2, option: value}).validate()
    assert error.value.option == option

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.patches import joined, patches


@pytest.mark.parametrize("shape, patch", [((2, 4, 6, 3), 2), ((1, 6, 3, 1), 3), ((2, 2, 2, 4), 1)])
def test_joined_is_the_inverse_of_patches(shape, patch):
    x = jnp.arange(np.prod(shape)).reshape(shape)
    cut = patches(x, patch)
    assert cut.shape == (shape[0], shape[1] * shape[2] // patch**2, patch**2 * shape[3])
    np.testing.assert_array_equal(joined(cut, (shape[1] // patch, shape[2] // patch), patch), x)


def test_a_patch_holds_a_square_of_the_picture():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(patches(jnp.asarray(x), 2)[1, 3 * 1 + 2], x[1, 2:4, 4:6].ravel())

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import mup
from jaxgen.nn.norms import LayerNorm, RMSNorm, layer_norm

SCALE = mup.Scaling(base_width=16).at(16)
X = np.random.default_rng(0).normal(2.0, 3.0, size=(2, 3, 16))


def rms_norm(x, gain=None):
    gain = jnp.ones(16) if gain is None else gain
    return RMSNorm(("embed_out", 16), SCALE).apply({"params": {"gain": gain}}, x)


def test_layer_norm_has_the_mean_and_deviation_of_the_formula():
    expected = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layer_norm(jnp.asarray(X, jnp.float32)), expected, atol=1e-5)


def test_a_layer_norm_with_gain_and_bias_starts_as_the_one_without_and_multiplies_and_adds_then():
    norm, x = LayerNorm(16, SCALE, epsilon=0.1), jnp.asarray(X, jnp.float32)
    started = norm.init_with_output(jax.random.key(0), x)[0]
    expected = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(started, expected, atol=1e-5)
    gain, bias = np.linspace(0.5, 2.0, 16), np.linspace(-1.0, 3.0, 16)
    found = norm.apply({"params": {"gain": jnp.asarray(gain), "bias": jnp.asarray(bias)}}, x)
    np.testing.assert_allclose(found, expected * gain + bias, atol=1e-5)


def test_rms_norm_divides_by_the_root_mean_square_and_multiplies_by_the_gain():
    gain = np.linspace(0.5, 2.0, 16)
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-6) * gain
    np.testing.assert_allclose(rms_norm(jnp.asarray(X, jnp.float32), jnp.asarray(gain, jnp.float32)), expected, atol=1e-5)


def test_rms_norm_starts_with_a_gain_of_one():
    boxed = RMSNorm(("embed_out", 16), SCALE).init(jax.random.key(0), jnp.zeros((1, 16)))["params"]["gain"]
    np.testing.assert_array_equal(boxed.value, np.ones(16))


def test_statistics_of_bfloat16_are_float32():
    # Numbers near 256 differ by less than bfloat16 resolves in their mean and squares, and yet are exact themselves.
    x = jnp.asarray(256.0 + 2.0 * np.arange(16).reshape(1, 16), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    centred = exact - exact.mean()
    normed = layer_norm(x)
    assert normed.dtype == rms_norm(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(normed.astype(jnp.float32), centred / np.sqrt((centred**2).mean()), rtol=2**-8)
    np.testing.assert_allclose(rms_norm(x).astype(jnp.float32), exact / np.sqrt((exact**2).mean()), rtol=2**-8)

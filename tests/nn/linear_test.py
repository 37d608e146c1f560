import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.nn.linear import Linear, matrix_product, precision
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding

DRAWS = np.random.default_rng(0)
SCALE = mup.Scaling(base_width=2, output_multiplier=3.0).at(8)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


HEADS, KV, EMBED, OUT = ("heads", 4), ("kv", 2), ("embed", 8), ("embed_out", 8)
CASES = {
    "one_to_one": ((EMBED,), (("mlp", 5),), "bld,df->blf"),
    "one_to_three": ((EMBED,), (("qkv", 3), HEADS, KV), "bld,dcnk->blcnk"),
    "two_to_one": ((HEADS, KV), (OUT,), "blnk,nkd->bld"),
    "two_to_two": ((HEADS, KV), (("modulation", 2), OUT), "blnk,nkmd->blmd"),
}


@pytest.mark.parametrize("inputs, outputs, letters", CASES.values(), ids=CASES)
def test_any_axes_are_contracted_as_an_einsum_would(inputs, outputs, letters):
    sizes = [tuple(size for _, size in group) for group in (inputs, outputs)]
    x, kernel, bias = draw(2, 3, *sizes[0]), draw(*sizes[0], *sizes[1]), draw(*sizes[1])
    found = Linear(inputs, outputs, SCALE).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(found, np.einsum(letters, x, kernel) + np.asarray(bias), atol=1e-5)


@pytest.mark.parametrize("inputs, outputs, letters", CASES.values(), ids=CASES)
def test_on_a_mesh_it_is_the_same_layer(inputs, outputs, letters):
    layer = Linear(inputs, outputs, SCALE)
    x = draw(4, 3, *(size for _, size in inputs))
    boxed = layer.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda box: box.value, boxed, is_leaf=mup.is_parameter)
    apply = lambda params, x: jnp.sum(jnp.sin(layer.apply({"params": params}, x)))
    alone = jax.value_and_grad(apply)(params, x)
    mesh = meshes.build(meshes.MeshShape(data=1, fsdp=4, tensor=2), jax.devices())
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.parameter_shardings(boxed, mesh))
        divided = jax.jit(jax.value_and_grad(apply))(placed, jax.device_put(x, sharding.batch_sharding(mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, divided)


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("split", ["before", "after"])
def test_split_it_gives_the_parts_along_the_first_output(split, tensor):
    inputs, outputs = (EMBED,), (("qkv", 3), HEADS, KV)
    x, params = draw(4, 3, 8), {"kernel": draw(8, 3, 4, 2), "bias": draw(3, 4, 2)}
    apply = lambda layer: jax.jit(
        jax.value_and_grad(lambda p, x: sum(jnp.sum(jnp.sin((i + 1) * y)) for i, y in enumerate(layer(p, x))), (0, 1))
    )
    parts = lambda p, x: Linear(inputs, outputs, SCALE, split=split).apply({"params": p}, x)
    whole = lambda p, x: jnp.moveaxis(Linear(inputs, outputs, SCALE).apply({"params": p}, x), 2, 0)
    assert [part.shape for part in parts(params, x)] == [(4, 3, 4, 2)] * 3
    expected = apply(whole)(params, x)
    with jax.set_mesh(meshes.build(meshes.MeshShape(data=1, fsdp=8 // tensor, tensor=tensor), jax.devices())):
        found = apply(parts)(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected)


def test_an_output_layer_is_multiplied_once_and_its_bias_is_not():
    layer = Linear((EMBED,), (("patch", 4),), SCALE, kind="output")
    x, kernel, bias = draw(2, 8), draw(8, 4), draw(4)
    found = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    multiplier = 3.0 / (8 / 2)  # output_multiplier / (width / base width)
    np.testing.assert_allclose(found, multiplier * np.asarray(x) @ np.asarray(kernel) + np.asarray(bias), atol=1e-5)


def test_without_a_bias_there_is_only_a_kernel():
    layer = Linear((EMBED,), (OUT,), SCALE, bias=False)
    assert set(jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8)))["params"]) == {"kernel"}


def test_results_have_the_dtype_of_the_input_while_parameters_stay_float32():
    layer = Linear((EMBED,), (OUT,), SCALE)
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8), jnp.bfloat16))["params"]
    assert params["kernel"].value.dtype == params["bias"].value.dtype == jnp.float32
    values = jax.tree.map(lambda box: draw(*box.value.shape), params, is_leaf=mup.is_parameter)
    assert layer.apply({"params": values}, draw(3, 8).astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_float32_products_ask_for_full_precision_and_bfloat16_ones_do_not():
    assert precision(jnp.zeros(1, jnp.float32)) == jax.lax.Precision.HIGHEST
    assert precision(jnp.zeros(1, jnp.bfloat16)) == jax.lax.Precision.DEFAULT


def test_products_of_rounded_inputs_are_summed_in_float32_both_ways():
    # Sums of many terms tell where the rounding was: of results, it would be two hundred times as large.
    x, matrix, gradient = draw(16, 3, 256), draw(256, 8), draw(16, 3, 8)
    x, matrix, gradient = (jnp.asarray(a.astype(jnp.bfloat16), jnp.float32) for a in (x, matrix, gradient))
    with jax.default_matmul_precision("bfloat16"):
        y, back = jax.vjp(jax.jit(matrix_product), 1.0001 * x, matrix)
        found = (y, *back(gradient))
    exact = (x @ matrix, gradient @ matrix.T, jnp.einsum("abi,abo->io", x, gradient))
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    plain = jax.jit(matrix_product)(1.0001 * x, matrix)
    assert float(jnp.abs(plain - exact[0]).max()) > 1e-3, "otherwise nothing is rounded"


def test_bfloat16_stays_as_it_is_under_rounding():
    x, matrix = draw(4, 256).astype(jnp.bfloat16), draw(256, 8).astype(jnp.bfloat16)
    expected = matrix_product(x, matrix)
    with jax.default_matmul_precision("bfloat16"):
        found = matrix_product(x, matrix)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected)

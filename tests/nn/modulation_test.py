import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.nn.modulation import Gates, Modulation, ModulationTable, modulate, per_token, segment_mean
from jaxgen.nn.norms import layer_norm
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.parallel.mesh import MeshShape

SCALE = mup.Scaling(base_width=8).at(8)
DRAWS = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(DRAWS.normal(size=shape), jnp.float32)


def test_modulation_is_a_linear_map_of_the_activated_condition_split_into_vectors():
    c, kernel, bias = draw(2, 3, 8), draw(8, 4, 8), draw(4, 8)
    vectors = Modulation(4, 8, SCALE).apply({"params": {"linear": {"kernel": kernel, "bias": bias}}}, c)
    active = np.asarray(c) / (1 + np.exp(-np.asarray(c)))
    assert len(vectors) == 4
    for i, vector in enumerate(vectors):
        np.testing.assert_allclose(vector, active @ np.asarray(kernel[:, i]) + np.asarray(bias[i]), atol=1e-5)


def test_a_condition_whose_silu_is_taken_is_mapped_as_it_is():
    c, params = draw(2, 3, 8), {"linear": {"kernel": draw(8, 4, 8), "bias": draw(4, 8)}}
    expected = Modulation(4, 8, SCALE).apply({"params": params}, c)
    found = Modulation(4, 8, SCALE, silu=False).apply({"params": params}, nn.silu(c))
    np.testing.assert_allclose(jnp.stack(found), jnp.stack(expected), atol=1e-6)


@pytest.mark.parametrize("gates, zero", [(Gates.ZERO, True), (Gates.RANDOM, False)], ids=["zero", "random"])
def test_gates_start_at_zero_or_at_random(gates, zero):
    c = draw(1, 1, 8)
    vectors, _ = Modulation(6, 8, SCALE, gates).init_with_output(jax.random.key(0), c)
    assert all(bool(jnp.all(vector == 0)) == zero for vector in vectors)


@pytest.mark.parametrize("tokens, moved", [(1, False), (64, True)], ids=["one_vector_a_picture", "one_a_token"])
def test_a_kernel_that_is_larger_than_what_it_reads_and_makes_stays_divided(tokens, moved):
    module, c = Modulation(4, 64, mup.Scaling(base_width=64).at(64), Gates.RANDOM), draw(8, tokens, 64)
    mesh = meshes.build(MeshShape(data=2, fsdp=4), jax.devices())
    params = nn.meta.unbox(module.init(jax.random.key(0), c)["params"])
    loss = lambda params, c: sum(jnp.sum(jnp.sin(vector)) for vector in module.apply({"params": params}, c))
    expected = jax.grad(loss, (0, 1))(params, c)
    layout = {name: jax.NamedSharding(mesh, jax.P("fsdp") if name == "kernel" else jax.P()) for name in params["linear"]}
    rows = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(loss, (0, 1)), in_shardings=({"linear": layout}, rows), out_shardings=({"linear": layout}, rows))
        compiled = program.lower(params, c).compile()
    gathered = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]\S* all-gather", compiled.as_text())]
    assert (max(gathered, default=0) >= params["linear"]["kernel"].size) == moved
    found = program(params, c)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, expected)


def test_a_table_adds_a_row_of_its_own_to_each_shared_vector():
    shared, table = tuple(draw(3, 2, 1, 8)), draw(3, 8)
    found = ModulationTable(3, 8, SCALE).apply({"params": {"table": table}}, shared)
    assert len(found) == 3
    for i, vector in enumerate(found):
        np.testing.assert_array_equal(vector, shared[i] + table[i])


def test_modulate_normalizes_then_scales_and_shifts():
    x, shift, scale = draw(2, 3, 8), draw(2, 1, 8), draw(2, 3, 8)
    np.testing.assert_allclose(modulate(x, shift, scale), np.asarray(layer_norm(x)) * (1 + scale) + shift, atol=1e-6)
    np.testing.assert_array_equal(modulate(x, 0 * shift, 0 * scale), layer_norm(x))


def test_segment_mean_is_that_of_a_loop():
    values = draw(2, 5, 3)
    sources = np.array([[1, 2, 2, 0, 1], [3, 3, 0, 0, 3]])
    targets = np.array([[2, 1, 0, 4], [3, 1, 3, 0]])
    means, present = segment_mean(values, jnp.asarray(sources), jnp.asarray(targets))
    for b, m in np.ndindex(*targets.shape):
        shared = [s for s in range(5) if sources[b, s] == targets[b, m] and sources[b, s] != 0]
        assert bool(present[b, m]) == bool(shared)
        expected = np.asarray(values)[b, shared].mean(axis=0) if shared else np.zeros(3)
        np.testing.assert_allclose(means[b, m], expected, atol=1e-6)


def test_segment_mean_of_bfloat16_is_float32():
    means, _ = segment_mean(jnp.full((1, 3, 2), 1.5, jnp.bfloat16), jnp.ones((1, 3), int), jnp.ones((1, 1), int))
    assert means.dtype == jnp.float32


def test_one_time_a_row_is_one_segment_and_a_time_a_token_keeps_the_tokens_segments():
    segments = jnp.asarray([[1, 2, 0], [1, 1, 2]])
    t, owners = per_token(jnp.asarray([0.2, 0.7]), segments)
    np.testing.assert_array_equal(t, np.float32([[0.2], [0.7]]))
    np.testing.assert_array_equal(owners, [[1], [1]])
    times = draw(2, 3)
    t, owners = per_token(times, segments)
    np.testing.assert_array_equal(t, times)
    np.testing.assert_array_equal(owners, segments)

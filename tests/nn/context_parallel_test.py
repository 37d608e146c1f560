"""Attention with the sequence divided over devices against attention with the whole of it, on eight simulated devices."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.nn import context_parallel
from jaxgen.nn.attention import attention
from jaxgen.nn.attention_mask import BlockKind, Blocks, Mask
from jaxgen.nn.attention_tiles import Plan, Tile
from jaxgen.nn.attention_tpu import Flash
from jaxgen.parallel import mesh as meshes
from jaxgen.training import step as steps

B, L, N, K = 2, 32, 2, 4
DRAWS = np.random.default_rng(0)
Q, KEY, V, WEIGHT = (jnp.asarray(DRAWS.normal(size=(B, L, N, K)), jnp.float32) for _ in range(4))
OWNER = jnp.asarray(np.sort(DRAWS.integers(0, 3, (B, L)), axis=1), jnp.int32)
NUMBER = np.cumsum(DRAWS.random((B, L)) < 0.15, axis=1)
BLOCKS = Blocks(jnp.asarray(NUMBER, jnp.int32), jnp.asarray(NUMBER * 7 % 3, jnp.int32))
TABLE = (BlockKind(causal=True, sees=(0, 1)), BlockKind(causal=False, sees=(0, 1)), BlockKind(causal=False, sees=(0,)))
MASKS = {
    "none": Mask(),
    "causal": Mask(causal=True),
    "window": Mask(window=7),
    "segments": Mask(OWNER, OWNER),
    "causal_segments": Mask(OWNER, OWNER, causal=True),
    "blocks": Mask(query_blocks=BLOCKS, key_blocks=BLOCKS, kinds=TABLE),
    "all": Mask(OWNER, OWNER, BLOCKS, BLOCKS, causal=True, window=11, kinds=TABLE),
}
TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")


def with_gradients(mask, method="all_gather"):
    def both(*arrays):
        out, back = jax.vjp(lambda *x: attention(*x, mask, 0.5, method), *arrays)
        return out, back(WEIGHT)

    return jax.tree.leaves(jax.jit(both)(Q, KEY, V))


def mesh_of(**sizes):
    return meshes.build(meshes.MeshShape(**sizes), jax.devices())


@pytest.mark.parametrize("method", context_parallel.METHODS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_divided_sequence_gives_the_output_and_gradients_of_the_whole(mask, method):
    whole = with_gradients(mask)
    with jax.set_mesh(mesh_of(data=1, fsdp=2, context=4)):
        divided = with_gradients(mask, method)
    for found, wanted in zip(divided, whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-6)


def test_heads_are_divided_too():
    with jax.set_mesh(mesh_of(data=1, context=4, tensor=2)):
        divided = with_gradients(MASKS["causal_segments"], "ring")
    for found, wanted in zip(divided, with_gradients(MASKS["causal_segments"]), strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-6)


def collectives(method):
    with jax.set_mesh(mesh_of(data=1, context=8)):
        program = jax.jit(lambda *x: attention(*x, MASKS["segments"], 0.5, method)).lower(Q, KEY, V).as_text()
    return {name: f"stablehlo.{name}" in program for name in ("all_gather", "collective_permute")}


def test_the_methods_move_keys_as_their_names_say():
    assert collectives("all_gather") == {"all_gather": True, "collective_permute": False}
    assert collectives("ring") == {"all_gather": False, "collective_permute": True}


@pytest.mark.parametrize("name", ["causal", "all"])
def test_a_ring_of_the_tpus_kernel_agrees_with_plain_attention(name):
    tile = Tile(1, 128, 128, 128)
    kernel = Flash(Plan(tile, tile, 1, 10_000, interpret=True))
    spec = jax.sharding.PartitionSpec(None, "context")

    def ring(q, k, v, mask):
        return context_parallel.ring(q, k, v, mask, 0.5, kernel)

    def both(*arrays):
        divided = jax.shard_map(ring, in_specs=spec, out_specs=spec, check_vma=False)
        out, back = jax.vjp(lambda *x: divided(*x, MASKS[name]), *arrays)
        return out, back(WEIGHT)

    with jax.set_mesh(mesh_of(data=1, context=2)):
        found = jax.tree.leaves(jax.jit(both)(Q, KEY, V))
    for mine, wanted in zip(found, with_gradients(MASKS[name]), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=5e-6)


def built(*overrides):
    experiment, _ = experiments.load(TINY, ("mesh.data=1", "model.depth=1", *overrides))
    mesh = meshes.build(experiment.mesh, jax.devices())
    with jax.set_mesh(mesh):
        return mesh, steps.build(experiment, mesh)


@pytest.mark.parametrize("method, moves", [("all_gather", "all_gather"), ("ring", "collective_permute")])
def test_a_configuration_chooses_the_method(method, moves):
    mesh, step = built("mesh.context=2", f"model.context_attention={method}")
    with jax.set_mesh(mesh):
        program = step.update.lower(step.state, step.frozen, step.batch).as_text()
    assert [name for name in ("all_gather", "collective_permute") if f"stablehlo.{name}" in program] == [moves]


def losses(*overrides):
    """Training losses of three steps on one batch."""
    mesh, step = built(*overrides)
    layouts = {name: x.sharding for name, x in step.batch.items()}
    with jax.set_mesh(mesh):
        batch = jax.device_put({name: jnp.ones(x.shape, x.dtype) for name, x in step.batch.items()}, layouts)
        state, frozen, found = step.initial(0), step.load_frozen(0), []
        for _ in range(3):
            state, report = step(state, frozen, batch)
            found.append(float(report.metrics["loss"].value()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", context_parallel.METHODS)
def test_a_configuration_trains_alike_with_its_sequence_divided(method):
    np.testing.assert_allclose(losses("mesh.context=2", f"model.context_attention={method}"), losses(), rtol=1e-5)


@pytest.mark.parametrize("overrides, option", [(("mesh.tensor=8",), "mesh.tensor"), (("mesh.context=3",), "mesh.context")])
def test_a_configuration_that_does_not_divide_is_refused_before_it_compiles(overrides, option):
    with pytest.raises(types.BadInput) as error:
        built(*overrides)
    assert error.value.option == option

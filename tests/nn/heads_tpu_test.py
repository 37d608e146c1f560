"""The TPU's kernel for QK-norm and rotations, interpreted, against the plain operations."""

import importlib.util
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.nn import heads_tpu, rope
from jaxgen.nn.norms import RMSNorm
from jaxgen.nn.projections import QueryKeyValue
from jaxgen.parallel import mesh as meshes

B, L = 2, 32
DRAWS = np.random.default_rng(0)
PLAN = heads_tpu.Plan(16, interpret=True)


def fused(qkv, gains, turning, axes):
    """The kernel on heads side by side, as arrays of heads."""
    parts = heads_tpu.heads(qkv.reshape(*qkv.shape[:2], -1), gains, turning, axes, PLAN)
    return tuple(part.reshape(*qkv.shape[:2], *qkv.shape[3:]) for part in parts)


def draw(*shape, dtype=jnp.float32):
    return jnp.asarray(DRAWS.normal(size=shape), dtype)


def plain(qkv, gains, positions):
    """What the modules do one after the other."""
    norm = lambda x, gain: RMSNorm(("kv", x.shape[-1]), mup.Scaling(base_width=8).at(8)).apply({"params": {"gain": gain}}, x)
    turn = (lambda x: x) if positions is None else (lambda x: rope.rotate(x, positions))
    return turn(norm(qkv[:, :, 0], gains[0])), turn(norm(qkv[:, :, 1], gains[1])), qkv[:, :, 2]


# What a mean adds up is rounded to bfloat16, 2^-9 of each; a mean of eight is then right to about 1e-3.
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-3), (jnp.bfloat16, 1e-2)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("axes, heads, width", [(2, 2, 8), (1, 3, 12), (0, 2, 8)], ids=["two_axes", "one_axis", "no_rotation"])
def test_it_is_the_norm_and_the_rotation_with_gradients(axes, heads, width, dtype, tolerance):
    qkv, gains = draw(B, L, 3, heads, width, dtype=dtype), draw(2, width)
    positions = draw(B, L, axes) if axes else None
    turning = tuple(map(heads_tpu.in_two_parts, rope.factors(positions, width))) if axes else ()
    together, back = jax.vjp(lambda *x: fused(*x, turning, axes), qkv, gains)
    apart, expected_back = jax.vjp(lambda *x: plain(*x, positions), qkv, gains)
    assert all(x.dtype == dtype for x in together)
    cotangents = tuple(draw(*x.shape, dtype=dtype) for x in together)
    for found, expected in zip((*together, *back(cotangents)), (*apart, *expected_back(cotangents)), strict=True):
        found, expected = (np.asarray(x, np.float32) for x in (found, expected))
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_values_pass_to_the_bit():
    qkv = draw(B, L, 3, 2, 8, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(fused(qkv, draw(2, 8), (), 0)[2], qkv[:, :, 2])


@pytest.mark.parametrize("turned", [True, False], ids=["turned", "not_turned"])
def test_on_a_mesh_the_layer_is_the_same_with_it(monkeypatch, turned):
    layer = QueryKeyValue(16, 8, mup.Scaling(base_width=16).at(16), qk_norm=True)
    x, positions = draw(4, L, 16), draw(4, L, 2) if turned else None
    params = jax.tree.map(lambda box: box.value, layer.init(jax.random.key(0), x)["params"], is_leaf=mup.is_parameter)
    params["query_norm"]["gain"], params["key_norm"]["gain"] = draw(8), draw(8)
    loss = lambda params, x: sum(jnp.sum(jnp.sin(part) ** 2) for part in layer.apply({"params": params}, x, positions))
    both = lambda: jax.jit(jax.value_and_grad(loss, (0, 1)))
    alone = both()(params, x)
    monkeypatch.setattr(heads_tpu, "applies", lambda *_: True)
    monkeypatch.setattr(heads_tpu, "_plan", lambda *_: PLAN)
    with jax.set_mesh(meshes.build(meshes.MeshShape(data=1, fsdp=4, context=2), jax.devices())):
        lowered = both().lower(params, x)
        divided = both()(params, x)
    assert "heads_backward" in lowered.as_text(debug_info=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3 * np.abs(a).max()), alone, divided)


@pytest.mark.parametrize("length, channels, rows", [(256, 1152, 256), (4608, 3072, 128), (77, 1536, None), (80, 1536, 80)])
def test_tiles_divide_the_length(length, channels, rows):
    plan = heads_tpu._plan("TPU v5 lite", length, channels)
    assert plan == (None if rows is None else heads_tpu.Plan(rows, 100 << 20))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, True),
        ({"platform": "cpu"}, False),
        ({"tensor": 2}, False),
        ({"context": 2}, True),
        ({"context": 3, "length": 97}, False),
        ({"dtype": jnp.float32}, False),
        ({"heads": 15}, False),
    ],
    ids=str,
)
def test_where_it_is_used(monkeypatch, changes, expected):
    case = {"platform": "tpu", "tensor": 1, "context": 1, "dtype": jnp.bfloat16, "heads": 16, "length": 256} | changes
    device = types.SimpleNamespace(platform=case["platform"], device_kind="TPU v5 lite")
    mesh = types.SimpleNamespace(empty=False, abstract_device=device, shape={name: case[name] for name in ("tensor", "context")})
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
    x = jax.ShapeDtypeStruct((1, case["length"], case["heads"] * 72), case["dtype"])
    assert heads_tpu.applies(x, case["heads"], 72) == expected


def test_wide_tokens_take_fewer_rows_where_vector_memory_is_small():
    assert heads_tpu._plan("TPU v4", 4096, 1536).rows > heads_tpu._plan("TPU v4", 4096, 3072).rows >= 16


PROGRAM = """
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from jaxgen import mup
from jaxgen.nn.projections import QueryKeyValue
from jaxgen.parallel import mesh as meshes

name, bounds = sys.argv[1], tuple(map(int, sys.argv[2].split(",")))
more = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
chips = topologies.get_topology_desc(platform="tpu", topology_name=name, chips_per_host_bounds=bounds, **more).devices
mesh = meshes.build(meshes.MeshShape(data=1, fsdp=-1), chips)
with jax.set_mesh(mesh):
    for tokens, width, head_dim, turned in ((256, 1152, 72, True), (4096, 3072, 128, True), (512, 1536, 64, False)):
        layer = QueryKeyValue(width, head_dim, mup.Scaling(base_width=width).at(width), qk_norm=True)
        array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, jax.P()))
        x, positions = array((1, tokens, width), jnp.bfloat16), array((1, tokens, 2), jnp.float32) if turned else None
        params = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x)["params"], x)
        params = jax.tree.map(lambda box: array(box.value.shape, jnp.float32), params, is_leaf=mup.is_parameter)

        def both(params, x, positions):
            out, back = jax.vjp(lambda *a: layer.apply({"params": a[0]}, a[1], positions), params, x)
            return out, back(out)

        text = jax.jit(both).trace(params, x, positions).lower(lowering_platforms=("tpu",)).compile().as_text()
        print(tokens, width, text.count("tpu_custom_call"), flush=True)
"""
HERE = {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: pip install 'jaxgen[tpu]'")
@pytest.mark.parametrize(
    "name, bounds", [("v5e:1x1", "1,1,1"), ("v6e:1x1", "1,1,1"), ("v5p:1x1x1", "1,1,1"), ("v4:1x1x1", "1,1,1")]
)
def test_the_compiler_takes_it_at_real_sizes(name, bounds):
    environment = os.environ | HERE | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, bounds], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    # One kernel forward and one backward.
    assert len(lines) == 3 and all(int(line.split()[-1]) == 2 for line in lines)

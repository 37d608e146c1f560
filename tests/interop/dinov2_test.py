"""DINOv2 in and out of its published form, and safetensors files that are not whole."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup, types
from jaxgen.encoders.dinov2 import DINOv2
from jaxgen.interop import dinov2, safetensors
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding

DRAWS = np.random.default_rng(0)
SIZE = {"width": 32, "depth": 2, "head_dim": 16, "mlp_ratio": 2, "patch": 2, "channels": 3, "grid": 3, "registers": 2}
MUP = mup.Scaling(base_width=8, base_head_dim=8)
MODEL = DINOv2(**SIZE, scaling=mup.Scaling(base_width=32))
IMAGES = jnp.asarray(DRAWS.normal(size=(2, 6, 6, 3)), jnp.float32)


def params_of(model):
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES)["params"])
    return boxed, jax.tree.map(
        lambda b: (0.3 * DRAWS.normal(size=b.value.shape)).astype(np.float32), boxed, is_leaf=mup.is_parameter
    )


def features(model, params):
    return jax.jit(lambda params: model.apply({"params": params}, IMAGES, method="features"))(params)


def test_what_is_written_reads_as_it_was_and_names_every_parameter():
    boxed, params = params_of(MODEL)
    read = dinov2.dinov2(MODEL).read(dinov2.dinov2(MODEL).write(params))
    assert jax.tree.structure(read) == jax.tree.structure(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), read, params)


def test_a_network_under_mup_is_written_as_a_stock_network_of_the_same_output():
    grown = MODEL.clone(scaling=MUP)
    _, params = params_of(grown)
    stock = dinov2.dinov2(MODEL).read(dinov2.dinov2(grown).write(params))
    expected = features(grown, params)
    assert float(jnp.linalg.norm(features(MODEL, stock) - expected) / jnp.linalg.norm(expected)) < 1e-5
    assert float(jnp.linalg.norm(features(MODEL, params) - expected) / jnp.linalg.norm(expected)) > 1e-3


def write(path, tensors):
    kinds = {"float32": "F32", "float16": "F16"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in tensors.items():
        end = len(data) + value.nbytes
        header[name] = {"dtype": kinds[value.dtype.name], "shape": list(value.shape), "data_offsets": [len(data), end]}
        data += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def teacher(path, **options):
    return dinov2.PublishedTeacher(**{"module": MODEL, "path": str(path), "resolution": 6} | options)


def test_a_published_teacher_is_read_onto_the_mesh(tmp_path):
    boxed, params = params_of(MODEL)
    path = write(tmp_path / "weights.safetensors", dinov2.dinov2(MODEL).write(params))
    mesh = meshes.build(meshes.MeshShape(data=1, fsdp=8), jax.devices())
    layouts = sharding.parameter_shardings(boxed, mesh)
    target = jax.tree.map(
        lambda box, layout: jax.ShapeDtypeStruct(box.value.shape, box.value.dtype, sharding=layout),
        boxed,
        layouts,
        is_leaf=mup.is_parameter,
    )
    found = teacher(path).frozen("teacher").read(target)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.device_get(found), params)
    assert jax.tree.map(lambda leaf: leaf.sharding, found) == layouts


@pytest.mark.parametrize("damage", ["missing", "cut", "header", "no safetensors", "another network"])
def test_a_file_that_is_not_whole_is_refused_by_name(damage, tmp_path):
    path = write(tmp_path / "weights.safetensors", {"layernorm.weight": np.ones(32, np.float32)})
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(raw[:-4])
    elif damage == "header":
        path.write_bytes(raw[:20])
    elif damage == "no safetensors":
        path.write_bytes(b"\x80\x02}q\x00." * 9)
    with pytest.raises(types.BadInput) as refused:
        teacher(path).frozen("teacher").read({})
    said = "checkpoint: found " if damage == "another network" else f"path of the teacher: found '{path}'"
    assert str(refused.value).startswith(said)


def test_half_precision_is_read(tmp_path):
    values = np.linspace(-2, 2, 6, dtype=np.float16).reshape(2, 3)
    found = safetensors.read(write(tmp_path / "half", {"a": values, "b": np.ones((), np.float32)}), "path")
    np.testing.assert_array_equal(found["a"], values)
    assert found["b"].shape == () and found["a"].dtype == np.float16


@pytest.mark.parametrize("registers, method", [(False, "bicubic"), (True, "bicubic_antialiased")])
def test_published_networks_by_size(registers, method):
    model = dinov2.published("B/14", registers)
    assert (model.width, model.grid, model.registers, model.resampling) == (768, 37, 4 * registers, method)
    assert len(dinov2.dinov2(model)) == 12 * 18 + 7 + registers
    assert teacher("x", module=model, resolution=224).grid(256, 3) == (16, 16)
    with pytest.raises(types.BadInput, match="size: found 'H/14', needed one of S/14, B/14, L/14"):
        dinov2.published("H/14")

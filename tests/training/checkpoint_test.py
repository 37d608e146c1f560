import json
import random
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from upath import UPath

from jaxgen import run, types
from jaxgen.training import checkpoint, manifest

ABOUT = {"layout": "scanned", "versions": {"jax": "0.10"}}


class Moments(NamedTuple):
    count: jax.Array
    first: dict
    nothing: tuple = ()


def _mesh(devices: int) -> jax.sharding.Mesh:
    shape = (devices // 2, 2) if devices > 1 else (1, 1)
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(shape), ("data", "fsdp"))


def _put(mesh: jax.sharding.Mesh, value: np.ndarray, *spec: str | None) -> jax.Array:
    # A copy: on CPU an array may share the memory of the NumPy array that it came from.
    return jax.device_put(np.array(value), NamedSharding(mesh, PartitionSpec(*spec)))


def _state(seed: int = 0, devices: int = 8) -> dict:
    """A small training state over many dtypes: parameters, an optimizer state with tuples and gaps, a memory."""
    mesh, draw = _mesh(devices), np.random.default_rng(seed)

    def kernel(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    params = {
        "block": {"kernel": _put(mesh, kernel(16, 8), "data", "fsdp"), "bias": _put(mesh, kernel(8), "fsdp")},
        "head": _put(mesh, kernel(8, 4)),
        "half": _put(mesh, kernel(8, 4).astype(jnp.bfloat16), "data"),
    }
    first = {name: _put(mesh, kernel(16, 8), "fsdp") for name in ("a.b", "[c]")}
    optimizer = (Moments(_put(mesh, np.int32(seed + 7)), first), (), None, [Moments(_put(mesh, np.uint32(1)), {})])
    memory = {"seen": _put(mesh, np.array([True, False])), "vacant": _put(mesh, np.zeros((0, 3), np.float32))}
    odd = np.array([np.nan, -0.0, np.inf, 1e-45], np.float32)
    return {
        "params.model": params,
        "ema.0.999.model": {"odd": _put(mesh, odd)},
        "optimizer.model": optimizer,
        "memory": memory,
    }


def _targets(items: dict, mesh: jax.sharding.Mesh | None = None) -> dict:
    """What to restore: the layout of `items`, or on `mesh` every first axis that divides over all of its devices."""

    def target(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        if mesh is None:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        divides = leaf.ndim and leaf.shape[0] and leaf.shape[0] % mesh.size == 0
        spec = PartitionSpec(("fsdp", "data")) if divides else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(target, items)


def _assert_same(found: object, wanted: object) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _save(of: run.Run, *steps: int, keep: int | None = None) -> None:
    with checkpoint.Checkpoints(of, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, _state(step), {"step": step, "fingerprint": "f"}, ABOUT)


def _newest(of: run.Run, items: list[str] | None = None) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    with checkpoint.Checkpoints(of) as checkpoints:
        return checkpoints.newest_whole(lines.append, items), lines


def _files(folder: UPath) -> list[UPath]:
    return sorted(UPath(path) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def compiles() -> list[str]:
    """Grows by one with each program that is compiled."""
    seen: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def local(tmp_path) -> run.Run:
    return run.Run(tmp_path / "run").create()


@pytest.fixture(params=["local", "memory"])
def made(request, tmp_path) -> run.Run:
    return run.Run(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path.name}/run").create()


def test_everything_comes_back_bit_for_bit_in_its_structure(made, compiles):
    state = _state()
    before = len(compiles)
    with checkpoint.Checkpoints(made) as checkpoints:
        checkpoints.save(3, state, {"step": 3, "fingerprint": "abc"}, ABOUT)
    with checkpoint.Checkpoints(made) as checkpoints:
        assert checkpoints.newest_whole(pytest.fail) == 3
        restored = checkpoints.restore(3, _targets(state))
        assert checkpoints.read_about(3) == ABOUT
        assert checkpoints.read_position(3) == {"step": 3, "fingerprint": "abc"}
    assert len(compiles) == before
    _assert_same(restored, state)
    assert isinstance(restored["optimizer.model"][0], Moments)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_it_restores_onto_other_devices_and_layouts(local, devices, compiles):
    _save(local, 1)
    state = _state(1)
    targets = _targets(state, _mesh(devices))
    before = len(compiles)
    with checkpoint.Checkpoints(local) as checkpoints:
        restored = checkpoints.restore(1, targets)
    assert len(compiles) == before
    _assert_same(restored, state)
    for leaf, target in zip(jax.tree.leaves(restored), jax.tree.leaves(targets)):
        assert leaf.sharding.is_equivalent_to(target.sharding, leaf.ndim)
    assert restored["params.model"]["block"]["kernel"].addressable_shards[0].data.shape == (16 // devices, 8)


def test_what_one_device_saved_restores_on_eight(local):
    state = _state(devices=1)
    with checkpoint.Checkpoints(local) as checkpoints:
        checkpoints.save(1, state, {}, {})
        checkpoints.wait()
        _assert_same(checkpoints.restore(1, _targets(state, _mesh(8))), state)


@pytest.mark.parametrize("spec", [("data", "fsdp"), ("data", None), ()], ids=["sharded", "part", "replicated"])
def test_arrays_may_be_donated_as_soon_as_save_returns(local, spec):
    mesh = _mesh(8)
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    values = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    overwrite(_put(mesh, values, *spec))
    with checkpoint.Checkpoints(local) as checkpoints:
        for step in range(3):
            x = _put(mesh, values + step, *spec)
            checkpoints.save(step, {"params.model": {"x": x}}, {}, {})
            for _ in range(3):
                x = overwrite(x)
            x.block_until_ready()
        checkpoints.wait()
        target = {"params.model": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec()))}}
        for step in range(3):
            np.testing.assert_array_equal(checkpoints.restore(step, target)["params.model"]["x"], values + step)


def test_dictionaries_may_be_changed_as_soon_as_save_returns(local, monkeypatch):
    about, position = {"deep": {"value": 1}}, {"step": 1}
    changed = threading.Event()
    write = ocp.JsonCheckpointHandler._save_fn

    async def write_late(*arguments: object) -> None:
        assert changed.wait(30)
        await write(*arguments)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", write_late)
    with checkpoint.Checkpoints(local) as checkpoints:
        checkpoints.save(1, _state(), position, about)
        about["deep"]["value"] = position["step"] = 2
        changed.set()
        checkpoints.wait()
        assert checkpoints.read_about(1) == {"deep": {"value": 1}}
        assert checkpoints.read_position(1) == {"step": 1}


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damage_to_any_file_is_named_and_the_one_before_is_used(local, damage):
    _save(local, 1, 2)
    draw = random.Random(5)
    files = [path for path in _files(local.checkpoints / "2") if path.stat().st_size]
    arrays = [path for path in files if path.parent.name == "d"]
    for path in draw.sample(files, 5) + draw.sample(arrays, 5):
        whole = path.read_bytes()
        bit = draw.randrange(8 * len(whole))
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else bytes(altered))
        step, lines = _newest(local)
        assert step == 1
        (line,) = lines
        assert "checkpoint 2 " in line and path.relative_to(local.checkpoints / "2").as_posix() in line
        path.write_bytes(whole)
    assert _newest(local) == (2, [])
    with checkpoint.Checkpoints(local) as checkpoints:
        _assert_same(checkpoints.restore(1, _targets(_state(1))), _state(1))


def test_without_a_manifest_it_walks_back(made):
    _save(made, 1, 2, 3)
    manifest.withdraw(made.checkpoints / "3")
    (next((made.checkpoints / "2" / "position").iterdir())).unlink()
    step, lines = _newest(made)
    assert step == 1
    assert "checkpoint 3 " in lines[0] and "manifest-0.json" in lines[0]
    assert "checkpoint 2 " in lines[1] and "position/" in lines[1]


def test_nothing_there_is_no_step(made):
    assert _newest(made) == (None, [])


def test_reading_parameters_touches_no_other_item(made):
    _save(made, 1)
    for path in (made.checkpoints / "1").iterdir():
        if path.name.startswith(("optimizer", "ema", "memory")):
            path.fs.rm(path.path, recursive=True)
    assert _newest(made)[0] is None
    assert _newest(made, ["params.model"]) == (1, [])
    state = {"params.model": _state(1)["params.model"]}
    with checkpoint.Checkpoints(made) as checkpoints:
        restored = checkpoints.restore(1, _targets(state))
        _assert_same(restored, state)


def test_shapes_are_read_without_arrays(made, compiles):
    _save(made, 1)
    # Arrays lie in the folders "d"; what is left of the checkpoint must do.
    for path in _files(made.checkpoints / "1") if run.is_local(made.root) else []:
        if path.parent.name == "d":
            path.unlink()
    before = len(compiles)
    with checkpoint.Checkpoints(made) as checkpoints:
        shapes = checkpoints.shapes(1, "optimizer.model")
        assert shapes["0/first/a.b"].shape == (16, 8)
        assert checkpoints.shapes(1, "params.model")["half"].dtype == jnp.bfloat16
        assert checkpoints.shapes(1, "memory")["vacant"].shape == (0, 3)
        assert len(compiles) == before
        with pytest.raises(types.BadInput, match="params.other"):
            checkpoints.shapes(1, "params.other")
        with pytest.raises(types.BadInput, match="saved steps .1."):
            checkpoints.shapes(2, "params.model")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda p: p | {"head": jax.ShapeDtypeStruct((8, 5), jnp.float32)}, ["params.model:head (8, 4)", "(8, 5)"]),
        (lambda p: p | {"head": jax.ShapeDtypeStruct((8, 4), jnp.float16)}, ["params.model:head", "float32", "float16"]),
        (lambda p: p | {"new": jax.ShapeDtypeStruct((8, 4), jnp.float32)}, ["params.model:new missing"]),
        (lambda p: {k: v for k, v in p.items() if k != "head"}, ["params.model:head (8, 4)", "absent"]),
        (lambda p: p | {"block": {}}, ["params.model:block/bias", "params.model:block/kernel"]),
    ],
    ids=["shape", "dtype", "missing", "extra", "subtree"],
)
def test_a_checkpoint_of_another_shape_is_refused_before_anything_compiles(local, compiles, change, words):
    _save(local, 4)
    params = _targets(_state())["params.model"]
    before = len(compiles)
    with checkpoint.Checkpoints(local) as checkpoints:
        assert checkpoints.newest_whole(pytest.fail) == 4
        checkpoints.check(4, {"params.model": params})
        for refuse in (checkpoints.check, checkpoints.restore):
            with pytest.raises(types.BadInput) as caught:
                refuse(4, {"params.model": change(params)})
            assert caught.value.option == "checkpoints"
            assert all(word in str(caught.value) for word in words)
    assert len(compiles) == before


def test_an_item_that_was_not_saved_is_refused_and_one_without_leaves_is_not(local):
    _save(local, 1)
    with checkpoint.Checkpoints(local) as checkpoints:
        with pytest.raises(types.BadInput, match="params.critic:kernel missing"):
            checkpoints.check(1, {"params.critic": {"kernel": jax.ShapeDtypeStruct((1,), jnp.float32)}})
        assert checkpoints.restore(1, {"optimizer.critic": ((), None)}) == {"optimizer.critic": ((), None)}


def test_a_target_without_a_layout_is_refused(local):
    _save(local, 1)
    targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _state()["params.model"])
    with checkpoint.Checkpoints(local) as checkpoints, pytest.raises(ValueError, match="no sharding"):
        checkpoints.restore(1, {"params.model": targets})


@pytest.mark.parametrize("leaf", [np.zeros(3), 3, jax.random.key(0)], ids=["numpy", "number", "key"])
def test_only_plain_arrays_are_saved(local, leaf):
    with checkpoint.Checkpoints(local) as checkpoints, pytest.raises(TypeError, match="params.model:odd"):
        checkpoints.save(1, {"params.model": {"odd": leaf}}, {}, {})


def test_another_format_is_refused(local):
    _save(local, 1)
    path = local.checkpoints / "1" / "about" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with checkpoint.Checkpoints(local) as checkpoints, pytest.raises(types.BadInput, match="format 99"):
        checkpoints.check(1, {})


def test_elsewhere_files_go_through_a_local_folder_whole(tmp_path, monkeypatch):
    made = run.Run(f"memory://{tmp_path.name}/run").create()
    _save(made, 1, 2)
    state = _state(2)
    array = next(path for path in _files_of_store(made.checkpoints / "2" / "params.model") if "/d/" in path.path)
    whole = array.read_bytes()
    array.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    step, lines = _newest(made)
    assert step == 1 and array.name in lines[0]
    # Even one who did not verify gets no altered array.
    with checkpoint.Checkpoints(made) as checkpoints, pytest.raises(types.BadInput, match=array.name):
        checkpoints.restore(2, _targets(state))
    array.write_bytes(whole)
    with checkpoint.Checkpoints(made) as checkpoints:
        assert checkpoints.newest_whole(pytest.fail) == 2
        _assert_same(checkpoints.restore(2, _targets(state)), state)


def _files_of_store(folder: UPath) -> list[UPath]:
    return [UPath(f"memory://{path}") for path in sorted(folder.fs.find(folder.path))]

"""Which checkpoints stay, which are replaced, and what happens to errors of a save that runs in the background."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxgen import run, types
from jaxgen.parallel.hosts import Hosts
from jaxgen.training import checkpoint, manifest


def _state(value: int = 0) -> dict:
    return {"params.model": {"x": jax.device_put(np.full((4, 4), value, np.int32))}}


def _assert_saved(checkpoints: checkpoint.Checkpoints, step: int, value: int) -> None:
    targets = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _state())
    np.testing.assert_array_equal(checkpoints.restore(step, targets)["params.model"]["x"], value)


def _save(of: run.Run, *steps: int, keep: int | None = None) -> None:
    with checkpoint.Checkpoints(of, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, _state(step), {}, {})


def _newest(of: run.Run) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    with checkpoint.Checkpoints(of) as checkpoints:
        return checkpoints.newest_whole(lines.append), lines


@pytest.fixture
def local(tmp_path) -> run.Run:
    return run.Run(tmp_path / "run").create()


@pytest.fixture(params=["local", "memory"])
def made(request, tmp_path) -> run.Run:
    return run.Run(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path.name}/run").create()


def test_what_was_never_committed_is_reported_and_replaced(local):
    _save(local, 1)
    leftover = local.checkpoints / "2.orbax-checkpoint-tmp"
    leftover.mkdir()
    step, lines = _newest(local)
    assert step == 1 and "2.orbax-checkpoint-tmp" in lines[0]
    with checkpoint.Checkpoints(local) as checkpoints:
        checkpoints.discard_newer(1)
        assert not leftover.exists()
        leftover.mkdir()
        (local.checkpoints / "9.orbax-checkpoint-tmp").mkdir()
        checkpoints.save(2, _state(2), {}, {})
    assert _newest(local) == (2, [])
    assert [path.name for path in sorted(local.checkpoints.iterdir())] == ["1", "2"]


def test_the_newest_whole_ones_are_kept(made):
    _save(made, 1, 2, 3, 4, keep=2)
    with checkpoint.Checkpoints(made, keep=2) as checkpoints:
        assert checkpoints.steps() == [3, 4]
        manifest.withdraw(made.checkpoints / "4")
        checkpoints.save(5, _state(5), {}, {})
        checkpoints.wait()
        # Step 4 does not count, so 3 stays.
        assert checkpoints.steps() == [3, 4, 5]
        checkpoints.save(6, _state(6), {}, {})
        checkpoints.wait()
        assert checkpoints.steps() == [5, 6]


def test_newer_steps_can_be_discarded_and_saved_again(made):
    with checkpoint.Checkpoints(made) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, _state(step), {}, {})
        checkpoints.discard_newer(1)
        assert checkpoints.steps() == [1]
        checkpoints.save(2, _state(20), {}, {})
        checkpoints.save(3, _state(30), {}, {})
        assert checkpoints.newest_whole(pytest.fail) == 3
        _assert_saved(checkpoints, 2, 20)
        checkpoints.discard_newer(None)
        assert checkpoints.steps() == []


def test_a_step_that_was_just_saved_is_not_saved_again_and_an_older_one_is_refused(local):
    with checkpoint.Checkpoints(local) as checkpoints:
        checkpoints.save(1, _state(1), {}, {})
        checkpoints.save(1, _state(1), {}, {})
        checkpoints.save(2, _state(2), {}, {})
        with pytest.raises(types.BadInput, match="step 1, already saved"):
            checkpoints.save(1, _state(1), {}, {})


@pytest.mark.parametrize("call", ["save", "wait", "close"])
def test_an_error_in_the_background_is_raised_by_the_next_call(local, monkeypatch, call):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    checkpoints = checkpoint.Checkpoints(local)
    with monkeypatch.context() as patched:
        patched.setattr(manifest, "write", fail)
        checkpoints.save(1, _state(), {}, {})
        arguments = (2, _state(), {}, {}) if call == "save" else ()
        with pytest.raises(OSError, match="disk full") as caught:
            getattr(checkpoints, call)(*arguments)
    assert "checkpoint 1" in caught.value.__notes__[0]
    if call != "close":
        checkpoints.save(2, _state(2), {}, {})
        assert checkpoints.newest_whole(pytest.fail) == 2
        checkpoints.close()


def test_an_error_of_orbax_in_the_background_is_raised_too(local, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("lost the disk")

    checkpoints = checkpoint.Checkpoints(local)
    with monkeypatch.context() as patched:
        patched.setattr(ocp.PyTreeCheckpointHandler, "finalize", fail)
        checkpoints.save(1, _state(), {}, {})
        with pytest.raises(OSError, match="lost the disk"):
            checkpoints.wait()
    checkpoints.save(2, _state(2), {}, {})
    checkpoints.close()
    step, lines = _newest(local)
    assert step == 2 and not lines


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(local, keep):
    with pytest.raises(types.BadInput, match="at least 1"):
        checkpoint.Checkpoints(local, keep)


def test_several_hosts_need_a_store_that_all_can_write(tmp_path):
    with pytest.raises(types.BadInput) as caught:
        checkpoint.Checkpoints(run.Run(f"memory://{tmp_path.name}"), hosts=Hosts(0, 2))
    assert caught.value.option == "run"


def test_a_wrong_number_of_hosts_is_refused_before_manifests_overwrite_each_other(local):
    with checkpoint.Checkpoints(local, hosts=Hosts(0, 2)) as checkpoints:
        with pytest.raises(ValueError, match="hosts: found 2, and the job has 1"):
            checkpoints.save(1, _state(), {}, {})

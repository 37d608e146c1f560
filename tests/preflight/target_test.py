"""What is refused before anything compiles, the compiler's environment, and its words about memory."""

import dataclasses
import importlib.util
import pathlib

import pytest

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import slices
from jaxgen.preflight import chips, overflow, target

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")


def with_mesh(**sizes):
    experiment, _ = experiments.load(TINY)
    return dataclasses.replace(experiment, mesh=meshes.MeshShape(**sizes))


@pytest.mark.parametrize("name, generation", slices.GENERATIONS.items())
def test_every_generation_that_is_rented_has_a_chip(name, generation):
    chip = chips.CHIPS[name]
    assert chip.flops > 0 and chip.cores == generation.count_per_chip
    assert chip.cycles_a_row == pytest.approx(0.5 if chip.array == 256 else 1, rel=0.01)


@pytest.mark.parametrize(
    "count, sizes, option",
    [
        (1, {"data": 3}, "mesh"),
        (1, {"data": 32}, "mesh"),
        (1, {"data": 4}, "mesh"),
        (1, {"data": 1, "fsdp": 8, "tensor": 2, "context": 1}, None),
        (1, {"data": -1}, None),
        (2, {"data": -1}, "mesh.slice"),
        (2, {"slice": 2, "data": -1}, "data.batch_size"),
        (2, {"data": 8, "tensor": 4}, "mesh.slice"),
        (2, {"slice": 2, "data": 8, "tensor": 2}, None),
    ],
)
def test_mesh_and_batch_must_fit_the_slices(count, sizes, option):
    """16 chips and a batch of 16."""
    wanted = target.Target(slices.parse("v5e:4x4"), count)
    if option is None:
        target.check(with_mesh(**sizes), wanted)
    else:
        with pytest.raises(types.BadInput) as refused:
            target.check(with_mesh(**sizes), wanted)
        assert refused.value.option == option


def test_a_missing_compiler_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(types.BadInput, match=r"libtpu: found 'not installed', needed .*jaxgen\[tpu\]"):
        target.require_compiler()


def test_the_environment_keeps_the_users_options_and_needs_no_chip(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_one=1")
    monkeypatch.setenv("MINE", "2")
    made = target.environment("/tmp/x")
    assert made["LIBTPU_INIT_ARGS"].startswith("--xla_one=1 --xla_jf_dump_to=/tmp/x ")
    assert (made["MINE"], made["JAX_PLATFORMS"], made["ALLOW_MULTIPLE_LIBTPU_LOAD"]) == ("2", "cpu", "1")


@pytest.mark.parametrize(
    "message, needed, usable",
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (40.00G) exceeds available"
            " HBM (15.75G).",
            40.0,
            15.75,
        ),
        ("RESOURCE_EXHAUSTED: … Used 17.43G of 15.75G hbm. Exceeded hbm capacity by 1.68G.", 17.43, 15.75),
    ],
)
def test_an_overflow_is_read_from_the_compilers_words(message, needed, usable):
    found = overflow.read(message)
    assert (found.needed / 2**30, found.usable / 2**30) == pytest.approx((needed, usable))
    assert found.excess / 2**30 == pytest.approx(needed - usable)


def test_other_errors_are_no_overflow():
    assert overflow.read("INTERNAL: Mosaic failed to compile TPU kernel") is None

"""The search for what fits, with a pretended compiler."""

import dataclasses
import pathlib

from jaxgen import experiment as experiments
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import slices
from jaxgen.preflight import fit, overflow, target

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
SLICE = target.Target(slices.parse("v5e:2x2"))


def search(fits, what="training", **sizes):
    experiment, _ = experiments.load(TINY)
    experiment = dataclasses.replace(experiment, mesh=meshes.MeshShape(**sizes or {"data": 4}))
    tried = []

    def compiled(tree):
        tried.append(tree)
        return {"tree": tree} if fits(tree) else overflow.Overflow(20.0 - len(tried), 16.0, "too much")

    said = []
    found, changes = fit.search(experiment, SLICE, overflow.Overflow(20.0, 16.0, "too much"), compiled, said.append, what)
    assert len(said) == len(tried)
    return found, changes, tried


def test_the_policy_that_keeps_most_is_tried_first():
    found, changes, tried = search(lambda tree: tree.model.remat != "none")
    assert changes == {"model.remat": fit.REMAT[1]} and len(tried) == 1
    assert found["tree"].model.remat == fit.REMAT[1]


def test_then_the_state_is_shared_out_over_all_chips():
    _, changes, _ = search(lambda tree: tree.mesh.fsdp == 4)
    assert changes == {"mesh.slice": "1", "mesh.data": "1", "mesh.fsdp": "4", "mesh.context": "1", "mesh.tensor": "1"}


def test_then_the_batch_is_cut_with_all_the_others():
    found, changes, _ = search(lambda tree: tree.training.microbatches == 4)
    assert changes["training.microbatches"] == "4" and changes["model.remat"] == "full" and changes["mesh.fsdp"] == "4"
    assert found["tree"].training.microbatches == 4


def test_a_draw_is_spread_over_all_chips_and_then_made_smaller():
    _, changes, tried = search(lambda tree: tree.sampler.images_per_device <= 2, what="sampling")
    assert changes["mesh.fsdp"] == "4" and changes["sampler.images_per_device"] == "2"
    assert [tree.sampler.images_per_device for tree in tried] == [8, 4, 2]


def test_a_draw_of_one_picture_a_chip_is_the_smallest():
    found, changes, tried = search(lambda tree: False, what="sampling", fsdp=4)
    assert changes == {} and tried[-1].sampler.images_per_device == 1 and len(tried) == 3


def test_where_nothing_fits_the_least_overflow_is_told():
    found, changes, tried = search(lambda tree: False)
    assert changes == {} and found.needed == 20.0 - len(tried)
    assert all(tree.data.batch_size == 16 for tree in tried)


def test_policies_are_tried_from_the_one_that_keeps_most():
    assert fit.REMAT == ("none", "dots", "names", "full")

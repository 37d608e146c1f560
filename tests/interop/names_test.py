"""Tables of names: steps that can be undone, and checkpoints that are not what they should be."""

import numpy as np
import pytest

from jaxgen import types
from jaxgen.interop import names
from jaxgen.nn.embeddings import position_sinusoid

DRAWS = np.random.default_rng(0)


def draw(*shape):
    return DRAWS.normal(size=shape).astype(np.float32)


ROTATION = np.linalg.qr(DRAWS.normal(size=(6, 6)))[0]
STEPS = {
    "turn": names.Turn((2, 0, 1)),
    "shape": names.Shape((6, 4, 2), (6, 8)),
    "pick": names.Pick(1, np.array([2, 0, 3, 1]), 4),
    "times": names.Times(np.array([0.5, 2.0])),
    "rotate": names.Rotate(ROTATION),
}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_can_be_undone_either_way(name):
    x = draw(6, 4, 2) if name != "rotate" else draw(6, 4)
    step = STEPS[name]
    np.testing.assert_allclose(step.back(step.into(x)), x, atol=1e-6)
    y = step.into(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(step.into(step.back(y)), y, atol=1e-6)


def test_what_is_not_picked_is_written_as_zeros():
    pick = names.Pick(0, np.array([3, 1]), 4)
    x = draw(4, 2)
    np.testing.assert_array_equal(pick.into(x), x[[3, 1]])
    np.testing.assert_array_equal(pick.back(pick.into(x)), x * np.array([[0], [1], [0], [1]]))


def test_a_linear_layer_is_the_same_map_in_both_forms():
    order = np.array([2, 0, 3, 1])
    entries = names.dense("a", "b", (4,), (3, 4), into=order, out=order)
    weight, bias, x = draw(12, 4), draw(12), draw(5, 4)
    here = names.Table(entries).read({"a.weight": weight, "a.bias": bias})["b"]
    found = np.einsum("xi,iab->xab", x[:, order], here["kernel"]) + here["bias"]
    np.testing.assert_allclose(found, (x @ weight.T + bias).reshape(5, 3, 4)[..., order], atol=1e-5)


def test_patches_are_cut_as_the_convolution_cuts_them():
    weight, bias, x = draw(8, 3, 2, 2), draw(8), draw(5, 3, 2, 2)  # [B, C, p, p]
    here = names.Table(names.patches("a", "b", 2, 3, 8)).read({"a.weight": weight, "a.bias": bias})["b"]
    flat = x.transpose(0, 2, 3, 1).reshape(5, 12)
    np.testing.assert_allclose(flat @ here["kernel"] + here["bias"], np.einsum("bcij,dcij->bd", x, weight) + bias, atol=1e-5)


def test_layers_are_stacked_and_parts_lie_beside_each_other_in_order():
    entries = [e for i in (1, 0) for p in (1, 0) for e in names.dense(f"{i}.{p}", "b", (2,), (3, 2), layer=i, part=p)]
    table = names.Table(tuple(entries))
    checkpoint = {f"{i}.{p}.{k}": draw(*s) for i in (0, 1) for p in (0, 1) for k, s in (("weight", (6, 2)), ("bias", (6,)))}
    here = table.read(checkpoint)["b"]
    assert here["kernel"].shape == (2, 2, 2, 3, 2) and here["bias"].shape == (2, 2, 3, 2)
    np.testing.assert_array_equal(here["kernel"][1, :, 0], checkpoint["1.0.weight"].T.reshape(2, 3, 2))
    back = table.write({"b": here})
    assert back.keys() == checkpoint.keys()
    for name, value in checkpoint.items():
        np.testing.assert_array_equal(back[name], value)


FIXED = {"table": np.arange(6.0).reshape(2, 3)}
TABLE = names.Table(names.dense("a", "b", (2,), (3,)), FIXED)


def checkpoint(**changes):
    found = {"a.weight": draw(3, 2), "a.bias": draw(3), "table": FIXED["table"].astype(np.float32)} | changes
    return {name: value for name, value in found.items() if value is not None}


def test_a_whole_checkpoint_is_read_and_written():
    assert len(TABLE) == 3
    given = checkpoint()
    back = TABLE.write(TABLE.read(given))
    assert back.keys() == given.keys()
    for name, value in given.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"a.bias": None}, "1 missing: a.bias"),
        ({"c.weight": draw(2)}, "1 unknown: c.weight"),
        ({"a.weight": draw(2, 3)}, "a.weight of shape (2, 3)"),
        ({"table": np.zeros((2, 3), np.float32)}, "table that differs by 5"),
        ({"table": np.full((2, 3), np.nan, np.float32)}, "table that differs by nan"),
    ],
    ids=["missing", "unknown", "other_shape", "other_fixed_values", "fixed_nan"],
)
def test_another_checkpoint_is_refused_by_the_tensors_name(changes, complaint):
    with pytest.raises(types.BadInput) as error:
        TABLE.read(checkpoint(**changes))
    assert error.value.option == "checkpoint" and complaint in str(error.value.found)


def test_the_published_table_of_positions_is_ours_in_another_order_counted_from_the_corner():
    positions = np.stack(np.indices((3, 5)), axis=-1).reshape(15, 2).astype(np.float32)
    found = np.asarray(position_sinusoid(0.5 * positions, 16))
    np.testing.assert_allclose(found, names.position_table(3, 5, 16, 0.5)[0][:, names.sinusoid_order(16)], atol=1e-6)

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import experiment as experiments
from jaxgen import mup, types
from jaxgen.parallel import mesh as meshes
from jaxgen.training import step as steps
from jaxgen.training.muon import Muon
from jaxgen.training.optimizer import AdamW

SCALE = mup.Scaling(base_width=8).at(16)
AXES = {
    "hidden": ((("embed", 16),), (("mlp", 64, 32),)),
    "stacked": ((("embed", 16),), (("qkv", 3), ("heads", 4), ("kv", 4))),
    "merged": ((("neighbour", 4), ("embed", 8, 4)), (("embed_out", 16),)),
    "input": ((("patch", 12),), (("embed_out", 16),)),
    "vector": ((), (("embed_out", 16),)),
}
KINDS = {"vector": "gain"}
MATRICES = ("hidden", "stacked", "merged", "scanned")


def boxes():
    found = {}
    for name, (inputs, outputs) in AXES.items():
        shape = tuple(axis[1] for axis in (*inputs, *outputs))
        box = mup.describe(SCALE, name, inputs, outputs, KINDS.get(name, "dense"))
        found[name] = box.replace(value=jax.ShapeDtypeStruct(shape, jnp.float32))
    # As a scan over two layers leaves a parameter.
    found["scanned"] = found["hidden"].add_axis(0, {nn.PARTITION_NAME: "layers"})
    found["scanned"] = found["scanned"].replace(value=jax.ShapeDtypeStruct((2, 16, 64), jnp.float32))
    return found


def first_update(optimizer, gradients):
    rule = optimizer.build(mup.multipliers(boxes()), 100)
    params = {name: jnp.ones(g.shape) for name, g in gradients.items()}
    return rule.update(gradients, rule.init(params), params)[0]


def gradients(seed=0):
    return {name: jax.random.normal(jax.random.key(seed), box.value.shape) for name, box in boxes().items()}


def matrices(name, value):
    """The update as matrices [stack, inputs, outputs]."""
    if name == "stacked":
        return np.moveaxis(np.asarray(value).reshape(16, 3, 16), 1, 0)
    if name == "scanned":
        return np.asarray(value)
    return np.asarray(value).reshape(1, -1, value.shape[-1])


def test_every_singular_value_of_a_matrix_is_near_the_root_of_outputs_over_inputs():
    found = first_update(Muon(learning_rate=0.1, matrix_rate=2.0, clip_norm=None), gradients())
    for name in MATRICES:
        for matrix in matrices(name, found[name]):
            values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * np.sqrt(matrix.shape[1] / matrix.shape[0]))
            # Five Newton-Schulz steps bring all but the smallest into this range; a plain gradient's spread over a factor of five.
            assert values.max() < 1.3 and np.median(values) > 0.65, (name, values)


def test_matrices_side_by_side_are_made_orthogonal_each_by_itself():
    given = gradients()
    changed = given | {"stacked": given["stacked"].at[:, 1].multiply(1000.0).at[:, 2].multiply(-3.0)}
    changed["scanned"] = given["scanned"].at[1].multiply(1000.0)
    optimizer = Muon(clip_norm=None)
    before, after = (first_update(optimizer, g) for g in (given, changed))
    np.testing.assert_allclose(after["scanned"], before["scanned"], rtol=1e-4, atol=1e-6)
    a, b = before["stacked"], after["stacked"]
    np.testing.assert_allclose(b[:, :2], a[:, :2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(b[:, 2], -a[:, 2], rtol=1e-4, atol=1e-6)


def test_everything_else_is_updated_as_adamw_does():
    options = {"learning_rate": 0.01, "weight_decay": 0.1, "clip_norm": 1.0}
    ours, theirs = first_update(Muon(**options), gradients()), first_update(AdamW(**options), gradients())
    for name in boxes():
        same = bool(jnp.array_equal(ours[name], theirs[name]))
        assert same == (name not in MATRICES), name


def test_matrices_decay_by_the_same_share_whatever_their_shape():
    rule = Muon(learning_rate=0.1, matrix_rate=2.0, weight_decay=0.5).build(mup.multipliers(boxes()), 100)
    params = {name: jnp.ones(box.value.shape) for name, box in boxes().items()}
    step, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    for name in MATRICES:
        np.testing.assert_allclose(optax.apply_updates(params, step)[name], 1 - 0.1 * 2.0 * 0.5, rtol=1e-5)


def test_its_state_lies_on_the_mesh_as_the_parameters_do():
    assert len(jax.devices()) == 8
    experiment, _ = experiments.load("configs/scenes.py:tiny", ["mesh.fsdp=8", "mesh.data=1"], ())
    assert isinstance(experiment.optimizer, Muon)
    mesh = meshes.build(experiment.mesh, jax.devices())
    with jax.set_mesh(mesh):
        built = steps.build(experiment, mesh)
    params = {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(built.state.params["model"])}
    seen = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(built.state.optimizer["model"]):
        whole = next((path[i:] for i in range(len(path)) if path[i:] in params), None)
        if whole is not None:
            seen[whole] = seen.get(whole, 0) + 1
            assert (leaf.shape, leaf.sharding) == (params[whole].shape, params[whole].sharding), path
    assert set(seen) == set(params)
    assert set(seen.values()) == {1, 2}, "momentum alone for matrices, two moments for the rest"


@pytest.mark.parametrize("options, option", [({"matrix_rate": 0.0}, "matrix_rate"), ({"momentum": 1.0}, "momentum")])
def test_bad_options_are_refused(options, option):
    with pytest.raises(types.BadInput) as complaint:
        Muon(**options).validate()
    assert complaint.value.option == option

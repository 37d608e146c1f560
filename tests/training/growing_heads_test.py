"""Heads whose dimension grows with width: √K_base / K keeps the size of what their logits learn (arXiv 2203.03466)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.data import loader
from jaxgen.parallel import sharding
from jaxgen.reproduce import claim, small_runs
from jaxgen.training import coordinate_check
from jaxgen.training import step as steps

pytestmark = pytest.mark.slow
HEAD_DIMS = (32, 64, 128)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return small_runs.SmallRuns(claim.Workplace(jax.devices()[:1], tmp_path_factory.mktemp("cells")), small_runs.digits)


def logits_learned(runs, head_dim, growing, seeds=range(4)):
    """RMS of the logits of the second block after three steps, of four heads of this dimension; geometric mean over seeds.

    Queries start at zero: products of random queries and keys, which shrink as 1/√K, would hide what is learned.
    """
    tree = runs.experiment(4 * head_dim, mup.Parametrization.MUP)
    scaling = mup.Scaling(4 * HEAD_DIMS[0], base_head_dim=HEAD_DIMS[0] if growing else None)
    tree = dataclasses.replace(tree, model=tree.model.clone(head_dim=head_dim, scaling=scaling))
    tree = dataclasses.replace(tree, optimizer=dataclasses.replace(tree.optimizer, learning_rate=1e-2))
    built, probe = steps.build(tree, runs.mesh), coordinate_check.activations(tree, "model")
    factor = tree.model.scale.attention_scale(head_dim)
    examples, layout = tree.data.open("train", tree.seed, shuffle=True), sharding.batch_sharding(runs.mesh)
    with loader.batches(examples, tree.data.features(), tree.data.batch_size, layout, 0, 1) as batches:
        _, batch = next(batches)
    sizes = []
    for seed in seeds:
        state, frozen = built.initial(np.uint32(seed)), built.load_frozen(np.uint32(seed))
        heads = state.params["model"]["blocks"]["heads"]["qkv"]
        heads["kernel"] = heads["kernel"].at[:, :, 0].set(0)
        for _ in range(3):
            state, _ = built(state, frozen, batch)
        found = probe(state, frozen, batch)
        q, k = (found[f"blocks.heads.0.{i}[1]"] for i in (0, 1))
        sizes.append(float(jnp.sqrt(jnp.mean((factor * jnp.einsum("blnk,bsnk->bnls", q, k)) ** 2))))
    return float(np.exp(np.mean(np.log(sizes))))


def test_what_logits_learn_does_not_depend_on_the_dimension_of_heads_that_grow(runs):
    slopes = {}
    with jax.set_mesh(runs.mesh):
        for growing in (True, False):
            sizes = [logits_learned(runs, head_dim, growing) for head_dim in HEAD_DIMS]
            slopes[growing] = np.polyfit(np.log2(HEAD_DIMS), np.log2(sizes), 1)[0]
    print(slopes)
    assert abs(slopes[True]) <= 0.15, "by √K_base / K"
    assert slopes[False] > 0.3, "by 1/√K"

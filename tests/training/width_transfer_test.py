"""What μP promises of training on real digits: a rate holds for other batches and lengths; logits move alike where heads grow."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.data import loader
from jaxgen.parallel import sharding
from jaxgen.reproduce import claim, small_runs
from jaxgen.training import coordinate_check, rate_sweep
from jaxgen.training import step as steps

pytestmark = pytest.mark.slow

WIDTHS = (64, 128, 256)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return small_runs.SmallRuns(claim.Workplace(jax.devices()[:1], tmp_path_factory.mktemp("cells")), small_runs.digits)


@pytest.mark.parametrize("batch, count", [(8, 100), (32, 100), (16, 50), (16, 200)])
def test_the_best_rate_holds_for_other_batches_and_lengths(runs, batch, count):
    base = runs.experiment(64, mup.Parametrization.MUP)
    best = functools.partial(_best_exponent, runs)
    other = dataclasses.replace(
        base, data=dataclasses.replace(base.data, batch_size=batch), training=dataclasses.replace(base.training, steps=count)
    )
    found = best(base), best(other)
    print(batch, count, found)
    assert abs(found[0] - found[1]) <= 1


def _best_exponent(runs, tree):
    """Of the grid of powers of two, by the mean loss of three seeds."""

    def opened():
        layout = sharding.batch_sharding(runs.mesh)
        return loader.batches(runs._examples, tree.data.features(), tree.data.batch_size, layout, 0, 1)

    with jax.set_mesh(runs.mesh):
        sweep = rate_sweep.Sweep(tree, runs.mesh, opened, runs.cells)
        exponents = range(-10, -4)
        losses = sweep.losses([2.0**e for e in exponents], range(3))
    return exponents[int(np.argmin(losses.mean(axis=1)))]


@pytest.mark.parametrize("base_head_dim, least, most", [(16, -0.15, 0.15), (None, 0.2, np.inf)], ids=["by_rule", "without"])
def test_what_training_does_to_logits_does_not_depend_on_the_size_of_heads(runs, base_head_dim, least, most):
    """Logits of a random start fall as 1/√K under the rule, so what they become is compared with what they were."""
    sizes = []
    for width in WIDTHS:
        tree = runs.experiment(width, mup.Parametrization.MUP)
        scaling = dataclasses.replace(tree.model.scaling, base_head_dim=base_head_dim)
        model = tree.model.clone(head_dim=width // 4, scaling=scaling)
        tree = dataclasses.replace(tree, model=model, optimizer=dataclasses.replace(tree.optimizer, learning_rate=0.01))
        sizes.append([_change_of_logits(runs, tree, seed) for seed in range(3)])
    logs = np.log2(sizes).mean(axis=1)
    slope = np.polyfit(np.log2(WIDTHS), logs, 1)[0]
    print(base_head_dim, round(slope, 3), np.round(2**logs, 4))
    assert least <= slope <= most


def _change_of_logits(runs, tree, seed):
    """Root mean square of what three steps change in the last block's logits."""
    with jax.set_mesh(runs.mesh):
        built = steps.build(tree, runs.mesh)
        state, probe, found = built.initial(np.uint32(seed)), coordinate_check.activations(tree, "model"), []
        with runs._open() as batches:
            _, batch = next(batches)
        for _ in range(4):
            kept = probe(state, {}, batch)
            q, k = (kept[f"blocks.heads.0.{i}[{tree.model.depth - 1}]"] for i in range(2))
            found.append(jnp.einsum("blnk,bsnk->bnls", q, k) * tree.model.scale.attention_scale(tree.model.head_dim))
            state, _ = built(state, {}, batch)
    return float(jnp.sqrt(jnp.mean((found[-1] - found[0]) ** 2)))

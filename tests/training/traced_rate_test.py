"""A rate held in the state trains as the same rate in the configuration does, and one program serves all."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import mup
from jaxgen.data import loader
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import step as steps
from jaxgen.training import traced_rate
from jaxgen.training.muon import Muon
from jaxgen.training.optimizer import AdamW

TINY = str(pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py:tiny")
SMALL = ("model=jaxgen.models.dit:DiT", "model.depth=1", "model.width=16", "data.batch_size=8", "optimizer.schedule=constant")
MATRIX = mup.Matrix((-2,), (-1,))


def run(optimizer, count=5):
    """Parameters after some updates by random gradients; the second is a hidden matrix at twice the base width."""
    random = np.random.default_rng(0)
    params = {name: jnp.asarray(random.normal(size=(4, 6)), jnp.float32) for name in "ab"}
    factors = mup.Multipliers({"a": 1.0, "b": 0.5}, {"a": 1.0, "b": 2.0}, {"a": 0.5, "b": 0.5}, {"a": None, "b": MATRIX})
    rule = optimizer.build(factors, count)
    state = rule.init(params)
    for _ in range(count):
        gradients = {name: jnp.asarray(random.normal(size=(4, 6)), jnp.float32) for name in "ab"}
        updates, state = rule.update(gradients, state, params)
        params = {name: params[name] + updates[name] for name in params}
    return jax.device_get(params)


@pytest.mark.parametrize("kind", [AdamW, Muon])
@pytest.mark.parametrize("options", [{}, {"schedule": "cosine", "warmup_steps": 2}], ids=["constant", "cosine"])
def test_the_rule_is_that_of_the_configured_rate(kind, options):
    optimizer = kind(learning_rate=0.0173, weight_decay=0.1, **options)
    plain, held = run(optimizer), run(traced_rate.TracedRate(optimizer))
    for name in plain:
        np.testing.assert_allclose(held[name], plain[name], rtol=3e-7, atol=1e-7)
    other = run(traced_rate.TracedRate(dataclasses.replace(optimizer, learning_rate=0.03)))
    assert all(np.abs(other[name] - plain[name]).max() > 1e-3 for name in plain)


def test_every_rate_trains_by_one_program_and_to_the_bits_of_the_configured_one():
    experiment, _ = experiments.load(TINY, SMALL)
    mesh = meshes.build(experiment.mesh, jax.devices()[:1])
    data, rates = experiment.data, (0.004, 0.02)

    def train(built, state):
        frozen = built.load_frozen(np.uint32(0))
        layout = sharding.batch_sharding(mesh)
        with loader.batches(data.open("train", 0, shuffle=True), data.features(), data.batch_size, layout, 0, 1) as batches:
            for number, batch in batches:
                state, _ = built(state, frozen, batch)
                if number == 1:
                    return jax.device_get(state.params)

    with jax.set_mesh(mesh):
        held = steps.build(dataclasses.replace(experiment, optimizer=traced_rate.TracedRate(experiment.optimizer)), mesh)
        swept = [train(held, traced_rate.with_rate(held.initial(np.uint32(0)), rate)) for rate in rates]
        assert held.update._cache_size() == 1
        configured = steps.build(experiments.override(experiment, f"optimizer.learning_rate={rates[1]}"), mesh)
        plain = train(configured, configured.initial(np.uint32(0)))
    jax.tree.map(np.testing.assert_array_equal, swept[1], plain)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), *swept)
    assert max(jax.tree.leaves(moved)) > 1e-3

"""The swarm move: pulls, draws, and when it is stable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.swarm.move import OneFormula, Particle

KEY = jax.random.key(0, impl="threefry2x32")
RANDOM = np.random.default_rng(0)


def tree():
    return {"a": jnp.asarray(RANDOM.standard_normal((3, 4)), jnp.float32), "b": jnp.asarray(RANDOM.standard_normal(5), jnp.float32)}


W, PERSONAL, BEST, VELOCITY = (tree() for _ in range(4))
HALF = jnp.float32(0.5)


def close(one, other, tolerance=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, other)


def test_without_constants_nothing_moves_to_the_bit():
    found, _ = Particle(0.0, 0.0, 0.0).begin(W, {"velocity": VELOCITY}, PERSONAL, BEST, KEY, HALF)
    jax.tree.map(np.testing.assert_array_equal, found, W)


def test_a_full_pull_without_draws_starts_every_site_at_the_best_position():
    found, _ = Particle(0.0, 0.0, 1.0, draws="none").begin(W, {"velocity": VELOCITY}, PERSONAL, BEST, KEY, HALF)
    close(found, BEST)


def test_the_velocity_is_what_the_formula_says():
    found, memory = Particle(0.3, 0.7, 1.4, draws="none").begin(W, {"velocity": VELOCITY}, PERSONAL, BEST, KEY, HALF)
    expected = jax.tree.map(lambda v, w, p, g: 0.3 * v + 0.7 * (p - w) + 1.4 * (g - w), VELOCITY, W, PERSONAL, BEST)
    close(memory["velocity"], expected)
    close(found, jax.tree.map(jnp.add, W, expected))


def test_one_draw_a_site_keeps_to_the_segment_and_one_an_element_does_not():
    ratios = {}
    for draws in ("site", "element"):
        found, _ = Particle(0.0, 0.0, 1.0, draws=draws).begin(W, {"velocity": VELOCITY}, PERSONAL, BEST, KEY, HALF)
        moved = jax.tree.map(lambda f, w, g: (f - w) / (g - w), found, W, BEST)
        ratios[draws] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved)])
        assert ((ratios[draws] >= -1e-4) & (ratios[draws] <= 1 + 1e-4)).all()
    assert ratios["site"].std() < 1e-3 < 0.1 < ratios["element"].std()


def test_draws_are_uniform_and_the_two_pulls_are_independent():
    move = Particle(0.0, 1.0, 1.0)
    zero, one = {"a": jnp.zeros(2)}, {"velocity": {"a": jnp.zeros(2)}}
    towards = lambda key: move.begin(zero, one, {"a": jnp.array([1.0, 0.0])}, {"a": jnp.array([0.0, 1.0])}, key, HALF)[0]["a"]
    r = np.asarray(jax.vmap(towards)(jax.random.split(KEY, 4000)))
    np.testing.assert_allclose(r.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(r.var(axis=0), 1 / 12, atol=0.01)
    assert abs(np.corrcoef(r.T)[0, 1]) < 0.05


def test_the_published_formula_is_a_blend_of_pull_and_gradient_that_shifts_to_the_gradient():
    move = OneFormula(0.3, 0.7, 1.4, first=0.5, last=0.1)
    trained = tree()
    for progress, share in ((0.0, 0.5), (0.5, 0.3), (1.0, 0.1)):
        start, memory = move.begin(W, {"velocity": VELOCITY, "before": VELOCITY}, PERSONAL, BEST, KEY, jnp.float32(progress))
        jax.tree.map(np.testing.assert_array_equal, start, W)
        found, memory = move.end(trained, memory, PERSONAL, BEST, KEY, jnp.float32(progress))
        pull = jax.tree.map(lambda v, w, p, g: 0.3 * v + 0.7 * (p - w) + 1.4 * (g - w), VELOCITY, W, PERSONAL, BEST)
        expected = jax.tree.map(lambda w, p, end, s=share: w + s * p + (1 - s) * (end - w), W, pull, trained)
        close(found, expected)
        # The velocity of the next round is the change of this one.
        close(memory["velocity"], jax.tree.map(jnp.subtract, found, W))


def largest_root(c0, pull):
    """Spectral radius of the move alone, towards one point: (w, v) to (w + v', v') with v' = c0 v - φ w."""
    return max(abs(np.linalg.eigvals(np.array([[1 - pull, c0], [-pull, c0]]))))


@pytest.mark.parametrize(
    "move", [Particle(), Particle(0.2, 1.0, 2.0), Particle(0.9, 1.9, 1.8), OneFormula(0.0, 1.0, 1.0)], ids=repr
)
def test_constants_that_can_move_sites_apart_are_named_and_others_are_not(move):
    worst = largest_root(move.c0, move.c1 + move.c2)
    assert bool(move.warnings()) == (worst >= 1 - 1e-9)
    # At half of the limit the move contracts, whatever the constants.
    assert largest_root(move.c0, 1 + move.c0) < 1

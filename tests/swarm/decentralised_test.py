"""Rules among neighbours: self is trusted, padding is nothing, b neighbours may say anything."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import types
from jaxgen.swarm import contraction, network
from jaxgen.swarm.decentralised import CTM, FABA, IOS, SCC, Clip, Gossip, MoNNA

K, B = 7, 2
RULES = [CTM(), IOS(), FABA(), MoNNA(), SCC()]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
WEIGHTS = np.array([0.1, 0.15, 0.05, 0.1, 0.2, 0.1, 0.1], np.float32)


@functools.cache
def compiled(rule):
    return jax.jit(rule, static_argnames="most")


def draw(seed=0, size=3):
    random = np.random.default_rng(seed)
    return random.normal(1, 1, size).astype(np.float32), random.normal(1, 1, (K, size)).astype(np.float32)


def merge(rule, own, received, hostile=B, weights=WEIGHTS):
    return np.asarray(compiled(rule)(jnp.asarray(own), jnp.asarray(received), jnp.asarray(weights), hostile, most=B))


# --- definitions, against NumPy --------------------------------------------------------------------------------------


def removing(own, received, weights, centre):
    """Numbers of the neighbours left when B times the farthest from `centre(left)` is cut."""
    left = list(range(K))
    for _ in range(B):
        away = np.linalg.norm(received[left] - centre(left), axis=1)
        left.pop(int(away.argmax()))
    return left


def weighted(own, received, weights, left):
    mine = 1 - weights.sum()
    return (mine * own + weights[left] @ received[left]) / (mine + weights[left].sum())


@pytest.mark.parametrize("size", [1, 3, 20])
def test_each_rule_is_what_it_says(size):
    own, received = draw(1, size)
    near = removing(own, received, WEIGHTS, lambda left: own)
    expected = {
        CTM(): (own + np.sort(received, axis=0)[B:-B].sum(0)) / (1 + K - 2 * B),
        IOS(): weighted(
            own, received, WEIGHTS, removing(own, received, WEIGHTS, lambda left: weighted(own, received, WEIGHTS, left))
        ),
        MoNNA(): (own + received[near].sum(0)) / (1 + K - B),
    }
    left = removing(own, received, WEIGHTS, lambda left: received[left].mean(0))
    expected[FABA()] = (own + received[left].sum(0)) / (1 + K - B)
    away = np.linalg.norm(received - own, axis=1)
    far = np.setdiff1d(np.arange(K), near)
    limit = np.sqrt((WEIGHTS[near] @ away[near] ** 2) / WEIGHTS[far].sum())
    expected[SCC()] = own + (WEIGHTS * np.minimum(1, limit / away)) @ (received - own)
    for rule, value in expected.items():
        np.testing.assert_allclose(merge(rule, own, received), value, rtol=2e-5, err_msg=str(rule))


@each_rule
def test_with_no_one_hostile_it_is_gossip_to_the_bit(rule):
    own, received = draw()
    np.testing.assert_array_equal(merge(rule, own, received, 0), merge(Gossip(), own, received))
    np.testing.assert_array_equal(rule(own, received, jnp.asarray(WEIGHTS), 0), Gossip()(own, received, jnp.asarray(WEIGHTS)))


@each_rule
def test_neighbours_that_are_not_there_change_nothing(rule):
    own, received = draw()
    filled = np.concatenate([received, np.full((3, 3), 1e3, np.float32)])
    weights = np.concatenate([WEIGHTS, np.zeros(3, np.float32)])
    np.testing.assert_allclose(merge(rule, own, filled, weights=weights), merge(rule, own, received), rtol=1e-6)


@each_rule
def test_it_runs_over_trees_and_over_sites_with_other_numbers_of_hostile_neighbours(rule):
    own, received = draw(2, 20)
    split = lambda x: {"a": x[..., :4], "b": x[..., 4:].reshape(*x.shape[:-1], 4, 4)}
    joined = lambda found: np.concatenate([found["a"], found["b"].reshape(-1)])
    stacked = lambda x: jnp.stack([x] * 3)
    found = jax.vmap(lambda *arguments: rule(*arguments, most=B))(
        jax.tree.map(stacked, split(own)), jax.tree.map(stacked, split(received)), stacked(WEIGHTS), jnp.arange(3)
    )
    for hostile in range(3):
        one = jax.tree.map(lambda x, i=hostile: x[i], found)
        np.testing.assert_allclose(joined(one), merge(rule, own, received, hostile), rtol=1e-5)


# --- symmetries and what they stand ----------------------------------------------------------------------------------


@each_rule
def test_the_order_of_neighbours_does_not_matter(rule):
    own, received = draw()
    order = np.random.default_rng(1).permutation(K)
    np.testing.assert_allclose(merge(rule, own, received[order], weights=WEIGHTS[order]), merge(rule, own, received), rtol=1e-5)


@each_rule
def test_moving_and_scaling_all_values_moves_and_scales_the_result(rule):
    own, received = draw()
    np.testing.assert_allclose(merge(rule, 3 * own + 5, 3 * received + 5), 3 * merge(rule, own, received) + 5, rtol=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e12])
@each_rule
def test_hostile_neighbours_cannot_carry_it_away(rule, bad):
    own, received = draw()
    received[[1, 5]] = bad
    found = merge(rule, own, received)
    honest = np.concatenate([own[None], np.delete(received, [1, 5], axis=0)])
    spread = np.linalg.norm(honest - own, axis=1).max()
    assert np.linalg.norm(found - own) <= 1.01 * spread


@pytest.mark.parametrize("lying", range(B + 1))
def test_trimming_stays_between_the_honest_values_coordinate_by_coordinate(lying):
    # Also where it guards against more than there are.
    for seed in range(20):
        own, received = draw(seed)
        received[:lying] = np.random.default_rng(seed).normal(0, 10.0 ** (seed % 6 - 2), (lying, 3))
        honest = np.concatenate([own[None], received[lying:]])
        found = merge(CTM(), own, received)
        assert (found <= honest.max(0) + 1e-6).all() and (found >= honest.min(0) - 1e-6).all()


def test_the_scissor_cuts_the_farthest_and_never_self():
    own, received = draw()
    received[[2, 4]] += 100
    left = np.delete(np.arange(K), [2, 4])
    np.testing.assert_allclose(merge(IOS(), own, received), weighted(own, received, WEIGHTS, left), rtol=1e-5)
    # Self is now the outlier. Were it cut, the neighbours' mean, at 1, would be the result.
    alone = merge(IOS(), own + 100, draw()[1])
    assert (alone > 100 * (1 - WEIGHTS.sum())).all()


def test_the_scissor_keeps_within_its_bound_of_the_honest_mean():
    # ρ ≤ 15 w / (1 − 3 w), w the weight of what may be cut (Wu et al., arXiv 2206.04568, with doubly stochastic weights).
    weights = np.full(K, 0.04, np.float32)
    share = 0.04 * B
    worst = 0.0
    for seed, scale in itertools.product(range(15), (0.3, 1.0, 3.0, 30.0)):
        own, received = draw(seed)
        random = np.random.default_rng(seed)
        received[:B] = received[B:].mean(0) + scale * random.normal(size=(B, 3))
        # Honest weights alone, with those of the hostile added to own.
        virtual = (1 - weights[B:].sum()) * own + weights[B:] @ received[B:]
        honest = np.concatenate([own[None], received[B:]])
        error = np.linalg.norm(merge(IOS(), own, received, weights=weights) - virtual)
        worst = max(worst, error / np.linalg.norm(honest - virtual, axis=1).max())
    assert 0 < worst <= 15 * share / (1 - 3 * share)


def test_rules_with_no_attackers_near_imitate_their_virtual_mixing_and_a_larger_ρ_is_found_without_defence():
    graph = network.Network.build(network.Regular(6), 16, (2, 9))
    worst = {type(rule).__name__: contraction.found(rule, graph, (2, 9), draws=20) for rule in (Gossip(), CTM(), IOS(), SCC())}
    assert worst["Gossip"] > 10
    assert worst["CTM"] <= 1 and worst["IOS"] <= 1 and worst["SCC"] <= 1
    assert min(worst.values()) > 0.01


def test_self_centred_clipping_moves_no_farther_than_its_radius_and_its_limits_are_gossip_and_self():
    own, received = draw()
    received[:B] *= 1e3
    for radius in (0.01, 1.0):
        assert np.linalg.norm(merge(SCC(radius), own, received) - own) <= WEIGHTS.sum() * radius * (1 + 1e-5)
    np.testing.assert_allclose(merge(SCC(1e9), own, received), merge(Gossip(), own, received), rtol=1e-5)
    np.testing.assert_allclose(merge(SCC(1e-9), own, received), own, rtol=1e-6)


# --- clipping --------------------------------------------------------------------------------------------------------


def clip(own, received, hostile, weights=WEIGHTS):
    return jax.jit(Clip())(jnp.asarray(own), jnp.asarray(received), jnp.asarray(weights), hostile)


def test_one_hostile_neighbour_has_the_largest_number_clipped_to_the_second_exactly():
    received = np.array([-3.0, 7, -11, 2, 0, 5, 1], np.float32)
    own, clipped = clip(np.float32(4), received, 1)
    assert own == 4 and clipped[2] == -7 and (np.delete(clipped, 2) == np.delete(received, 2)).all()
    own, clipped = clip(np.float32(-30), received, 1)
    assert own == -11 and (clipped == received).all()


@pytest.mark.parametrize("size", [1, 4])
def test_nothing_is_longer_than_the_longest_honest_value_afterwards(size):
    own, received = draw(3, size)
    honest = np.linalg.norm(np.concatenate([own[None], received[B:]]), axis=1).max()
    for bad in (1e12, np.inf, np.nan, -np.inf):
        received[:B] = bad
        mine, theirs = clip(own, received, B)
        assert np.linalg.norm(np.concatenate([mine[None], theirs]), axis=1).max() <= honest * (1 + 1e-6)
    untouched = clip(own, received[:], 0)[1]
    np.testing.assert_array_equal(untouched, received)


def test_what_is_not_there_is_not_counted_when_clipping():
    received = np.array([3.0, 7, 11, 1e9], np.float32)
    own, clipped = clip(np.float32(1), received, 1, np.array([0.2, 0.2, 0.2, 0], np.float32))
    np.testing.assert_array_equal(clipped[:3], [3, 7, 7])


def test_more_hostile_neighbours_than_half_are_refused():
    CTM().check_neighbours(4, 2)
    with pytest.raises(types.BadInput, match="hostile: found 3, needed at most half of the 5 neighbours"):
        IOS().check_neighbours(5, 3)

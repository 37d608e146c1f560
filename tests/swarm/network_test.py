"""Graphs are what they are called, weights make agents agree on their mean, and what cannot work is refused."""

import numpy as np
import pytest

from jaxgen import types
from jaxgen.swarm import network
from jaxgen.swarm.network import Complete, ErdosRenyi, Given, Network, Regular, Ring

SIX = Given(((0, 1), (0, 2), (0, 4), (1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 5)))


@pytest.mark.parametrize(
    "topology, agents, degrees",
    [(Ring(2), 9, {4}), (Complete(), 7, {6}), (Regular(15, 3), 100, {15}), (Regular(4), 9, {4}), (SIX, 6, {3, 5})],
)
def test_degrees(topology, agents, degrees):
    graph = topology.adjacency(agents)
    assert set(graph.sum(1).tolist()) == degrees
    assert (graph == graph.T).all() and not graph.diagonal().any()


def test_a_regular_graph_is_no_longer_a_ring():
    # A ring of 100 with 15 neighbours mixes slowly; a random one has a second eigenvalue near 2 √(d − 1) / (d + 1).
    assert Network.build(Regular(15), 100).second_eigenvalue < 0.6
    assert Network.build(Ring(7), 100).second_eigenvalue > 0.85
    assert (Regular(15, 1).adjacency(100) != Regular(15, 2).adjacency(100)).any()


def test_a_random_graph_has_as_many_edges_as_its_probability_says():
    graph = ErdosRenyi(0.3, 1).adjacency(200)
    assert graph.mean() == pytest.approx(0.3 * 199 / 200, abs=0.01) and (graph == graph.T).all()


@pytest.mark.parametrize("topology, agents", [(ErdosRenyi(0.5), 12), (SIX, 6), (Ring(), 5)])
def test_weights_are_doubly_stochastic_and_consensus_is_the_mean(topology, agents):
    built = Network.build(topology, agents)
    matrix = built.matrix
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix.sum(1), 1)
    assert (matrix >= 0).all() and (np.diag(matrix) > 0).all()
    assert ((matrix > 0) == (built.adjacency | np.eye(agents, dtype=bool))).all()
    values = np.random.default_rng(0).normal(size=agents)
    np.testing.assert_allclose(np.linalg.matrix_power(matrix, 400) @ values, values.mean(), rtol=1e-6)


def test_disagreement_shrinks_as_the_second_eigenvalue_says():
    built = Network.build(SIX, 6)
    values = np.random.default_rng(0).normal(size=6)
    away = [np.linalg.norm(np.linalg.matrix_power(built.matrix, power) @ values - values.mean()) for power in (20, 21)]
    assert away[1] / away[0] == pytest.approx(built.second_eigenvalue, rel=1e-2)


def test_of_rules_that_average_evenly_the_agreement_is_another_value_where_degrees_differ():
    built = Network.build(SIX, 6, (5,))
    weighted, even = built.virtual((5,), uniform=False), built.virtual((5,), uniform=True)
    np.testing.assert_allclose([weighted.sum(1), even.sum(1)], 1)
    assert network.skew(weighted) == pytest.approx(0, abs=1e-12) and network.skew(even) > 0.05
    assert network.skew(Network.build(Complete(), 6).virtual((5,), uniform=True)) == pytest.approx(0, abs=1e-12)
    assert 0 < network.mixing(weighted) < 1 and network.mixing(np.full((4, 4), 0.25)) == pytest.approx(1)


def test_hostile_neighbours_are_counted():
    assert Network.build(SIX, 6).hostile_neighbours((5,)).tolist() == [0, 1, 1, 1, 0, 0]
    assert Network.build(SIX, 6).hostile_neighbours((4, 5)).tolist() == [1, 2, 2, 1, 0, 0]


@pytest.mark.parametrize(
    "topology, agents, hostile, said",
    [
        (Given(((0, 1), (2, 3))), 4, (), r"agents \[2, 3\] hear nothing of agent 0', needed a connected graph"),
        (Given(((0, 1), (1, 2))), 3, (1,), r"agents \[2\] are cut off by hostile ones.*needed a graph that is connected without"),
        (Given(((0, 4),)), 4, (), r"edges: found \(0, 4\), needed two different agents from 0 to 3"),
        (Regular(3), 9, (), "degree: found 3, needed from 2 to 8, and even"),
        (Ring(3), 6, (), "reach: found 3, needed 1 to 2"),
    ],
)
def test_a_network_that_cannot_work_is_refused(topology, agents, hostile, said):
    with pytest.raises(types.BadInput, match=said):
        Network.build(topology, agents, hostile)

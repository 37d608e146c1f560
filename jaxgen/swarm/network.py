"""Who talks to whom: graphs of agents, their mixing weights, and what these say of consensus. NumPy alone, nothing is compiled."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from jaxgen import types


class Topology(Protocol):
    """Configuration of a graph."""

    def adjacency(self, agents: int) -> np.ndarray:
        """[N, N] bool, symmetric, false on the diagonal.

        Raises:
          BadInput: there is no such graph of this many agents.
        """


@dataclasses.dataclass(frozen=True)
class Ring:
    """Each agent hears `reach` others on either side."""

    reach: int = 1

    def adjacency(self, agents: int) -> np.ndarray:
        if not 1 <= self.reach <= (agents - 1) // 2:
            raise types.BadInput("reach", self.reach, f"1 to {(agents - 1) // 2} of {agents} agents on either side")
        return _circulant(agents, range(1, self.reach + 1))


@dataclasses.dataclass(frozen=True)
class Complete:
    """All hear all."""

    def adjacency(self, agents: int) -> np.ndarray:
        return ~np.eye(agents, dtype=bool)


@dataclasses.dataclass(frozen=True)
class ErdosRenyi:
    """Each pair is joined with the same probability."""

    probability: float = 0.7
    seed: int = 0

    def validate(self) -> None:
        if not 0 < self.probability <= 1:
            raise types.BadInput("probability", self.probability, "a probability in (0, 1]")

    def adjacency(self, agents: int) -> np.ndarray:
        upper = np.triu(np.random.default_rng(self.seed).random((agents, agents)) < self.probability, 1)
        return upper | upper.T


@dataclasses.dataclass(frozen=True)
class Regular:
    """Each agent hears `degree` others, at random: a circulant graph whose edges are switched in pairs many times."""

    degree: int = 15
    seed: int = 0

    def adjacency(self, agents: int) -> np.ndarray:
        if not 2 <= self.degree < agents or self.degree * agents % 2:
            raise types.BadInput("degree", self.degree, f"from 2 to {agents - 1}, and even where the {agents} agents are odd")
        offsets = [*range(1, self.degree // 2 + 1), *([agents // 2] if self.degree % 2 else [])]
        graph = _circulant(agents, offsets)
        edges = np.argwhere(np.triu(graph))
        random = np.random.default_rng(self.seed)
        for first, second in random.integers(len(edges), size=(10 * len(edges), 2)):
            (a, b), (c, d) = edges[first], edges[second]
            # a-b and c-d become a-d and c-b, where that makes neither loop nor double edge.
            if len({a, b, c, d}) == 4 and not graph[a, d] and not graph[c, b]:
                graph[[a, b, c, d], [b, a, d, c]] = False
                graph[[a, d, c, b], [d, a, b, c]] = True
                edges[first], edges[second] = (a, d), (c, b)
        return graph


@dataclasses.dataclass(frozen=True)
class Given:
    """These pairs hear each other, numbered from 0."""

    edges: tuple[tuple[int, int], ...]

    def adjacency(self, agents: int) -> np.ndarray:
        graph = np.zeros((agents, agents), bool)
        for a, b in self.edges:
            if not (0 <= a < agents and 0 <= b < agents and a != b):
                raise types.BadInput("edges", (a, b), f"two different agents from 0 to {agents - 1}")
            graph[a, b] = graph[b, a] = True
        return graph


NAMES = {
    "ring": "jaxgen.swarm.network:Ring",
    "complete": "jaxgen.swarm.network:Complete",
    "erdos_renyi": "jaxgen.swarm.network:ErdosRenyi",
    "regular": "jaxgen.swarm.network:Regular",
}
"""Topologies by name, for `--set network=NAME`."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A graph as agents use it, with Metropolis weights w_ij = 1 / max(deg_i + 1, deg_j + 1): symmetric, rows of sum 1.

    Attributes:
      adjacency: [N, N] bool.
      neighbours: [N, K] int32, K the largest degree; agents of a smaller one are filled up with themselves.
      weights: [N, K] float64, 0 where filled up; an agent's own is what is missing to 1.
    """

    adjacency: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray

    @classmethod
    def build(cls, topology: Topology, agents: int, hostile: tuple[int, ...] = ()) -> Network:
        """The network of a topology.

        Raises:
          BadInput: no such graph; it is not connected; or it falls apart without the hostile agents.
        """
        graph = topology.adjacency(agents)
        named = type(topology).__name__
        reached = reached_from_first(graph, np.ones(agents, bool))
        if not reached.all():
            apart = np.flatnonzero(~reached).tolist()
            raise types.BadInput("", f"{named} in which agents {apart} hear nothing of agent 0", "a connected graph")
        honest = np.ones(agents, bool)
        honest[list(hostile)] = False
        reached = reached_from_first(graph, honest)
        if not reached[honest].all():
            apart = np.flatnonzero(honest & ~reached).tolist()
            needed = f"a graph that is connected without the hostile agents {list(hostile)}"
            raise types.BadInput("", f"{named} in which agents {apart} are cut off by hostile ones", needed)
        degrees = graph.sum(1)
        neighbours = np.tile(np.arange(agents, dtype=np.int32)[:, None], (1, degrees.max()))
        weights = np.zeros(neighbours.shape)
        for agent in range(agents):
            found = np.flatnonzero(graph[agent])
            neighbours[agent, : len(found)] = found
            weights[agent, : len(found)] = 1 / (np.maximum(degrees[agent], degrees[found]) + 1)
        return cls(graph, neighbours, weights)

    @property
    def matrix(self) -> np.ndarray:
        """[N, N] mixing weights, own ones on the diagonal."""
        found = np.zeros(self.adjacency.shape)
        np.add.at(found, (np.arange(len(found))[:, None], self.neighbours), self.weights)
        return found + np.diag(1 - found.sum(1))

    @property
    def second_eigenvalue(self) -> float:
        """Largest size of an eigenvalue of the weights but that of consensus: 0 mixes at once, 1 never."""
        return float(np.sort(np.abs(np.linalg.eigvalsh(self.matrix)))[-2])

    def hostile_neighbours(self, hostile: tuple[int, ...]) -> np.ndarray:
        """[N] how many hostile agents each one hears."""
        return self.adjacency[:, list(hostile)].sum(1)

    def virtual(self, hostile: tuple[int, ...], uniform: bool) -> np.ndarray:
        """[H, H] the honest agents' mixing that a robust rule imitates (Wu et al., arXiv 2206.04568).

        Args:
          uniform: of rules that average what they keep (CTM, FABA, MoNNA), rows are even over honest neighbours and self; of the
            others (IOS, SCC), they are the weights, those of hostile neighbours added to own.
        """
        honest = np.setdiff1d(np.arange(len(self.adjacency)), hostile)
        if uniform:
            heard = self.adjacency[np.ix_(honest, honest)] | np.eye(len(honest), dtype=bool)
            return heard / heard.sum(1, keepdims=True)
        found = self.matrix[np.ix_(honest, honest)]
        return found + np.diag(1 - found.sum(1))


def mixing(virtual: np.ndarray) -> float:
    """1 − ‖(I − 11ᵀ/H) W‖²: how much of a disagreement one round takes away."""
    count = len(virtual)
    return float(1 - np.linalg.norm((np.eye(count) - 1 / count) @ virtual, 2) ** 2)


def skew(virtual: np.ndarray) -> float:
    """χ, where χ² = ‖Wᵀ1 − 1‖² / H: with 0, agents agree on the mean of the honest, and otherwise on another value."""
    return float(np.linalg.norm(virtual.sum(0) - 1) / np.sqrt(len(virtual)))


def _circulant(agents: int, offsets) -> np.ndarray:
    numbers = np.arange(agents)
    graph = np.zeros((agents, agents), bool)
    for offset in offsets:
        graph[numbers, (numbers + offset) % agents] = graph[(numbers + offset) % agents, numbers] = True
    return graph


def reached_from_first(graph: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[N] bool: agents that the first of `among` [N] bool reaches over edges between agents of `among`."""
    reached = np.zeros(len(graph), bool)
    reached[np.flatnonzero(among)[:1]] = True
    while (more := among & (reached | graph[reached].any(0))).sum() > reached.sum():
        reached = more
    return reached

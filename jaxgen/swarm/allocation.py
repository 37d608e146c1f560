"""Agents share a budget round by round without a coordinator, though some of them lie (Wang et al., arXiv 2508.08658).

Every round each agent i holds an allocation θ_i in its box, and then sees its cost f_i and the demand D. Wanted is
min Σ f_i(θ_i) with (1/H) Σ θ_i = D over the H honest agents. Agents exchange a price λ alone, one number an edge:

  z_i = λ_i + β ((θ_i − D) / N − γ λ_i)               dual step, on this round's data
  λ_i ← merge(z_i, what the neighbours said)          after clipping (ARC), by a rule that trusts self
  θ_i ← clip(θ_i − α (f_i'(θ_i) + λ_i_old / N))       primal step, with the price from before the merge

The primal step takes the old price: both steps are of one round's data, and neither waits for the other.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types
from jaxgen.parallel import keys
from jaxgen.swarm import attacks, costs, decentralised, network
from jaxgen.swarm.slice_sizes import SliceSizes


@dataclasses.dataclass(frozen=True)
class Demand:
    """Average demand of a round: mean + swing · sin(2π round / period) + noise of this standard deviation."""

    mean: float
    std: float = 0.0
    swing: float = 0.0
    period: int = 24

    def validate(self) -> None:
        if self.std < 0:
            raise types.BadInput("std", self.std, "0 or more")
        if self.period < 1:
            raise types.BadInput("period", self.period, "at least 1 round")

    def draw(self, random: np.random.Generator, rounds: int) -> np.ndarray:
        """[rounds] demands."""
        daily = self.swing * np.sin(2 * np.pi * np.arange(rounds) / self.period)
        return self.mean + daily + self.std * random.standard_normal(rounds)


@dataclasses.dataclass(frozen=True)
class Allocation:
    """Everything that an allocation depends on.

    Attributes:
      costs: of groups of agents (`costs.Cost`), which are numbered from 0, one group after the other.
      network: who hears whom. demand: of the mean over honest agents.
      rule: how prices are merged (`decentralised`). clip: adaptive robust clipping before it.
      hostile: numbers of the agents that attack. attack: what they send.
      bound: how many of its neighbours each agent believes hostile; None tells each the true number, which no one knows.
      primal_step, dual_step, leak: α, β, γ. The price settles near N γ λ below the demand, so that the leak is to be small.
      start_price: λ at the beginning, below 0 where allocating costs. start: θ at the beginning; None is the middle of the boxes.
      rounds: how many. seed: of costs, demands and attacks.
      slices: None, or sizes that allocations are rounded to.
      names: of agents, in reports; () numbers them.
    """

    costs: tuple[Any, ...]
    demand: Demand
    network: Any = dataclasses.field(default=network.Complete(), metadata={"choices": network.NAMES})
    rule: Any = dataclasses.field(default=decentralised.CTM(), metadata={"choices": decentralised.NAMES})
    clip: bool = True
    hostile: tuple[int, ...] = ()
    attack: Any | None = dataclasses.field(default=None, metadata={"choices": attacks.NAMES})
    bound: int | None = None
    primal_step: float = 0.3
    dual_step: float = 40.0
    leak: float = 1e-5
    start_price: float = 0.0
    start: float | None = None
    rounds: int = 1000
    seed: int = 0
    slices: SliceSizes | None = None
    names: tuple[str, ...] = ()

    @property
    def agents(self) -> int:
        return costs.agents(self.costs)

    @property
    def honest(self) -> np.ndarray:
        """[N] bool."""
        found = np.ones(self.agents, bool)
        found[list(self.hostile)] = False
        return found

    def name(self, agent: int) -> str:
        return self.names[agent] if self.names else str(agent)

    def suspected(self) -> np.ndarray:
        """[N] int32: how many of its neighbours each agent guards against."""
        graph = network.Network.build(self.network, self.agents, self.hostile)
        found = graph.hostile_neighbours(self.hostile) if self.bound is None else np.full(self.agents, self.bound)
        return found.astype(np.int32)

    def validate(self) -> None:
        """Raises BadInput with the option, what it holds and what it needs. Compiles nothing."""
        agents = self.agents
        for name in ("primal_step", "dual_step"):
            if getattr(self, name) <= 0:
                raise types.BadInput(name, getattr(self, name), "a positive step")
        if not 0 <= self.leak * self.dual_step <= 1:
            raise types.BadInput("leak", self.leak, f"from 0 to 1 / dual_step = {1 / self.dual_step:g}")
        if self.rounds < 1:
            raise types.BadInput("rounds", self.rounds, "at least 1")
        if not 0 <= self.seed < 2**32:
            raise types.BadInput("seed", self.seed, "a whole number of 32 bits, not negative")
        if self.names and len(self.names) != agents:
            raise types.BadInput("names", self.names, f"{agents} names, or none")
        for agent in self.hostile:
            if not 0 <= agent < agents:
                raise types.BadInput("hostile", agent, f"an agent from 0 to {agents - 1}")
        if len(set(self.hostile)) < len(self.hostile):
            raise types.BadInput("hostile", self.hostile, "each agent once")
        if 2 * len(self.hostile) >= agents:
            raise types.BadInput("hostile", self.hostile, f"less than half of the {agents} agents")
        if bool(self.hostile) != (self.attack is not None):
            needed = "an attack, as there are hostile agents" if self.hostile else "none, as no agent is hostile"
            raise types.BadInput("attack", type(self.attack).__name__ if self.attack else None, needed)
        if self.bound is not None and self.bound < 0:
            raise types.BadInput("bound", self.bound, "0 or more hostile neighbours, or none for their true number")
        self._check_network()
        self._check_demand()
        if self.slices:
            for low, high in zip(*costs.box(self.costs), strict=True):
                self.slices.between(low, high)

    def _check_network(self) -> None:
        try:
            degrees = network.Network.build(self.network, self.agents, self.hostile).adjacency.sum(1)
        except types.BadInput as complaint:
            raise complaint.under("network") from None
        for agent, (degree, suspected) in enumerate(zip(degrees.tolist(), self.suspected().tolist(), strict=True)):
            try:
                self.rule.check_neighbours(degree, suspected)
            except types.BadInput as complaint:
                option = "bound" if self.bound is not None else "hostile"
                raise types.BadInput(
                    option, f"{suspected} of the neighbours of agent {self.name(agent)}", complaint.needed
                ) from None

    def _check_demand(self) -> None:
        low, high = (ends[self.honest].mean() for ends in costs.box(self.costs))
        # The mean is checked before any draw, so that a demand that nobody could meet is named as it was written.
        for where, demand in (
            ("demand.mean", self.demand.mean),
            *((f"demand in round {t}", d) for t, d in enumerate(self.draw()[1])),
        ):
            if not low <= demand <= high:
                needed = f"between the means of low and high over the honest agents, {low:g} and {high:g}"
                raise types.BadInput(where, round(float(demand), 3), needed)

    def draw(self) -> tuple[tuple[types.PyTree, ...], np.ndarray]:
        """What is drawn of costs, by group with leaves [T, n], and demands [T]; NumPy."""
        cost, demand = (np.random.default_rng([self.seed, stream]) for stream in range(2))
        return costs.draw(self.costs, cost, self.rounds), self.demand.draw(demand, self.rounds)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What happened, NumPy, T rounds and N agents.

    Attributes:
      theta: [T, N] allocations in force. wanted: [T, N] before they were rounded; the same where nothing is rounded.
      price: [T + 1, N] before each round, and after the last.
      error: [T] mean over honest agents of the price after merging, less their mean before.
      demand: [T]. cost: [T, N].
    """

    theta: np.ndarray
    wanted: np.ndarray
    price: np.ndarray
    error: np.ndarray
    demand: np.ndarray
    cost: np.ndarray


def run(allocation: Allocation) -> Trajectory:
    """Plays all rounds. Numbers are of JAX's default width: float64 where `jax_enable_x64` is on."""
    drawn, demand = allocation.draw()
    # Seed and steps are arguments, so that one program plays all of them.
    numbers = {name: jnp.asarray(getattr(allocation, name)) for name in _NUMBERS}
    program = dataclasses.replace(allocation, seed=0, names=(), **dict.fromkeys(_NUMBERS, 0.0))
    key = keys.root(np.uint32(allocation.seed))
    found = _play(program, numbers, jax.tree.map(jnp.asarray, drawn), jnp.asarray(demand), key)
    return Trajectory(**jax.device_get(found), demand=demand)


def optimum(allocation: Allocation) -> tuple[np.ndarray, np.ndarray]:
    """(allocations [T, N], cost [T]) of the best that honest agents could do each round, had they known; hostile ones are left out.

    Of a price, each agent's best answer is where its derivative is minus it; the price itself is found so that the answers meet the
    demand. Both are bisected.
    """
    drawn, demand = allocation.draw()
    program = dataclasses.replace(allocation, seed=0, names=(), rule=decentralised.Gossip(), attack=None, bound=None)
    theta, cost = _best(program, jax.tree.map(jnp.asarray, drawn), jnp.asarray(demand))
    return np.asarray(theta), np.asarray(cost)


_NUMBERS = ("primal_step", "dual_step", "leak", "start_price")


@functools.partial(jax.jit, static_argnums=0)
def _play(
    allocation: Allocation, numbers: dict[str, jax.Array], drawn: Any, demand: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
    primal_step, dual_step, leak, start_price = (numbers[name] for name in _NUMBERS)
    agents, kind = allocation.agents, demand.dtype
    graph = network.Network.build(allocation.network, agents, allocation.hostile)
    low, high = (jnp.asarray(ends, kind) for ends in costs.box(allocation.costs))
    honest, suspected = allocation.honest, allocation.suspected()
    weights = jnp.asarray(graph.weights, kind)
    tell = functools.partial(_tell, allocation, graph)
    merge = jax.vmap(functools.partial(_merge, allocation, int(suspected.max())))
    honest_mean = lambda values: jnp.mean(values[np.flatnonzero(honest)])

    def one(carry, given):
        theta, rounded, carried, price = carry
        drawn, demand, round_number = given
        said = price + dual_step * ((rounded - demand) / agents - leak * price)
        received = tell(said, jax.random.fold_in(key, round_number))
        after = merge(said, received, weights, jnp.asarray(suspected))
        slope = costs.gradient(allocation.costs, theta, drawn)
        moved = jnp.clip(theta - primal_step * (slope + price / agents), low, high)
        record = {"theta": rounded, "wanted": theta, "price": price, "error": honest_mean(after) - honest_mean(said)}
        return (moved, *_rounded(allocation, moved, carried), after), record

    start = (low + high) / 2 if allocation.start is None else jnp.clip(jnp.full(agents, allocation.start, kind), low, high)
    begun = (start, *_rounded(allocation, start, jnp.zeros(agents, kind)), jnp.full(agents, start_price, kind))
    (*_, price), record = jax.lax.scan(one, begun, (drawn, demand, jnp.arange(len(demand))))
    record["price"] = jnp.concatenate([record["price"], price[None]])
    return record | {"cost": costs.value(allocation.costs, record["theta"], drawn)}


def _tell(allocation: Allocation, graph: network.Network, said: jax.Array, key: jax.Array) -> jax.Array:
    """[N, K] what each agent hears from each of its neighbours; every edge by itself."""
    received = said[graph.neighbours]
    if not allocation.hostile:
        return received
    lies = ~allocation.honest
    present = graph.weights > 0
    hostile = present & lies[graph.neighbours]
    # A receiver's own value is the first of the rows. Of hostile receivers it does not matter what they hear.
    own = np.ones((allocation.agents, 1), bool)
    views = attacks.View(
        rows=jnp.concatenate([said[:, None], received], axis=1),
        honest=jnp.asarray(np.concatenate([own, present & ~hostile], axis=1)),
        hostile=jnp.asarray(np.concatenate([~own, hostile], axis=1)),
        weights=jnp.asarray(np.concatenate([1 - graph.weights.sum(1, keepdims=True), graph.weights], axis=1), said.dtype),
    )
    return jax.vmap(allocation.attack)(views, jax.random.split(key, allocation.agents))[:, 1:]


def _merge(allocation: Allocation, most: int, own, received, weights, suspected):
    if allocation.clip and most:
        own, received = decentralised.Clip()(own, received, weights, suspected)
    return allocation.rule(own, received, weights, suspected, most)


def _rounded(allocation: Allocation, theta: jax.Array, carried: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Allocations in force, and what rounding still owes each agent."""
    if not allocation.slices:
        return theta, carried
    found = [allocation.slices.between(low, high) for low, high in zip(*costs.box(allocation.costs), strict=True)]
    return allocation.slices.rounded(theta, carried, found)


@functools.partial(jax.jit, static_argnums=0)
def _best(allocation: Allocation, drawn: Any, demand: jax.Array) -> tuple[jax.Array, jax.Array]:
    kind = demand.dtype
    low, high = (jnp.asarray(ends, kind) for ends in costs.box(allocation.costs))
    honest = jnp.asarray(allocation.honest)
    # Halvings until the interval is one of neighbouring numbers.
    halvings = jnp.finfo(kind).nmant + 8
    gradient = lambda theta: costs.gradient(allocation.costs, theta, drawn)
    shape = (len(demand), allocation.agents)

    def answer(price: jax.Array) -> jax.Array:
        def halve(_, ends):
            left, right = ends
            middle = (left + right) / 2
            rising = gradient(middle) + price[:, None] > 0
            return jnp.where(rising, left, middle), jnp.where(rising, middle, right)

        left, right = jax.lax.fori_loop(0, halvings, halve, (jnp.broadcast_to(low, shape), jnp.broadcast_to(high, shape)))
        return (left + right) / 2

    mean = lambda theta: jnp.sum(jnp.where(honest, theta, 0), axis=1) / jnp.sum(honest)

    def halve(_, ends):
        cheap, dear = ends
        price = (cheap + dear) / 2
        above = mean(answer(price)) > demand
        # The higher the price, the lower the answers.
        return jnp.where(above, price, cheap), jnp.where(above, dear, price)

    slopes = jnp.stack([gradient(jnp.broadcast_to(low, shape)), gradient(jnp.broadcast_to(high, shape))])
    slopes = jnp.where(honest, slopes, slopes[:, :, jnp.argmax(honest)][:, :, None])
    ends = -jnp.max(slopes, axis=(0, 2)), -jnp.min(slopes, axis=(0, 2))
    cheap, dear = jax.lax.fori_loop(0, halvings, halve, ends)
    theta = answer((cheap + dear) / 2)
    return theta, jnp.sum(jnp.where(honest, costs.value(allocation.costs, theta, drawn), 0), axis=1)

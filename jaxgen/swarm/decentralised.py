"""Robust aggregation among neighbours: every site merges what it received with its own value, which it trusts.

A rule is `rule(own, received, weights, hostile) -> own'`: `own` a pytree, `received` the same with a leading axis of k neighbours,
`weights` [k] the mixing weights (0 where there is no such neighbour, so that sites of different degree share one shape; own weight
is what is missing to 1), `hostile` how many of the neighbours may send anything. With none, every rule is gossip, the weighted
mean. All pass through `jax.vmap` over sites, `hostile` included.

A neighbour that sends something that is not finite is infinitely far away.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.swarm import sorting
from jaxgen.swarm.stack import Stack


class Points(Protocol):
    """Own value (row 0) and those of k neighbours, as rules look at them; see `stack.Stack`."""

    def squared_distances_from(self, weights: jax.Array) -> jax.Array:
        """[1 + k] from Σ_i weights[i] · row i; infinite for a row that is not finite."""

    def combined(self, weights: jax.Array) -> types.PyTree:
        """Σ_i weights[i] · row i."""


class Rule:
    """Gossip where no neighbour is hostile, otherwise `_merge`.

    Attributes:
      even: what is kept is averaged evenly, whatever the weights.
    """

    even = False

    def __call__(
        self,
        own: types.PyTree,
        received: types.PyTree,
        weights: jax.Array,
        hostile: int | jax.Array,
        most: int | None = None,
    ) -> types.PyTree:
        """Own value after merging; see the module.

        Args:
          hostile: number of hostile neighbours, at most half of them.
          most: upper bound of `hostile`, where that is traced.
        """
        if most is None:
            most = int(hostile)
        points = _points(own, received)
        gossip = points.combined(jnp.concatenate([1 - jnp.sum(weights, keepdims=True), weights]))
        if not most:
            return gossip
        merged = self._merge(points, own, received, weights, hostile, most)
        return jax.tree.map(lambda plain, robust: jnp.where(hostile == 0, plain, robust), gossip, merged)

    def check_neighbours(self, neighbours: int, hostile: int) -> None:
        """Raises BadInput where the rule does not stand this many hostile ones of so many neighbours."""
        if 2 * hostile > neighbours:
            raise types.BadInput("hostile", hostile, f"at most half of the {neighbours} neighbours, of which as many are trimmed")


class _WeightedRule(Rule):
    """A rule whose result is a weighted sum of the rows."""

    def _merge(self, points, own, received, weights, hostile, most):
        return points.combined(self._weights(points, weights, hostile, most))


@dataclasses.dataclass(frozen=True)
class Gossip(Rule):
    """The weighted mean, whoever is hostile: no defence."""

    def __call__(self, own, received, weights, hostile=0, most=None):
        return super().__call__(own, received, weights, 0, 0)

    def check_neighbours(self, neighbours: int, hostile: int) -> None:
        """Takes anything."""


@dataclasses.dataclass(frozen=True)
class CTM(Rule):
    """Coordinate by coordinate, the mean of own and of the neighbours' values without the smallest and the largest, b each."""

    even = True

    def _merge(self, points, own, received, weights, hostile, most):
        present = weights > 0
        count = jnp.sum(present)

        def one(mine: jax.Array, theirs: jax.Array) -> jax.Array:
            shape = (-1, *(1,) * mine.ndim)
            # What is not there lies beyond the largest.
            values = jnp.where(present.reshape(shape) & ~jnp.isnan(theirs), theirs, jnp.inf)
            rows = sorting.sort([values[j] for j in range(values.shape[0])])
            kept = [jnp.where((j >= hostile) & (j < count - hostile), row, 0) for j, row in enumerate(rows)]
            return (mine + sum(kept)) / (1 + count - 2 * hostile).astype(mine.dtype)

        return jax.tree.map(one, own, received)


@dataclasses.dataclass(frozen=True)
class IOS(_WeightedRule):
    """Iterative outlier scissor: b times, the neighbour farthest from the weighted mean of what is left is cut.

    Wu et al., arXiv 2206.04568.
    """

    def _weights(self, points, weights, hostile, most):
        left = jnp.concatenate([1 - jnp.sum(weights, keepdims=True), weights])
        for cut in range(most):
            distances = points.squared_distances_from(_normalised(left))
            left = jnp.where(_farthest(distances, left) & (cut < hostile), 0, left)
        return _normalised(left)


@dataclasses.dataclass(frozen=True)
class FABA(_WeightedRule):
    """As IOS, from the plain mean of the neighbours; then the plain mean of own and of what is left (Xia et al., IJCAI 2019).

    Own value has no say in who is cut: where half of the neighbours lie together, the honest ones can be cut.
    """

    even = True

    def _weights(self, points, weights, hostile, most):
        left = jnp.concatenate([jnp.zeros_like(weights, shape=1), (weights > 0).astype(weights.dtype)])
        for cut in range(most):
            distances = points.squared_distances_from(_normalised(left))
            left = jnp.where(_farthest(distances, left) & (cut < hostile), 0, left)
        left = left.at[0].set(1)
        return _normalised(left)


@dataclasses.dataclass(frozen=True)
class MoNNA(_WeightedRule):
    """The plain mean of own and of the neighbours nearest to own, all but b (Farhadkhani et al., arXiv 2210.01834)."""

    even = True

    def _weights(self, points, weights, hostile, most):
        return _normalised(_nearest(points, weights, hostile, most)[0])


@dataclasses.dataclass(frozen=True)
class SCC(_WeightedRule):
    """Self-centred clipping: own plus the weighted differences, each clipped to a radius (ClippedGossip, arXiv 2202.01545).

    Attributes:
      radius: longest difference that counts as it is; 0 estimates it as the paper does, √(Σ_near w d² / Σ_far w), with the b
        neighbours farthest from own in the place of the hostile ones, which a site cannot know.
    """

    radius: float = 0.0

    def validate(self) -> None:
        if self.radius < 0:
            raise types.BadInput("radius", self.radius, "a positive norm, or 0 to estimate it")

    def _weights(self, points, weights, hostile, most):
        near, distances = _nearest(points, weights, hostile, most)
        near, squares = near[1:], distances[1:]
        if self.radius:
            limit = self.radius
        else:
            spread = jnp.sum(jnp.where(near > 0, weights * squares, 0))
            limit = jnp.sqrt(spread / jnp.maximum(jnp.sum(jnp.where(near > 0, 0, weights)), 1e-12))
        lengths = jnp.sqrt(squares)
        clipped = weights * jnp.where(lengths > limit, limit / jnp.where(lengths > 0, lengths, 1), 1)
        return jnp.concatenate([1 - jnp.sum(clipped, keepdims=True), clipped])


@dataclasses.dataclass(frozen=True)
class Clip:
    """Adaptive robust clipping (ARC, arXiv 2405.14432) of own and received values together, before a rule merges them.

    `clip(own, received, weights, hostile) -> own, received`, with n = 1 + neighbours and f = hostile: the ⌊2 f (n − f) / n⌋
    longest are clipped to the norm of the next one. What is not finite becomes zero.
    """

    def __call__(
        self, own: types.PyTree, received: types.PyTree, weights: jax.Array, hostile: int | jax.Array
    ) -> tuple[types.PyTree, types.PyTree]:
        present = weights > 0
        rows = jax.tree.map(lambda mine, theirs: jnp.concatenate([mine[None], theirs]), own, received)
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(rows)]
        size = sum(leaf.shape[1] for leaf in flat)
        # A single number is its own norm, to the last bit.
        norms = jnp.abs(flat[0][:, 0]) if size == 1 else jnp.sqrt(sum(jnp.sum(jnp.square(leaf), axis=1) for leaf in flat))
        finite = jnp.isfinite(norms)
        norms = jnp.where(finite, norms, jnp.inf)
        n = 1 + jnp.sum(present)
        clipped = 2 * hostile * (n - hostile) // n
        ordered = sorting.sort(list(jnp.where(jnp.concatenate([jnp.ones_like(present, shape=1), present]), norms, -jnp.inf)))
        # From the largest down; the place is not known when the program is traced.
        limit = sum(jnp.where(place == clipped, norm, 0) for place, norm in enumerate(reversed(ordered)))

        def one(leaf: jax.Array) -> jax.Array:
            shape = (-1, *(1,) * (leaf.ndim - 1))
            if size == 1:
                short = jnp.clip(leaf, -limit, limit)
            else:
                factors = jnp.where(norms > limit, limit / jnp.where(norms > 0, norms, 1), 1)
                short = leaf * factors.reshape(shape)
            return jnp.where(hostile == 0, leaf, jnp.where(finite.reshape(shape), short, 0))

        rows = jax.tree.map(one, rows)
        return jax.tree.map(lambda leaf: leaf[0], rows), jax.tree.map(lambda leaf: leaf[1:], rows)


NAMES = {
    "gossip": "jaxgen.swarm.decentralised:Gossip",
    "ctm": "jaxgen.swarm.decentralised:CTM",
    "ios": "jaxgen.swarm.decentralised:IOS",
    "scc": "jaxgen.swarm.decentralised:SCC",
    "faba": "jaxgen.swarm.decentralised:FABA",
    "monna": "jaxgen.swarm.decentralised:MoNNA",
}
"""Rules by name, for `--set rule=NAME`."""


class _Few:
    """`Points` of so few numbers that distances are best taken directly."""

    def __init__(self, own: types.PyTree, received: types.PyTree):
        self._own = own
        rows = jax.tree.map(
            lambda mine, theirs: jnp.concatenate([mine[None], theirs]).reshape(1 + theirs.shape[0], -1), own, received
        )
        flat = jnp.concatenate(jax.tree.leaves(rows), axis=1)
        self._finite = jnp.all(jnp.isfinite(flat), axis=1)
        self._rows = jnp.where(self._finite[:, None], flat, 0)

    def _point(self, weights: jax.Array) -> jax.Array:
        # A sum and not a product of matrices, which is slow where there are many that are small.
        return _total(weights[:, None] * self._rows)

    def squared_distances_from(self, weights: jax.Array) -> jax.Array:
        squares = jnp.sum(jnp.square(self._rows - self._point(weights)[None]), axis=1)
        return jnp.where(self._finite, squares, jnp.inf)

    def combined(self, weights: jax.Array) -> types.PyTree:
        leaves, tree = jax.tree.flatten(self._own)
        parts = jnp.split(self._point(weights), [int(end) for end in _ends(leaves)])
        return jax.tree.unflatten(tree, [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves)])


def _points(own: types.PyTree, received: types.PyTree) -> Points:
    size = sum(leaf.size for leaf in jax.tree.leaves(own))
    if size <= jax.tree.leaves(received)[0].shape[0] + 1:
        return _Few(own, received)
    return Stack(jax.tree.map(lambda mine, theirs: jnp.concatenate([mine[None], theirs]), own, received))


def _ends(leaves: list[jax.Array]) -> list[int]:
    """Where each but the last ends, laid side by side."""
    total, found = 0, []
    for leaf in leaves[:-1]:
        total += math.prod(leaf.shape)
        found.append(total)
    return found


def _farthest(distances: jax.Array, left: jax.Array) -> jax.Array:
    """[1 + k] true for the neighbour farthest away among those left; of equals the first. Own is never it."""
    numbers = jnp.arange(left.shape[0])
    return numbers == jnp.argmax(jnp.where((numbers > 0) & (left > 0), distances, -1))


def _nearest(points: Points, weights: jax.Array, hostile: int | jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """([1 + k] 1 for own and the neighbours but the `hostile` farthest from own, squared distances from own)."""
    own = jnp.zeros_like(weights, shape=1 + weights.shape[0]).at[0].set(1)
    distances = points.squared_distances_from(own)
    left = jnp.concatenate([own[:1], (weights > 0).astype(weights.dtype)])
    for cut in range(most):
        left = jnp.where(_farthest(distances, left) & (cut < hostile), 0, left)
    return left, distances


def _total(values: jax.Array) -> jax.Array:
    """Sum over the leading axis, by halves; under `vmap` on a CPU a sum proper is a library's call, at three times the cost."""
    length = 1 << (values.shape[0] - 1).bit_length()
    values = jnp.pad(values, [(0, length - values.shape[0])] + [(0, 0)] * (values.ndim - 1))
    while length > 1:
        length //= 2
        values = values[:length] + values[length:]
    return values[0]


def _normalised(values: jax.Array) -> jax.Array:
    return values / _total(values)

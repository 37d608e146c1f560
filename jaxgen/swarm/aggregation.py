"""Robust aggregation at a server: n updates in, one out, though f of them may be anything.

Updates are a pytree whose leaves have a leading axis of sites, [n, ...]. A rule makes one tree without it; a pre-aggregation makes
a tree with it, to be handed to a rule. `Composed` applies several, from left to right, and `Robust` is the same by names. All are
frozen dataclasses. Distances and norms are of whole trees, float32 or wider. With a `Layout` the work is shared out over devices.

A site with an entry that is not finite is infinitely far from all others. It leaves no trace in the result of a rule that stands f
such sites; `Mean` stands none.

Definitions follow Allouah et al., arXiv 2302.01772 (NNM, and what rules are held to) and 2405.14432 (ARC), and Farhadkhani et al.,
arXiv 2205.12173. Krum is by n − f − 1 others, as there; Blanchard et al. (NeurIPS 2017) have n − f − 2.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.swarm import sorting
from jaxgen.swarm.stack import Layout, Stack, over, sites


class Rule(Protocol):
    """Merges the updates of n sites.

    Attributes:
      f: how many of them may be hostile.
    """

    f: int

    def check_sites(self, n: int) -> None:
        """Raises BadInput where the rule does not stand f hostile ones of n sites."""

    def among(self, n: int) -> Rule:
        """The rule for n of the sites only: against as many hostile ones as before, where that is less than half of them."""

    def __call__(self, updates: types.PyTree, layout: Layout | None = None) -> types.PyTree:
        """Leaves [n, ...] to leaves [...]."""

    def merge(self, stack: Stack) -> types.PyTree:
        """The same, of a stack."""


class _Bounded:
    """What all with a bound f share: it must be less than half of the sites."""

    f: int

    def validate(self) -> None:
        if self.f < 0:
            raise types.BadInput("f", self.f, "0 or more hostile sites")

    def check_sites(self, n: int) -> None:
        self.validate()
        if 2 * self.f >= n:
            raise types.BadInput("f", self.f, f"less than half of the {n} sites")

    def among(self, n: int) -> Any:
        return dataclasses.replace(self, f=min(self.f, (n - 1) // 2))


class _ServerRule(_Bounded):
    def __call__(self, updates: types.PyTree, layout: Layout | None = None) -> types.PyTree:
        """Leaves [n, ...] to leaves [...]."""
        self.check_sites(sites(updates))
        return over(self.merge, updates, layout)


class _PreAggregation(_Bounded):
    def __call__(self, updates: types.PyTree, layout: Layout | None = None) -> types.PyTree:
        """Leaves [n, ...] to leaves [n, ...]."""
        self.check_sites(sites(updates))
        return over(lambda stack: self.transform(stack).updates(), updates, layout, rows=True)


# --- rules -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mean(_ServerRule):
    """The plain mean. One site that is not finite makes it so."""

    f: int = 0

    def validate(self) -> None:
        if self.f:
            raise types.BadInput("f", self.f, "0: the mean stands no hostile site")

    def merge(self, stack: Stack) -> types.PyTree:
        return stack.combined(jnp.full(stack.n, 1 / stack.n), keep_not_finite=True)


@dataclasses.dataclass(frozen=True)
class TrimmedMean(_ServerRule):
    """Coordinate by coordinate, the mean without the f smallest and the f largest (Yin et al., arXiv 1803.01498)."""

    f: int = 0

    def merge(self, stack: Stack) -> types.PyTree:
        kept = slice(self.f, stack.n - self.f)
        return stack.coordinatewise(lambda rows: _mean(sorting.sort(rows)[kept] if self.f else rows))


@dataclasses.dataclass(frozen=True)
class Median(_ServerRule):
    """Coordinate by coordinate, the median; of an even number of sites, the mean of the two in the middle."""

    f: int = 0

    def merge(self, stack: Stack) -> types.PyTree:
        return stack.coordinatewise(lambda rows: sorting.median(sorting.sort(rows)))


@dataclasses.dataclass(frozen=True)
class Meamed(_ServerRule):
    """Coordinate by coordinate, the mean of the n − f values that are nearest to the median (Xie et al., arXiv 1802.10116)."""

    f: int = 0

    def merge(self, stack: Stack) -> types.PyTree:
        return stack.coordinatewise(lambda rows: _around_median(sorting.sort(rows), self.f))


@dataclasses.dataclass(frozen=True)
class GeometricMedian(_ServerRule):
    """The point whose distances to all updates have the least sum, by Weiszfeld's iteration from the origin.

    Pillutla et al., arXiv 1912.13445.

    Attributes:
      smoothing: distances below it count as it. iterations: each costs nothing that grows with the size of an update.
    """

    f: int = 0
    smoothing: float = 0.1
    iterations: int = 8

    def validate(self) -> None:
        super().validate()
        if self.smoothing <= 0:
            raise types.BadInput("smoothing", self.smoothing, "a positive distance")
        if self.iterations < 1:
            raise types.BadInput("iterations", self.iterations, "at least 1")

    def merge(self, stack: Stack) -> types.PyTree:
        weights = jnp.zeros(stack.n)
        for _ in range(self.iterations):
            distances = jnp.sqrt(stack.squared_distances_from(weights))
            weights = 1 / jnp.maximum(distances, self.smoothing)
            weights = weights / jnp.sum(weights)
        return stack.combined(weights)


@dataclasses.dataclass(frozen=True)
class Krum(_ServerRule):
    """The update whose squared distances to the n − f − 1 others nearest to it have the least sum."""

    f: int = 0

    def merge(self, stack: Stack) -> types.PyTree:
        return stack.combined(jax.nn.one_hot(jnp.argmin(_krum_scores(stack, self.f)), stack.n))


@dataclasses.dataclass(frozen=True)
class MultiKrum(_ServerRule):
    """The mean of the m updates with the best scores of Krum; m = 0 takes n − f of them."""

    f: int = 0
    m: int = 0

    def check_sites(self, n: int) -> None:
        super().check_sites(n)
        if not 0 <= self.m <= n - self.f:
            raise types.BadInput("m", self.m, f"0 (n − f), or at most n − f = {n - self.f} of the {n} sites")

    def among(self, n: int) -> MultiKrum:
        fewer = super().among(n)
        return dataclasses.replace(fewer, m=min(self.m, n - fewer.f))

    def merge(self, stack: Stack) -> types.PyTree:
        count = self.m or stack.n - self.f
        return stack.combined(_smallest(_krum_scores(stack, self.f), count) / count)


@dataclasses.dataclass(frozen=True)
class CenteredClipping(_ServerRule):
    """v ← v + mean of (update − v) clipped to a radius (Karimireddy et al., arXiv 2012.10333).

    Attributes:
      radius: longest difference that counts as it is. iterations: passes; those after the second cost nothing that grows with an
        update's size.
    """

    f: int = 0
    radius: float = 100.0
    iterations: int = 1

    def validate(self) -> None:
        super().validate()
        if self.radius <= 0:
            raise types.BadInput("radius", self.radius, "a positive norm")
        if self.iterations < 1:
            raise types.BadInput("iterations", self.iterations, "at least 1")

    def __call__(self, updates: types.PyTree, layout: Layout | None = None, start: types.PyTree | None = None) -> types.PyTree:
        """Leaves [n, ...] to leaves [...]; `start` is v, leaves [...], usually the last round's result; None is the origin."""
        self.check_sites(sites(updates))
        if start is None:
            return over(self.merge, updates, layout)
        around = jax.tree.map(lambda rows, v: rows - v[None], updates, start)
        return jax.tree.map(jnp.add, start, over(self.merge, around, layout))

    def merge(self, stack: Stack) -> types.PyTree:
        clip = lambda distances: jnp.minimum(1, self.radius / distances) / stack.n
        # From the origin distances are lengths, which take no inner products.
        weights = clip(stack.norms)
        for _ in range(self.iterations - 1):
            clips = clip(jnp.sqrt(stack.squared_distances_from(weights)))
            weights = weights + clips - jnp.sum(clips) * weights
        return stack.combined(weights)


# --- pre-aggregations ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NNM(_PreAggregation):
    """Nearest-neighbour mixing: each update becomes the mean of the n − f updates nearest to it, itself among them."""

    f: int = 0

    def transform(self, stack: Stack) -> Stack:
        count = stack.n - self.f
        # A row that is not finite is no one's neighbour; its own becomes a mean of finite ones, so that all are finite.
        return stack.mixed(jax.vmap(lambda row: _smallest(row, count))(stack.squared_distances) / count, finite=True)


@dataclasses.dataclass(frozen=True)
class ARC(_PreAggregation):
    """Adaptive robust clipping: the k = ⌊2 f (n − f) / n⌋ longest updates are clipped to the norm of the next one.

    No update is then longer than the longest honest one was. One that is not finite becomes zero.
    """

    f: int = 0

    def clipped(self, n: int) -> int:
        """k, of n updates."""
        return 2 * self.f * (n - self.f) // n

    def transform(self, stack: Stack) -> Stack:
        if not self.f:
            return stack
        return stack.scaled(clip_factors(stack.norms, self.clipped(stack.n)))


Named = Literal["mean", "cwtm", "median", "meamed", "gm", "krum", "multikrum", "cc", "nnm", "arc"]
NAMES: dict[str, Any] = {
    "mean": Mean,
    "cwtm": TrimmedMean,
    "median": Median,
    "meamed": Meamed,
    "gm": GeometricMedian,
    "krum": Krum,
    "multikrum": MultiKrum,
    "cc": CenteredClipping,
    "nnm": NNM,
    "arc": ARC,
}


@dataclasses.dataclass(frozen=True)
class Composed(_ServerRule):
    """Pre-aggregations and a rule, applied from left to right.

    Attributes:
      steps: any number of pre-aggregations and one rule, which is the last, for example (ARC(2), NNM(2), TrimmedMean(2)).
    """

    steps: tuple[Any, ...]

    @property
    def f(self) -> int:
        """The largest that a step has."""
        return max(step.f for step in self.steps)

    def validate(self) -> None:
        found = tuple(type(step).__name__ for step in self.steps)
        kinds = [isinstance(step, _PreAggregation) for step in self.steps]
        if not kinds or kinds[-1] or not all(kinds[:-1]):
            raise types.BadInput("steps", found, "pre-aggregations (ARC, NNM), and one rule as the last")

    def check_sites(self, n: int) -> None:
        self.validate()
        for step in self.steps:
            step.check_sites(n)

    def among(self, n: int) -> Composed:
        return Composed(tuple(step.among(n) for step in self.steps))

    def merge(self, stack: Stack) -> types.PyTree:
        for step in self.steps[:-1]:
            stack = step.transform(stack)
        return self.steps[-1].merge(stack)


@dataclasses.dataclass(frozen=True)
class Robust(_ServerRule):
    """`Composed` by names, as an option that one line sets: `--set merge.rules=arc,nnm,cwtm --set merge.f=2`.

    Attributes:
      rules: names in `NAMES`, applied from left to right.
      f: the most sites that may be hostile, the same for every step.
    """

    rules: tuple[Named, ...] = ("arc", "nnm", "cwtm")
    f: int = 0

    def validate(self) -> None:
        super().validate()
        unknown = [name for name in self.rules if name not in NAMES]
        if unknown:
            raise types.BadInput("rules", unknown[0], f"names among {', '.join(NAMES)}")
        try:
            self.composed.validate()
        except types.BadInput:
            raise types.BadInput("rules", ",".join(self.rules), "pre-aggregations (arc, nnm), and one rule as the last") from None
        if self.rules == ("mean",):
            Mean(self.f).validate()

    def check_sites(self, n: int) -> None:
        super().check_sites(n)
        self.composed.check_sites(n)

    @property
    def composed(self) -> Composed:
        # A mean behind clipping or mixing is a defence, though it has no bound of its own.
        return Composed(tuple(Mean() if name == "mean" else NAMES[name](self.f) for name in self.rules))

    def merge(self, stack: Stack) -> types.PyTree:
        return self.composed.merge(stack)


def clip_factors(norms: jax.Array, clipped: int) -> jax.Array:
    """[n] factors that bring the longest of n vectors to the norm of the longest but `clipped`; 0 for an infinite norm."""
    limit = jnp.sort(norms)[norms.shape[0] - 1 - clipped]
    # Written so that a vector of norm 0 keeps its factor.
    return jnp.where(jnp.isinf(norms), 0, jnp.where(norms > limit, limit / jnp.where(norms > 0, norms, 1), 1))


def _mean(rows: list[jax.Array]) -> jax.Array:
    return sum(rows[1:], rows[0]) / len(rows)


def _around_median(rows: list[jax.Array], f: int) -> jax.Array:
    """Mean of the n − f of sorted arrays nearest to their median: a window that starts at one of the first f + 1."""
    middle = sorting.median(rows)
    window = rows[: len(rows) - f]
    for start in range(1, f + 1):
        dropped, taken = rows[start - 1], rows[start + len(window) - 1]
        # Once false it stays so, the distance on the left falling and that on the right rising.
        nearer = middle - dropped > taken - middle
        window = [jnp.where(nearer, row, kept) for row, kept in zip(rows[start:], window, strict=False)]
    return _mean(window)


def _krum_scores(stack: Stack, f: int) -> jax.Array:
    near = jnp.sort(stack.squared_distances, axis=1)[:, : stack.n - f]
    return jnp.where(stack.finite, jnp.sum(near, axis=1), jnp.inf)


def _smallest(values: jax.Array, count: int) -> jax.Array:
    """[n] 1 for the `count` smallest of [n], 0 for the others."""
    _, chosen = jax.lax.top_k(-values, count)
    return jnp.zeros(values.shape[0]).at[chosen].set(1.0)

"""How examples are divided among sites: by skew of classes or of amounts."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from jaxgen import types

_TRIES = 1000


class Partition(Protocol):
    """Configuration of a division."""

    def __call__(self, labels: np.ndarray | None, count: int, sites: int, random: np.random.Generator) -> list[np.ndarray]:
        """For each site the places of its examples, int64 ascending; every place is at exactly one site, and no site is empty.

        Args:
          labels: classes [count], None where the source has none. count: number of examples. random: the only randomness.

        Raises:
          BadInput: labels are needed and missing, or there are too few examples; the option is relative to `swarm.partition`.
        """


@dataclasses.dataclass(frozen=True)
class Dirichlet:
    """Each class is divided among the sites by shares from a symmetric Dirichlet law (Yurochkin et al., arXiv 1905.12022).

    Attributes:
      alpha: small is skewed (0.1: a site has few classes), large is even (100).
      least: examples that every site has; shares are drawn again until it is so.
    """

    alpha: float = 1.0
    least: int = 10

    def validate(self) -> None:
        if self.alpha < 1e-3:
            raise types.BadInput("alpha", self.alpha, "at least 0.001")
        if self.least < 1:
            raise types.BadInput("least", self.least, "at least 1")

    def __call__(self, labels: np.ndarray | None, count: int, sites: int, random: np.random.Generator) -> list[np.ndarray]:
        labels = _required(labels, self)
        if self.least * sites > count:
            raise types.BadInput("least", self.least, f"at most {count // sites}: {count} examples are for {sites} sites")
        for _ in range(_TRIES):
            parts: list[list[np.ndarray]] = [[] for _ in range(sites)]
            for label in np.unique(labels):
                rows = random.permutation(np.flatnonzero(labels == label))
                for part, found in zip(parts, _cut(rows, random.dirichlet(np.full(sites, self.alpha))), strict=True):
                    part.append(found)
            if min(sum(map(len, part)) for part in parts) >= self.least:
                return [np.sort(np.concatenate(part)) for part in parts]
        needed = f"a larger alpha than {self.alpha} for {sites} sites, or fewer: no draw of {_TRIES} left that many everywhere"
        raise types.BadInput("least", self.least, needed)


@dataclasses.dataclass(frozen=True)
class Shards:
    """Examples sorted by class are cut into equal shards, and each site is dealt as many (McMahan et al., arXiv 1602.05629, §3).

    Attributes:
      each: shards of a site; with 2 most sites have two classes.
    """

    each: int = 2

    def validate(self) -> None:
        if self.each < 1:
            raise types.BadInput("each", self.each, "at least 1")

    def __call__(self, labels: np.ndarray | None, count: int, sites: int, random: np.random.Generator) -> list[np.ndarray]:
        labels = _required(labels, self)
        if sites * self.each > count:
            raise types.BadInput("each", self.each, f"at most {count // sites}: {count} examples are for {sites} sites")
        rows = random.permutation(count)
        shards = np.array_split(rows[np.argsort(labels[rows], kind="stable")], sites * self.each)
        dealt = random.permutation(sites * self.each).reshape(sites, self.each)
        return [np.sort(np.concatenate([shards[i] for i in own])) for own in dealt]


@dataclasses.dataclass(frozen=True)
class MainClasses:
    """Each site mostly has some classes of its own, in turn: site i those from i on, and a little of others.

    With as many sites as classes, every class is a main one at `classes` sites, and is found at `minor` more or at all.

    Attributes:
      classes: main classes of a site.
      share: of a class's examples that its main sites have; the rest is spread evenly over all sites that have any.
      minor: classes of which a site has only that little, the next ones in turn; None takes all that there are.
    """

    classes: int = 2
    share: float = 0.8
    minor: int | None = None

    def validate(self) -> None:
        if self.classes < 1:
            raise types.BadInput("classes", self.classes, "at least 1")
        if not 0 <= self.share <= 1:
            raise types.BadInput("share", self.share, "a share in [0, 1]")
        if self.minor is not None and self.minor < 0:
            raise types.BadInput("minor", self.minor, "0 or more, or none")

    def __call__(self, labels: np.ndarray | None, count: int, sites: int, random: np.random.Generator) -> list[np.ndarray]:
        labels = _required(labels, self)
        known = np.unique(labels)
        if self.classes > len(known):
            raise types.BadInput("classes", self.classes, f"at most {len(known)}, the classes that there are")
        minor = len(known) - self.classes if self.minor is None else self.minor
        if self.classes + minor > len(known):
            raise types.BadInput("minor", minor, f"at most {len(known) - self.classes}, the classes besides a site's main ones")
        if sites + self.classes - 1 < len(known):
            raise types.BadInput("classes", self.classes, f"at least {len(known) - sites + 1}, so that each class has a main site")
        # How many classes after a site's first one each class comes.
        turn = (np.arange(len(known))[:, None] - np.arange(sites)) % len(known)
        parts: list[list[np.ndarray]] = [[] for _ in range(sites)]
        for label, main, held in zip(known, turn < self.classes, turn < self.classes + minor, strict=True):
            rows = random.permutation(np.flatnonzero(labels == label))
            shares = self.share * main / main.sum() + (1 - self.share) * held / held.sum()
            for part, found in zip(parts, _cut(rows, shares), strict=True):
                part.append(found)
        return _filled([np.sort(np.concatenate(part)) for part in parts], self, count)


@dataclasses.dataclass(frozen=True)
class QuantitySkew:
    """All sites have the same mix of examples and different amounts, by shares from a symmetric Dirichlet law.

    Attributes:
      alpha: small is skewed, large is even.
    """

    alpha: float = 1.0

    def validate(self) -> None:
        if self.alpha < 1e-3:
            raise types.BadInput("alpha", self.alpha, "at least 0.001")

    def __call__(self, labels: np.ndarray | None, count: int, sites: int, random: np.random.Generator) -> list[np.ndarray]:
        del labels
        rows = random.permutation(count)
        if count < sites:
            raise types.BadInput("", type(self).__name__, f"at least {sites} examples, one a site; there are {count}")
        # One for each first, so that none is empty.
        rest = _cut(rows[sites:], random.dirichlet(np.full(sites, self.alpha)))
        return [np.sort(np.append(found, rows[site])) for site, found in enumerate(rest)]


def _cut(rows: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """Consecutive parts of `rows` of these shares, which add up to 1."""
    ends = np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
    return np.split(rows, ends)


def _required(labels: np.ndarray | None, partition: object) -> np.ndarray:
    if labels is None:
        raise types.BadInput("", type(partition).__name__, "a source with labels, or a partition that needs none: QuantitySkew")
    return labels


def _filled(parts: list[np.ndarray], partition: object, count: int) -> list[np.ndarray]:
    if not all(map(len, parts)):
        needed = f"examples for each of {len(parts)} sites; {count} leave {sum(not len(part) for part in parts)} without"
        raise types.BadInput("", type(partition).__name__, needed)
    return parts

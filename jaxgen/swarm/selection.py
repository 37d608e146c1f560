"""Who uploads: the policies of federated averaging, of distributed swarm learning, and of M-DSL.

A policy reads what every site claims of its loss on the shared bank, and says who sends its model. The score, the threshold and
the degree of M-DSL (arXiv 2509.18367) could not be read in full; what stands here is a choice where the comments say so.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp

from jaxgen import types


@flax.struct.dataclass
class Book:
    """What the server remembers of sites between rounds.

    Attributes:
      age: int32 [sites], rounds since a model of the site was taken.
      suspected: bool [sites], caught with a claim that its model did not keep.
      low, high, cap: float32 (), smallest and largest capped claim of the last round, and the cap. threshold: θ. NaN at first.
    """

    age: jax.Array
    suspected: jax.Array
    low: jax.Array
    high: jax.Array
    cap: jax.Array
    threshold: jax.Array

    @classmethod
    def blank(cls, sites: int) -> Book:
        """The book before the first round."""
        unknown = (jnp.float32(jnp.nan) for _ in range(4))
        return cls(jnp.zeros(sites, jnp.int32), jnp.zeros(sites, bool), *unknown)


class Select(Protocol):
    """Configuration of a policy.

    Attributes:
      claims: sites send their scores first.
      broadcasts: numbers that the server sends to every site for the decision.
    """

    claims: bool
    broadcasts: int

    def __call__(self, claims: jax.Array, degrees: jax.Array, book: Book) -> tuple[jax.Array, Book]:
        """Who uploads, bool [sites], and the book with this round's threshold for the next.

        Args:
          claims: claimed losses float32 [sites]. degrees: η [sites].
        """


@dataclasses.dataclass(frozen=True)
class Everybody:
    """Federated averaging: every site uploads, unasked."""

    claims = False
    broadcasts = 0

    def __call__(self, claims: jax.Array, degrees: jax.Array, book: Book) -> tuple[jax.Array, Book]:
        return jnp.ones(claims.shape, bool), book


@dataclasses.dataclass(frozen=True)
class Best:
    """Distributed swarm learning: the one with the lowest loss uploads (Fan et al., ICC 2023)."""

    claims = True
    broadcasts = 0

    def __call__(self, claims: jax.Array, degrees: jax.Array, book: Book) -> tuple[jax.Array, Book]:
        trusted = jnp.isfinite(claims) & ~book.suspected
        best = jnp.argmin(jnp.where(trusted, claims, jnp.inf))
        return (jnp.arange(claims.shape[0]) == best) & trusted, book


@dataclasses.dataclass(frozen=True)
class Threshold:
    """M-DSL: those upload whose score s = τ ℓ + (1 - τ) η, both brought to [0, 1], is at most the mean score of the last round.

    In the first round the threshold is that round's own mean. Somebody always uploads, unless all are suspected.

    Attributes:
      tau: τ, the weight of the loss; 0 looks at the degree alone, and then selects the same sites every round.
      cap: losses count as at most this multiple of their median.
      age_limit: a site that was not taken for so many rounds uploads, unless it is suspected or at the cap: rare classes lie where
        degree and loss are high. 0 never.
      alone: sites compare with the least and the largest loss of the last round, which are broadcast with the threshold, and so
        decide alone whether to send, without waiting for the others' losses.
    """

    tau: float = 0.5
    cap: float = 10.0
    age_limit: int = 10
    alone: bool = False

    claims = True

    @property
    def broadcasts(self) -> int:
        """Threshold, least and largest loss, cap; or nothing, where the server tells who was chosen."""
        return 4 if self.alone else 0

    def validate(self) -> None:
        if not 0 <= self.tau <= 1:
            raise types.BadInput("tau", self.tau, "a share in [0, 1]")
        if self.cap <= 1:
            raise types.BadInput("cap", self.cap, "more than 1")
        if self.age_limit < 0:
            raise types.BadInput("age_limit", self.age_limit, "0 (none) or a number of rounds")

    def __call__(self, claims: jax.Array, degrees: jax.Array, book: Book) -> tuple[jax.Array, Book]:
        first = jnp.isnan(book.threshold)
        finite = jnp.isfinite(claims)
        cap = self.cap * jnp.nanmedian(jnp.where(finite, claims, jnp.nan))
        capped = jnp.where(finite, jnp.minimum(claims, cap), cap)
        low, high = jnp.min(capped), jnp.max(capped)
        scores = self._scores(capped, low, high, degrees)
        # What the next round's sites will be compared with is this round's mean, whoever of them decides.
        after = book.replace(low=low, high=high, cap=cap, threshold=jnp.mean(scores))
        if self.alone:
            known = jnp.where(finite, jnp.minimum(claims, book.cap), book.cap)
            scores = jnp.where(first, scores, self._scores(known, book.low, book.high, degrees))
        trusted = finite & ~book.suspected
        limit = jnp.where(first, after.threshold, book.threshold)
        chosen = (scores <= limit) & trusted
        if self.age_limit:
            chosen |= (book.age >= self.age_limit) & trusted & (claims <= cap)
        best = jnp.argmin(jnp.where(trusted, scores, jnp.inf))
        lone = ~jnp.any(chosen) & (jnp.arange(claims.shape[0]) == best) & trusted
        return chosen | lone, after

    def _scores(self, losses: jax.Array, low: jax.Array, high: jax.Array, degrees: jax.Array) -> jax.Array:
        return self.tau * _unit(losses, low, high) + (1 - self.tau) * _unit(degrees, jnp.min(degrees), jnp.max(degrees))


def _unit(values: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Values from [low, high] brought to [0, 1]; 0 where there is no spread."""
    return jnp.where(high > low, jnp.clip((values - low) / jnp.where(high > low, high - low, 1), 0, 1), 0)

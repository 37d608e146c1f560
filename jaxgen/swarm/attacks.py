"""What hostile sites send instead of what they should.

`attack(view, key) -> rows`: the rows that a receiver sees, those of hostile senders replaced. At a server that is once for all
sites, and `at_server` makes the view; among neighbours it is once for every receiver, so that an attacker may tell each of them
something else. Attackers know what all honest senders say. Means and spreads are over the honest senders that this receiver hears,
its own value included.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from jaxgen import types


@flax.struct.dataclass
class View:
    """What one receiver is about to be told.

    Attributes:
      rows: pytree [m, ...], what each sender would say if it were honest; among neighbours, row 0 is the receiver's own.
      honest, hostile: [m] bool, of the senders that are there.
      weights: [m] with which the receiver mixes, sum 1.
    """

    rows: types.PyTree
    honest: jax.Array
    hostile: jax.Array
    weights: jax.Array


class Attack(Protocol):
    """A frozen dataclass. Attributes: between_neighbours: true where it needs a receiver with a value of its own."""

    between_neighbours: bool

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        """Rows as the receiver sees them."""


def at_server(attack: Attack, updates: types.PyTree, hostile: jax.Array, key: jax.Array) -> types.PyTree:
    """Updates, leaves [n, ...], as a server gets them where the sites with `hostile` [n] bool attack.

    Raises:
      BadInput: the attack is one between neighbours.
    """
    if attack.between_neighbours:
        raise types.BadInput("attack", type(attack).__name__, "one that needs no neighbours: a server has no value of its own")
    hostile = jnp.asarray(hostile)
    return attack(View(updates, ~hostile, hostile, jnp.full(hostile.shape, 1 / hostile.shape[0])), key)


class _Attack:
    between_neighbours = False


@dataclasses.dataclass(frozen=True)
class Behaved(_Attack):
    """What an honest site would say: no attack, to compare with."""

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        return view.rows


@dataclasses.dataclass(frozen=True)
class SignFlip(_Attack):
    """−scale times the mean of the honest, or times what the site would have said itself."""

    scale: float = 1.0
    of: Literal["mean", "own"] = "mean"

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        one = lambda rows: _mean(rows, view.honest)[None] if self.of == "mean" else rows
        return _said(view, jax.tree.map(lambda rows: -self.scale * one(rows), view.rows))


@dataclasses.dataclass(frozen=True)
class Gaussian(_Attack):
    """Normal noise, drawn for every sender and receiver.

    Attributes:
      std: of the noise. mean: of the noise; None takes the mean of the honest.
      ceiling: larger draws become 0, as prices are negative; None for no ceiling.
    """

    std: float = 30.0
    mean: float | None = None
    ceiling: float | None = None

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        leaves, tree = jax.tree.flatten(view.rows)
        said = []
        for number, rows in enumerate(leaves):
            noise = self.std * jax.random.normal(jax.random.fold_in(key, number), rows.shape, rows.dtype)
            value = noise + (_mean(rows, view.honest)[None] if self.mean is None else self.mean)
            said.append(value if self.ceiling is None else jnp.where(value > self.ceiling, 0, value))
        return _said(view, jax.tree.unflatten(tree, said))


@dataclasses.dataclass(frozen=True)
class Constant(_Attack):
    """Always this value: among prices, which are negative, −0.01 is large and −300 small."""

    value: float = 0.0

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        return _said(view, jax.tree.map(lambda rows: jnp.full_like(rows, self.value), view.rows))


@dataclasses.dataclass(frozen=True)
class ALIE(_Attack):
    """A little is enough (Baruch et al., arXiv 1902.06156): mean − z · standard deviation of the honest, coordinate by coordinate.

    Attributes:
      z: None takes the normal quantile of (n − s) / n, s = ⌊n/2 + 1⌋ − f, of the n senders and f attackers that the receiver hears.
    """

    z: float | None = None

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        if self.z is None:
            n, f = jnp.sum(view.honest) + jnp.sum(view.hostile), jnp.sum(view.hostile)
            # Where attackers are a majority it has no meaning, and 0 is their mean itself.
            needed = jnp.clip(n // 2 + 1 - f, 0, n)
            z = jax.scipy.stats.norm.ppf(jnp.clip((n - needed) / n, 0.5, 0.9999))
        else:
            z = self.z

        def one(rows: jax.Array) -> jax.Array:
            mean = _mean(rows, view.honest)
            count = jnp.maximum(jnp.sum(view.honest) - 1, 1)
            squares = jnp.sum(jnp.where(_as(view.honest, rows), jnp.square(rows - mean[None]), 0), axis=0)
            return (mean - jnp.asarray(z, rows.dtype) * jnp.sqrt(squares / count))[None]

        return _said(view, jax.tree.map(one, view.rows))


@dataclasses.dataclass(frozen=True)
class IPM(_Attack):
    """Inner product manipulation (Xie et al., arXiv 1903.03936): −epsilon times the mean of the honest."""

    epsilon: float = 0.1

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        return SignFlip(self.epsilon)(view, key)


@dataclasses.dataclass(frozen=True)
class Dissensus(_Attack):
    """x_i − epsilon · Σ_honest w_j (x_j − x_i) / Σ_hostile w, told to neighbour i (He et al., arXiv 2202.01545).

    With epsilon 1 it is isolation: the weighted mean of the receiver is its own value, as if it heard no one. With more, it is
    pushed away from the others.
    """

    epsilon: float = 1.0
    between_neighbours = True

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        theirs = jnp.sum(jnp.where(view.hostile, view.weights, 0))

        def one(rows: jax.Array) -> jax.Array:
            own = rows[:1]
            pull = jnp.sum(jnp.where(_as(view.honest, rows), _as(view.weights, rows) * (rows - own), 0), axis=0, keepdims=True)
            return own - self.epsilon * pull / jnp.where(theirs > 0, theirs, 1)

        return _said(view, jax.tree.map(one, view.rows))


@dataclasses.dataclass(frozen=True)
class ZeroSum(_Attack):
    """What makes the sum of all that the receiver hears zero."""

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        count = jnp.maximum(jnp.sum(view.hostile), 1)
        total = lambda rows: jnp.sum(jnp.where(_as(view.honest, rows), rows, 0), axis=0, keepdims=True)
        return _said(view, jax.tree.map(lambda rows: -total(rows) / count, view.rows))


@dataclasses.dataclass(frozen=True)
class Duplicate(_Attack):
    """All say what the last honest sender says, which then counts several times."""

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        last = view.honest.shape[0] - 1 - jnp.argmax(view.honest[::-1])
        return _said(view, jax.tree.map(lambda rows: rows[last][None], view.rows))


@dataclasses.dataclass(frozen=True)
class Mimic(_Attack):
    """All say what one honest sender says (Karimireddy et al., arXiv 2006.09365).

    Attributes:
      number: among the honest senders, from 0, or the last of fewer; among neighbours 0 is the receiver's own value.
    """

    number: int = 0

    def validate(self) -> None:
        if self.number < 0:
            raise types.BadInput("number", self.number, "0 or more")

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        chosen = jnp.argmax(jnp.cumsum(view.honest) == jnp.minimum(self.number + 1, jnp.sum(view.honest)))
        return _said(view, jax.tree.map(lambda rows: rows[chosen][None], view.rows))


@dataclasses.dataclass(frozen=True)
class NotFinite(_Attack):
    """NaN or an infinity everywhere."""

    value: Literal["nan", "inf", "-inf"] = "nan"

    def __call__(self, view: View, key: jax.Array) -> types.PyTree:
        return Constant(float(self.value))(view, key)


NAMES = {
    "behaved": "jaxgen.swarm.attacks:Behaved",
    "sign_flip": "jaxgen.swarm.attacks:SignFlip",
    "gaussian": "jaxgen.swarm.attacks:Gaussian",
    "constant": "jaxgen.swarm.attacks:Constant",
    "alie": "jaxgen.swarm.attacks:ALIE",
    "ipm": "jaxgen.swarm.attacks:IPM",
    "isolation": "jaxgen.swarm.attacks:Dissensus",  # which it is as long as `epsilon` is 1
    "dissensus": "jaxgen.swarm.attacks:Dissensus",
    "zero_sum": "jaxgen.swarm.attacks:ZeroSum",
    "duplicate": "jaxgen.swarm.attacks:Duplicate",
    "mimic": "jaxgen.swarm.attacks:Mimic",
    "not_finite": "jaxgen.swarm.attacks:NotFinite",
}
"""Attacks by name, for `--set attack=NAME`."""


def forged_scores(scores: jax.Array, hostile: jax.Array, claimed: float = 0.0) -> jax.Array:
    """[n] scores as reported, where hostile sites claim this loss; the lower the better."""
    return jnp.where(hostile, claimed, scores)


def _said(view: View, said: types.PyTree) -> types.PyTree:
    """Rows with those of hostile senders replaced by `said`, [m, ...] or [1, ...]."""
    return jax.tree.map(lambda rows, new: jnp.where(_as(view.hostile, rows), new.astype(rows.dtype), rows), view.rows, said)


def _mean(rows: jax.Array, honest: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(_as(honest, rows), rows, 0), axis=0) / jnp.maximum(jnp.sum(honest), 1).astype(rows.dtype)


def _as(values: jax.Array, rows: jax.Array) -> jax.Array:
    """[m] with as many axes as rows."""
    return values.reshape(-1, *(1,) * (rows.ndim - 1))

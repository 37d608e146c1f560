"""What an allocation costs each agent: convex functions of it, drawn anew every round, with their gradients and boxes.

A cost is that of a group of agents. It is drawn with NumPy, before anything compiles; value and gradient are JAX.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types


class Cost(Protocol):
    """Configuration of the costs of a group of n agents; a frozen dataclass.

    Attributes:
      low, high: by agent, the box that its allocation lies in.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def draw(self, random: np.random.Generator, rounds: int) -> types.PyTree:
        """What is drawn of the costs: leaves [rounds, n]."""

    def value(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        """[..., n] costs of allocations [..., n], of one round or of several."""

    def gradient(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        """[..., n] derivatives, rising with the allocation."""


class _Group:
    """What all groups are checked for: lists as long as the box's, and a box that is one."""

    def validate(self) -> None:
        count = len(self.low)
        if not count:
            raise types.BadInput("low", self.low, "a value for each agent")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and len(value) != count:
                raise types.BadInput(field.name, value, f"{count} values, one for each agent, as low has them")
        for low, high in zip(self.low, self.high, strict=True):
            if low < 0:
                raise types.BadInput("low", low, "a capacity of 0 or more")
            if high <= low:
                raise types.BadInput("high", high, f"a capacity above low={low}")


@dataclasses.dataclass(frozen=True)
class Quadratic(_Group):
    """quadratic · θ² + linear · θ: fuel of a thermal power station."""

    quadratic: tuple[float, ...]
    linear: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def validate(self) -> None:
        super().validate()
        _require_positive("quadratic", self.quadratic)

    def draw(self, random: np.random.Generator, rounds: int) -> types.PyTree:
        return ()

    def value(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        return _like(self.quadratic, theta) * theta**2 + _like(self.linear, theta) * theta

    def gradient(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        return 2 * _like(self.quadratic, theta) * theta + _like(self.linear, theta)


@dataclasses.dataclass(frozen=True)
class Tracking(_Group):
    """steepness · (θ − wanted)²: an agent that knows how much it wants.

    Attributes:
      spread: standard deviation of what is wanted, from round to round.
    """

    steepness: tuple[float, ...]
    wanted: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    spread: float = 0.0

    def validate(self) -> None:
        super().validate()
        _require_positive("steepness", self.steepness)
        if self.spread < 0:
            raise types.BadInput("spread", self.spread, "0 or more")

    @classmethod
    def random(
        cls,
        agents: int,
        seed: int,
        steepness: tuple[float, float] = (1, 2),
        wanted: tuple[float, float] = (2, 0.6),
        box: tuple[float, float] = (0, 100),
    ) -> Tracking:
        """Steepness uniform in its bounds, wants normal with this mean and standard deviation, one box for all."""
        random = np.random.default_rng(seed)
        slopes, wants = random.uniform(*steepness, agents), random.normal(*wanted, agents)
        return cls(tuple(slopes.tolist()), tuple(wants.tolist()), (float(box[0]),) * agents, (float(box[1]),) * agents)

    def draw(self, random: np.random.Generator, rounds: int) -> types.PyTree:
        return np.asarray(self.wanted) + self.spread * random.standard_normal((rounds, len(self.low)))

    def value(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        return _like(self.steepness, theta) * (theta - drawn) ** 2

    def gradient(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        return 2 * _like(self.steepness, theta) * (theta - drawn)


@dataclasses.dataclass(frozen=True)
class Backlog(_Group):
    """work / θ: how long a backlog takes.

    Attributes:
      spread: standard deviation of log work, from round to round.
    """

    work: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    spread: float = 0.0

    def validate(self) -> None:
        super().validate()
        _require_positive("work", self.work)
        _require_positive("low", self.low)
        if self.spread < 0:
            raise types.BadInput("spread", self.spread, "0 or more")

    def draw(self, random: np.random.Generator, rounds: int) -> types.PyTree:
        return np.asarray(self.work) * np.exp(self.spread * random.standard_normal((rounds, len(self.low))))

    def value(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        return drawn / theta

    def gradient(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        return -drawn / theta**2


@dataclasses.dataclass(frozen=True)
class Wind(_Group):
    """price · θ + under · E[(W − θ)⁺] + over · E[(θ − W)⁺]: a wind power station that promises θ and then has W.

    W is 0 for winds below `cut_in` and above `cut_out`, `rated_power` from `rated` on, and linear between. Winds are Weibull with
    scale and shape drawn every round, uniform in their bounds.
    """

    price: tuple[float, ...]
    under: tuple[float, ...]
    over: tuple[float, ...]
    rated_power: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    cut_in: float = 3.0
    rated: float = 13.0
    cut_out: float = 25.0
    scale_from: float = 3.0
    scale_to: float = 25.0
    shape_from: float = 2.0
    shape_to: float = 3.0

    def validate(self) -> None:
        super().validate()
        _require_positive("rated_power", self.rated_power)
        speeds = (self.cut_in, self.rated, self.cut_out)
        if not 0 <= self.cut_in < self.rated < self.cut_out:
            raise types.BadInput("cut_in, rated, cut_out", speeds, "speeds that rise")
        for high, power in zip(self.high, self.rated_power, strict=True):
            if high > power:
                raise types.BadInput("high", high, f"at most rated_power={power}")

    def draw(self, random: np.random.Generator, rounds: int) -> types.PyTree:
        shape = (rounds, len(self.low))
        return random.uniform(self.scale_from, self.scale_to, shape), random.uniform(self.shape_from, self.shape_to, shape)

    def value(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        scale, shape = drawn
        rated_power = _like(self.rated_power, theta)
        none = jnp.exp(-((self.cut_out / scale) ** shape))
        # Above W = w lies the wind between w's speed and `cut_out`; its probability, integrated over w.
        above = self._integral(theta, rated_power, scale, shape) - none * (rated_power - theta)
        below = theta - (self._integral(jnp.zeros_like(theta), theta, scale, shape) - none * theta)
        return _like(self.price, theta) * theta + _like(self.under, theta) * above + _like(self.over, theta) * below

    def gradient(self, theta: jax.Array, drawn: types.PyTree) -> jax.Array:
        scale, shape = drawn
        above = jnp.exp(-((self._speed(theta) / scale) ** shape)) - jnp.exp(-((self.cut_out / scale) ** shape))
        under, over = _like(self.under, theta), _like(self.over, theta)
        return _like(self.price, theta) + over - (under + over) * above

    def _speed(self, power: jax.Array) -> jax.Array:
        return self.cut_in + (self.rated - self.cut_in) * power / _like(self.rated_power, power)

    def _integral(self, first: jax.Array, last: jax.Array, scale: jax.Array, shape: jax.Array) -> jax.Array:
        """Of exp(−(speed / scale)^shape) over power from `first` to `last`; an incomplete gamma function of the power."""
        whole = jnp.exp(jax.scipy.special.gammaln(1 / shape)) * scale / shape
        until = lambda power: jax.scipy.special.gammainc(1 / shape, (self._speed(power) / scale) ** shape)
        power_per_speed = _like(self.rated_power, last) / (self.rated - self.cut_in)
        return whole * (until(last) - until(first)) * power_per_speed


def agents(costs: tuple[Cost, ...]) -> int:
    """Number of agents of several groups, which are numbered one group after the other."""
    return sum(len(cost.low) for cost in costs)


def box(costs: tuple[Cost, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends [N] of the allocations."""
    low = np.concatenate([np.asarray(cost.low, float) for cost in costs])
    return low, np.concatenate([np.asarray(cost.high, float) for cost in costs])


def draw(costs: tuple[Cost, ...], random: np.random.Generator, rounds: int) -> tuple[types.PyTree, ...]:
    """What is drawn of each group's costs."""
    return tuple(cost.draw(random, rounds) for cost in costs)


def value(costs: tuple[Cost, ...], theta: jax.Array, drawn: tuple[types.PyTree, ...]) -> jax.Array:
    """[..., N] costs of allocations [..., N]."""
    return _by_group(costs, "value", theta, drawn)


def gradient(costs: tuple[Cost, ...], theta: jax.Array, drawn: tuple[types.PyTree, ...]) -> jax.Array:
    """[..., N] derivatives at allocations [..., N]."""
    return _by_group(costs, "gradient", theta, drawn)


def _by_group(costs: tuple[Cost, ...], method: str, theta: jax.Array, drawn: tuple[types.PyTree, ...]) -> jax.Array:
    ends = np.cumsum([len(cost.low) for cost in costs])[:-1].tolist()
    parts = jnp.split(theta, ends, axis=-1)
    return jnp.concatenate([getattr(cost, method)(*each) for cost, *each in zip(costs, parts, drawn, strict=True)], axis=-1)


def _like(values: tuple[float, ...], theta: jax.Array) -> jax.Array:
    return jnp.asarray(values, theta.dtype)


def _require_positive(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        if value <= 0:
            raise types.BadInput(name, value, "a positive number")

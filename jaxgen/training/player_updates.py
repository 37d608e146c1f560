"""The update of one player, and of those that learn from the same loss: gradient over microbatches, optimizers, averages."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxgen import types
from jaxgen.training import slice_gradients
from jaxgen.training.state import State


def groups(players: tuple[types.Player, ...]) -> list[list[types.Player]]:
    """Players that learn from one loss, together: the one whose loss it is, then those joint with it."""
    groups = {player.name: [player] for player in players if player.joint_with is None}
    for player in players:
        if player.joint_with is not None:
            groups[player.joint_with].append(player)
    return list(groups.values())


def act(
    objective: types.Objective,
    group: list[types.Player],
    rules: dict[str, optax.GradientTransformation],
    decays: dict[str, tuple[str, ...]],
    state: State,
    views: types.Views,
    batch: types.Batch,
    key: jax.Array,
    microbatches: int,
    merged: slice_gradients.Merged | None,
) -> tuple[State, types.Metrics, dict[str, jax.Array]]:
    """The update of one player, and of those joint with it: gradient over microbatches, optimizers, averages.

    Args:
      merged: where gradients of slices are merged otherwise than by the mean over the batch.

    Returns state, metrics and culprit flags by player.
    """
    name = group[0].name
    before = {player.name: state.params[player.name] for player in group}

    def whole(memory, rows, key):
        def loss(params, rows, memory):
            joint = {other: tree for other, tree in params.items() if other != name}
            seen = views.replace(params=views.params | joint)
            value, metrics, memory = objective.loss(name, params[name], seen, rows, key, state.step, memory)
            return value, (metrics, memory)

        def part(memory, rows):
            weight = jnp.sum(rows["weight"])
            (value, (metrics, memory)), gradient = jax.value_and_grad(loss, has_aux=True)(before, rows, memory)
            return memory, {"loss": types.Mean(value * weight, weight), **metrics}, gradient

        return part(memory, rows) if microbatches == 1 else _accumulate(part, memory, rows, microbatches)

    if merged is None:
        memory, metrics, gradient = whole(state.memory, batch, key)
    else:
        memory = state.memory
        metrics, gradient = merged(lambda rows, key: whole(memory, rows, key)[1:], batch, key)

    params, optimizer, ema, flags = {}, {}, {}, {}
    for own in before:
        squares = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient[own])])
        flags[own] = ~jnp.isfinite(jnp.concatenate([metrics["loss"].total[None], squares]))
        norm = "gradient_norm" if own == name else f"gradient_norm/{own}"
        metrics[norm] = types.Mean(jnp.sqrt(jnp.sum(squares)), jnp.float32(1))

        updates, optimizer[own] = rules[own].update(gradient[own], state.optimizer[own], before[own])
        params[own] = optax.apply_updates(before[own], updates)
        done = state.step.astype(jnp.float32)
        ema[own] = {}
        for decay in decays[own]:
            # The ramp lets short runs forget the initial parameters.
            keep = jnp.minimum(float(decay), (1 + done) / (10 + done))
            ema[own][decay] = jax.tree.map(
                lambda average, p, keep=keep: average + (1 - keep) * (p - average), state.ema[own][decay], params[own]
            )
    state = state.replace(
        params=state.params | params,
        optimizer=state.optimizer | optimizer,
        ema=state.ema | ema,
        memory=memory,
    )
    return state, metrics, flags


def _accumulate(part: Callable, memory: types.PyTree, batch: types.Batch, microbatches: int):
    """Sums the metrics of `part` over equal parts of the batch, in order, and averages gradients weighted by valid rows.

    Part i takes every row r with r mod microbatches = i, so each device's rows stay on it.
    """
    split = {n: a.reshape(a.shape[0] // microbatches, microbatches, *a.shape[1:]).swapaxes(0, 1) for n, a in batch.items()}

    def body(carry, rows):
        memory, metrics, gradient = carry
        memory, more, g = part(memory, rows)
        weight = more["loss"].weight
        return (memory, jax.tree.map(jnp.add, metrics, more), jax.tree.map(lambda a, b: a + b * weight, gradient, g)), None

    shapes = jax.eval_shape(part, memory, {n: a[0] for n, a in split.items()})
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[1:])
    (memory, metrics, gradient), _ = jax.lax.scan(body, (memory, *zeros), split)
    weight = metrics["loss"].weight
    return memory, metrics, jax.tree.map(lambda g: g / jnp.where(weight > 0, weight, 1.0), gradient)

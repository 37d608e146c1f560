"""Muon: momentum made orthogonal for matrices between widths, AdamW for everything else."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen import mup, types
from jaxgen.training.optimizer import AdamW
from jaxgen.training.orthogonal import orthogonalized


@dataclasses.dataclass(frozen=True)
class Muon(AdamW):
    """Muon (Jordan et al. 2024; Liu et al., arXiv 2502.16982) for parameters that map width to width, each matrix of a
    stack by itself (layers; query, key and value); AdamW with the other options for the rest, modulation included.

    The update of a matrix has singular values near √(outputs / inputs), the change that keeps features of one size at every width
    (Yang et al., arXiv 2310.17813), so its rate needs no μP factor.

    Attributes:
      matrix_rate: rate of the matrices, and so of their decay, as a multiple of `learning_rate`.
      momentum: decay of their momentum, which is Nesterov's.
    """

    matrix_rate: float = 5.0
    momentum: float = 0.95

    def validate(self) -> None:
        super().validate()
        if self.matrix_rate <= 0:
            raise types.BadInput("matrix_rate", self.matrix_rate, "a positive multiple of learning_rate")
        if not 0 <= self.momentum < 1:
            raise types.BadInput("momentum", self.momentum, "a decay in [0, 1)")

    def build(self, multipliers: mup.Multipliers, steps: int) -> optax.GradientTransformation:
        """As `AdamW.build`."""

        def where(factors: types.PyTree, value: float) -> types.PyTree:
            return jax.tree.map(lambda factor, matrix: factor if matrix is None else value, factors, multipliers.matrix)

        decay = where(multipliers.weight_decay, 1.0)
        rates = where(multipliers.learning_rate, self.matrix_rate)
        return super().build(multipliers.replace(weight_decay=decay, learning_rate=rates), steps)

    def direction(self, multipliers: mup.Multipliers) -> optax.GradientTransformation:
        """Orthogonal momentum or Adam's ratio."""
        matrices = multipliers.matrix
        labels = jax.tree.map(lambda _, matrix: "adam" if matrix is None else "muon", multipliers.epsilon, matrices)

        def directions(updates: types.PyTree, params: types.PyTree = None) -> types.PyTree:
            del params
            return jax.tree.map(_direction, updates, matrices, is_leaf=_is_masked)

        muon = optax.chain(optax.trace(self.momentum, nesterov=True), optax.stateless(directions))
        return optax.partition({"muon": muon, "adam": super().direction(multipliers)}, labels)


def _direction(update: Any, matrix: mup.Matrix | None) -> Any:
    """Each matrix of a parameter made orthogonal and brought to its size; what Muon does not update passes."""
    if _is_masked(update) or matrix is None:
        return update
    sizes = [math.prod(update.shape[axis] for axis in group) for group in (matrix.inputs, matrix.outputs)]
    order = (*matrix.inputs, *matrix.outputs)
    stack = [axis for axis in range(-update.ndim, 0) if axis not in order]
    moved = jnp.transpose(update, [axis % update.ndim for axis in (*stack, *order)])
    found = orthogonalized(moved.reshape(-1, *sizes)).reshape(moved.shape)
    back = [(*stack, *order).index(axis) for axis in range(-update.ndim, 0)]
    return jnp.transpose(found, back) * math.sqrt(sizes[1] / sizes[0])


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)

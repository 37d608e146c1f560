"""Muon: momentum made orthogonal for matrices between widths, AdamW for everything else."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxgen import mup, types
from jaxgen.training.optimizer import AdamW


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

        def dimensions(tree: types.PyTree) -> types.PyTree:
            return jax.tree.map(_dimensions, tree, matrices, is_leaf=_is_masked)

        def to_shape(updates: types.PyTree, params: types.PyTree = None) -> types.PyTree:
            del params
            return jax.tree.map(lambda u, matrix: u if matrix is None else u * _gain(u, matrix), updates, matrices)

        muon = scale_by_muon(beta=self.momentum, weight_dimension_numbers=dimensions)
        rules = {"muon": muon, "adam": super().direction(multipliers)}
        return optax.chain(optax.partition(rules, labels), optax.stateless(to_shape))


def _dimensions(leaf: Any, matrix: mup.Matrix | None) -> Any:
    if _is_masked(leaf) or matrix is None:
        return leaf
    return MuonDimensionNumbers(reduction_axis=matrix.inputs, output_axis=matrix.outputs)


def _gain(update: jax.Array, matrix: mup.Matrix) -> float:
    inputs, outputs = (math.prod(update.shape[axis] for axis in group) for group in (matrix.inputs, matrix.outputs))
    return math.sqrt(outputs / inputs)


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)

"""Model FLOPs: matrix products of the forward pass, counted on the traced program; three times that for training.

Rematerialization is not counted, and loops count as often as they run, so the figure is what the mathematics needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.training import step as steps


def matmul_flops(jaxpr: Any) -> int:
    """FLOPs (2 per multiply-add) of all matrix products and convolutions of a closed jaxpr, scans multiplied out.

    Of a conditional the dearest branch counts; a `while` of unknown length counts once.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            output_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // output_channels
        else:
            inner = [matmul_flops(sub) for sub in _inner(equation.params)]
            if equation.primitive.name == "cond":
                total += max(inner)
            else:
                total += equation.params.get("length", 1) * sum(inner)
    return total


def per_example(experiment: Any, step: steps.Step) -> float:
    """FLOPs that training spends on one example: three forward passes of each loss, over its player's `every`, and one of what is
    prepared without gradient, such as the features of a frozen network."""
    objective = experiment.objective
    players = objective.players(experiment)
    modules = steps.modules(experiment)
    size = experiment.data.batch_size
    compute = jnp.dtype(experiment.precision.compute)

    def views(state: Any, frozen: types.PyTree) -> types.Views:
        return types.Views(state.params, state.ema, frozen, modules=modules, compute=compute)

    def prepare(state: Any, frozen: types.PyTree, batch: types.Batch) -> types.Batch:
        return objective.prepare(views(state, frozen), batch, jax.random.key(0))

    # Outside of any mesh, as `of`.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        prepared = jax.eval_shape(prepare, step.state, step.frozen, step.batch)
    host = getattr(objective, "host_features", dict)()
    prepared |= {n: jax.ShapeDtypeStruct((size, *f.shape), f.dtype) for n, f in host.items()}
    total = of(prepare, step.state, step.frozen, step.batch)
    for player in players:
        if player.joint_with is not None:
            continue

        def forward(state: Any, frozen: types.PyTree, batch: types.Batch, name: str = player.name) -> jax.Array:
            key = jax.random.key(0)
            return objective.loss(name, state.params[name], views(state, frozen), batch, key, state.step, state.memory)[0]

        total += 3 * of(forward, step.state, step.frozen, prepared) / player.every
    return total / size


def of(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs (`matmul_flops`) of a function at abstract arguments, on all devices together."""
    # Outside of any mesh: within one, attention is the kernel of a platform, written down for what one device holds.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return matmul_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _inner(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "jaxpr"):
                item = item.jaxpr
            if hasattr(item, "eqns"):
                found.append(item)
    return found

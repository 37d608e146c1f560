"""How DiT was published to start, under the standard parametrization (Peebles and Xie, arXiv 2212.09748, and their code).

Maps are drawn from Xavier's uniform distribution, which makes that of patches depend on the width; time and labels from
N(0, 0.02²); modulation (adaLN-Zero) and the output are zero.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import mup, types
from jaxgen.parallel import keys
from jaxgen.training import rate_sweep
from jaxgen.training.state import State
from jaxgen.training.step import dotted

_STD = 0.02


class PublishedStart(rate_sweep.Sweep):
    """A sweep of a `models.dit.DiT` that starts as published."""

    start = "published"

    def initial(self, seed: int) -> State:
        state = super().initial(seed)
        drawn = parameters(self.built.boxed["model"], keys.stream(keys.root(np.uint32(seed)), "published start"))
        placed = jax.tree.map(lambda value, old: jax.device_put(value, old.sharding), drawn, state.params["model"])
        return state.replace(params=state.params | {"model": placed})


def parameters(boxed: types.PyTree, key: jax.Array) -> types.PyTree:
    """Parameters of a DiT from the description of each (`training.step.Step.boxed`), float32."""

    def draw(path: tuple, box: mup.Parameter) -> jax.Array:
        name, shape = dotted(path), box.value.shape
        if box.kind == "bias" or box.kind == "output" or "modulation" in name:
            return jnp.zeros(shape, jnp.float32)
        own = keys.stream(key, name)
        if name.startswith(("time.", "labels.")):
            return _STD * jax.random.normal(own, shape, jnp.float32)
        layers = shape[0] if "layers" in box.names else 1
        # A map from patches has one input axis; of the others the description says it.
        fan_in = shape[0] if box.matrix is None else math.prod(shape[axis] for axis in box.matrix.inputs)
        fan_out = math.prod(shape) // (layers * fan_in)
        limit = math.sqrt(6 / (fan_in + fan_out))
        return jax.random.uniform(own, shape, jnp.float32, -limit, limit)

    return jax.tree_util.tree_map_with_path(draw, boxed, is_leaf=mup.is_parameter)

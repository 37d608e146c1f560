"""The parameters that a model creates, each with what draws it, without compiling or running anything."""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxgen import mup
from jaxgen.training.step import dotted

MUP_PARAM, FLAX_PARAM = mup.param, nn.Module.param


@dataclasses.dataclass
class Created:
    """A parameter as a module asks for it: one layer of those that are stacked."""

    kind: str
    fan_in: int
    init: Callable[[jax.Array], mup.Parameter]

    def value(self, seed=0):
        """Drawn by NumPy: a compiled draw of every shape takes tens of seconds, and only statistics are asked of them."""
        draws = np.random.default_rng(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.random, "normal", lambda key, shape, dtype: draws.normal(size=shape))
            patch.setattr(jax.random, "uniform", lambda key, shape, dtype, low, high: draws.uniform(low, high, shape))
            return np.asarray(self.init(None).value, np.float64)


def created(model, inputs):
    """All parameters by name, and their boxed abstract values, those of stacked layers in one."""
    found, asked = {}, {}
    path = lambda module, leaf: ".".join((*module.path, leaf))

    def param(module, leaf, *, inputs=(), **options):
        asked[path(module, leaf)] = options["kind"], math.prod(axis[1] for axis in inputs)
        return MUP_PARAM(module, leaf, inputs=inputs, **options)

    def flax_param(module, leaf, init, *arguments, **options):
        found[path(module, leaf)] = Created(*asked[path(module, leaf)], init)
        return FLAX_PARAM(module, leaf, init, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mup, "param", param)
        patch.setattr(nn.Module, "param", flax_param)
        boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs)["params"])
    boxes = {dotted(leaf): box for leaf, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)}
    assert found.keys() == boxes.keys()
    return found, boxed

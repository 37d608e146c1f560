"""A toy objective with everything that an objective may have: two players, one of which plays every fifth step, a frozen network,
a look at an average, a memory, and a reward computed in ordinary Python."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import mup, types
from jaxgen.nn.linear import Linear
from jaxgen.parallel import keys

FEATURES = 64


class Net(nn.Module):
    """Pixels to one number a row, through a hidden layer."""

    width: int = 64
    scaling: mup.Scaling = mup.Scaling()

    streams = ()

    @nn.compact
    def __call__(self, x):
        scale = self.scaling.at(self.width)
        x = Linear((("features", FEATURES),), (("embed_out", self.width),), scale, name="in")(x)
        x = Linear((("embed", self.width),), (("embed_out", self.width),), scale, name="hidden")(jnp.tanh(x))
        return Linear((("embed", self.width),), (("patch", 1),), scale, kind="output", name="out")(jnp.tanh(x))[..., 0]


@dataclasses.dataclass(frozen=True)
class Game:
    """The generator moves towards the teacher, the reward and the critic's average; the critic regresses on the generator."""

    critic_every: int = 5
    teacher_seed: int = 7

    def _inputs(self):
        return (jnp.zeros((1, FEATURES)),)

    def players(self, experiment):
        critic = Net(width=32, scaling=mup.Scaling(base_width=32))
        return (
            types.Player("generator", experiment.model, self._inputs),
            types.Player("critic", critic, self._inputs, ema=(0.9,), every=self.critic_every),
        )

    def frozen(self, experiment):
        module = Net()
        load = lambda key: module.init(jax.random.key(self.teacher_seed), *self._inputs())["params"]
        return (types.Frozen("teacher", module, load, f"random, seed {self.teacher_seed}"),)

    def memory(self, experiment):
        return {"mean": jnp.float32(0)}

    def prepare(self, views, batch, key):
        x = batch["image"].reshape(batch["image"].shape[0], FEATURES).astype(jnp.float32) / 255
        x = x + 0.1 * jax.random.normal(keys.stream(key, "noise"), x.shape)
        guess = views.modules["generator"].apply({"params": views.params["generator"]}, x)
        return {"x": x, "weight": batch["weight"], "index": batch["index"], "guess": guess}

    def host_features(self):
        return {"reward": jax.ShapeDtypeStruct((), jnp.float32)}

    def host(self, rows):
        return {"reward": np.asarray([float(i % 3) - 0.1 * float(g) for i, g in zip(rows["index"], rows["guess"])], np.float32)}

    def loss(self, player, params, views, batch, key, step, memory):
        def value(name, params):
            return views.modules[name].apply({"params": params}, batch["x"])

        if player == "critic":
            errors = (value("critic", params) - value("generator", views.params["generator"])) ** 2
            mean = types.Mean.of(errors, batch["weight"])
            return mean.or_zero(), {"error": mean}, memory
        out = value("generator", params)
        teacher = value("teacher", views.frozen["teacher"])
        average = value("critic", views.ema["critic"]["0.9"])
        errors = (out - teacher) ** 2 + (out - batch["reward"]) ** 2 + 0.1 * (out - average) ** 2 + memory["mean"] * out
        mean = types.Mean.of(errors, batch["weight"])
        memory = {"mean": 0.9 * memory["mean"] + 0.1 * types.Mean.of(out, batch["weight"]).or_zero()}
        return mean.or_zero(), {"reward": types.Mean.of(batch["reward"], batch["weight"])}, memory

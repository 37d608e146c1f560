"""The shared bank: what every model is scored on, drawn once for the whole run.

For a generative objective a bank holds triples (sample, t, ε): the loss at other times and noise would differ by more than two
models do, so scores are comparable between sites and rounds only on the same triples.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types
from jaxgen.parallel import keys
from jaxgen.training import step as steps


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores parameters by the experiment's objective: the loss of its first player, over the whole bank.

    Attributes:
      experiment: its objective is asked, its batch size is the size of a chunk.
    """

    experiment: Any

    def chunks(self, rows: dict[str, np.ndarray], draws: int) -> types.Batch:
        """Rows [n, ...], each `draws` times, as chunks [chunks, B, ...]; what fills the last one up has weight 0."""
        size = self.experiment.data.batch_size
        rows = {name: np.repeat(values, draws, axis=0) for name, values in rows.items()}
        count = len(rows["weight"])
        filled = np.arange(-(-count // size) * size)
        padded = {name: values[np.minimum(filled, count - 1)] for name, values in rows.items()}
        padded["weight"] = np.where(filled < count, padded["weight"], 0).astype(np.float32)
        return {name: values.reshape(-1, size, *values.shape[1:]) for name, values in padded.items()}

    def prepare(self, params: types.PyTree, frozen: types.PyTree, chunks: types.Batch, seed: jax.Array) -> types.Batch:
        """The bank: each chunk as the objective prepares it, with draws that depend on the run's seed alone.

        Args:
          params: by player, those that all sites start from; objectives that look at them see these for good.
        """
        key = keys.stream(keys.root(seed), "score bank")
        count = chunks["weight"].shape[0]

        def one(chunk: tuple[types.Batch, jax.Array]) -> types.Batch:
            rows, number = chunk
            return self.experiment.objective.prepare(self._views(params, frozen), rows, jax.random.fold_in(key, number))

        return jax.lax.map(one, (chunks, jnp.arange(count)))

    def score(self, params: types.PyTree, frozen: types.PyTree, bank: types.Batch, seed: jax.Array) -> jax.Array:
        """Loss of parameters by player on the bank, float32 ()."""
        experiment = self.experiment
        objective = experiment.objective
        name = objective.players(experiment)[0].name
        key = keys.stream(keys.root(seed), "score")
        views = self._views(params, frozen)
        memory = objective.memory(experiment)

        def part(total: types.Mean, chunk: tuple[types.Batch, jax.Array]) -> tuple[types.Mean, None]:
            rows, number = chunk
            key_of_chunk = jax.random.fold_in(key, number)
            loss, _, _ = objective.loss(name, params[name], views, rows, key_of_chunk, jnp.int32(0), memory)
            weight = jnp.sum(rows["weight"])
            return total + types.Mean(loss * weight, weight), None

        nothing = types.Mean(jnp.float32(0), jnp.float32(0))
        total, _ = jax.lax.scan(part, nothing, (bank, jnp.arange(bank["weight"].shape[0])))
        return total.value()

    def _views(self, params: types.PyTree, frozen: types.PyTree) -> types.Views:
        compute = jnp.dtype(self.experiment.precision.compute)
        return types.Views(params, {name: {} for name in params}, frozen, modules=steps.modules(self.experiment), compute=compute)

"""Pictures from a trained network: the one place where sampler, network and autoencoder meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import types
from jaxgen.models import interface
from jaxgen.parallel import keys, sharding
from jaxgen.parallel import mesh as meshes
from jaxgen.samplers.sampler import to_uint8


class Generator:
    """Draws picture i from caption i. Picture i is the same whatever else is drawn and on however many devices.

    A device always computes `sampler.images_per_device` pictures at once: shapes, and so the order of summation, never change.

    Attributes:
      rows: pictures drawn at once, on all devices.
      draw: jitted (params, decoder, batch, indices), of `rows` rows each -> (pictures uint8, which were finite).

    Args:
      decoder: parameters of the experiment's autoencoder, or their shapes, to compile alone; None where it has none.
    """

    def __init__(self, experiment: Any, mesh: jax.sharding.Mesh, seed: int, decoder: types.PyTree = None) -> None:
        model, sampler, autoencoder = experiment.model, experiment.sampler, experiment.autoencoder

        @experiment.precision.scope()
        def draw(
            params: types.PyTree, decoder: types.PyTree, batch: types.Batch, indices: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            streams = interface.conditions(batch, model.streams)
            latents = sampler.latents(experiment, params, streams, indices, keys.root(seed))
            pixels = autoencoder.decode(decoder, latents)
            # Pictures are made where their rows lie; only then is each sent everywhere.
            return jax.lax.with_sharding_constraint((to_uint8(pixels), jnp.isfinite(pixels).all(axis=(1, 2, 3))), self._layout)

        self._layout = sharding.batch_sharding(mesh)
        # Whole on every device, so that every host can fetch them.
        self.draw = jax.jit(draw, out_shardings=sharding.replicated(mesh))
        self._mesh, self._streams, self._decoder = mesh, model.streams, decoder
        self.rows = sampler.images_per_device * meshes.batch_shards(mesh)

    def images(
        self, params: types.PyTree, conditions: dict[str, np.ndarray], indices: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields pictures uint8 [n, H, W, C] in order, at most `rows` at a time, and which of them were finite, bool [n].

        Args:
          params: parameters of the generator.
          conditions: by field name, [count, ...], what each picture is to show (fields as in a batch).
          indices: [count] integers; the picture's number decides its noise.
        """
        for start in range(0, len(indices), self.rows):
            part = slice(start, start + self.rows)
            count = len(indices[part])
            with jax.set_mesh(self._mesh):
                batch = {name: self._place(values[part]) for name, values in conditions.items()}
                drawn = self.draw(params, self._decoder, batch, self._place(np.asarray(indices[part], np.int32)))
            images, finite = jax.device_get(drawn)
            yield images[:count], finite[:count]

    def abstract(self, params: types.PyTree, features: dict[str, Any]) -> tuple[Any, ...]:
        """Arguments of `draw` without values, to compile it ahead of time.

        Args:
          params: abstract parameters of the generator, with shardings.
          features: shape and dtype of a row by field name (`Data.features`).
        """
        shapes = {name: (feature.shape, feature.dtype) for name, feature in self.conditions(features).items()}
        batch = {n: jax.ShapeDtypeStruct((self.rows, *shape), dtype, sharding=self._layout) for n, (shape, dtype) in shapes.items()}
        return params, self._decoder, batch, jax.ShapeDtypeStruct((self.rows,), np.int32, sharding=self._layout)

    def conditions(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The fields of rows that the model is conditioned on."""
        return {name: rows[name] for stream in self._streams for name in (stream, f"{stream}_mask") if name in rows}

    def _place(self, rows: np.ndarray) -> jax.Array:
        filled = np.concatenate([rows, np.repeat(rows[-1:], self.rows - len(rows), axis=0)])
        return sharding.place(filled, self._layout)

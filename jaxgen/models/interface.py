"""The edge of generators: pictures to tokens and back, batches to conditions, and a velocity from a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import types
from jaxgen.nn.embeddings import Table
from jaxgen.nn.modulation import segment_mean
from jaxgen.nn.patches import joined, patches
from jaxgen.nn.stack import HIDDEN


def image_tokens(x: jax.Array, patch: int, compute: Any) -> types.Tokens:
    """Latents [B, H, W, C] as tokens of patch × patch × C values, row-major, in dtype `compute`.

    Positions are (row, column) counted from the centre, so that resolutions agree in the middle.
    """
    batch, height, width, _ = x.shape
    rows, columns = height // patch, width // patch
    row = jnp.arange(rows, dtype=jnp.float32) - rows / 2
    column = jnp.arange(columns, dtype=jnp.float32) - columns / 2
    positions = jnp.stack(jnp.meshgrid(row, column, indexing="ij"), axis=-1).reshape(1, -1, 2)
    return types.Tokens(
        values=patches(x, patch).astype(compute),
        positions=jnp.broadcast_to(positions, (batch, rows * columns, 2)),
        segments=jnp.ones((batch, rows * columns), jnp.int32),
        grid=(rows, columns),
    )


def image(values: jax.Array, shape: Sequence[int], patch: int) -> jax.Array:
    """Token values [B, L, p·p·C] back to latents of `shape` [B, H, W, C], float32."""
    _, height, width, _ = shape
    return joined(values.astype(jnp.float32), (height // patch, width // patch), patch)


def conditions(batch: types.Batch, streams: Sequence[str]) -> dict[str, types.Condition]:
    """The named streams of a batch. A field [B] becomes a stream of one entry; `<name>_mask` marks absent entries."""
    found = {}
    for name in streams:
        values = batch[name]
        values = values[:, None] if values.ndim == 1 else values
        mask = batch.get(f"{name}_mask")
        segments = jnp.ones(values.shape[:2], jnp.int32) if mask is None else mask.astype(jnp.int32)
        found[name] = types.Condition(values, segments)
    return found


def present(stream: types.Condition) -> jax.Array:
    """Values of a stream with 0 for absent entries, so that an id outside of its table, or a NaN, cannot spread from there."""
    there = stream.segments > 0
    return jnp.where(there.reshape(there.shape + (1,) * (stream.values.ndim - 2)), stream.values, 0)


def null(streams: dict[str, types.Condition]) -> dict[str, types.Condition]:
    """The same streams with every entry absent."""
    return {name: stream.replace(segments=jnp.zeros_like(stream.segments)) for name, stream in streams.items()}


def label_vectors(table: Table, stream: types.Condition, owners: jax.Array) -> jax.Array:
    """Vectors of the labels of each segment: their mean, or the last row of the table where a segment has none.

    Args:
      table: of one row a label, and one more for the null label.
      stream: integer labels [B, S].
      owners: [B, M], the segments that ask.

    Returns:
      [B, M, D] float32.
    """
    mean, there = segment_mean(table(present(stream)), stream.segments, owners)
    return jnp.where(there[..., None], mean, table(jnp.full_like(owners, table.rows - 1)))


def velocity(
    module: Any,
    params: types.PyTree,
    x: jax.Array,
    t: jax.Array,
    streams: dict[str, types.Condition],
    compute: Any,
) -> jax.Array:
    """What the network puts out at latents x [B, H, W, C] and times t [B]: float32 [B, H, W, C], or 2 C with a learned variance.

    It is the velocity of a flow, or what else the process of the objective has a network predict.
    """
    tokens = image_tokens(x, module.patch, compute)
    values = module.apply({"params": params}, tokens, t, streams)
    return image(values, x.shape, module.patch)


def velocity_and_hidden(
    module: Any,
    params: types.PyTree,
    x: jax.Array,
    t: jax.Array,
    streams: dict[str, types.Condition],
    compute: Any,
    block: int,
) -> tuple[jax.Array, jax.Array]:
    """As `velocity`, and the image tokens behind one block [B, L, D] in dtype `compute`.

    Args:
      block: from 1 to the model's `block_count`.
    """
    tokens = image_tokens(x, module.patch, compute)
    values, found = module.apply({"params": params}, tokens, t, streams, tap=block, mutable=[HIDDEN])
    (hidden,) = jax.tree.leaves(found[HIDDEN])
    return image(values, x.shape, module.patch), hidden


def require_rows(option: str, rows: int, data: Any, field: str) -> None:
    """Refuses a table with fewer rows than the data have ids in `field`: such ids would be looked up as NaN.

    Raises:
      BadInput: naming `option`.
    """
    count = data.id_counts().get(field, 0)
    if rows < count:
        raise types.BadInput(option, rows, f"at least {count}, the number of ids in the data's field {field!r}")


def require_streams(streams: Sequence[str], data: Any) -> None:
    """Refuses data without a field that a model reads.

    Raises:
      BadInput: naming the source and the field.
    """
    features = data.features()
    for name in streams:
        if name not in features:
            needed = f"a source with the field {name!r} that the model reads; it has {', '.join(features)}"
            raise types.BadInput("data.source", type(data.source).__name__, needed)

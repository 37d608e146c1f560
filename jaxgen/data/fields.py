"""The fields that every source's examples have, described before anything is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from jaxgen.data.pipeline import Data

SPLITS = ("train", "test")


def common(data: Data) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of one example's fields.

    `image` uint8 [resolution, resolution, channels]; `text` int32 [text_length] (see `jaxgen.data.text`); `text_mask`
    bool [text_length]; `weight` float32, 0 where the example is broken and does not count; `index` int32, the example's
    number in its split.
    """
    return {
        "image": jax.ShapeDtypeStruct((data.resolution, data.resolution, data.channels), np.uint8),
        "text": jax.ShapeDtypeStruct((data.text_length,), np.int32),
        "text_mask": jax.ShapeDtypeStruct((data.text_length,), np.bool_),
        "weight": jax.ShapeDtypeStruct((), np.float32),
        "index": jax.ShapeDtypeStruct((), np.int32),
    }


def label() -> dict[str, jax.ShapeDtypeStruct]:
    """The class of an example, `label` int32."""
    return {"label": jax.ShapeDtypeStruct((), np.int32)}


def plan(length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a picture is to show in ids, `plan` int32 [length], for models that write it down before they draw.

    The last id is 0 always: each is known to what comes behind the next.
    """
    return {"plan": jax.ShapeDtypeStruct((length,), np.int32)}

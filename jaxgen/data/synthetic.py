"""Examples made up from their index, with NumPy alone: for a first run on a fresh machine, and for tests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxgen import types
from jaxgen.data import captions, digit_captions, fields, hashing, order

if TYPE_CHECKING:
    from jaxgen.data.pipeline import Data

_SMALLEST = 4
_VERSION = 1

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Ten classes of noisy pictures, each with a bright quadrant or bar of its own, captioned like digits.

    Attributes:
      count: examples in each split; the splits have other noise.
      languages: of the captions.
      text_features: channels of vectors that stand for a text encoder's, one fixed random vector for each id; 0 gives the ids.
      pooled_features: channels of the field `pooled`, which stands for the encoding of a whole text; 0 has no such field.
      plans: adds the field `plan` of two ids: one more than the class, and 0.
      latents: pictures may have any number of channels, in place of an autoencoder's latents.
    """

    count: int = 1024
    languages: tuple[str, ...] = ("en", "zh")
    text_features: int = 0
    pooled_features: int = 0
    plans: bool = False

    classes = digit_captions.DIGITS
    latents = True

    @property
    def plan_ids(self) -> int | None:
        """Number of ids in plans; None without them."""
        return self.classes + 1 if self.plans else None

    def features(self, data: Data) -> dict[str, jax.ShapeDtypeStruct]:
        """See `jaxgen.data.fields.common` and `jaxgen.data.captions.features`.

        Encoded, `text` is float32 [text_length, text_features], zero for absent entries, and `pooled` float32 [1, pooled_features].

        Raises:
          BadInput: no examples, negative channels, unknown languages, pictures under 4 pixels, or texts that do not fit.
        """
        if self.count < 1:
            raise types.BadInput("source.count", self.count, "at least 1")
        for name in ("text_features", "pooled_features"):
            if getattr(self, name) < 0:
                raise types.BadInput(f"source.{name}", getattr(self, name), "0 or more")
        if data.resolution < _SMALLEST:
            raise types.BadInput("resolution", data.resolution, f"at least {_SMALLEST}")
        captions.check(self.languages, data.text_length, lambda: data.tokenizer, digit_captions.longest)
        encoded = {}
        if self.text_features:
            encoded["text"] = jax.ShapeDtypeStruct((data.text_length, self.text_features), np.float32)
        if self.pooled_features:
            encoded["pooled"] = jax.ShapeDtypeStruct((1, self.pooled_features), np.float32)
        planned = fields.plan(2) if self.plans else {}
        return fields.common(data) | fields.label() | captions.features() | encoded | planned

    def open(self, data: Data, split: str, seed: int, shuffle: bool) -> types.Examples:
        """Examples 0 … count - 1; number i shows class i mod 10.

        Raises:
          BadInput: as `features`.
        """
        self.features(data)
        return _Examples(self, data, split, seed, shuffle)


class _Examples:
    def __init__(self, source: Synthetic, data: Data, split: str, seed: int, shuffle: bool):
        self._count, self._data, self._split, self._source = source.count, data, split, source
        self._order = order.permuted(source.count, seed) if shuffle else order.stored(source.count)
        self._captions = digit_captions.of(split, seed, source.languages)
        facts = (_VERSION, split, source.count, digit_captions.fingerprint(), source.text_features, source.pooled_features)
        self.fingerprint = "synthetic-" + hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return self._count

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        indices = self._order(numbers)
        labels = indices % digit_captions.DIGITS
        texts = self._captions.fields(numbers, indices, labels, self._data)
        planned = {"plan": np.stack([labels + 1, 0 * labels], axis=1).astype(np.int32)} if self._source.plans else {}
        return {
            "image": self._pictures(indices, labels),
            "label": labels.astype(np.int32),
            "weight": np.ones(len(indices), np.float32),
            "index": indices.astype(np.int32),
            **planned,
        } | self._encoded(texts)

    def _encoded(self, texts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Fields of captions with vectors in place of ids, and one for the whole."""
        ids, present = texts["text"], texts["text_mask"][..., None]
        count, made = self._data.tokenizer.vocabulary, {}
        if self._source.text_features:
            made["text"] = np.where(present, _vectors("text", count, self._source.text_features)[ids], np.float32(0))
        if self._source.pooled_features:
            each = np.where(present, _vectors("pooled", count, self._source.pooled_features)[ids], np.float32(0))
            # A sum of n independent vectors grows as the root of n.
            made["pooled"] = each.sum(axis=1, keepdims=True) / np.sqrt(present.sum(axis=1, keepdims=True)).astype(np.float32)
        return texts | made

    def _pictures(self, indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """[n, R, R, C]: dark 32, bright 192, and noise of ±31 that is the same in all channels."""
        size = self._data.resolution
        pixels = indices[:, None] * size**2 + np.arange(size**2)
        noise = hashing.draws(0, f"{self._split} pixels", pixels) % np.uint64(63)
        bright = np.stack([_pattern(label, size) for label in range(digit_captions.DIGITS)])[labels]
        values = np.where(bright, 192, 32) + noise.reshape(-1, size, size).astype(np.int64) - 31
        return np.repeat(values.astype(np.uint8)[..., None], self._data.channels, axis=-1)


@functools.lru_cache(maxsize=2)
def _vectors(name: str, count: int, channels: int) -> np.ndarray:
    """float32 [count, channels], uniform with mean 0 and variance 1."""
    shares = (hashing.draws(0, f"vectors {name}", np.arange(count * channels)) >> np.uint64(11)) / 2.0**53
    return (math.sqrt(12) * (shares - 0.5)).astype(np.float32).reshape(count, channels)


def _pattern(label: int, size: int) -> np.ndarray:
    """Where a class is bright, bool [size, size]: one of four quadrants, three rows of bars, three columns of bars."""
    if label < len(_CORNERS):
        halves = np.arange(size) * 2 // size
        top, left = _CORNERS[label]
        return (halves[:, None] == top) & (halves[None, :] == left)
    third = np.arange(size) * 3 // size == (label - len(_CORNERS)) % 3
    bars = np.broadcast_to(third, (size, size))
    return bars.T if label < len(_CORNERS) + 3 else bars

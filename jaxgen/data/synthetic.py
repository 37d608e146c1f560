"""Examples made up from their index, with NumPy alone: for a first run on a fresh machine, and for tests."""

from __future__ import annotations

import dataclasses
import hashlib
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
      latents: pictures may have any number of channels, in place of an autoencoder's latents.
    """

    count: int = 1024
    languages: tuple[str, ...] = ("en", "zh")

    classes = digit_captions.DIGITS
    latents = True

    def features(self, data: Data) -> dict[str, jax.ShapeDtypeStruct]:
        """See `jaxgen.data.fields.common` and `jaxgen.data.captions.features`.

        Raises:
          BadInput: no examples, unknown languages, pictures under 4 pixels, or texts that do not fit.
        """
        if self.count < 1:
            raise types.BadInput("source.count", self.count, "at least 1")
        if data.resolution < _SMALLEST:
            raise types.BadInput("resolution", data.resolution, f"at least {_SMALLEST}")
        captions.check(self.languages, data.text_length, lambda: data.tokenizer, digit_captions.longest)
        return fields.common(data) | fields.label() | captions.features()

    def open(self, data: Data, split: str, seed: int, shuffle: bool) -> types.Examples:
        """Examples 0 … count - 1; number i shows class i mod 10.

        Raises:
          BadInput: as `features`.
        """
        self.features(data)
        return _Examples(self, data, split, seed, shuffle)


class _Examples:
    def __init__(self, source: Synthetic, data: Data, split: str, seed: int, shuffle: bool):
        self._count, self._data, self._split = source.count, data, split
        self._order = order.permuted(source.count, seed) if shuffle else order.stored(source.count)
        self._captions = digit_captions.of(split, seed, source.languages)
        facts = (_VERSION, split, source.count, digit_captions.fingerprint())
        self.fingerprint = "synthetic-" + hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return self._count

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        indices = self._order(numbers)
        labels = indices % digit_captions.DIGITS
        return {
            "image": self._pictures(indices, labels),
            "label": labels.astype(np.int32),
            "weight": np.ones(len(indices), np.float32),
            "index": indices.astype(np.int32),
        } | self._captions.fields(numbers, indices, labels, self._data)

    def _pictures(self, indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """[n, R, R, C]: dark 32, bright 192, and noise of ±31 that is the same in all channels."""
        size = self._data.resolution
        pixels = indices[:, None] * size**2 + np.arange(size**2)
        noise = hashing.draws(0, f"{self._split} pixels", pixels) % np.uint64(63)
        bright = np.stack([_pattern(label, size) for label in range(digit_captions.DIGITS)])[labels]
        values = np.where(bright, 192, 32) + noise.reshape(-1, size, size).astype(np.int64) - 31
        return np.repeat(values.astype(np.uint8)[..., None], self._data.channels, axis=-1)


def _pattern(label: int, size: int) -> np.ndarray:
    """Where a class is bright, bool [size, size]: one of four quadrants, three rows of bars, three columns of bars."""
    if label < len(_CORNERS):
        halves = np.arange(size) * 2 // size
        top, left = _CORNERS[label]
        return (halves[:, None] == top) & (halves[None, :] == left)
    third = np.arange(size) * 3 // size == (label - len(_CORNERS)) % 3
    bars = np.broadcast_to(third, (size, size))
    return bars.T if label < len(_CORNERS) + 3 else bars

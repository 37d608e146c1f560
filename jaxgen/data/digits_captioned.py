"""Real handwritten digits (UCI, carried by scikit-learn) with captions in English and Chinese.

Written once as a TFDS data set in ArrayRecord, without TensorFlow and without a download, and read by random access.
The data set holds pictures and labels; captions are made on reading (`jaxgen.data.captions`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

from jaxgen import types
from jaxgen.data import builders, captions, digit_captions, fields, order

if TYPE_CHECKING:
    from jaxgen.data.pipeline import Data

NAME = "digits_captioned"
VERSION = "1.0.0"
SIDE = 8
_BRIGHTEST = 16
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class DigitsCaptioned:
    """1797 grey pictures of 8 × 8 pixels, four fifths of each digit for training and one fifth for testing.

    The same writers are in both.

    Attributes:
      directory: local folder that holds the data set, built there on first use; empty takes $TFDS_DATA_DIR where that
        is a local folder, else ~/.cache/jaxgen/tfds (the one taken is logged). Hosts that share no folder each build
        the same.
      languages: of the captions.
    """

    directory: str = ""
    languages: tuple[str, ...] = ("en", "zh")

    classes = digit_captions.DIGITS

    def features(self, data: Data) -> dict[str, jax.ShapeDtypeStruct]:
        """See `jaxgen.data.fields.common` and `jaxgen.data.captions.features`.

        Raises:
          BadInput: a resolution that is no multiple of 8, unknown languages, texts that do not fit, a remote folder.
        """
        if data.resolution < SIDE or data.resolution % SIDE:
            raise types.BadInput("resolution", data.resolution, f"a multiple of {SIDE}, the size of the pictures")
        builders.check(self.directory)
        captions.check(self.languages, data.text_length, lambda: data.tokenizer, digit_captions.longest)
        return fields.common(data) | fields.label() | captions.features()

    def open(self, data: Data, split: str, seed: int, shuffle: bool) -> types.Examples:
        """Opens a split, building the data set first where it is not there yet (seconds).

        Raises:
          BadInput: as `features`, or a folder that cannot be written or read.
        """
        self.features(data)
        with builders.opened(_builder_class, self.directory, split) as builder:
            return _Examples(self, data, builder, split, seed, shuffle)


class _Examples:
    def __init__(self, source: DigitsCaptioned, data: Data, builder: Any, split: str, seed: int, shuffle: bool):
        import tensorflow_datasets as tfds

        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        records = records.__getitems__(range(len(records)))
        # All of them take 100 KB, and reading one from disk takes longer than a training step may wait.
        self._pictures = np.stack([np.asarray(Image.open(io.BytesIO(record["image"]))) for record in records])
        self._labels = np.array([record["label"] for record in records], np.int32)
        self._data = data
        self._order = order.shuffled(len(self), seed) if shuffle else order.stored(len(self))
        self._captions = digit_captions.of(split, seed, source.languages)
        digest = hashlib.blake2b(digit_captions.fingerprint().encode(), digest_size=8)
        for record, picture in zip(records, self._pictures, strict=True):
            digest.update(b"%d %d " % (record["index"], record["label"]) + picture.tobytes())
        self.fingerprint = f"{NAME}-{split}-{digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self._labels)

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        indices = self._order(numbers)
        labels = self._labels[indices]
        times = self._data.resolution // SIDE
        pictures = self._pictures[indices].repeat(times, axis=1).repeat(times, axis=2)
        return {
            "image": np.repeat(pictures[..., None], self._data.channels, axis=-1),
            "label": labels,
            "weight": np.ones(len(indices), np.float32),
            "index": indices.astype(np.int32),
        } | self._captions.fields(numbers, indices, labels, self._data)


@functools.cache
def _builder_class() -> type:
    """The TFDS builder, made in a function because TFDS is imported only when a source is opened."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder):
        name = NAME
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description="Handwritten digits with their labels, digits taking turns.",
                homepage="https://archive.ics.uci.edu/dataset/80",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(SIDE, SIDE, 1), encoding_format="png"),
                        "label": tfds.features.ClassLabel(num_classes=digit_captions.DIGITS),
                        "index": np.int32,
                    }
                ),
                # The order of writing is the order of reading: digits take turns, which balances the test captions.
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            from sklearn.datasets import load_digits

            digits = load_digits()
            return {
                split: self._generate_examples(digits.images, digits.target, indices)
                for split, indices in divide(digits.target).items()
            }

        def _generate_examples(
            self, images: np.ndarray, labels: np.ndarray, indices: Sequence[int]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for place, index in enumerate(indices):
                grey = np.rint(images[index] * (255 / _BRIGHTEST)).astype(np.uint8)
                png = io.BytesIO()
                Image.fromarray(grey).save(png, "PNG")
                yield place, {"image": png.getvalue(), "label": int(labels[index]), "index": int(index)}

    return Builder


def divide(labels: np.ndarray) -> dict[str, list[int]]:
    """Indices of each split, the classes taking turns: the k-th of every class, then the next.

    Args:
      labels: int [n]; every fifth example of a class is for testing.
    """
    ranks = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        ranks[labels == label] = np.arange((labels == label).sum())
    turns = np.lexsort((labels, ranks))
    testing = ranks[turns] % _FOLDS == _FOLDS - 1
    return {"train": turns[~testing].tolist(), "test": turns[testing].tolist()}

"""The configuration of data: a source and the shape in which its examples are wanted."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax

from jaxgen import types
from jaxgen.data import fields, text
from jaxgen.data.synthetic import Synthetic


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained on.

    Attributes:
      source: where examples come from.
      batch_size: examples in a step, over all hosts and devices together.
      resolution: height and width of pictures, pixels.
      channels: 1 (grey) or 3 (red, green, blue); any other number stands for latents, which `synthetic` alone makes up so far.
      text_length: tokens of text, padded or cut to this.
      tokens: what text is cut into: "bytes", or "words" of the source's training captions; other words are spelled in bytes.
      spelled: share of the listed words that training spells in bytes all the same, drawn anew for each row. Without any, bytes are
        strangers to a network trained on words, and so is every word outside of the list (BPE-dropout, Provilkov et al., arXiv
        1910.13267, is the same idea).
      prefetch: batches that are prepared ahead of the step that uses them.
      broken_limit: share of examples that may be broken before the source is refused. Up to it they count as nothing
        (weight 0).
    """

    source: types.Source = dataclasses.field(
        default_factory=Synthetic,
        metadata={
            "choices": {
                "digits_captioned": "jaxgen.data.digits_captioned:DigitsCaptioned",
                "folder": "jaxgen.data.folder:Folder",
                "scenes": "jaxgen.data.scenes.source:Scenes",
                "synthetic": "jaxgen.data.synthetic:Synthetic",
            }
        },
    )
    batch_size: int = 64
    resolution: int = 8
    channels: int = 1
    text_length: int = 64
    tokens: Literal["bytes", "words"] = "bytes"
    spelled: float = 0.0
    prefetch: int = 2
    broken_limit: float = 0.05

    def validate(self) -> None:
        """Checks these options and the source's, opening nothing.

        Raises:
          BadInput: an option out of its range; its name is relative to this dataclass.
        """
        for name in ("batch_size", "resolution", "prefetch"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "at least 1")
        if self.channels < 1 or (self.channels not in (1, 3) and not getattr(self.source, "latents", False)):
            raise types.BadInput("channels", self.channels, "1 or 3, or a source that has latents")
        if self.text_length < text.SHORTEST:
            raise types.BadInput("text_length", self.text_length, f"at least {text.SHORTEST}")
        if self.tokens == "words" and not hasattr(self.source, "words"):
            raise types.BadInput("tokens", self.tokens, f"bytes: {type(self.source).__name__} has no list of words")
        if not 0 <= self.spelled < 1:
            raise types.BadInput("spelled", self.spelled, "a share in [0, 1)")
        if self.spelled and self.tokens != "words":
            raise types.BadInput("spelled", self.spelled, f"0 where tokens={self.tokens!r}: all is spelled in bytes anyway")
        if not 0 <= self.broken_limit < 1:
            raise types.BadInput("broken_limit", self.broken_limit, "a share in [0, 1)")
        self.features()

    def features(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each field of one example, without a batch axis; always with `weight` and `index`.

        Raises:
          BadInput: the source has no such pictures or texts; the option's name is relative to this dataclass.
        """
        return self.source.features(self)

    @property
    def tokenizer(self) -> text.Tokenizer:
        """Text to ids and back, as `tokens` says."""
        return text.Tokenizer(self.source.words()) if self.tokens == "words" else text.BYTES

    def id_counts(self) -> dict[str, int]:
        """For each field of integer ids, how many there are; a model's tables must have as many rows."""
        others = {"label": getattr(self.source, "classes", None), "plan": getattr(self.source, "plan_ids", None)}
        return {"text": self.tokenizer.vocabulary} | {name: count for name, count in others.items() if count is not None}

    def open(self, split: str, seed: int, shuffle: bool) -> types.Examples:
        """Opens the source's "train" or "test" split.

        Args:
          split: "train" or "test".
          seed: not negative; decides the shuffled order and which of its captions a training example gets.
          shuffle: a fresh permutation each epoch, or stored order (row number modulo the number of examples).

        Raises:
          BadInput: an empty, missing or unreadable source; the option's name is relative to this dataclass.
          ValueError: another split.
        """
        if split not in fields.SPLITS:
            raise ValueError(f"split: found {split!r}, needed one of {fields.SPLITS}")
        return self.source.open(self, split, seed, shuffle)

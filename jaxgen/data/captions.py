"""Captions in several languages, some wordings kept for testing only.

A picture has as many captions as there are wordings and ways to say what it shows. Which one a row gets is a pure
function: in training of (seed, row number), so that a picture comes back with other words each epoch; in testing of the
example's index, so that languages, forms and held-out wordings are balanced within every kind of example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgen import types
from jaxgen.data import hashing, text

if TYPE_CHECKING:
    from jaxgen.data.pipeline import Data

CODES = ("en", "zh")
"""English and Chinese; the field `language` is the place in this table."""


@dataclasses.dataclass(frozen=True)
class Language:
    """Wordings of one language; `{}` is where the content goes.

    Attributes:
      seen: templates of training, which are tested too.
      heldout: templates that only testing uses.
      forms: ways to say the content (a digit, a prompt).
    """

    seen: tuple[str, ...]
    heldout: tuple[str, ...]
    forms: tuple[Callable[[Any], str], ...]


@dataclasses.dataclass(frozen=True)
class Caption:
    """One caption: its text, its language's place in `CODES`, and whether its wording is kept for testing."""

    text: str
    language: int
    heldout: bool


@dataclasses.dataclass(frozen=True)
class Captions:
    """The captions of one split.

    Attributes:
      split: "train" or "test".
      seed: of the run; training only.
      languages: by code.
      turns: kinds of examples that take turns in the test split, so that index mod turns is the kind.
    """

    split: str
    seed: int
    languages: Mapping[str, Language]
    turns: int

    def of(self, number: int, index: int, content: Any) -> Caption:
        """The caption of row `number` of the run, which is example `index` of the split and shows `content`."""
        return self._of(int(self._draws([number], [index])[0]), index, content)

    def _draws(self, numbers: Sequence[int], indices: Sequence[int]) -> np.ndarray:
        if self.split == "test":
            return hashing.draws(0, "test caption", indices)
        return hashing.draws(self.seed, "caption", numbers)

    def _of(self, draw: int, index: int, content: Any) -> Caption:
        codes = tuple(self.languages)
        if self.split == "test":
            # index // turns counts the examples of one kind; in mixed radix it spells the choices.
            rest, which = divmod(index // self.turns, len(codes))
            language = self.languages[codes[which]]
            rest, heldout = divmod(rest, 2)
            form = rest % len(language.forms)
        else:
            draw, which = divmod(draw, len(codes))
            language = self.languages[codes[which]]
            heldout = 0
            draw, form = divmod(draw, len(language.forms))
        templates = language.heldout if heldout else language.seen
        said = templates[draw % len(templates)].format(language.forms[form](content))
        return Caption(said, CODES.index(codes[which]), bool(heldout))

    def fields(self, numbers: Sequence[int], indices: Sequence[int], contents: Sequence[Any], data: Data) -> dict[str, np.ndarray]:
        """Fields of n rows: `text` int32 and `text_mask` bool [n, length], `language` int32 and `heldout` bool [n]."""
        drawn = self._draws(numbers, indices)
        chosen = [self._of(int(draw), int(index), content) for draw, index, content in zip(drawn, indices, contents)]
        tokenizer, length = data.tokenizer, data.text_length
        tokens = [tokenizer.encode(one.text, length, self._spelled(int(n), data)) for n, one in zip(numbers, chosen)]
        return {
            "text": np.stack([ids for ids, _ in tokens]),
            "text_mask": np.stack([mask for _, mask in tokens]),
            "language": np.array([caption.language for caption in chosen], np.int32),
            "heldout": np.array([caption.heldout for caption in chosen], np.bool_),
        }

    def _spelled(self, number: int, data: Data) -> Container[int]:
        """Which units of row `number`'s caption are spelled in bytes; each unit of a training row is with the same probability."""
        if self.split == "test" or not data.spelled:
            return ()
        drawn = hashing.draws(self.seed, f"spelled {number}", np.arange(data.text_length)) >> np.uint64(11)
        return set(np.flatnonzero(drawn / 2.0**53 < data.spelled).tolist())


def features() -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of captioned examples beside the common ones: `language` (int32) and `heldout` (bool)."""
    return {
        "language": jax.ShapeDtypeStruct((), np.int32),
        "heldout": jax.ShapeDtypeStruct((), np.bool_),
    }


def check(
    languages: tuple[str, ...],
    length: int,
    tokenizer: Callable[[], text.Tokenizer],
    longest: Callable[[tuple[str, ...], text.Tokenizer], int],
) -> None:
    """Checks that the languages are known and that their longest caption fits into `length` tokens.

    Args:
      tokenizer: makes it; called once the languages are known to exist, as its words are theirs.

    Raises:
      BadInput: `source.languages` or `text_length`, named relative to the data configuration.
    """
    if not languages or not set(languages) <= set(CODES) or len(set(languages)) < len(languages):
        raise types.BadInput("source.languages", languages, f"one or more of {CODES}, each once")
    needed = longest(languages, tokenizer())
    if length < needed:
        raise types.BadInput("text_length", length, f"at least {needed}, which the longest caption takes")

"""Text as tokens: three special ones, the 256 values of a byte, and words of their own where there is a list of them.

Every language fits and nothing is unknown: what is in no list is spelled in bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Container, Iterable, Iterator

import numpy as np

PAD = 0
BOS = 1
EOS = 2
FIRST_BYTE = 3
FIRST_WORD = FIRST_BYTE + 256
SHORTEST = 3
"""The smallest length that holds any text: beginning, one byte, end."""

_UNIT = re.compile(" ?[A-Za-z]+|.", re.DOTALL)
"""What can be a word: a run of Latin letters with the space before it, or any other character."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back.

    Attributes:
      words: units of text (`units`) that are one token each, without repetition; everything else is spelled in bytes.
    """

    words: tuple[str, ...] = ()

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return FIRST_WORD + len(self.words)

    @property
    def fingerprint(self) -> str:
        """Changes when an id would mean something else."""
        return hashlib.blake2b(repr(self.words).encode(), digest_size=8).hexdigest()

    def encode(self, text: str, length: int, spelled: Container[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, int32 [length], and where they are not padding, bool [length].

        Text that does not fit is cut after the last whole word or character that does; the end token is always there.

        Args:
          text: to encode.
          length: tokens, padding included.
          spelled: numbers of the units (`units`) that are spelled in bytes though they are listed, as long as the whole text fits.

        Raises:
          ValueError: `length` is under 3, or `text` has a lone surrogate, which UTF-8 cannot write.
        """
        if length < SHORTEST:
            raise ValueError(f"length: found {length}, needed at least {SHORTEST}")
        content: list[int] = []
        room = length - self.needed(text) if spelled else 0
        for tokens in self._tokens(text, spelled, room):
            if len(content) + len(tokens) > length - 2:
                break
            content += tokens
        ids = np.full(length, PAD, np.int32)
        ids[: len(content) + 2] = [BOS, *content, EOS]
        return ids, np.arange(length) < len(content) + 2

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids up to the end token; inverse of `encode` for text that was not cut.

        Takes what a network wrote as well: special tokens and ids outside the vocabulary are passed over, and bytes that
        are not UTF-8 become U+FFFD.
        """
        content = bytearray()
        for token in ids:
            if token == EOS:
                break
            if FIRST_BYTE <= token < FIRST_WORD:
                content.append(int(token) - FIRST_BYTE)
            elif FIRST_WORD <= token < self.vocabulary:
                content += self.words[int(token) - FIRST_WORD].encode()
        return content.decode(errors="replace")

    def needed(self, text: str) -> int:
        """Number of tokens that hold the whole of `text`."""
        return sum(map(len, self._tokens(text))) + 2

    def _tokens(self, text: str, spelled: Container[int] = (), room: int = 0) -> Iterator[list[int]]:
        """The tokens of each word that is listed and of each character of the rest; listed words are `spelled` while that takes no
        more than `room` tokens in addition.
        """
        numbers = _numbers(self.words)
        for i, unit in enumerate(units(text)) if numbers else [(0, text)]:
            if unit in numbers:
                more = len(unit.encode()) - 1
                if not (i in spelled and more <= room):
                    yield [numbers[unit]]
                    continue
                room -= more
            for character in unit:
                yield [FIRST_BYTE + byte for byte in character.encode()]


BYTES = Tokenizer()


def units(text: str) -> list[str]:
    """The parts of a text that can be words; joined they are the text."""
    return _UNIT.findall(text)


@functools.cache
def _numbers(words: tuple[str, ...]) -> dict[str, int]:
    return {word: FIRST_WORD + i for i, word in enumerate(words)}

"""Text as bytes: three special tokens and the 256 values of a byte. Every language fits and nothing is unknown."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

PAD = 0
BOS = 1
EOS = 2
FIRST_BYTE = 3
VOCABULARY = FIRST_BYTE + 256
SHORTEST = 3
"""The smallest length that holds any text: beginning, one byte, end."""


def encode(text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, int32 [length], and where they are not padding, bool [length].

    Text that does not fit is cut after the last whole character that does; the end token is always there.

    Raises:
      ValueError: `length` is under 3, or `text` has a lone surrogate, which UTF-8 cannot write.
    """
    if length < SHORTEST:
        raise ValueError(f"length: found {length}, needed at least {SHORTEST}")
    content = text.encode()
    end = length - 2
    if len(content) > end:
        # Bytes 10xxxxxx continue a character: step back to the byte that begins the one that is cut.
        while end and content[end] & 0xC0 == 0x80:
            end -= 1
        content = content[:end]
    ids = np.full(length, PAD, np.int32)
    ids[0] = BOS
    ids[1 : 1 + len(content)] = np.frombuffer(content, np.uint8).astype(np.int32) + FIRST_BYTE
    ids[1 + len(content)] = EOS
    return ids, np.arange(length) < len(content) + 2


def decode(ids: Iterable[int]) -> str:
    """The text of token ids up to the end token; inverse of `encode` for text that was not cut.

    Takes what a network wrote as well: special tokens and ids outside the vocabulary are passed over, and bytes that
    are not UTF-8 become U+FFFD.
    """
    content = bytearray()
    for token in ids:
        if token == EOS:
            break
        if FIRST_BYTE <= token < VOCABULARY:
            content.append(int(token) - FIRST_BYTE)
    return content.decode(errors="replace")


def needed(text: str) -> int:
    """Number of tokens that hold the whole of `text`."""
    return len(text.encode()) + 2

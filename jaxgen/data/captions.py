"""Captions of a digit in English and Chinese, some wordings kept for testing only.

A picture has as many captions as there are wordings and ways to write its digit. Which one a row gets is a pure
function: in training of (seed, row number), so that a picture comes back with other words each epoch; in testing of the
example's index, so that languages, forms and held-out wordings are balanced within every digit.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from jaxgen import types
from jaxgen.data import hashing, text

DIGITS = 10


@dataclasses.dataclass(frozen=True)
class Language:
    """Wordings of one language; `{}` is where the digit goes.

    Attributes:
      seen: templates of training, which are tested too.
      heldout: templates that only testing uses.
      forms: ways to write a digit, each a sequence of ten.
    """

    seen: tuple[str, ...]
    heldout: tuple[str, ...]
    forms: tuple[Sequence[str], ...]


_ENGLISH = Language(
    seen=(
        "{}", "digit {}", "the digit {}", "number {}", "the number {}", "numeral {}", "the numeral {}",
        "a picture of {}", "a picture of the digit {}", "a picture of the number {}",
        "an image of {}", "an image of the digit {}", "an image of the number {}",
        "a drawing of {}", "a drawing of the digit {}", "a scan of {}", "a scan of the digit {}",
        "handwritten {}", "a handwritten {}", "the handwritten digit {}", "the handwritten number {}",
        "{} written by hand", "the digit {} written by hand",
        "someone wrote {}", "someone wrote the digit {}", "someone wrote the number {}",
        "a small picture of {}", "a grey picture of {}", "a blurry {}",
        "this is {}", "this is the digit {}", "this is the number {}",
        "it shows {}", "it shows the digit {}", "the picture shows {}", "the image shows {}",
        "please draw {}", "please write {}", "draw the digit {}", "write the number {}",
        "can you make {} for us?", "I would like to see {}", "we found {} there", "{} on a page", "{} in black ink",
        "{} in a notebook", "her hand made {}", "his school book says {}", "they all read {}", "looks like {} to me",
        "you may call it {}", "{} badly written", "{} quickly done", "an old scrawl of {}", "the sign for {}",
        "my friend's try at {}", "{} as children do it", "chalk marks: {}", "a pen left {}", "just {} and nothing else",
        "some ink shaped like {}", "which is {} I think", "show me {}", "give me {} now", "what a nice {}",
        "the form says {}", "her letter had {}", "print of {}", "now comes {}", "the answer was {}",
    ),
    heldout=(
        "could you sketch {} for me?", "what you see here is {}", "{} in somebody's handwriting",
        "I jotted down {} with a pen", "a photo of {} on paper", "my teacher chalked {}",
        "pencil strokes forming {}", "here we have {}", "a child's attempt at {}", "the symbol for {}",
    ),
    forms=(
        "0123456789",
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ),
)  # fmt: skip

_CHINESE = Language(
    seen=(
        "{}", "数字{}", "数字是{}", "这是{}", "这是数字{}", "这是一个{}", "一个{}", "一个数字{}",
        "手写{}", "手写的{}", "手写数字{}", "手写的数字{}", "一个手写的{}", "一个手写数字{}",
        "这是手写的{}", "这是手写数字{}", "图中是{}", "图中是数字{}", "图片是{}", "图片里是{}", "图片里有{}",
        "图上写着{}", "图上写着数字{}", "画面中是{}",
        "纸上写着{}", "纸上写着数字{}", "写着{}", "写着数字{}", "写一个{}", "写数字{}", "请写{}", "请写数字{}",
        "画一个{}", "画数字{}", "请画{}", "请画数字{}", "有人写了{}", "有人写了数字{}", "数字{}的图片", "手写{}的图片",
        "帮我写个{}吧", "你能画{}吗", "他用铅笔写{}", "她在本子上写{}", "我想看{}", "黑板上有{}", "学生写的{}", "妈妈写下{}",
        "照片上是{}", "看起来像{}", "应该是{}", "潦草的{}", "工整的{}", "小小的{}", "答案是{}", "给我{}", "信里提到{}",
        "墨水写成的{}", "记得是{}", "表格填着{}", "这个符号读{}", "大家都认得{}", "谁画了{}", "只有{}而已", "朋友练字写{}",
        "弟弟学写{}", "门牌号是{}", "票上印着{}", "书中出现{}", "随手写的{}啊",
    ),
    heldout=(
        "我用笔写下{}", "笔迹组成了{}", "看得出是{}", "孩子练习的{}", "老师板书的{}",
        "能帮我画个{}吗", "扫描得到的{}", "屏幕上显示{}", "便条上的{}", "谁写的{}呢",
    ),
    forms=("0123456789", "〇一二三四五六七八九", "零壹贰叁肆伍陆柒捌玖"),
)  # fmt: skip

LANGUAGES: dict[str, Language] = {"en": _ENGLISH, "zh": _CHINESE}
"""By code. The field `language` is the place in this table: 0 English, 1 Chinese."""


@dataclasses.dataclass(frozen=True)
class Caption:
    """One caption: its text, its language's place in `LANGUAGES`, and whether its wording is kept for testing."""

    text: str
    language: int
    heldout: bool


@dataclasses.dataclass(frozen=True)
class Captions:
    """The captions of one split.

    Attributes:
      split: "train" or "test".
      seed: of the run; training only.
      languages: codes from `LANGUAGES`.
    """

    split: str
    seed: int
    languages: tuple[str, ...]

    def of(self, number: int, index: int, label: int) -> Caption:
        """The caption of row `number` of the run, which is example `index` of the split and shows the digit `label`.

        Testing balances best where the split goes through the digits in turn (index mod 10).
        """
        if self.split == "test":
            # Digits take turns, so index // 10 counts the examples of one digit; in mixed radix it spells the choices.
            rest, which = divmod(index // DIGITS, len(self.languages))
            language = LANGUAGES[self.languages[which]]
            rest, heldout = divmod(rest, 2)
            form = rest % len(language.forms)
            draw = int(hashing.draws(0, "test caption", [index])[0])
        else:
            draw, which = divmod(int(hashing.draws(self.seed, "caption", [number])[0]), len(self.languages))
            language = LANGUAGES[self.languages[which]]
            heldout = 0
            draw, form = divmod(draw, len(language.forms))
        templates = language.heldout if heldout else language.seen
        content = templates[draw % len(templates)].format(language.forms[form][label])
        return Caption(content, tuple(LANGUAGES).index(self.languages[which]), bool(heldout))

    def fields(self, numbers: Sequence[int], indices: Sequence[int], labels: Sequence[int], length: int) -> dict[str, np.ndarray]:
        """Fields of n rows: `text` int32 and `text_mask` bool [n, length], `language` int32 and `heldout` bool [n]."""
        chosen = [self.of(int(number), int(index), int(label)) for number, index, label in zip(numbers, indices, labels)]
        tokens = [text.encode(caption.text, length) for caption in chosen]
        return {
            "text": np.stack([ids for ids, _ in tokens]),
            "text_mask": np.stack([mask for _, mask in tokens]),
            "language": np.array([caption.language for caption in chosen], np.int32),
            "heldout": np.array([caption.heldout for caption in chosen], np.bool_),
        }


def features() -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of captioned digits beside the common ones: `label` and `language` (int32), `heldout` (bool)."""
    return {
        "label": jax.ShapeDtypeStruct((), np.int32),
        "language": jax.ShapeDtypeStruct((), np.int32),
        "heldout": jax.ShapeDtypeStruct((), np.bool_),
    }


def check(languages: tuple[str, ...], length: int) -> None:
    """Checks that the languages are known and that their longest caption fits into `length` tokens.

    Raises:
      BadInput: `source.languages` or `text_length`, named relative to the data configuration.
    """
    if not languages or not set(languages) <= set(LANGUAGES) or len(set(languages)) < len(languages):
        raise types.BadInput("source.languages", languages, f"one or more of {tuple(LANGUAGES)}, each once")
    if length < longest(languages):
        raise types.BadInput("text_length", length, f"at least {longest(languages)}, which the longest caption takes")


def longest(languages: tuple[str, ...]) -> int:
    """Tokens of the longest caption of these languages."""
    return max(
        text.needed(template.format(form[digit]))
        for language in (LANGUAGES[code] for code in languages)
        for template in language.seen + language.heldout
        for form in language.forms
        for digit in range(DIGITS)
    )


def fingerprint() -> str:
    """Changes when any wording does."""
    return hashlib.blake2b(repr(LANGUAGES).encode(), digest_size=8).hexdigest()

"""What is said of a digit, in English and Chinese, some wordings kept for testing only."""

from __future__ import annotations

import hashlib

from jaxgen.data import captions, text

DIGITS = 10

_ENGLISH = captions.Language(
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
        "0123456789".__getitem__,
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine").__getitem__,
    ),
)  # fmt: skip

_CHINESE = captions.Language(
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
    forms=("0123456789".__getitem__, "〇一二三四五六七八九".__getitem__, "零壹贰叁肆伍陆柒捌玖".__getitem__),
)  # fmt: skip

LANGUAGES: dict[str, captions.Language] = {"en": _ENGLISH, "zh": _CHINESE}


def of(split: str, seed: int, languages: tuple[str, ...]) -> captions.Captions:
    """The captions of one split, whose digits take turns."""
    return captions.Captions(split, seed, {code: LANGUAGES[code] for code in languages}, DIGITS)


def longest(languages: tuple[str, ...], tokenizer: text.Tokenizer) -> int:
    """Tokens of the longest caption of these languages."""
    return max(tokenizer.needed(caption) for caption in _every(languages))


def fingerprint() -> str:
    """Changes when any wording does."""
    return hashlib.blake2b("\n".join(_every(tuple(LANGUAGES))).encode(), digest_size=8).hexdigest()


def _every(languages: tuple[str, ...]) -> list[str]:
    return [
        template.format(form(digit))
        for language in (LANGUAGES[code] for code in languages)
        for template in language.seen + language.heldout
        for form in language.forms
        for digit in range(DIGITS)
    ]

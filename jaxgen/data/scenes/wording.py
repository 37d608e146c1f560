"""What is said of a scene, in English and Chinese, some wordings kept for testing only."""

from __future__ import annotations

import functools
import hashlib

from jaxgen.data import captions, text
from jaxgen.data.scenes import layout
from jaxgen.data.scenes.scene import COLOURS, RELATIONS, SHAPES, SIZES, TASKS, TEXTURES, Group, Prompt

_NUMBERS = ("one", "two", "three", "four")
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}

_ZH_NUMBERS = "一两三四"
_ZH_SHAPES = dict(zip(SHAPES, ("圆形", "正方形", "三角形", "十字形"), strict=True))
_ZH_COLOURS = dict(zip(COLOURS, ("红色", "绿色", "蓝色", "黄色", "紫色", "橙色"), strict=True))
_ZH_SIZES = dict(zip(SIZES, ("小", "大"), strict=True))
_ZH_TEXTURES = dict(zip(TEXTURES, ("纯色", "条纹", "格子", "斑点"), strict=True))
_ZH_RELATIONS = dict(zip(RELATIONS, ("左边", "右边", "上方", "下方", "里面", "顶上"), strict=True))


def english(of: Prompt) -> str:
    """For example "two red circles and a blue square"."""
    join = f" {of.relation} " if of.relation else " and "
    said = join.join(map(_english_group, of.groups))
    if of.texture:
        said += f" on a {of.texture} background"
    return said


def _english_group(group: Group) -> str:
    words = [group.size, group.colour, group.shape if group.count == 1 else _PLURALS[group.shape]]
    said = " ".join(word for word in words if word)
    if group.count > 1:
        return f"{_NUMBERS[group.count - 1]} {said}"
    return f"{'an' if said[0] in 'aeiou' else 'a'} {said}"


def chinese(of: Prompt) -> str:
    """For example 两个红色圆形和一个蓝色正方形; a relation comes first: 正方形左边的圆形."""
    said = [_chinese_group(group) for group in of.groups]
    if of.relation:
        first, second = (group.removeprefix("一个") for group in said)
        return f"{second}{_ZH_RELATIONS[of.relation]}的{first}"
    return (f"{_ZH_TEXTURES[of.texture]}背景上的" if of.texture else "") + "和".join(said)


def _chinese_group(group: Group) -> str:
    size = _ZH_SIZES[group.size] if group.size else ""
    colour = _ZH_COLOURS[group.colour] if group.colour else ""
    return f"{_ZH_NUMBERS[group.count - 1]}个{size}{colour}{_ZH_SHAPES[group.shape]}"


LANGUAGES: dict[str, captions.Language] = {
    "en": captions.Language(
        seen=(
            "{}", "a picture of {}", "an image of {}", "a drawing of {}", "a photo of {}", "a scene with {}", "a view of {}",
            "a painting of {}", "a print of {}", "a card with {}", "a page with {}", "a sign with {}", "a poster of {}",
            "this is {}", "it shows {}", "here is {}", "I see {}", "we see {}", "look: {}", "just {}", "only {}",
            "draw {}", "please draw {}", "paint {}", "show me {}", "give me {}", "make {}", "render {}", "imagine {}",
            "find {}", "I want {}", "I need {}", "can I have {}?", "let us see {}", "{}, please", "{} and no more",
            "she drew {}", "he painted {}", "they made {}", "now: {}", "once more {}", "my picture: {}",
        ),
        heldout=(
            "could you make {}?", "a rendering of {}", "what I see is {}", "depict {}", "you can see {}",
            "a figure with {}", "a sketch of {}", "someone drew {}", "I'd like {}", "next comes {}",
        ),
        forms=(english,),
    ),
    "zh": captions.Language(
        seen=(
            "{}", "一张图：{}", "图中有{}", "图里有{}", "画面上有{}", "这里有{}", "画{}", "请画{}", "画出{}", "给我{}", "我要{}",
            "我看到{}", "看见{}", "有{}", "显示{}", "展示{}", "画着{}", "图上是{}", "图中是{}", "只有{}", "照片里有{}", "想看{}",
            "生成{}", "请生成{}", "{}的图片", "{}的图", "画个图：{}", "来一张{}", "他画了{}", "她画了{}", "卡片上有{}", "纸上有{}",
            "屏幕上有{}", "{}，谢谢", "做{}", "创作{}", "请看{}", "再画{}",
        ),
        heldout=(
            "能画{}吗", "请展示{}", "绘制{}", "图案是{}", "我想要{}", "画面里是{}", "看到了{}", "谁画了{}", "帮我画{}",
            "海报上有{}",
        ),
        forms=(chinese,),
    ),
}  # fmt: skip


def of(split: str, seed: int, languages: tuple[str, ...]) -> captions.Captions:
    """The captions of one split, whose tasks take turns in testing."""
    return captions.Captions(split, seed, {code: LANGUAGES[code] for code in languages}, len(TASKS))


@functools.cache
def words(languages: tuple[str, ...]) -> tuple[str, ...]:
    """The units of text (`text.units`) of what training says in these languages, in order of their characters."""
    found = set()
    for language in (LANGUAGES[code] for code in languages):
        for template in language.seen:
            found.update(text.units(template.format("")))
        for said in (form(each) for form in language.forms for each in _extremes()):
            # At the start of a text, and after a word.
            found.update(text.units(said) + text.units(f" {said}"))
    return tuple(sorted(found))


@functools.cache
def longest(languages: tuple[str, ...], tokenizer: text.Tokenizer) -> int:
    """Tokens of the longest caption of these languages."""
    prompts = _extremes()
    return max(
        tokenizer.needed(template.format(form(each)))
        for language in (LANGUAGES[code] for code in languages)
        for template in language.seen + language.heldout
        for form in language.forms
        for each in prompts
    )


def fingerprint() -> str:
    """Changes when any wording does."""
    said = [repr((language.seen, language.heldout)) for language in LANGUAGES.values()]
    said += [form(each) for language in LANGUAGES.values() for form in language.forms for each in _extremes()]
    return hashlib.blake2b("\n".join(said).encode(), digest_size=8).hexdigest()


def _extremes() -> list[Prompt]:
    """Drawn prompts of every task, enough to hold the longest of each."""
    return [layout.prompt(layout.Draws(0, f"longest {task}", i), task) for task in TASKS for i in range(400)]

import collections
import itertools

import numpy as np
import pytest

from jaxgen import types
from jaxgen.data import captions, digit_captions, pipeline, text
from jaxgen.data.scenes import scene, wording
from jaxgen.data.scenes.source import Scenes

BOTH = ("en", "zh")


def wordings(languages, heldout):
    """Every caption that these templates can make, as {text: digit}."""
    made = {}
    for code in languages:
        language = digit_captions.LANGUAGES[code]
        for template in language.heldout if heldout else language.seen:
            for form, digit in itertools.product(language.forms, range(10)):
                assert made.setdefault(template.format(form(digit)), digit) == digit
    return made


@pytest.mark.parametrize("code", BOTH)
def test_there_are_enough_wordings_and_each_holds_one_digit(code):
    language = digit_captions.LANGUAGES[code]
    assert len(set(language.seen)) >= 40 and len(set(language.heldout)) >= 8
    assert not set(language.seen) & set(language.heldout)
    assert all(template.count("{}") == 1 for template in language.seen + language.heldout)
    assert all(len(set(map(form, range(10)))) == 10 for form in language.forms)


def test_a_caption_says_which_digit_and_whether_it_is_held_out():
    assert not set(wordings(BOTH, False)) & set(wordings(BOTH, True))


def test_every_caption_fits():
    lengths = [text.BYTES.needed(content) for heldout in (False, True) for content in wordings(BOTH, heldout)]
    assert max(lengths) == digit_captions.longest(BOTH, text.BYTES) <= 48


def test_training_never_shows_a_held_out_wording_and_uses_all_others():
    seen = wordings(BOTH, False)
    made = digit_captions.of("train", 0, BOTH)
    found = [(made.of(number, number % 7, number % 10), number % 10) for number in range(60_000)]
    assert all(seen[caption.text] == label and not caption.heldout for caption, label in found)
    assert {caption.text for caption, _ in found} == set(seen)


def test_a_training_picture_gets_other_words_each_visit_as_a_function_of_the_row():
    made = digit_captions.of("train", 0, BOTH)
    visits = [made.of(number, 5, 5) for number in range(5, 500, 10)]
    assert len({caption.text for caption in visits}) > 30
    assert visits[::-1] == [digit_captions.of("train", 0, BOTH).of(number, 5, 5) for number in range(495, 0, -10)]
    other = digit_captions.of("train", 1, BOTH)
    assert visits != [other.of(number, 5, 5) for number in range(5, 500, 10)]


def test_a_test_caption_depends_on_the_example_alone():
    for index in range(100):
        one = digit_captions.of("test", 0, BOTH).of(index, index, index % 10)
        assert one == digit_captions.of("test", 9, BOTH).of(index + 1000, index, index % 10)


@pytest.mark.parametrize("languages", [("en",), ("zh",), BOTH])
def test_testing_is_balanced_within_every_digit(languages):
    made = digit_captions.of("test", 0, languages)
    all_wordings = wordings(languages, False) | wordings(languages, True)
    counts = collections.Counter()
    for index in range(360):
        digit = index % 10
        caption = made.of(index, index, digit)
        assert all_wordings[caption.text] == digit
        assert (caption.text in wordings(languages, True)) == caption.heldout
        code = BOTH[caption.language]
        language = digit_captions.LANGUAGES[code]
        templates = language.heldout if caption.heldout else language.seen
        written = [form(digit) for form in language.forms]
        (form,) = (i for i, word in enumerate(written) if caption.text in {each.format(word) for each in templates})
        counts[digit, code, caption.heldout, form] += 1
    for digit in range(10):
        for code in languages:
            for heldout in (False, True):
                cell = [counts[digit, code, heldout, form] for form in range(len(digit_captions.LANGUAGES[code].forms))]
                assert sum(cell) == 36 / len(languages) / 2
                assert max(cell) - min(cell) <= 1


def test_fields_have_the_described_shapes_and_decode_to_the_captions():
    made = digit_captions.of("train", 0, BOTH)
    fields = made.fields(range(8), range(8), range(8), pipeline.Data(text_length=40))
    for row in range(8):
        caption = made.of(row, row, row)
        assert text.BYTES.decode(fields["text"][row]) == caption.text
        assert fields["language"][row] == caption.language and fields["heldout"][row] == caption.heldout
    for name, feature in captions.features().items():
        assert fields[name].dtype == feature.dtype and fields[name].shape == (8,)
    assert fields["text_mask"].dtype == np.bool_


def test_training_spells_a_share_of_the_listed_words_and_testing_none():
    prompt = scene.Prompt("color_attr", (scene.Group("circle", 2, "red"), scene.Group("cross", 1, "blue")))
    count = 400

    def fields(split, **options):
        data = pipeline.Data(source=Scenes(), resolution=32, channels=3, text_length=40, tokens="words", **options)
        return data.tokenizer, wording.of(split, 3, BOTH).fields(range(count), range(count), [prompt] * count, data)

    tokenizer, plain = fields("train")
    _, some = fields("train", spelled=0.1)
    bytes_of = lambda made: ((made["text"] >= text.FIRST_BYTE) & (made["text"] < text.FIRST_WORD)).sum(axis=1)
    assert bytes_of(plain).sum() == 0
    words = ((plain["text"] >= text.FIRST_WORD).sum(), (some["text"] >= text.FIRST_WORD).sum())
    assert 0.88 < words[1] / words[0] < 0.92
    for one, other in zip(plain["text"], some["text"]):
        assert tokenizer.decode(one) == tokenizer.decode(other)
    np.testing.assert_array_equal(some["text"], fields("train", spelled=0.1)[1]["text"])
    # Neighbouring rows and neighbouring words do not share their draws.
    spelled_rows = bytes_of(some) > 0
    assert 0.5 < spelled_rows.mean() < 0.9
    for name, values in fields("test")[1].items():
        np.testing.assert_array_equal(values, fields("test", spelled=0.5)[1][name])


@pytest.mark.parametrize("languages, length, option", [
    ((), 64, "source.languages"),
    (("en", "fr"), 64, "source.languages"),
    (("en", "en"), 64, "source.languages"),
    (("en",), 16, "text_length"),
])  # fmt: skip
def test_bad_options_are_refused(languages, length, option):
    with pytest.raises(types.BadInput) as complaint:
        captions.check(languages, length, lambda: text.BYTES, digit_captions.longest)
    assert complaint.value.option == option

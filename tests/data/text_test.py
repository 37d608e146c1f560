import numpy as np
import pytest

from jaxgen.data import text

WORDS = text.Tokenizer(("seven", " and", "七", " a", "🙂"))


@pytest.mark.parametrize("content", ["", "a", "seven", "柒 and 七", "naïve\n\t\0", "🙂🙃", " and and sevens"])
@pytest.mark.parametrize("tokenizer", [text.BYTES, WORDS], ids=["bytes", "words"])
def test_decode_is_the_inverse_of_encode(content, tokenizer):
    ids, mask = tokenizer.encode(content, 32)
    assert tokenizer.decode(ids) == content
    assert ids.dtype == np.int32 and mask.dtype == np.bool_ and ids.shape == mask.shape == (32,)
    assert mask.sum() == tokenizer.needed(content)
    np.testing.assert_array_equal(mask, ids != text.PAD)


def test_every_byte_has_a_token_of_its_own_inside_the_vocabulary():
    content = "".join(map(chr, range(128))) + "ÿ柒🙂"
    ids, mask = text.BYTES.encode(content, 256)
    assert ids.max() < text.BYTES.vocabulary
    assert len(set(ids[1:129])) == 128
    assert not set(ids[1 : mask.sum() - 1]) & {text.PAD, text.BOS, text.EOS}


@pytest.mark.parametrize("content", ["七八九十", "a七八九", "ab七八", "🙂🙃🙂"])
@pytest.mark.parametrize("length", range(3, 16))
def test_long_text_is_cut_between_characters(content, length):
    ids, mask = text.BYTES.encode(content, length)
    decoded = text.BYTES.decode(ids)
    assert content.startswith(decoded)
    assert ids[0] == text.BOS and ids[mask][-1] == text.EOS
    # Nothing more would have fitted.
    if decoded != content:
        assert len(content[: len(decoded) + 1].encode()) > length - 2


def test_a_listed_word_is_one_token_and_the_rest_is_spelled():
    first = text.FIRST_WORD
    ids, mask = WORDS.encode("seven and七 an🙂", 16)
    assert ids[mask].tolist() == [text.BOS, first, first + 1, first + 2, *(3 + byte for byte in b" an"), first + 4, text.EOS]
    assert WORDS.vocabulary == first + 5
    assert WORDS.needed("sevens") == 2 + len("sevens"), "part of a longer word is no word"


def test_listed_words_are_spelled_where_asked_as_long_as_the_text_fits():
    first = text.FIRST_WORD
    spell = lambda content: [3 + byte for byte in content]

    def ids(length, spelled):
        found, mask = WORDS.encode("seven and七x", length, spelled)
        return found[mask].tolist()[1:-1]

    assert ids(16, ()) == [first, first + 1, first + 2, *spell(b"x")]
    assert ids(16, {0, 2}) == [*spell(b"seven"), first + 1, *spell("七".encode()), *spell(b"x")]
    assert ids(10, {0, 1}) == [*spell(b"seven"), first + 1, first + 2, *spell(b"x")], "the second no longer fits"
    assert ids(9, {0, 1}) == [first, *spell(b" and"), first + 2, *spell(b"x")]
    assert ids(6, {0, 1, 2}) == ids(16, ())


def test_units_are_words_with_the_space_before_them_and_single_characters():
    assert text.units("two  red,七八 a1") == ["two", " ", " red", ",", "七", "八", " a", "1"]


@pytest.mark.parametrize("length, kept", [(3, "s"), (8, "sevent"), (9, "sevent and"), (11, "sevent and"), (12, "sevent and七")])
def test_text_is_cut_between_words_and_characters(length, kept):
    tokenizer = text.Tokenizer((" and",))
    assert tokenizer.decode(tokenizer.encode("sevent and七", length)[0]) == kept


def test_decode_takes_what_a_network_writes():
    assert text.BYTES.decode([text.BOS, 3 + ord("a"), text.PAD, 300, 3 + ord("b"), text.EOS, 3 + ord("c")]) == "ab"
    assert text.BYTES.decode(np.array([3 + 0xE4, 3 + 0xB8])) == "\ufffd"


def test_a_length_without_room_is_refused():
    with pytest.raises(ValueError, match="found 2"):
        text.BYTES.encode("a", 2)

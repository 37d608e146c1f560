import numpy as np
import pytest

from jaxgen.data import text


@pytest.mark.parametrize("content", ["", "a", "seven", "柒 and 七", "naïve\n\t\0", "🙂🙃"])
def test_decode_is_the_inverse_of_encode(content):
    ids, mask = text.encode(content, 32)
    assert text.decode(ids) == content
    assert ids.dtype == np.int32 and mask.dtype == np.bool_ and ids.shape == mask.shape == (32,)
    assert mask.sum() == text.needed(content)
    np.testing.assert_array_equal(mask, ids != text.PAD)


def test_every_byte_has_a_token_of_its_own_inside_the_vocabulary():
    content = "".join(map(chr, range(128))) + "ÿ柒🙂"
    ids, mask = text.encode(content, 256)
    assert ids.max() < text.VOCABULARY
    assert len(set(ids[1:129])) == 128
    assert not set(ids[1 : mask.sum() - 1]) & {text.PAD, text.BOS, text.EOS}


@pytest.mark.parametrize("content", ["七八九十", "a七八九", "ab七八", "🙂🙃🙂"])
@pytest.mark.parametrize("length", range(3, 16))
def test_long_text_is_cut_between_characters(content, length):
    ids, mask = text.encode(content, length)
    decoded = text.decode(ids)
    assert content.startswith(decoded)
    assert ids[0] == text.BOS and ids[mask][-1] == text.EOS
    # Nothing more would have fitted.
    if decoded != content:
        assert len(content[: len(decoded) + 1].encode()) > length - 2


def test_decode_takes_what_a_network_writes():
    assert text.decode([text.BOS, 3 + ord("a"), text.PAD, 300, 3 + ord("b"), text.EOS, 3 + ord("c")]) == "ab"
    assert text.decode(np.array([3 + 0xE4, 3 + 0xB8])) == "\ufffd"


def test_a_length_without_room_is_refused():
    with pytest.raises(ValueError, match="found 2"):
        text.encode("a", 2)

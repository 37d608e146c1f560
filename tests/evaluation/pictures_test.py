import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from jaxgen.evaluation import pictures


def fresh_fonts():
    for cached in (pictures.font_source, pictures._font, pictures._has):
        cached.cache_clear()


@pytest.fixture
def bare_machine(monkeypatch):
    """No Chinese font: neither of the system nor of a package."""
    monkeypatch.setattr(pictures, "FONT_FOLDERS", ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fresh_fonts()
    yield
    fresh_fonts()


def noise_images(count, side=8, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def ink(caption):
    """The pixels of a caption below a picture."""
    return np.asarray(pictures.grid(noise_images(1, 96), [caption], scale=1))[110:].astype(int)


def test_every_pixel_becomes_an_exact_square():
    images = noise_images(1)
    sheet = np.asarray(pictures.grid(images, scale=12))
    margin = (sheet.shape[0] - 96) // 2
    found = sheet[margin : margin + 96, margin : margin + 96].reshape(8, 12, 8, 12, 3)
    np.testing.assert_array_equal(found, np.broadcast_to(images[0][:, None, :, None], found.shape))


@pytest.mark.parametrize(("side", "scale"), [(8, 12), (28, 4), (96, 1), (256, 1)])
def test_small_pictures_grow_to_a_visible_size(side, scale):
    images = noise_images(1, side)
    assert np.array_equal(pictures.grid(images), pictures.grid(images, scale=scale))


@pytest.mark.parametrize(("columns", "across", "down"), [(1, 1, 5), (2, 2, 3), (9, 5, 1), (None, 3, 2)])
def test_pictures_fill_rows_in_order(columns, across, down):
    images = np.stack([np.full((8, 8, 3), 40 * i + 20, np.uint8) for i in range(5)])
    sheet = np.asarray(pictures.grid(images, columns=columns))
    pitch = 106
    assert sheet.shape == (10 + down * pitch, 10 + across * pitch, 3)
    centres = [sheet[10 + i // across * pitch + 48, 10 + i % across * pitch + 48, 0] for i in range(5)]
    assert centres == [20, 60, 100, 140, 180]


def test_grey_pictures_become_equal_channels():
    images = noise_images(2, channels=1)
    assert np.array_equal(pictures.grid(images), pictures.grid(images.repeat(3, axis=-1)))


def test_captions_are_drawn():
    assert ink("seven").min() < 120
    assert not np.array_equal(ink("seven"), ink("eight"))


def test_a_caption_has_at_most_three_lines():
    images = noise_images(1, 96)
    heights = [pictures.grid(images, [" ".join(["word"] * n)]).height for n in (1, 12, 200)]
    assert heights[0] < heights[1] <= heights[2]
    one_line = heights[0] - pictures.grid(images, [""]).height
    assert heights[2] - heights[0] <= 2 * one_line


@pytest.mark.parametrize("caption", ["word " * 90, "unbroken" * 30, "一张手写数字七的图画，" * 20, "U+6570 七" * 40])
def test_lines_stay_within_the_picture_and_end_in_an_ellipsis(caption):
    lines = pictures._wrapped(caption, 12, 96)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(pictures._font(12).getlength(line) <= 96 for line in lines)


@pytest.mark.parametrize("caption", ["a handwritten seven", "数字七", "two 两 words"])
def test_wrapping_loses_nothing(caption):
    lines, whole = pictures._wrapped(caption, 12, 60), pictures._legible(caption, 12)
    assert "".join(lines).replace(" ", "") == whole.replace(" ", "")


def test_closing_punctuation_does_not_begin_a_line(monkeypatch):
    monkeypatch.setattr(pictures, "_has", lambda size, character: True)
    for width in range(30, 90):
        assert not any(line[0] in "，。" for line in pictures._wrapped("数字七，数字八，数字九。", 12, width))


def test_chinese_is_set_in_glyphs_of_its_own():
    characters = "数字七柒写手张图画的一个，。"
    assert pictures._legible(characters, 12) == characters
    drawn = [ink(character).tobytes() for character in characters]
    assert len(set(drawn)) == len(characters)


def test_without_a_chinese_font_code_points_are_written(bare_machine):
    assert pictures._legible("数字 7", 12) == "U+6570 U+5B57 7"
    assert not np.array_equal(ink("数"), ink("字"))


def test_a_font_of_the_system_comes_first(monkeypatch, tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("wqy-zenhei.ttc", "NotoSansCJK-Regular.ttc"):
        (tmp_path / "deep" / name).touch()
    monkeypatch.setattr(pictures, "FONT_FOLDERS", (tmp_path,))
    fresh_fonts()
    assert pictures.font_source() == (tmp_path / "deep" / "NotoSansCJK-Regular.ttc", 2)
    fresh_fonts()


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("images", {"images": noise_images(1).astype(np.float32)}),
        ("images", {"images": noise_images(1)[0]}),
        ("images", {"images": noise_images(1, channels=4)}),
        ("images", {"images": noise_images(1)[:0]}),
        ("captions", {"images": noise_images(2), "captions": ["one"]}),
        ("columns", {"images": noise_images(2), "columns": 0}),
        ("scale", {"images": noise_images(2), "scale": 0}),
    ],
)
def test_bad_arguments_are_refused_by_name(message, arguments):
    with pytest.raises(ValueError, match=message):
        pictures.grid(**arguments)


def test_saving_writes_one_whole_png():
    class Remote:
        written = []

        def write_bytes(self, data):
            self.written.append(data)
            return len(data)

    sheet = pictures.grid(noise_images(2))
    pictures.save(sheet, Remote())
    (data,) = Remote.written
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(sheet))

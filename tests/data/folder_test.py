import io
import logging
import os

import numpy as np
import pytest
import upath
from PIL import Image

from jaxgen import types
from jaxgen.data import pipeline, text
from jaxgen.data.folder import Folder


def png(picture, **options):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, options.pop("format", "PNG"), **options)
    return stream.getvalue()


def write(folder, count=10):
    """`count` pictures of 12 × 20 pixels, picture i of the grey value 10 + i and captioned by it."""
    for i in range(count):
        place = folder / ("a" if i % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:03}.png").write_bytes(png(np.full((12, 20), 10 + i, np.uint8)))
        (place / f"{i:03}.txt").write_text(f"grey {10 + i}\n")
    return folder


def data(folder, *, broken_limit=0.5, resolution=8, channels=1, **options):
    options = {"test_share": 0.0, "threads": 2} | options
    return pipeline.Data(
        source=Folder(str(folder), **options),
        broken_limit=broken_limit, resolution=resolution, channels=channels, text_length=24,
    )  # fmt: skip


def opened(folder, split="train", shuffle=False, **options):
    return data(folder, **options).open(split, 0, shuffle)


def everything(folder, **options):
    examples = opened(folder, **options)
    return examples.rows(range(len(examples)))


def refusal(folder, **options):
    with pytest.raises(types.BadInput) as complaint:
        everything(folder, **options)
    return complaint.value


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_as_described_in_the_order_of_names(tmp_path, channels):
    rows = everything(write(tmp_path), channels=channels)
    features = data(tmp_path, channels=channels).features()
    assert set(rows) == set(features)
    for name, feature in features.items():
        assert rows[name].shape == (10, *feature.shape) and rows[name].dtype == feature.dtype, name
    numbers = [1, 3, 5, 7, 9, 0, 2, 4, 6, 8]
    assert [text.BYTES.decode(ids) for ids in rows["text"]] == [f"grey {10 + i}" for i in numbers]
    for image, i in zip(rows["image"], numbers, strict=True):
        assert (image == 10 + i).all()
    assert rows["weight"].all() and rows["index"].tolist() == list(range(10))


def test_shuffled_epochs_show_each_picture_once(tmp_path):
    examples = opened(write(tmp_path), shuffle=True)
    epochs = examples.rows(range(30))["index"].reshape(3, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (3, 1)))
    assert len({epoch.tobytes() for epoch in epochs}) == 3


def test_splits_are_disjoint_and_adding_pictures_moves_none(tmp_path):
    write(tmp_path, 100)

    def names():
        splits = [everything(tmp_path, split=split, test_share=0.3) for split in ("train", "test")]
        return [{text.BYTES.decode(ids) for ids in rows["text"]} for rows in splits]

    train, test = names()
    assert not train & test and len(train | test) == 100 and 15 < len(test) < 45
    write(tmp_path, 120)
    more_train, more_test = names()
    assert train < more_train and test <= more_test


@pytest.mark.parametrize("fault", ["noise", "truncated", "empty", "link"])
def test_a_broken_picture_keeps_its_row_with_weight_0_and_is_named_once(tmp_path, caplog, fault):
    write(tmp_path)
    victim = tmp_path / "b" / "004.png"
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    victim.write_bytes({"noise": b"not a picture", "truncated": png(picture)[:2000]}.get(fault, b""))
    if fault == "link":
        victim.unlink()
        os.symlink(tmp_path / "gone.png", victim)
    with caplog.at_level(logging.WARNING):
        examples = opened(tmp_path)
        first, again = examples.rows(range(10)), examples.rows(range(10, 20))
    assert len(caplog.messages) == 1 and "b/004.png" in caplog.messages[0]
    for rows in (first, again):
        assert rows["weight"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 1, 1]
        assert not rows["image"][7].any() and not rows["text"][7].any() and not rows["text_mask"][7].any()
        assert rows["image"][8].any()


def test_a_fault_that_shows_only_on_decoding_counts_as_well(tmp_path):
    write(tmp_path)
    jpeg = png(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), format="JPEG")
    (tmp_path / "b" / "004.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "b" / "004.png").unlink()
    assert everything(tmp_path)["weight"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 1, 1]
    opened(tmp_path, broken_limit=0.05)
    complaint = refusal(tmp_path, broken_limit=0.05)
    assert complaint.option == "data.source.path" and "004.jpg" in complaint.found


@pytest.mark.parametrize("caption", [None, b"", b" \n", b"\xff\xfe\xfa"], ids=["missing", "empty", "blank", "not UTF-8"])
def test_a_bad_caption_is_a_broken_example(tmp_path, caplog, caption):
    write(tmp_path)
    file = tmp_path / "a" / "003.txt"
    file.unlink() if caption is None else file.write_bytes(caption)
    with caplog.at_level(logging.WARNING):
        rows = everything(tmp_path)
    assert rows["weight"].tolist() == [1, 0, *[1] * 8]
    assert not rows["image"][1].any()
    assert len(caplog.records) == 1 and "003.png" in caplog.messages[0] and "003.txt" in caplog.messages[0]


def test_an_example_broken_twice_is_named_once(tmp_path, caplog):
    write(tmp_path)
    (tmp_path / "a" / "003.png").write_bytes(b"")
    (tmp_path / "a" / "003.txt").unlink()
    with caplog.at_level(logging.WARNING):
        everything(tmp_path)
    assert len(caplog.messages) == 1 and "a/003.png" in caplog.messages[0]


def test_names_need_not_be_utf8(tmp_path):
    stem = os.path.join(os.fsencode(tmp_path), b"\xff")
    with open(stem + b".png", "wb") as picture, open(stem + b".txt", "wb") as caption:
        picture.write(png(np.full((8, 8), 7, np.uint8)))
        caption.write(b"seven")
    assert text.BYTES.decode(everything(tmp_path, broken_limit=0)["text"][0]) == "seven"


def test_too_many_broken_examples_are_refused_by_name_and_share(tmp_path):
    write(tmp_path)
    (tmp_path / "a" / "001.png").write_bytes(b"")
    (tmp_path / "a" / "003.txt").unlink()
    everything(tmp_path, broken_limit=0.2)
    complaint = refusal(tmp_path, broken_limit=0.19)
    assert complaint.option == "source.path"
    for part in ("2 of 10", "20.0%", "a/001.png", "a/003.png", "no caption a/003.txt"):
        assert part in complaint.found
    assert "19.0%" in complaint.needed


def test_only_some_pictures_are_checked_on_opening(tmp_path):
    write(tmp_path)
    for i in (1, 3, 5):
        (tmp_path / "a" / f"{i:03}.png").write_bytes(b"")
    opened(tmp_path, verify=0, broken_limit=0)
    assert "1 of 2" in refusal(tmp_path, verify=2, broken_limit=0.4).found


@pytest.mark.parametrize("make", [
    lambda folder: folder / "gone",
    lambda folder: folder,
    lambda folder: (folder / "file").write_bytes(b"") and folder or folder / "file",
    lambda folder: "nowhere://bucket/x",
    lambda folder: "",
], ids=["missing", "empty", "a file", "unknown file system", "no path"])  # fmt: skip
def test_a_folder_that_is_none_is_refused(tmp_path, make):
    assert refusal(make(tmp_path)).option == "source.path"


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / ".hidden.png").write_bytes(png(np.zeros((4, 4), np.uint8)))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes(png(np.zeros((4, 4), np.uint8)))
    complaint = refusal(tmp_path)
    assert complaint.option == "source.path" and ".png" in complaint.needed


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    write(tmp_path)
    listed = LocalFileSystem.ls

    def ls(self, path, *arguments, **options):
        if path.rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return listed(self, path, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    complaint = refusal(tmp_path)
    assert complaint.option == "source.path" and "Permission denied" in complaint.needed


def test_a_split_without_pictures_is_refused(tmp_path):
    write(tmp_path)
    assert refusal(tmp_path, split="test").option == "source.test_share"
    assert refusal(tmp_path, test_share=1.0).option == "source.test_share"


@pytest.mark.parametrize("option, value", [("test_share", 1.5), ("verify", -1), ("threads", 0), ("caption_extension", "txt")])
def test_an_option_out_of_range_is_refused(tmp_path, option, value):
    with pytest.raises(types.BadInput) as complaint:
        data(write(tmp_path), **{option: value}).validate()
    assert complaint.value.option == f"source.{option}"


def test_fingerprints_follow_names_sizes_and_captions(tmp_path):
    write(tmp_path)
    prints = [opened(tmp_path).fingerprint]
    (tmp_path / "a" / "001.txt").write_text("grey 99\n")
    prints.append(opened(tmp_path).fingerprint)
    (tmp_path / "a" / "001.png").write_bytes(png(np.arange(240, dtype=np.uint8).reshape(12, 20)))
    prints.append(opened(tmp_path).fingerprint)
    (tmp_path / "a" / "001.png").rename(tmp_path / "a" / "0001.png")
    (tmp_path / "a" / "001.txt").rename(tmp_path / "a" / "0001.txt")
    prints.append(opened(tmp_path).fingerprint)
    assert len(set(prints)) == 4
    assert opened(tmp_path, shuffle=True).fingerprint == prints[-1]


def only(folder, content, name="x.png", **options):
    (folder / name).write_bytes(content)
    (folder / "x.txt").write_text("x")
    return everything(folder, broken_limit=0, **options)["image"][0]


def test_the_central_square_is_taken(tmp_path):
    picture = np.zeros((8, 24), np.uint8)
    picture[:, 8:16] = np.arange(64).reshape(8, 8)
    np.testing.assert_array_equal(only(tmp_path, png(picture))[..., 0], picture[:, 8:16])
    np.testing.assert_array_equal(only(tmp_path, png(picture.T.copy()))[..., 0], picture[:, 8:16].T)


def test_reduction_does_not_alias(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.abs(only(tmp_path, png(stripes)).astype(int) - 127).max() < 40


def test_transparency_is_laid_on_white(tmp_path):
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:4, :, 3] = 255
    image = only(tmp_path, png(picture), channels=3)
    assert (image[:4] == 0).all() and (image[4:] == 255).all()


def test_16_bits_are_scaled(tmp_path):
    assert (only(tmp_path, png(np.full((8, 8), 128 * 257, np.uint16))) == 128).all()


def test_pictures_are_turned_upright(tmp_path):
    picture = np.zeros((8, 8), np.uint8)
    picture[:4] = 255
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    image = only(tmp_path, png(picture, exif=turned))
    assert (image[:4] == 0).all() and (image[4:] == 255).all()


@pytest.mark.parametrize("name, kind", [("x.JPG", "JPEG"), ("x.jpeg", "JPEG"), ("x.webp", "WEBP"), ("x.bmp", "BMP")])
def test_other_formats_are_read(tmp_path, name, kind):
    image = only(tmp_path, png(np.full((16, 16, 3), (200, 100, 50), np.uint8), format=kind), name, channels=3)
    assert np.abs(image.astype(int) - (200, 100, 50)).max() < 8


def test_other_caption_files_are_read(tmp_path):
    write(tmp_path)
    for file in tmp_path.rglob("*.txt"):
        file.rename(file.with_suffix(".caption"))
    assert everything(tmp_path, caption_extension=".caption", broken_limit=0)["weight"].all()


def test_a_remote_folder_is_read_like_a_local_one(tmp_path):
    local, remote = write(tmp_path), write(upath.UPath("memory://bucket/pictures"))
    one, other = opened(local), opened(remote)
    assert one.fingerprint == other.fingerprint
    for name, value in one.rows(range(10)).items():
        np.testing.assert_array_equal(other.rows(range(10))[name], value)

import collections
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jaxgen import types
from jaxgen.data import digits_captioned, pipeline, text
from jaxgen.data.digits_captioned import DigitsCaptioned

PACKAGES = str(pathlib.Path(__file__).parents[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def data(folder, **options):
    return pipeline.Data(source=DigitsCaptioned(folder), **options)


def everything(folder, split, **options):
    examples = data(folder, **options).open(split, seed=0, shuffle=False)
    return examples, examples.rows(range(len(examples)))


def test_rows_are_as_described(folder):
    for resolution, channels in ((8, 1), (16, 3)):
        options = {"resolution": resolution, "channels": channels, "text_length": 40}
        _, rows = everything(folder, "train", **options)
        features = data(folder, **options).features()
        assert set(rows) == set(features)
        for name, feature in features.items():
            assert rows[name].shape[1:] == feature.shape and rows[name].dtype == feature.dtype, name


def test_the_pictures_are_the_digits_of_scikit_learn(folder):
    from sklearn.datasets import load_digits

    digits = load_digits()
    splits = digits_captioned.divide(digits.target)
    for split in ("train", "test"):
        _, rows = everything(folder, split)
        np.testing.assert_array_equal(rows["label"], digits.target[splits[split]])
        np.testing.assert_allclose(rows["image"][..., 0] / 255, digits.images[splits[split]] / 16, atol=0.5 / 255)


def test_larger_pictures_repeat_pixels_and_channels(folder):
    _, small = everything(folder, "test")
    _, large = everything(folder, "test", resolution=24, channels=3)
    for row in range(3):
        for column in range(3):
            for channel in range(3):
                np.testing.assert_array_equal(large["image"][:, row::3, column::3, channel], small["image"][..., 0])


def test_splits_are_disjoint_whole_and_stratified():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), np.arange(170, 190, 2)))
    splits = digits_captioned.divide(labels)
    assert sorted(splits["train"] + splits["test"]) == list(range(len(labels)))
    for digit in range(10):
        testing = (labels[splits["test"]] == digit).sum()
        assert abs(testing - (labels == digit).sum() / 5) < 1


def test_digits_take_turns(folder):
    for split in ("train", "test"):
        _, rows = everything(folder, split)
        np.testing.assert_array_equal(rows["label"][:300], np.arange(300) % 10)


def test_captions_say_the_label_and_testing_is_balanced(folder):
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    words = {form: digit for forms in (names, "0123456789") for digit, form in enumerate(forms)}
    examples, rows = everything(folder, "test")
    for ids, label, language in zip(rows["text"], rows["label"], rows["language"], strict=True):
        if language == 0:
            found = [words[word] for word in text.BYTES.decode(ids).rstrip("?").split() if word in words]
            assert found == [label]
        else:
            forms = ("0123456789", "〇一二三四五六七八九", "零壹贰叁肆伍陆柒捌玖")
            assert any(form[label] in text.BYTES.decode(ids) for form in forms)
    cells = collections.Counter(zip(rows["label"], rows["language"], rows["heldout"], strict=True))
    assert len(cells) == 40 and min(cells.values()) >= 8 and max(cells.values()) <= 10


def test_nothing_held_out_in_training_and_words_change_between_epochs(folder):
    examples = data(folder).open("train", seed=0, shuffle=True)
    epochs = [examples.rows(range(epoch * len(examples), (epoch + 1) * len(examples))) for epoch in range(2)]
    assert not any(rows["heldout"].any() for rows in epochs)
    by_index = [rows["text"][np.argsort(rows["index"])] for rows in epochs]
    assert (by_index[0] != by_index[1]).any(axis=1).mean() > 0.9
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(rows["index"]), np.arange(len(examples)))
    again = data(folder).open("train", seed=0, shuffle=True).rows(range(100))
    np.testing.assert_array_equal(again["text"], epochs[0]["text"][:100])


def test_fingerprints_tell_splits_apart_and_are_stable(folder):
    prints = [data(folder).open(split, seed, True).fingerprint for split in ("train", "test") for seed in (0, 1)]
    assert prints[0] == prints[1] != prints[2] == prints[3]


def test_processes_that_start_at_once_agree(folder, tmp_path, monkeypatch):
    rename, renamed = os.rename, []

    def overtaken(source, target):
        """Another process begins and ends its writing just before this one puts its copy in place."""
        monkeypatch.setattr(os, "rename", rename)
        data(str(tmp_path)).open("train", 0, False)
        renamed.append((source, target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    found = data(str(tmp_path)).open("train", 0, False)
    assert renamed
    assert found.fingerprint == data(folder).open("train", 0, False).fingerprint
    assert [path.name for path in tmp_path.iterdir()] == [digits_captioned.NAME]


def test_a_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(types.BadInput, match="No space left"):
            data(str(tmp_path)).open("train", 0, False)
    assert not list(tmp_path.rglob("*.*"))
    assert len(data(str(tmp_path)).open("train", 0, False)) == 1442


def test_reading_needs_neither_tensorflow_nor_scikit_learn_and_says_nothing(folder):
    data(folder).open("train", 0, True)
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from jaxgen.data import pipeline, digits_captioned\n"
        f"data = pipeline.Data(source=digits_captioned.DigitsCaptioned({folder!r}))\n"
        "data.open('train', 0, True).rows(range(4))\n"
        "assert not {'tensorflow', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGES, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert all(line.startswith("INFO:jaxgen.data") for line in done.stderr.splitlines()), done.stderr


def test_building_says_nothing(tmp_path, capfd):
    data(str(tmp_path)).open("train", 0, False)
    assert capfd.readouterr() == ("", "")


def test_the_usual_folder_is_used_unless_it_is_remote(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "usual"))
    data("").open("train", 0, False)
    assert (tmp_path / "usual" / digits_captioned.NAME).is_dir()
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/tfds")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data("").open("train", 0, False)
    assert (tmp_path / "home/.cache/jaxgen/tfds" / digits_captioned.NAME).is_dir()


@pytest.mark.parametrize("options, source, option", [
    ({"resolution": 12}, {}, "resolution"),
    ({"resolution": 4}, {}, "resolution"),
    ({"text_length": 20}, {}, "text_length"),
    ({}, {"languages": ("de",)}, "source.languages"),
    ({}, {"directory": "gs://bucket"}, "source.directory"),
    ({}, {"directory": __file__}, "source.directory"),
])  # fmt: skip
def test_bad_options_are_refused(options, source, option):
    with pytest.raises(types.BadInput) as complaint:
        pipeline.Data(source=DigitsCaptioned(**source), **options).open("train", 0, False)
    assert complaint.value.option == option

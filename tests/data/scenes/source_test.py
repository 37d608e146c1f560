import collections

import numpy as np
import pytest

from jaxgen import types
from jaxgen.data import pipeline, text
from jaxgen.data.scenes import plan, render, scene, source, wording
from jaxgen.data.scenes.source import Scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(source, "EXAMPLES", {"train": 300, "test": 192})


def data(folder, **options):
    return pipeline.Data(**({"source": Scenes(folder), "resolution": 32, "channels": 3, "text_length": 64} | options))


def opened(folder, split, **options):
    examples = data(folder, **options).open(split, seed=0, shuffle=False)
    return examples, examples.rows(range(len(examples)))


def test_rows_are_as_described(folder):
    for resolution in (32, 48):
        _, rows = opened(folder, "train", resolution=resolution)
        features = data(folder, resolution=resolution).features()
        assert set(rows) == set(features)
        for name, feature in features.items():
            assert rows[name].shape[1:] == feature.shape and rows[name].dtype == feature.dtype, name


def test_plans_say_what_stands_where(folder):
    examples, rows = opened(folder, "train", source=Scenes(folder, plans=True))
    made = data(folder, source=Scenes(folder, plans=True))
    assert rows["plan"].dtype == made.features()["plan"].dtype and rows["plan"].shape[1:] == made.features()["plan"].shape
    assert 0 <= rows["plan"].min() and rows["plan"].max() < made.id_counts()["plan"] and not rows["plan"][:, -1].any()
    colours, shapes = list(scene.COLOURS), list(scene.SHAPES)
    cells, radii = 1 + len(colours) * len(shapes), plan.IDS - len(plan.RADII) - 1
    several = 0
    for ids, shown in zip(rows["plan"], examples.scenes(rows["index"]), strict=True):
        kinds = [(thing.colour, thing.shape) for thing in shown.objects]
        place = lambda thing: (int(8 * thing.y), int(8 * thing.x))
        expected = sorted(shown.objects, key=lambda thing: (kinds.index((thing.colour, thing.shape)), *place(thing)))
        found = []
        for kind, cell, radius in ids[:-1].reshape(-1, 3)[: len(kinds)]:
            colour, shape = divmod(kind - 1, len(shapes))
            found.append(((colours[colour], shapes[shape]), divmod(cell - cells, 8), radius - radii))
        steps = [sum(thing.radius >= bound for bound in plan.RADII) for thing in expected]
        alike = [((thing.colour, thing.shape), place(thing), step) for thing, step in zip(expected, steps, strict=True)]
        # Two objects alike in one cell may come either way.
        assert sorted(found) == sorted(alike) and [one[:2] for one in found] == [one[:2] for one in alike]
        assert not ids[3 * len(kinds) :].any()
        several += len(set(kinds)) > 1
    assert several > 50
    assert "plan" not in data(folder).features() and "plan" not in data(folder).id_counts()


@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_prompts_and_captions_belong_together(folder, split):
    examples, rows = opened(folder, split)
    shown, prompts = examples.scenes(rows["index"]), examples.prompts(rows["index"])
    for i in range(len(examples)):
        np.testing.assert_array_equal(rows["image"][i], render.draw(shown[i], 32))
        assert scene.satisfies(shown[i], prompts[i])
        language = wording.LANGUAGES[("en", "zh")[rows["language"][i]]]
        templates = language.heldout if rows["heldout"][i] else language.seen
        said = {template.format(form(prompts[i])) for template in templates for form in language.forms}
        assert text.BYTES.decode(rows["text"][i]) in said


def test_training_shows_nothing_that_is_held_out(folder):
    examples, rows = opened(folder, "train")
    assert not rows["heldout"].any()
    assert not any(scene.heldout(triple) for shown in examples.scenes(rows["index"]) for triple in scene.triples(shown))
    assert {prompt.task for prompt in examples.prompts(rows["index"])} == set(scene.TASKS)


def test_testing_is_balanced_and_asks_for_unseen_kinds_in_words_of_training(folder):
    examples, rows = opened(folder, "test")
    prompts = examples.prompts(rows["index"])
    cells = collections.Counter(zip([prompt.task for prompt in prompts], rows["language"], rows["heldout"], strict=True))
    assert len(cells) == 24 and set(cells.values()) == {8}
    unseen = np.array([source.unseen(prompt) for prompt in prompts])
    assert unseen.sum() >= 6 and not (unseen & rows["heldout"]).any()


def test_fingerprints_tell_splits_and_resolutions_apart(folder):
    found = [opened(folder, split, resolution=size)[0].fingerprint for split in ("train", "test") for size in (32, 48)]
    assert len(set(found)) == 4
    assert found[0] == data(folder).open("train", 7, True).fingerprint


@pytest.mark.parametrize("options, source_options, option", [
    ({"resolution": 24}, {}, "resolution"),
    ({"channels": 1}, {}, "channels"),
    ({"text_length": 40}, {}, "text_length"),
    ({}, {"languages": ("de",)}, "source.languages"),
    ({"tokens": "words"}, {"languages": ("de",)}, "source.languages"),
    ({}, {"directory": "gs://bucket"}, "source.directory"),
])  # fmt: skip
def test_bad_options_are_refused(options, source_options, option):
    with pytest.raises(types.BadInput) as complaint:
        data("", source=Scenes(**source_options), **options).open("train", 0, False)
    assert complaint.value.option == option

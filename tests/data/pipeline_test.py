import dataclasses
import importlib

import numpy as np
import pytest

from jaxgen import types
from jaxgen.data import pipeline, text
from jaxgen.data.digits_captioned import DigitsCaptioned
from jaxgen.data.folder import Folder
from jaxgen.data.scenes.source import Scenes
from jaxgen.data.synthetic import Synthetic


@pytest.mark.parametrize("option, value", [
    ("batch_size", 0), ("resolution", 0), ("channels", 0), ("text_length", 2), ("prefetch", 0),
    ("broken_limit", 1.0), ("broken_limit", -0.1), ("broken_limit", float("nan")),
])  # fmt: skip
def test_an_option_out_of_range_is_refused_by_its_name(option, value):
    with pytest.raises(types.BadInput) as complaint:
        pipeline.Data(**{option: value}).validate()
    assert complaint.value.option == option
    assert complaint.value.found is value or complaint.value.found == value


def test_latents_come_from_sources_that_have_them():
    pipeline.Data(source=Synthetic(), channels=16).validate()
    for source in (DigitsCaptioned(), Folder(path="/nowhere")):
        with pytest.raises(types.BadInput, match="channels: found 4, needed 1 or 3"):
            pipeline.Data(source=source, channels=4).validate()


def test_the_defaults_are_valid():
    pipeline.Data().validate()


def test_every_choice_is_a_source_without_required_options():
    (field,) = (field for field in dataclasses.fields(pipeline.Data) if field.name == "source")
    assert set(field.metadata["choices"]) == {"digits_captioned", "folder", "scenes", "synthetic"}
    for name in field.metadata["choices"].values():
        module, _, cls = name.partition(":")
        source = getattr(importlib.import_module(module), cls)()
        assert callable(source.features) and callable(source.open)
        with pytest.raises(dataclasses.FrozenInstanceError):
            source.anything = 1


def test_every_example_has_a_weight_and_an_index():
    features = pipeline.Data().features()
    assert (features["weight"].shape, features["weight"].dtype) == ((), np.float32)
    assert (features["index"].shape, features["index"].dtype) == ((), np.int32)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="validation"):
        pipeline.Data().open("validation", 0, False)


def test_words_are_tokens_where_the_source_lists_them():
    said = pipeline.Data(source=Scenes(), resolution=32, channels=3, text_length=28, tokens="words")
    assert said.tokenizer.words == Scenes().words()
    assert said.id_counts()["text"] == said.tokenizer.vocabulary == text.FIRST_WORD + len(said.tokenizer.words)
    with pytest.raises(types.BadInput) as complaint:
        pipeline.Data(source=Synthetic(), tokens="words").validate()
    assert complaint.value.option == "tokens"


@pytest.mark.parametrize("options", [{"spelled": 0.1}, {"spelled": 1.0, "tokens": "words"}, {"spelled": -0.1, "tokens": "words"}])
def test_a_share_of_spelled_words_that_means_nothing_is_refused(options):
    with pytest.raises(types.BadInput) as complaint:
        pipeline.Data(source=Scenes(), resolution=32, channels=3, text_length=28, **options).validate()
    assert complaint.value.option == "spelled"

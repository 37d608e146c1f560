"""Rendered scenes with captions in English and Chinese: the offline stand-in for GenEval and DPG-Bench.

Written once as a TFDS data set in ArrayRecord, one configuration a resolution, and read by random access. Beside each picture
lie its scene and its prompt as JSON; captions are made on reading.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

from jaxgen import types
from jaxgen.data import builders, captions, fields, order
from jaxgen.data.scenes import layout, plan, render, scene, wording

if TYPE_CHECKING:
    from jaxgen.data.pipeline import Data

NAME = "scenes"
VERSION = "1.0.0"
SMALLEST = 32
EXAMPLES = {"train": 24_000, "test": 960}

_SHARES = {"single_object": 3, "two_object": 3, "counting": 7, "colors": 4, "position": 5, "color_attr": 6}
"""Of the tasks in training; in testing they take turns."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes of one to four shapes, 24,000 for training and 960 for testing.

    The test split's tasks take turns. Half of its captions are worded as none of training is. Among the others, every fourth prompt
    that gives colours asks for a (colour, shape, count) that no training picture shows.

    Attributes:
      directory: local folder that holds the data set, built there on first use (a minute); empty takes $TFDS_DATA_DIR where that
        is a local folder, else ~/.cache/jaxgen/tfds (the one taken is logged).
      languages: of the captions.
      plans: adds the field `plan`, what stands where in a picture (`jaxgen.data.scenes.plan`).
    """

    directory: str = ""
    languages: tuple[str, ...] = ("en", "zh")
    plans: bool = False

    @property
    def plan_ids(self) -> int | None:
        """Number of ids in plans; None without them."""
        return plan.IDS if self.plans else None

    def features(self, data: Data) -> dict[str, jax.ShapeDtypeStruct]:
        """See `jaxgen.data.fields.common` and `jaxgen.data.captions.features`.

        Raises:
          BadInput: pictures under 32 pixels or without colour, unknown languages, texts that do not fit, a remote folder.
        """
        if data.resolution < SMALLEST:
            raise types.BadInput("resolution", data.resolution, f"at least {SMALLEST}, to tell shapes apart")
        if data.channels != 3:
            raise types.BadInput("channels", data.channels, "3: scenes are coloured")
        builders.check(self.directory)
        captions.check(self.languages, data.text_length, lambda: data.tokenizer, wording.longest)
        return fields.common(data) | captions.features() | (fields.plan(plan.LENGTH) if self.plans else {})

    def words(self) -> tuple[str, ...]:
        """See `wording.words`."""
        return wording.words(self.languages)

    def open(self, data: Data, split: str, seed: int, shuffle: bool) -> Examples:
        """Opens a split, building the data set first where it is not there yet.

        Raises:
          BadInput: as `features`, or a folder that cannot be written or read.
        """
        self.features(data)
        with builders.opened(_builder_class, self.directory, split, f"{data.resolution}px") as builder:
            return Examples(self, data, builder, split, seed, shuffle)


class Examples:
    """An opened split (`types.Examples`), which also says what is in its pictures."""

    def __init__(self, source: Scenes, data: Data, builder: Any, split: str, seed: int, shuffle: bool):
        import tensorflow_datasets as tfds

        self._records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        self._data, self._plans = data, source.plans
        self._order = order.shuffled(len(self), seed) if shuffle else order.stored(len(self))
        self._captions = wording.of(split, seed, source.languages)
        facts = (wording.fingerprint(), VERSION, data.resolution, [self._records[i]["scene"] for i in range(0, len(self), 97)])
        self.fingerprint = f"{NAME}-{split}-{hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()}"

    def __len__(self) -> int:
        return len(self._records)

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        indices = self._order(numbers)
        records = self._read(indices)
        prompts = [_prompt(record) for record in records]
        planned = {"plan": np.stack([plan.ids(_scene(record)) for record in records])} if self._plans else {}
        return {
            "image": np.stack([np.asarray(Image.open(io.BytesIO(record["image"]))) for record in records]),
            "weight": np.ones(len(indices), np.float32),
            "index": indices.astype(np.int32),
            **planned,
        } | self._captions.fields(numbers, indices, prompts, self._data)

    def prompts(self, indices: Sequence[int]) -> list[scene.Prompt]:
        """What the captions of these examples (the field `index`) ask for."""
        return [_prompt(record) for record in self._read(indices)]

    def scenes(self, indices: Sequence[int]) -> list[scene.Scene]:
        """What the pictures of these examples show."""
        return [_scene(record) for record in self._read(indices)]

    def _read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self._records.__getitems__([int(index) for index in indices])


def _scene(record: dict[str, Any]) -> scene.Scene:
    return scene.scene_from(json.loads(record["scene"]))


def _prompt(record: dict[str, Any]) -> scene.Prompt:
    return scene.prompt_from(json.loads(record["prompt"]))


def made(split: str, index: int) -> tuple[scene.Prompt, scene.Scene]:
    """Example `index` of a split: its prompt and a scene that satisfies it."""
    draws = layout.Draws(0, f"scenes {split}", index)
    if split == "train":
        tasks = [task for task, share in _SHARES.items() for _ in range(share)]
        allow, want = False, False
    else:
        tasks = [scene.TASKS[index % len(scene.TASKS)]]
        # Turns of: tasks, languages, worded as in training or not; then one in four.
        turn = index // len(scene.TASKS)
        allow = want = turn // 2 % 2 == 0 and turn // 4 % 4 == 3 and tasks[0] in ("colors", "counting", "color_attr")
    while True:
        prompt = layout.prompt(draws, draws.choice(tasks))
        if want and not unseen(prompt):
            continue
        try:
            return prompt, layout.scene(draws, prompt, allow)
        except ValueError:
            # The prompt itself asks for what is kept for testing.
            continue


def unseen(prompt: scene.Prompt) -> bool:
    """Whether a prompt names a (colour, shape, count) that is kept for testing."""
    return any(scene.heldout((group.colour, group.shape, group.count)) for group in prompt.groups if group.colour)


@functools.cache
def _builder_class() -> type:
    """The TFDS builder, made in a function because TFDS is imported only when a source is opened."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder):
        name = NAME
        VERSION = tfds.core.Version(VERSION)

        @property
        def resolution(self) -> int:
            return int(self.builder_config.name.removesuffix("px"))

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description="Rendered scenes of coloured shapes, with what is in them and what is asked for.",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(self.resolution, self.resolution, 3), encoding_format="png"),
                        "scene": tfds.features.Text(),
                        "prompt": tfds.features.Text(),
                    }
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: self._generate_examples(split, count) for split, count in EXAMPLES.items()}

        def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
            for index in range(count):
                prompt, shown = made(split, index)
                png = io.BytesIO()
                Image.fromarray(render.draw(shown, self.resolution)).save(png, "PNG")
                yield (
                    index,
                    {
                        "image": png.getvalue(),
                        "scene": json.dumps(scene.to_data(shown)),
                        "prompt": json.dumps(scene.to_data(prompt)),
                    },
                )

    return Builder

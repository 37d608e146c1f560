"""Drawing captioned grids, for `train` at its end and for `sample`."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import tqdm

from jaxgen import experiment as experiments
from jaxgen import run, types
from jaxgen.commands import evaluations, session
from jaxgen.evaluation import pictures
from jaxgen.parallel.hosts import Hosts
from jaxgen.samplers.generator import Generator

log = logging.getLogger(__name__)

GRID = 100


def draw(
    experiment: experiments.Experiment,
    generator: Generator,
    params: types.PyTree,
    folder: run.Run,
    name: str,
    rows: dict[str, np.ndarray],
    hosts: Hosts,
    each: bool = False,
) -> dict[str, Any]:
    """Draws pictures and writes a captioned grid. All hosts draw, host 0 writes.

    Args:
      name: of the grid below RUN/samples, without its ending.
      rows: what the pictures are to show (`wanted`); the grid shows the first `GRID` of them.
      each: also writes every picture as a file of its own, in a folder of that name.

    Returns:
      Figures: path of the grid, number of pictures, network calls.
    """
    count = len(next(iter(rows.values())))
    parts, broken = [], 0
    with tqdm.tqdm(total=count, unit="image", disable=None, leave=False) as bar:
        for drawn, finite in generator.images(params, generator.conditions(rows), np.arange(count)):
            parts.append(drawn)
            broken += int((~finite).sum())
            bar.update(len(drawn))
    images = np.concatenate(parts)
    if broken:
        log.warning("%d of %d pictures were not finite", broken, count)
    path = folder.samples / f"{name}.png"
    figures = {"grid": str(path), "pictures": count, "nfe": experiment.sampler.nfe(experiment)}
    if not hosts.first:
        return figures
    folder.samples.mkdir(parents=True, exist_ok=True)
    pictures.save(pictures.grid(images[:GRID], evaluations.captions_of(experiment, rows)[:GRID]), path)
    log.info("drew %d pictures with %d network calls each: %s", count, experiment.sampler.nfe(experiment), path)
    if each:
        single = folder.samples / name
        single.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            (single / f"{i:06d}.png").write_bytes(_png(image))
    return figures


def wanted(experiment: experiments.Experiment, count: int, captions: list[str] | None) -> dict[str, np.ndarray]:
    """What the pictures are to show: rows of the test split, without those left out as broken, or the user's captions in turn.

    Raises:
      BadInput: captions for a model that takes none, or a caption that is too long.
    """
    if captions is None:
        rows = session.open_data(experiment, "test").rows(range(count))
        whole = np.resize(np.flatnonzero(rows["weight"] > 0), count)
        return {name: values[whole] for name, values in rows.items()}
    if "text" not in experiment.model.streams:
        raise types.BadInput("--caption", captions[0], f"no caption: the model is conditioned on {experiment.model.streams}")
    if experiment.data.features()["text"].ndim > 1:
        raise types.BadInput(
            "--caption", captions[0], "no caption: the model reads encoded text, and no encoder is part of the experiment"
        )
    length, tokenizer = experiment.data.text_length, experiment.data.tokenizer
    for caption in captions:
        if tokenizer.needed(caption) > length:
            needed = f"at most data.text_length={length} tokens ({experiment.data.tokens}), two of them for start and end"
            raise types.BadInput("--caption", caption, needed)
    encoded = [tokenizer.encode(caption, length) for caption in captions]
    chosen = [encoded[i % len(encoded)] for i in range(count)]
    return {"text": np.stack([ids for ids, _ in chosen]), "text_mask": np.stack([mask for _, mask in chosen])}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()

"""The evaluation report: one HTML file that needs no server, no network and no script.

It puts runs side by side: key figures with intervals and references, all metrics, samples beside real pictures, samples
beside their nearest training pictures, training curves, and how the runs were configured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen.evaluation.report import curves, markup, metrics, pictures, style

# The browser itself then refuses scripts, and anything from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """One run and what its evaluation found.

    Attributes:
      name: of its folder.
      metrics: content of metrics.json: figures by name, `<name>_real` and `<name>_class_gaussian` as their references,
        `intervals` {name: [low, high]}, `flags` (warnings, "name: text"), `confusion` {"labels", "counts"} with a row
        for each label asked for, and how it was measured (`samples`, `step`, `weights`, `seed`, `sampler`, …).
      images: uint8 [N, H, W, 1 or 3]; sample i was drawn from caption i.
      captions: N.
      real: uint8 [N, H, W, C]; the test picture of caption i.
      neighbours: uint8 [N, K, H, W, C]; the nearest training pictures of sample i, nearest first.
      distances: [N, K]; their distances in the feature space.
      curves: rows of metrics.jsonl, each with `step`.
      options: the experiment by dotted name.
      differences: option to (the recipe's value, this run's).
      recipe: what the run was started from.
      versions: of packages and Python, by name.

    Raises:
      ValueError: arrays of another shape or dtype, or not one for each caption.
    """

    name: str
    metrics: dict[str, Any]
    images: np.ndarray
    captions: Sequence[str]
    real: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray
    curves: Sequence[dict]
    options: dict[str, Any]
    differences: dict[str, tuple[Any, Any]]
    recipe: str
    versions: dict[str, str]

    def __post_init__(self) -> None:
        count = len(self.captions)
        for name, axes in (("images", 4), ("real", 4), ("neighbours", 5)):
            array = getattr(self, name)
            if array.ndim != axes or array.shape[-1] not in (1, 3) or array.dtype != np.uint8 or len(array) != count:
                shape = f"[{count}, {'K, ' if axes == 5 else ''}H, W, 1 or 3]"
                raise ValueError(f"{name} of {self.name}: found {array.dtype} {array.shape}, needed uint8 {shape}")
        if self.distances.shape != self.neighbours.shape[:2]:
            raise ValueError(f"distances of {self.name}: found {self.distances.shape}, needed {self.neighbours.shape[:2]}")


def render(runs: Sequence[EvaluatedRun], title: str) -> str:
    """The report as one HTML document, to be written as UTF-8; a column a run, in the order given.

    Raises:
      ValueError: no runs.
    """
    if not runs:
        raise ValueError("runs: found none, needed at least one")
    shown = pictures.needed(runs)
    sections = [
        ("headline", "Key figures", _HEADLINE, metrics.flags(runs) + metrics.cards(runs)),
        ("metrics", "All metrics", _METRICS, metrics.metric_table(runs)),
        ("confusion", "What the judge saw", _CONFUSION, metrics.confusions(runs)),
        (
            "captions",
            "Samples beside real pictures",
            f"{_CAPTIONS} {shown.note()}",
            pictures.by_caption(runs, shown) if len(runs[0].captions) else "",
        ),
        (
            "neighbours",
            "Nearest training pictures",
            _NEIGHBOURS,
            "".join(pictures.nearest(run, i, shown) for i, run in enumerate(runs)),
        ),
        ("curves", "Training", _CURVES, curves.drawn(runs)),
        ("configuration", "Configuration", _CONFIGURATION, _configuration(runs)),
    ]
    return document(title, _runs_line(runs), sections)


def document(title: str, below: str, sections: Sequence[tuple[str, str, str, str]]) -> str:
    """One HTML document with links to its sections; those without a body are left out.

    Args:
      title: plain text. below: HTML below the title. sections: anchor, heading, introduction (plain text) and body (HTML) of each.
    """
    sections = [found for found in sections if found[3]]
    links = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading, _, _ in sections)
    body = "".join(markup.section(*found) for found in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{markup.escaped(title)}</title><style>{style.CSS}</style></head><body>"
        f'<header><h1>{markup.escaped(title)}</h1>{below}<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{body}</main></body></html>\n"
    )


_HEADLINE = (
    "Samples were drawn from captions of the test split and compared with its real pictures. A figure says little alone, so two "
    "references stand beside it. R: real training pictures in the place of samples, what a perfect model would get. G: pictures "
    "drawn from one Gaussian for each class, which a useful model must beat. Brackets hold the 95 % bootstrap interval."
)
_METRICS = "Every figure of the evaluation, with what it means. The arrow tells which direction is better."
_CONFUSION = "Rows: what the caption asked for. Columns: what the judge took the sample for. A good model fills the diagonal alone."
_CAPTIONS = (
    "For each caption, a real test picture that it describes and one sample of each run, not picked by looks: the captions "
    "were chosen by their words alone, to cover classes and languages."
)
_NEIGHBOURS = (
    "Does the model copy? Each sample stands before the training pictures that are nearest to it, with their distances in feature "
    "space. A copy would show the same picture twice, at a distance near 0."
)
_CURVES = "What was logged while training. Thick lines are running means where a pale line shows the values as logged."
_CONFIGURATION = "What it takes to make these figures again, differences from the recipe first."


def _runs_line(runs: Sequence[EvaluatedRun]) -> str:
    entries = []
    for place, run in enumerate(runs):
        facts = [f"{markup.number(len(run.captions))} samples"]
        step, weights, nfe = (run.metrics.get(key) for key in ("step", "weights", "nfe"))
        facts += [f"step {markup.number(step)}"] if step is not None else []
        facts += [f"{weights} weights"] if weights is not None else []
        facts += [f"{markup.number(nfe)} network calls a picture"] if nfe is not None else []
        entries.append(f"<li>{markup.run_label(run.name, place)} <span>{markup.escaped(', '.join(facts))}</span></li>")
    return f'<ul class="runs" aria-label="Runs">{"".join(entries)}</ul>'


def _configuration(runs: Sequence[EvaluatedRun]) -> str:
    parts = []
    for place, run in enumerate(runs):
        recipe = f"Differences of {run.name} from its recipe {run.recipe}"
        if run.differences:
            rows = [
                [f"<code>{markup.escaped(name)}</code>", _shown(old), _shown(new)] for name, (old, new) in run.differences.items()
            ]
            parts.append(markup.table(recipe, ["Option", "Recipe", markup.run_label(run.name, place)], rows, "plain"))
        else:
            parts.append(
                f"<p>{markup.run_label(run.name, place)} is its recipe <code>{markup.escaped(run.recipe)}</code>, unchanged.</p>"
            )
    heads = ["Option", *(markup.run_label(run.name, place) for place, run in enumerate(runs))]
    names = list(dict.fromkeys(name for run in runs for name in run.options))
    rows = [(name, [_shown(run.options[name]) if name in run.options else markup.MISSING for run in runs]) for name in names]
    if len(runs) > 1:
        differing = [[f"<code>{markup.escaped(name)}</code>", *values] for name, values in rows if len(set(values)) > 1]
        parts.append(
            markup.table("Differences between the runs", heads, differing, "plain")
            if differing
            else "<p>The runs have the same configuration.</p>"
        )
    parts.append(metrics.provenance(runs))
    whole = [[f"<code>{markup.escaped(name)}</code>", *values] for name, values in rows]
    parts.append(_folded(f"Whole configuration ({len(names)} options)", markup.table("Whole configuration", heads, whole, "plain")))
    packages = list(dict.fromkeys(name for run in runs for name in run.versions))
    versions = [
        [markup.escaped(name), *(markup.escaped(run.versions.get(name, markup.MISSING)) for run in runs)] for name in packages
    ]
    parts.append(markup.table("Versions", ["Package", *heads[1:]], versions, "plain"))
    return "".join(parts)


def _shown(value: Any) -> str:
    return markup.escaped(markup.value(value)) or '<span class="muted">(empty)</span>'


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{markup.escaped(summary)}</summary>{body}</details>"

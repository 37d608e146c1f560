"""The report's figures: headline cards, the table of all metrics beside their references, what the judge saw, provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxgen.evaluation.report import charts, markup

if TYPE_CHECKING:
    from jaxgen.evaluation.report.page import EvaluatedRun


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a metric is to a reader.

    Attributes:
      label: its name in words.
      group: heading that it stands below.
      sentence: what it measures.
      better: "lower", "higher", or "" where neither is.
    """

    label: str
    group: str
    sentence: str
    better: str


LIKENESS, CAPTIONS, COPIES, COST, OTHER = (
    "Likeness to real pictures",
    "Agreement with captions",
    "Memorisation",
    "Cost",
    "Other figures",
)
MEANINGS = {
    "frechet_distance": Meaning(
        "Fréchet distance",
        LIKENESS,
        "How far the features of the samples, as one cloud, lie from those of the test pictures. 0 would be the same cloud.",
        "lower",
    ),
    "precision": Meaning(
        "Precision",
        LIKENESS,
        "Share of samples that lie among the test pictures: how many look plausible. 1 is all of them.",
        "higher",
    ),
    "recall": Meaning(
        "Recall",
        LIKENESS,
        "Share of test pictures that lie among the samples: how much of the real variety is drawn. 1 is all of it.",
        "higher",
    ),
    "caption_agreement": Meaning(
        "Caption agreement",
        CAPTIONS,
        "Share of samples in which a judge trained on real pictures sees what the caption asked for. 1 is all of them.",
        "higher",
    ),
    "colour_shape_count": Meaning(
        "Colour, shape and number",
        CAPTIONS,
        "Share of samples with as many objects of each colour and shape as the caption names, wherever they lie.",
        "higher",
    ),
    "judge_accuracy": Meaning(
        "Judge accuracy",
        CAPTIONS,
        "Share of real test pictures that the judge gets right: about the most that caption agreement can reach.",
        "",
    ),
    "geneval": Meaning(
        "GenEval", "GenEval", "Share of prompts whose objects, counts, colours and places are all found in the picture.", "higher"
    ),
    "dpg": Meaning("DPG-Bench", "DPG-Bench", "Share of the statements of long prompts that hold in the picture.", "higher"),
    "memorised": Meaning(
        "Memorised",
        COPIES,
        "Share of samples that are closer to a training picture than to any test picture. Well above the value of real pictures, "
        "it means copying.",
        "lower",
    ),
    "nfe": Meaning(
        "Network calls", COST, "How often the network runs to draw one picture. It tells the cost, not the quality.", ""
    ),
}
# Part of a metric: its label, and the captions that it is taken over.
PARTS = {
    "en": ("English", "captions in English"),
    "zh": ("Chinese", "captions in Chinese"),
    "seen": ("seen wordings", "captions worded as in training"),
    "heldout": ("unseen wordings", "captions worded as none of training"),
    "unseen": ("unseen combinations", "captions with a colour, shape and number that training never shows together"),
    "single_object": ("single object", "prompts for one object"),
    "two_object": ("two objects", "prompts for two kinds of object"),
    "counting": ("counting", "prompts for a number of equal objects"),
    "colors": ("colours", "prompts for one object of a colour"),
    "position": ("position", "prompts that say where two objects lie to each other"),
    "color_attr": ("attribute binding", "prompts for two objects of a colour each"),
}
HEADLINES = ("frechet_distance", "caption_agreement", "precision", "recall", "memorised")
REFERENCES = {"_real": "Real pictures", "_class_gaussian": "Class Gaussians"}
LETTERS = {"_real": "R", "_class_gaussian": "G"}
# Numbers of metrics.json that say how it was measured.
_SETTINGS = ("samples", "step", "seed")
_ARROWS = {"lower": "↓", "higher": "↑"}


def meaning(name: str) -> Meaning:
    """What a metric means; a part of a known one (`caption_agreement_en`) takes its meaning from that."""
    base = max((known for known in MEANINGS if name == known or name.startswith(f"{known}_")), key=len, default=None)
    if base is None:
        return Meaning(name.replace("_", " "), OTHER, "", "")
    if base == name:
        return MEANINGS[base]
    part = name[len(base) + 1 :]
    label, captions = PARTS.get(part, (part.replace("_", " "), ""))
    sentence = f"The same over {captions} alone." if captions else "A part of the same."
    return dataclasses.replace(MEANINGS[base], label=f"{MEANINGS[base].label}: {label}", sentence=sentence)


def names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Metrics that have rows of their own, by group, known ones first; references of others are left out."""
    found = list(dict.fromkeys(name for run in runs for name, value in run.metrics.items() if _is_metric(name, value)))
    rows = [name for name in found if not _refers(name, found)]
    usual = (LIKENESS, CAPTIONS, COPIES, COST, OTHER)
    groups = [*usual[:2], *sorted({_group(name, found) for name in rows} - set(usual)), *usual[2:]]
    known = list(MEANINGS)
    bases = {name: next((place for place, base in enumerate(known) if name.startswith(base)), len(known)) for name in rows}
    return sorted(rows, key=lambda name: (groups.index(_group(name, found)), bases[name], found.index(name)))


def cards(runs: Sequence[EvaluatedRun]) -> str:
    """One card for each headline metric that a run has: value, interval and ratio to real pictures, drawn on one scale."""
    shown = [name for name in HEADLINES if any(markup.finite(run.metrics.get(name)) for run in runs)]
    return f'<div class="cards">{"".join(_card(name, runs) for name in shown)}</div>'


def flags(runs: Sequence[EvaluatedRun]) -> str:
    """The warnings of all runs, in a box."""
    entries = [
        f"<li>{markup.run_label(run.name, place)}: {markup.escaped(flag)}</li>"
        for place, run in enumerate(runs)
        for flag in run.metrics.get("flags") or ()
    ]
    if not entries:
        return ""
    return f'<div class="warning" role="note"><strong>Read with care</strong><ul>{"".join(entries)}</ul></div>'


def metric_table(runs: Sequence[EvaluatedRun]) -> str:
    """All metrics: a row each, a column for each run and for each reference that any metric has."""
    found = [name for run in runs for name in run.metrics]
    rows = names(runs)
    suffixes = [suffix for suffix in REFERENCES if any(any(_reference(run, name, suffix)) for run in runs for name in rows)]
    heads = [
        "Metric",
        *(markup.run_label(run.name, place) for place, run in enumerate(runs)),
        *(markup.escaped(REFERENCES[suffix]) for suffix in suffixes),
    ]
    body, group = [], None
    for name in rows:
        if _group(name, found) != group:
            group = _group(name, found)
            body.append(f'<tr class="group"><th colspan="{len(heads)}" scope="colgroup">{markup.escaped(group)}</th></tr>')
        best = _best(name, runs)
        cells = [_value_cell(name, run, place, place == best) for place, run in enumerate(runs)]
        cells += [_reference_cell(name, suffix, runs) for suffix in suffixes]
        body.append(f'<tr><th scope="row">{_described(name)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="All metrics"><table class="metrics">'
        f"<caption>{markup.escaped(_table_note(runs))}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def confusions(runs: Sequence[EvaluatedRun]) -> str:
    """What the judge saw for each thing asked for, as a shaded table a run; "" without a judge."""
    found = "".join(_confusion(run, place) for place, run in enumerate(runs) if run.metrics.get("confusion"))
    return f'<div class="confusions">{found}</div>' if found else ""


def _confusion(run: EvaluatedRun, place: int) -> str:
    labels, counts = (run.metrics["confusion"][key] for key in ("labels", "counts"))
    rows = []
    for asked, (label, row) in enumerate(zip(labels, counts)):
        total = sum(row) or 1
        cells = (
            f'<td style="--share:{40 * count / total:.0f}%"{" class=right" if seen == asked else ""}>{count or ""}</td>'
            for seen, count in enumerate(row)
        )
        rows.append(f'<tr><th scope="row">{markup.escaped(label)}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{markup.escaped(label)}</th>' for label in labels)
    pairs = ((count, labels[a], labels[b]) for a, row in enumerate(counts) for b, count in enumerate(row) if a != b and count)
    often = [f"{asked} taken for {seen} ({count}×)" for count, asked, seen in sorted(pairs, key=lambda pair: -pair[0])[:3]]
    note = f"Most frequent mistakes: {', '.join(often)}." if often else "The judge saw what was asked for in every sample."
    return (
        f'<figure class="confusion"><figcaption>{markup.run_label(run.name, place)} <small>{markup.escaped(note)}</small>'
        f'</figcaption><div class="scroll" role="region" tabindex="0" aria-label="What the judge saw, {markup.escaped(run.name)}">'
        f"<table><thead><tr><td>asked ↓ seen →</td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def provenance(runs: Sequence[EvaluatedRun]) -> str:
    """How each run was measured: whatever metrics.json holds besides figures."""
    keys = ["step", "weights", "samples", "seed", "data", "features", "sampler"]
    keys += [key for run in runs for key, value in run.metrics.items() if not markup.is_number(value)]
    keys = [key for key in dict.fromkeys(keys) if key not in ("intervals", "flags", "confusion")]
    rows = []
    for key in keys:
        values = [run.metrics.get(key) for run in runs]
        if any(value is not None for value in values):
            rows.append([markup.escaped(key), *(_setting(value) for value in values)])
    heads = ["", *(markup.run_label(run.name, place) for place, run in enumerate(runs))]
    return markup.table("How the figures were made", heads, rows, "plain")


def _setting(value: Any) -> str:
    if value is None:
        return markup.MISSING
    if isinstance(value, dict):
        return "<br>".join(f"{markup.escaped(key)}: {markup.escaped(markup.value(part))}" for key, part in value.items())
    return markup.escaped(markup.value(value))


def _is_metric(name: str, value: Any) -> bool:
    return name not in _SETTINGS and (value is None or markup.is_number(value))


def _refers(name: str, found: Sequence[str]) -> bool:
    """Whether another row shows it as its reference."""
    if name == "judge_accuracy":
        return "caption_agreement" in found and "caption_agreement_real" not in found
    return any(name.endswith(suffix) and name.removesuffix(suffix) in found for suffix in REFERENCES)


def _reference(run: EvaluatedRun, name: str, suffix: str) -> tuple[Any, str]:
    """A metric's reference value and the name it goes by; (None, "") where there is none."""
    key = name + suffix
    if key not in run.metrics and (name, suffix) == ("caption_agreement", "_real"):
        key = "judge_accuracy"
    return (run.metrics[key], key) if run.metrics.get(key) is not None else (None, "")


def _group(name: str, found: Sequence[str]) -> str:
    """Its heading; unknown metrics that share their first word form a group of that name."""
    group = meaning(name).group
    if group != OTHER:
        return group
    word = name.split("_")[0]
    return word if sum(other.split("_")[0] == word for other in dict.fromkeys(found)) > 1 else OTHER


def _bounds(run: EvaluatedRun, name: str) -> Any:
    return (run.metrics.get("intervals") or {}).get(name)


def _best(name: str, runs: Sequence[EvaluatedRun]) -> int | None:
    """The run that is better than all others by more than both intervals; None without two runs or without intervals."""
    sign = {"lower": -1, "higher": 1}.get(meaning(name).better)
    bounds = [_bounds(run, name) for run in runs]
    if sign is None or len(runs) < 2 or not all(markup.interval(found) for found in bounds):
        return None
    worst = [min(sign * low, sign * high) for low, high in bounds]
    ends = [max(sign * low, sign * high) for low, high in bounds]
    for place in range(len(runs)):
        if all(worst[place] > end for other, end in enumerate(ends) if other != place):
            return place
    return None


def _ratio(value: Any, real: Any) -> str:
    if not (markup.finite(value) and markup.finite(real)) or real <= 0:
        return ""
    return f"{markup.number(value / real)} × real"


def _card(name: str, runs: Sequence[EvaluatedRun]) -> str:
    about = meaning(name)
    lines = []
    for place, run in enumerate(runs):
        value = run.metrics.get(name)
        label = (
            f"<dt>{markup.run_label(run.name, place)}</dt>"
            if len(runs) > 1
            else f'<dt class="hidden">{markup.escaped(run.name)}</dt>'
        )
        lines.append(
            f'{label}<dd><b>{markup.number(value)}</b> <span class="interval">{markup.interval(_bounds(run, name))}</span>'
            f' <span class="ratio">{_ratio(value, _reference(run, name, "_real")[0])}</span></dd>'
        )
    references = []
    for suffix, title in REFERENCES.items():
        values = _distinct([_reference(run, name, suffix)[0] for run in runs])
        if values:
            references.append(
                (
                    suffix,
                    f"{LETTERS[suffix]} {title[0].lower()}{title[1:]} {' / '.join(markup.number(value) for value in values)}",
                    values[0],
                )
            )
    beside = "".join(f"<li>{markup.escaped(text)}</li>" for _, text, _ in references)
    return (
        f'<article class="card"><h3>{markup.escaped(about.label)} {_direction(about)}</h3><dl>{"".join(lines)}</dl>'
        f"{_strip(name, runs, [(LETTERS[suffix], value) for suffix, _, value in references])}"
        f'<ul class="references">{beside}</ul><p>{markup.escaped(about.sentence)}</p></article>'
    )


def _strip(name: str, runs: Sequence[EvaluatedRun], references: list[tuple[str, float]]) -> str:
    rows = []
    for run in runs:
        value, bounds = run.metrics.get(name), _bounds(run, name)
        low, high = bounds if markup.interval(bounds) else (value, value)
        rows.append((value, low, high))
    references = [pair for pair in references if markup.finite(pair[1])]
    every = [number for row in rows for number in row] + [value for _, value in references]
    if not all(markup.finite(number) for number in every) or len(set(every)) < 2:
        return ""
    log = min(every) > 0 and max(every) / min(every) > 20
    scale = " (logarithmic scale)" if log else ""
    return charts.interval_strip(f"Runs between their references on one line{scale}", rows, references, log)


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Values that are there and read differently, in order."""
    return list({markup.number(value): value for value in values if value is not None}.values())


def _direction(about: Meaning) -> str:
    return f'<span class="better">{_ARROWS[about.better]} {about.better} is better</span>' if about.better else ""


def _described(name: str) -> str:
    about = meaning(name)
    sentence = f"<p>{markup.escaped(about.sentence)}</p>" if about.sentence else ""
    return f"{markup.escaped(about.label)} {_direction(about)}<code>{markup.escaped(name)}</code>{sentence}"


def _value_cell(name: str, run: EvaluatedRun, place: int, best: bool) -> str:
    value = markup.number(run.metrics.get(name))
    value = f'<b title="better than the other runs beyond both intervals">{value} ★</b>' if best else f"<span>{value}</span>"
    found = [flag for flag in run.metrics.get("flags") or () if str(flag).partition(":")[0].strip() == name]
    marks = "".join(f'<span class="flag">⚠ {markup.escaped(str(flag).partition(":")[2].strip() or flag)}</span>' for flag in found)
    label = markup.escaped(run.name)
    return f'<td data-label="{label}">{value}<span class="interval">{markup.interval(_bounds(run, name))}</span>{marks}</td>'


def _reference_cell(name: str, suffix: str, runs: Sequence[EvaluatedRun]) -> str:
    references = [_reference(run, name, suffix) for run in runs]
    values = _distinct([value for value, _ in references])
    shown = " / ".join(markup.number(value) for value in values) or markup.MISSING
    key = next((key for _, key in references if key), "")
    bounds = markup.interval(_bounds(runs[0], key)) if len(values) == 1 else ""
    source = f"<code>{markup.escaped(key)}</code>" if key and key != name + suffix else ""
    label = f'class="reference{"" if values else " absent"}" data-label="{REFERENCES[suffix]}"'
    return f'<td {label}><span>{shown}</span><span class="interval">{bounds}</span>{source}</td>'


def _table_note(runs: Sequence[EvaluatedRun]) -> str:
    note = "Brackets: the interval that holds 95 % of bootstrap resamples."
    return f"{note} ★: better than every other run beyond both intervals." if len(runs) > 1 else note

"""The page of a swarm: how the best model came about, who uploaded in which round, what was sent, and what lies where."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from jaxgen.evaluation.report import charts, markup, page

_CELL = 12
_LABELS = 56
# A grid of more rounds than this shows every n-th of them.
_COLUMNS = 120


@dataclasses.dataclass(frozen=True)
class Found:
    """What a swarm did.

    Attributes:
      name: of the run. sites: number of sites. hostile: those that attacked.
      rows: of metrics.jsonl at ends of rounds, with `step`, `swarm/…` and `site/<i>/…`.
      degrees: η of each site. counts: examples by site and class.
      up, down: bytes of each row's round. everybody: bytes that a round sends up where all upload.
    """

    name: str
    rows: Sequence[dict[str, Any]]
    sites: int
    hostile: Sequence[int]
    degrees: Sequence[float]
    counts: Sequence[Sequence[int]]
    up: Sequence[int]
    down: Sequence[int]
    everybody: int


def render(found: Found) -> str:
    """The page as one HTML document, to be written as UTF-8."""
    steps = [row["step"] for row in found.rows]
    line = lambda name, label, colour=0: charts.Line(label, steps, [row.get(name) for row in found.rows], colour, colour)
    sent = list(itertools.accumulate(found.up))
    scores = [
        line("swarm/score", "best of all"),
        line("swarm/candidate_score", "merged this round", 1),
        line("swarm/personal_score", "bests of sites, mean", 2),
    ]
    everybody = [found.everybody * (i + 1) for i in range(len(steps))]
    traffic = [charts.Line("this run", steps, sent), charts.Line("if all uploaded", steps, everybody, 1, 1)]
    uploads = [line("swarm/uploads", "models sent"), line("swarm/dropped", "dropped by the receiver", 1)]
    drawn = (
        charts.line_chart("Loss on the shared bank", scores),
        charts.line_chart("Loss of local training", [line("loss", "mean over sites")]),
        charts.line_chart("Models sent in a round", uploads),
        charts.line_chart("Sent up since the start", traffic, "bytes"),
    )
    sections = [
        ("curves", "Training", _CURVES, f'<div class="charts">{"".join(drawn)}</div>' if found.rows else ""),
        ("uploads", "Who was selected", _UPLOADS, _grid(found) if found.rows else ""),
        ("sites", "What lies where", _SITES, _table(found)),
    ]
    hostile = f"; hostile: {', '.join(map(str, found.hostile))}" if found.hostile else ""
    below = f"<p>{found.sites} sites{hostile}; {markup.number(sum(found.up))} bytes up, {markup.number(sum(found.down))} down.</p>"
    return page.document(f"Swarm of {found.name}", below, sections)


_CURVES = (
    "Points are ends of rounds. The best of all never gets worse where a merged model is accepted only if it scores better; "
    "federated averaging accepts every one."
)
_UPLOADS = "Rows are sites, columns are rounds. A filled cell is a model that was sent; a hostile site's is ringed."
_SITES = "Degree: 0 where a site's mix of examples is everybody's, near 1 where it has one kind of many."


def _grid(found: Found) -> str:
    kept = found.rows[:: -(-len(found.rows) // _COLUMNS)]
    width, height = _LABELS + _CELL * len(kept) + 4, _CELL * found.sites + 20
    marks = []
    for site in range(found.sites):
        y = _CELL * site
        marks.append(f'<text x="{_LABELS - 6}" y="{y + _CELL - 2}" text-anchor="end" font-size="10">site {site}</text>')
        for column, row in enumerate(kept):
            if not row.get(f"site/{site}/uploads"):
                continue
            hostile = site in found.hostile
            style = "fill:none;stroke:var(--run-1);stroke-width:2" if hostile else "fill:var(--run-0)"
            title = markup.escaped(f"site {site}, step {row['step']}")
            x = _LABELS + _CELL * column
            marks.append(f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}" style="{style}">')
            marks.append(f"<title>{title}</title></rect>")
    times = [sum(bool(row.get(f"site/{site}/uploads")) for row in found.rows) for site in range(found.sites)]
    label = markup.escaped(f"Uploads of each site in {len(found.rows)} rounds: {', '.join(map(str, times))}.")
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="Uploads by site and round">'
        f'<svg role="img" aria-label="{label}" {size} fill="currentColor">{"".join(marks)}</svg></div>'
    )


def _table(found: Found) -> str:
    classes = len(found.counts[0])
    heads = ["Site", "Degree", "Examples", *(f"of class {i}" for i in range(classes) if classes > 1), "Uploads"]
    rows = []
    for site, counts in enumerate(found.counts):
        times = sum(bool(row.get(f"site/{site}/uploads")) for row in found.rows)
        each = [markup.number(count) for count in counts] if classes > 1 else []
        name = f"{site} (hostile)" if site in found.hostile else str(site)
        degree = markup.number(float(found.degrees[site]))
        rows.append([name, degree, markup.number(sum(counts)), *each, f"{times} of {len(found.rows)}"])
    return markup.table("Sites", heads, rows, "plain")

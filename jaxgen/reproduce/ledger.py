"""The ledger: what each claim says, the paper's figure, ours, the verdict, and what it took; kept in one folder."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

from jaxgen import run
from jaxgen.reproduce.claim import Claim, Figure, Outcome


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the ledger, in words; `ours`, `verdict` and `seconds` are "—" where the claim was not run."""

    name: str
    paper: str
    ours: str
    verdict: str
    seconds: str


def write(folder: Any, claim: Claim, outcome: Outcome, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Writes `<claim>.png` and `<claim>.json` into a folder; returns the content of the latter."""
    outcome.draw(str(folder / f"{claim.name}.png"))
    content = {
        "claim": claim.name,
        "says": claim.says,
        "source": claim.source,
        "paper": claim.paper,
        "verdict": str(outcome.verdict),
        "figures": [_described(figure) for figure in outcome.figures],
        "lines": list(outcome.lines),
        "seconds": outcome.seconds,
        "set": list(overrides),
        "data": outcome.data,
    }
    run.write_whole(folder / f"{claim.name}.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return content


def read(folder: Any, claims: Iterable[Claim]) -> list[Entry]:
    """The ledger as it stands in a folder, one entry a claim, run or not."""
    entries = []
    for claim in claims:
        path = folder / f"{claim.name}.json"
        if not path.is_file():
            entries.append(Entry(claim.name, claim.paper, "—", "not run", "—"))
            continue
        found = json.loads(path.read_text())
        ours = "; ".join(f"{figure['name']}: {_number(figure['value'])}" for figure in found["figures"])
        # With other options it is another experiment, and its verdict none on the claim as it is written down.
        verdict = found["verdict"] + (f" (with {' '.join(found['set'])})" if found["set"] else "")
        entries.append(Entry(claim.name, claim.paper, ours, verdict, f"{found['seconds']:.0f}"))
    return entries


def line(figure: Figure) -> str:
    """A figure in words: name, value, interval, bar, verdict, and the paper's."""
    low, high = figure.interval
    around = "" if low == high else f" [{low:.3g}, {high:.3g}]"
    return f"{figure.bar.name}: {figure.value:.3g}{around}, bar {figure.bar}: {figure.verdict}; paper: {figure.bar.paper}"


def _described(figure: Figure) -> dict[str, Any]:
    numbers = {"value": figure.value, "low": figure.interval[0], "high": figure.interval[1]}
    return {
        "name": figure.bar.name,
        "paper": figure.bar.paper,
        "bar": str(figure.bar),
        "verdict": str(figure.verdict),
        # JSON knows neither of them.
        **{name: number if math.isfinite(number) else str(number) for name, number in numbers.items()},
    }


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"

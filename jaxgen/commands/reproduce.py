"""Repeat a paper's claim at small scale and say whether it holds.

Trains what the claim needs, writes a plot and its figures into the folder, prints the paper's figure beside ours, and ends with
a verdict: holds, does not hold, or inconclusive, from an interval over seeds against a bar that is fixed in the code. Exits 0
whatever the verdict is, and 1 where something that our own code guarantees was found false. Finished runs are kept: the same
command goes on where it stopped. After a change of code take another folder. With --set it is another experiment, and the
ledger says so.
"""

from __future__ import annotations

import argparse
from typing import Any

from jaxgen.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claim", metavar="CLAIM", nargs="?", help="name of a claim; --list shows them")
    parser.add_argument("--list", action="store_true", help="print the ledger: claim, the paper's figure, ours, verdict, seconds")
    parser.add_argument("--folder", default="runs/reproduce", metavar="DIR", help="of runs and verdicts (default %(default)s)")
    options.add_overrides(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from jaxgen import run as runs
    from jaxgen import types
    from jaxgen.commands import session
    from jaxgen.reproduce import ledger
    from jaxgen.reproduce.claims import CLAIMS

    folder = runs.Run(arguments.folder)
    if arguments.list:
        if arguments.claim:
            raise types.BadInput("CLAIM", arguments.claim, "no claim beside --list, which shows all of them")
        entries = ledger.read(folder.root, CLAIMS.values())
        for entry in entries:
            print(f"{entry.name}: {entry.verdict}")
            print(f"  {CLAIMS[entry.name].says}")
            print(f"  paper: {entry.paper} ({CLAIMS[entry.name].source})")
            print(f"  ours: {entry.ours}")
            print(f"  seconds: {entry.seconds}")
        session.write_json(arguments.json, {entry.name: vars(entry) for entry in entries})
        return session.DONE
    if arguments.claim not in CLAIMS:
        raise types.BadInput("CLAIM", arguments.claim, f"one of {', '.join(CLAIMS)}, or --list")
    return _reproduce(arguments, CLAIMS[arguments.claim], folder.create())


def _reproduce(arguments: argparse.Namespace, claim: Any, folder: Any) -> int:
    import sys

    import jax
    import tqdm

    from jaxgen.commands import session
    from jaxgen.reproduce import ledger
    from jaxgen.reproduce.claim import InvariantFailed, Workplace

    print(f"{claim.name} ({claim.source}): {claim.says}")
    with folder.lock(), tqdm.tqdm(unit="run", disable=None, leave=False) as bar:
        overrides = tuple(arguments.set)
        try:
            outcome = claim.run(Workplace(tuple(jax.devices()), folder.root, overrides, bar.update))
        except InvariantFailed as failure:
            print(f"jaxgen: an invariant of this code failed, so there is no verdict: {failure}", file=sys.stderr)
            return session.FAILED
        content = ledger.write(folder.root, claim, outcome, overrides)
    for text in outcome.lines:
        print(text)
    for figure in outcome.figures:
        print(ledger.line(figure))
    print(f"{folder.root / claim.name}.png: {outcome.verdict}, from {outcome.seconds:.0f} s of training")
    session.write_json(arguments.json, content)
    return session.DONE

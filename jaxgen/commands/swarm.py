"""Many sites that differ and may lie.

allocate: agents share a budget round by round without a coordinator, exchanging a price alone. Prints cost and violation, as
configured and beside it undefended, without clipping, and with one upper bound for all in the place of the true number of hostile
neighbours. Writes figures, curves and, where chips are shared, slices.json into the folder.
"""

from __future__ import annotations

import argparse

from jaxgen.commands import options

ACTIONS = ("allocate",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=f"one of {', '.join(ACTIONS)}")
    options.add_experiment(parser, "config")
    parser.add_argument("--run", metavar="DIR", help="run folder, local or a URL (default: runs/<name of the configuration>)")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from jaxgen.commands import swarm_allocation

    return {"allocate": swarm_allocation.run}[arguments.action](arguments)

"""Many sites that differ and may lie.

train: the sites of a swarm train one model, each on its own data (M-DSL, or DSL or federated averaging: swarm=dsl, swarm=fedavg).
The same command again goes on where it stopped. RUN/swarm/report.html shows who was chosen and what was sent; the run is sampled
and evaluated like any other.
allocate: agents share a budget round by round without a coordinator, exchanging a price alone. Prints cost and violation, as
configured and beside it undefended, without clipping, and with one upper bound for all in the place of the true number of hostile
neighbours. Writes figures, curves and, where chips are shared, slices.json into the folder.
"""

from __future__ import annotations

import argparse

from jaxgen.commands import options

ACTIONS = {"train": "train one model at all sites", "allocate": "share a budget"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, meaning in ACTIONS.items():
        action = actions.add_parser(name, help=meaning, description=meaning, epilog=parser.epilog)
        options.add_experiment(action, "config")
        action.add_argument("--run", metavar="DIR", help="run folder, local or a URL (default: runs/<name of the configuration>)")
        if name == "train":
            options.add_join(action)
        options.add_json(action)


def run(arguments: argparse.Namespace) -> int:
    from jaxgen.commands import swarm_allocation, swarm_training

    return {"train": swarm_training.run, "allocate": swarm_allocation.run}[arguments.action](arguments)

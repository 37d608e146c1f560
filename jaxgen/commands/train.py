"""Train a configuration. The same command again goes on where it stopped; `jaxgen train RUN` does too."""

from __future__ import annotations

import argparse
import logging

from jaxgen.commands import options

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "config")
    parser.add_argument("--run", metavar="DIR", help="run folder, local or a URL (default: runs/<name of the configuration>)")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from jaxgen import experiment as experiments
    from jaxgen.commands import session
    from jaxgen.commands.training_session import TrainingSession

    experiment, name = session.load(arguments, arguments.config)
    is_run = not (arguments.config.endswith((".py", ".json")) or ".py:" in arguments.config)
    folder = arguments.run or (arguments.config if is_run else f"runs/{name}")
    recipe = experiments.load(arguments.config, (), arguments.trust)[0]
    figures = TrainingSession(experiment, folder, (arguments.config, recipe), tuple(arguments.trust)).run()
    session.write_json(arguments.json, figures)
    return session.STOPPED if figures["stopped"] else session.DONE

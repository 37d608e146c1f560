"""Train a configuration. The same command again goes on where it stopped; `jaxgen train RUN` does too."""

from __future__ import annotations

import argparse

from jaxgen.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "config")
    parser.add_argument("--run", metavar="DIR", help="run folder, local or a URL (default: runs/<name of the configuration>)")
    parser.add_argument("--compile-only", action="store_true", help="compile the step, which fills the compilation cache, and stop")
    parser.add_argument("--profile", type=options.steps, metavar="FIRST:LAST", help="trace these steps into RUN/profile")
    options.add_join(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from jaxgen import experiment as experiments
    from jaxgen.commands import session, training_session

    with session.joined(arguments.join_within) as team:
        experiment, name = session.load(arguments, arguments.config)
        if arguments.compile_only:
            figures = training_session.compile_only(experiment)
        else:
            is_run = not (arguments.config.endswith((".py", ".json")) or ".py:" in arguments.config)
            folder = arguments.run or (arguments.config if is_run else f"runs/{name}")
            recipe = arguments.config, experiments.load(arguments.config, (), arguments.trust)[0]
            trust = tuple(arguments.trust)
            figures = training_session.train_networks(experiment, trust, team)
            if not figures.get("stopped"):
                figures = training_session.TrainingSession(experiment, folder, recipe, trust, team, arguments.profile).run()
        if team.first:
            session.write_json(arguments.json, figures)
    return session.STOPPED if figures.get("stopped") else session.DONE

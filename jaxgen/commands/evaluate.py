"""Score the newest whole checkpoint of each run, and write RUN/evaluation/metrics.json and RUN/evaluation/report.html.

A killed evaluation goes on where it stopped. Several runs are drawn from the same captions and noise and set side by side on one
page.
"""

from __future__ import annotations

import argparse

from jaxgen.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder; several are set side by side")
    options.add_overrides(parser)
    parser.add_argument("--seed", type=int, help="noise (default: the first run's seed)")
    parser.add_argument(
        "--report", metavar="FILE", help="page of several runs (default: comparison.html beside the first's report)"
    )
    parser.add_argument(
        "--statistics", metavar="FILE", help="also write mean and covariance of the test pictures' features here (.npz)"
    )
    options.add_join(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    import upath

    from jaxgen import run as runs
    from jaxgen import types
    from jaxgen.commands import evaluations, session

    with session.joined(arguments.join_within) as team:
        folders = [runs.Run(reference).require() for reference in arguments.runs]
        if arguments.report and len(folders) == 1:
            raise types.BadInput("--report", arguments.report, "several runs; that of one lies in RUN/evaluation/report.html")
        loaded = [(folder, session.load(arguments, str(folder.root))[0]) for folder in folders]
        mesh = session.drawing_mesh(loaded[0][1], any(text.startswith(("mesh.", "mesh=")) for text in arguments.set))
        seed = session.chosen_seed(arguments.seed, loaded[0][1])
        evaluation = evaluations.Session(loaded, mesh, seed, team, tuple(arguments.trust))
        comparison = None
        if len(folders) > 1:
            comparison = upath.UPath(arguments.report) if arguments.report else folders[0].evaluation / "comparison.html"
        found = evaluation.run(comparison)
        if not team.first:
            return session.DONE
        for folder, figures in zip(folders, found, strict=True):
            print(folder.root)
            for name, value in figures.items():
                if isinstance(value, float):
                    low, high = figures["intervals"].get(name, (None, None))
                    print(f"  {name:36} {value:.4f}" + ("" if low is None else f"  [{low:.4f}, {high:.4f}]"))
        if arguments.statistics:
            runs.write_whole(upath.UPath(arguments.statistics), evaluation.statistics())
        session.write_json(arguments.json, {str(folder.root): figures for folder, figures in zip(folders, found, strict=True)})
        return session.DONE

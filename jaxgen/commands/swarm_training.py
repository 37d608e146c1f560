"""`jaxgen swarm train`: an ordinary training session whose step is a swarm's, and a page on what the sites did."""

from __future__ import annotations

import argparse
import logging
from typing import Any

import jax
from upath import UPath

from jaxgen import experiment as experiments
from jaxgen import run as runs
from jaxgen import types
from jaxgen.commands import session, training_session
from jaxgen.evaluation.report import swarm_page
from jaxgen.swarm import mdsl, settings, sites, traffic
from jaxgen.training import logs

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Trains, writes RUN/swarm/report.html; returns the exit code."""
    with session.joined(arguments.join_within) as team:
        experiment, name = session.load(arguments, arguments.config)
        is_run = not (arguments.config.endswith((".py", ".json")) or ".py:" in arguments.config)
        folder = arguments.run or (arguments.config if is_run else f"runs/{name}")
        recipe = arguments.config, experiments.load(arguments.config, (), arguments.trust)[0]
        trust = tuple(arguments.trust)
        trained = training_session.TrainingSession(experiment, folder, recipe, trust, team, work=work)
        figures = trained.run()
        if team.first:
            figures |= report(trained.folder, experiment, trained.step)
            session.write_json(arguments.json, figures)
    return session.STOPPED if figures.get("stopped") else session.DONE


def work(experiment: experiments.Experiment) -> training_session.Work:
    """The step of all sites on the data of all sites.

    Raises:
      BadInput: no swarm, devices that do not divide, or data that do not.
    """
    if not isinstance(experiment, settings.SwarmExperiment):
        found = type(experiment).__name__
        raise types.BadInput("CONFIG", found, "a SwarmExperiment (jaxgen.swarm.settings), such as configs/swarm_digits.py")
    mesh = mdsl.make_mesh(experiment, jax.devices())
    try:
        examples = experiment.data.open("train", experiment.seed, shuffle=False)
    except types.BadInput as complaint:
        raise complaint.under("data") from None
    divided = sites.divide(experiment.swarm, experiment.data, examples, experiment.seed)
    with jax.set_mesh(mesh):
        step = mdsl.build(experiment, mesh, divided)
    size = experiment.swarm.sites * experiment.data.batch_size
    return training_session.Work(mesh, divided.examples, step, step.site, size, step.batch_layout)


def report(folder: runs.Run, experiment: Any, step: mdsl.SwarmStep) -> dict[str, Any]:
    """Writes the page; returns figures: bytes sent up and down, uploads a round, who uploaded how often."""
    rounds = [row for row in logs.MetricsLog(folder).rows() if row.get("swarm/uploads") is not None]
    sent = traffic.of(experiment.swarm, step.state.params)
    found = swarm_page.Found(
        name=folder.root.name,
        rows=rounds,
        sites=experiment.swarm.sites,
        hostile=experiment.swarm.hostile,
        degrees=step.data.degrees.tolist(),
        counts=step.data.counts.tolist(),
        up=[sent.up(int(row["swarm/uploads"])) for row in rounds],
        down=[sent.down] * len(rounds),
        everybody=sent.everybody,
    )
    path: UPath = folder.root / "swarm" / "report.html"
    runs.write_whole(path, swarm_page.render(found).encode())
    log.info("%s", path)
    count = max(len(rounds), 1)
    return {
        "swarm_report": str(path),
        "rounds": len(rounds),
        "bytes_up": sum(found.up),
        "bytes_down": sum(found.down),
        "uploads_per_round": sum(row["swarm/uploads"] for row in rounds) / count,
        "uploads_by_site": [sum(row[f"site/{i}/uploads"] for row in rounds) / count for i in range(found.sites)],
    }

"""Draw pictures from the newest whole checkpoint of a run, as a captioned grid in RUN/samples."""

from __future__ import annotations

import argparse

from jaxgen.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "run")
    parser.add_argument("--count", type=options.positive, metavar="N", help="number of pictures (default 100, or one per caption)")
    parser.add_argument("--caption", action="append", metavar="TEXT", help="draw this; repeatable (default: the test captions)")
    parser.add_argument("--seed", type=int, help="noise (default: the experiment's seed)")
    parser.add_argument("--each", action="store_true", help="also write every picture as a file of its own")
    options.add_join(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    import zlib

    import jax

    from jaxgen import experiment as experiments
    from jaxgen import run as runs
    from jaxgen.commands import samples, session
    from jaxgen.samplers.generator import Generator
    from jaxgen.training import checkpoint
    from jaxgen.training import step as steps

    with session.joined(arguments.join_within) as team:
        folder = runs.Run(arguments.run).require()
        experiment, _ = session.load(arguments, arguments.run)
        player = steps.generator_player(experiment)
        item = session.sampled_item(experiment, player)
        count = arguments.count or (len(arguments.caption) if arguments.caption else samples.GRID)
        seed = session.chosen_seed(arguments.seed, experiment)
        rows = samples.wanted(experiment, count, arguments.caption)
        mesh = session.drawing_mesh(experiment, any(text.startswith(("mesh.", "mesh=")) for text in arguments.set))
        with jax.set_mesh(mesh):
            built = steps.build(experiment, mesh)
        with checkpoint.Checkpoints(folder, hosts=team) as checkpoints:
            target = {item: built.state.items()[item]}
            step = session.drawing_checkpoint(checkpoints, folder, experiment, target)
            decoder = session.decoder(checkpoints, step, experiment, mesh)
            params = checkpoints.restore(step, target)[item]
        # Other settings, another name: a grid of one's own does not replace the one that training drew.
        settings = (experiments.dump(experiment.sampler), seed, count, arguments.caption)
        name = f"step-{step:08d}-{zlib.crc32(repr(settings).encode()):08x}"
        generator = Generator(experiment, mesh, seed, decoder)
        figures = samples.draw(experiment, generator, params, folder, name, rows, team, each=arguments.each)
        if team.first:
            session.write_json(arguments.json, {"run": str(folder.root), "step": step, **figures})
    return session.DONE

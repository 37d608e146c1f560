"""Check over widths that activations and their updates keep their scale under μP, beside the standard parametrization.

Trains a few steps on one batch at each width, draws sizes against width, lists what was left out and why, and exits 1 when a
slope under μP is outside the tolerance, or a module exactly zero throughout. With --train it also trains each width for a
while on the data, at the configuration's own rate, and exits 1 when wider is worse.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from typing import Any

from jaxgen.commands import options

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "config")
    parser.add_argument("--widths", default="64,128,256,512,1024", metavar="N,N,…", help="widths (default %(default)s)")
    parser.add_argument("--seeds", type=options.positive, default=8, help="initializations to average over (default %(default)s)")
    # Behind an output and gates that start at zero a gradient reaches a layer a step after the one that it goes through.
    parser.add_argument("--steps", type=options.positive, default=6, help="forward passes (default %(default)s)")
    # At ten times this rate one step moves what a narrow network computes by half of itself, and slopes tell of that too.
    parser.add_argument("--rate", type=float, default=0.001, help="learning rate (default %(default)s)")
    parser.add_argument("--batch", type=options.positive, default=8, help="examples in the batch (default %(default)s)")
    names, bars = ("SIZE", "CHANGE", "MEDIAN"), (0.1, 0.12, 0.05)
    told = f"largest slope allowed of a size, of its change, and of the median of all changes (default {' '.join(map(str, bars))})"
    parser.add_argument("--tolerance", type=float, nargs=3, metavar=names, default=bars, help=told)
    parser.add_argument("--train", type=int, default=0, metavar="N", help="also train N steps at each width (default: not)")
    parser.add_argument("--plot", metavar="FILE", help="where to draw (default mup-check-<name>.png)")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    import jax
    import tqdm

    from jaxgen import experiment as experiments
    from jaxgen import mup, types
    from jaxgen.commands import session
    from jaxgen.data import loader
    from jaxgen.parallel import sharding
    from jaxgen.training import coordinate_check

    widths = session.widths(arguments.widths)
    if len(widths) < 2 or arguments.steps < 2:
        raise types.BadInput("--widths and --steps", (widths, arguments.steps), "two widths and two steps at least")
    settings = [
        f"data.batch_size={arguments.batch}",
        f"optimizer.learning_rate={arguments.rate}",
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=0",
        "optimizer.clip_norm=none",
        "training.microbatches=1",
    ]
    trained, name = session.load(arguments, arguments.config)
    experiment, _ = experiments.load(arguments.config, [*arguments.set, *settings], arguments.trust)
    by_width: dict[tuple[str, int], experiments.Experiment] = {}
    both = (mup.Parametrization.MUP, mup.Parametrization.STANDARD)
    for parametrization in both:
        for width in widths:
            tree = experiments.override(experiment, f"model.width={width}")
            tree = experiments.override(tree, f"model.scaling.parametrization={parametrization}")
            tree.validate()
            by_width[parametrization, width] = tree
    mesh = session.make_mesh(experiment)
    examples = session.open_data(experiment, "train")

    found: dict[str, Any] = {}
    with jax.set_mesh(mesh):
        data = experiment.data
        with loader.batches(examples, data.features(), data.batch_size, sharding.batch_sharding(mesh), 0, 1) as batches:
            _, batch = next(batches)
        with tqdm.tqdm(total=len(by_width), unit="width", disable=None, leave=False) as bar:
            for parametrization in both:
                scale, change = [], []
                for width in widths:
                    one, other = coordinate_check.sizes(
                        by_width[parametrization, width], mesh, batch, range(arguments.seeds), arguments.steps
                    )
                    scale.append(one)
                    change.append(other)
                    log.info("%s, width %d: %d activations measured", parametrization, width, len(one))
                    bar.update()
                found[parametrization] = (scale, change, coordinate_check.fit(widths, scale, change))
        losses = []
        if arguments.train:
            data = trained.data
            layout = sharding.batch_sharding(mesh)
            open_batches = lambda: loader.batches(examples, data.features(), data.batch_size, layout, 0, data.prefetch)
            with tqdm.tqdm(total=len(widths) * arguments.seeds, unit="run", disable=None, leave=False) as bar:
                for width in widths:
                    tree = experiments.override(trained, f"model.width={width}")
                    tree = experiments.override(tree, f"training.steps={arguments.train}")
                    tree.validate()
                    losses.append(coordinate_check.losses(tree, mesh, open_batches, range(arguments.seeds), bar.update))
                    log.info("width %d: loss %.4f after %d steps", width, losses[-1].mean(), arguments.train)
    return _report(arguments, name, widths, found, losses)


def _report(arguments: argparse.Namespace, name: str, widths: list[int], found: dict[str, Any], losses: list[Any]) -> int:
    import numpy as np

    from jaxgen.commands import session
    from jaxgen.evaluation import plots
    from jaxgen.training import coordinate_check

    plot = arguments.plot or f"mup-check-{name}.png"
    tolerance = coordinate_check.Tolerance(*arguments.tolerance)
    plots.coordinate_check(widths, found, dataclasses.asdict(tolerance), plot)
    figures: dict[str, Any] = {"widths": widths, "tolerance": dataclasses.asdict(tolerance), "plot": plot}
    for parametrization, (_, _, slopes) in found.items():
        where, worst = slopes.worst()
        print(
            f"{parametrization}: {len(slopes.scale)} scales and {len(slopes.change)} changes; steepest {worst:+.3f}, {where};"
            f" median of changes {slopes.median:.3f}"
        )
        figures[parametrization] = {"worst": worst, "where": where, "median": slopes.median}
        figures[parametrization] |= {"scale": slopes.scale, "change": slopes.change}
    slopes = found["mup"][2]
    for reason, items in slopes.skipped.items():
        shown = ", ".join(items[:4]) + (f" and {len(items) - 4} more (--json lists them)" if len(items) > 4 else "")
        print(f"skipped: {reason}: {shown}")
    outside = tolerance.outside(slopes)
    for item, slope in outside.items():
        print(f"too steep: {item}: {slope:+.3f}")
    where, times = coordinate_check.growth(*found["mup"][:2])
    if outside and times > 1:
        print(f"{where} changed by {times:.1f} times its size in {arguments.steps} passes, which blurs slopes: try a lower --rate")
    for item in slopes.dead:
        print(f"exactly zero at all {arguments.steps} passes: {item}")
    complaints = []
    if losses:
        for width, values in zip(widths, losses, strict=True):
            print(f"width {width}: loss {values.mean():.4f} (seeds {', '.join(f'{value:.4f}' for value in values)})")
        complaints = coordinate_check.wider_is_better(widths, np.stack(losses))
        for complaint in complaints:
            print(complaint)
    passed = not outside and not slopes.dead and not complaints
    print(f"{plot}: {'passed' if passed else 'FAILED'}")
    figures |= {
        "passed": passed,
        "skipped": slopes.skipped,
        "dead": slopes.dead,
        "outside": outside,
        "losses": [v.tolist() for v in losses],
    }
    session.write_json(arguments.json, figures)
    return session.DONE if passed else session.FAILED

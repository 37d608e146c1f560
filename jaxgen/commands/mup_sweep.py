"""Sweep learning rates at several widths: does the best one move?

Trains a configuration for `training.steps` steps at each width, rate and seed, the examples and the noise being the same, and draws
the loss at the end against the rate, one line a width. Finished runs are kept in the folder: the same command goes on where it
stopped, and more rates, widths or seeds train only what is new. After a change of code take another folder.
"""

from __future__ import annotations

import argparse
import logging
import math
from typing import Any

from jaxgen.commands import options

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "config")
    parser.add_argument("--widths", default="64,128,256,512", metavar="N,N,…", help="widths (default %(default)s)")
    meaning = "learning rates at base width: numbers, powers as 2^-10, FIRST:LAST for all powers of 2 between (default %(default)s)"
    parser.add_argument("--rates", default="2^-13:2^-5", metavar="R,R,…", help=meaning)
    parser.add_argument("--seeds", type=options.positive, default=3, help="runs at each width and rate (default %(default)s)")
    parser.add_argument("--folder", metavar="DIR", help="where finished runs are kept (default runs/<name>-sweep)")
    parser.add_argument("--plot", metavar="FILE", help="where to draw (default sweep.png in the folder)")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    import jax
    import tqdm

    from jaxgen import experiment as experiments
    from jaxgen import run as runs
    from jaxgen import types
    from jaxgen.commands import session
    from jaxgen.data import loader
    from jaxgen.parallel import sharding
    from jaxgen.training import rate_optimum, rate_sweep

    widths = session.widths(arguments.widths)
    found = rates(arguments.rates)
    experiment, name = session.load(arguments, arguments.config)
    if not hasattr(experiment.optimizer, "learning_rate"):
        raise types.BadInput("optimizer", type(experiment.optimizer).__name__, "an optimizer with a learning_rate, to sweep it")
    trees = {width: experiments.override(experiment, f"model.width={width}") for width in widths}
    for tree in trees.values():
        tree.validate()
    mesh = session.make_mesh(experiment)
    examples = session.open_data(experiment, "train")
    folder = runs.Run(arguments.folder or f"runs/{name}-sweep").create()

    data, layout = experiment.data, sharding.batch_sharding(mesh)
    open_batches = lambda: loader.batches(examples, data.features(), data.batch_size, layout, 0, data.prefetch)
    curves = {}
    total = len(widths) * len(found) * arguments.seeds
    with folder.lock(), jax.set_mesh(mesh), tqdm.tqdm(total=total, unit="run", disable=None, leave=False) as bar:
        cells = rate_sweep.Cells(folder.root / "runs.json")
        for width, tree in trees.items():
            sweep = rate_sweep.Sweep(tree, mesh, open_batches, cells, bar.update)
            losses = sweep.losses(found, range(arguments.seeds))
            curves[width] = rate_optimum.Curve.of({math.log2(r): row for r, row in zip(found, losses, strict=True)})
            log.info("width %d: %d runs", width, losses.size)
    return _report(arguments, folder.root, str(experiment.model.scaling.parametrization), curves)


def rates(text: str) -> list[float]:
    """Ascending learning rates.

    Raises:
      BadInput: not rates, or fewer than three.
    """
    from jaxgen import types

    found: set[float] = set()
    try:
        for part in text.split(","):
            first, colon, last = part.partition(":")
            low, high = _rate(first), _rate(last if colon else first)
            # A little more than the last: the factors are exact, a decimal end need not be.
            found |= {low * 2.0**i for i in range(int(math.log2(high / low) + 1e-9) + 1)}
    except (ValueError, ZeroDivisionError, OverflowError):
        found = set()
    if len(found) < 3 or not all(0 < rate < math.inf for rate in found):
        raise types.BadInput("--rates", text, "three positive rates at least: numbers, powers as 2^-10, or FIRST:LAST")
    return sorted(found)


def _rate(text: str) -> float:
    base, power, exponent = text.partition("^")
    return float(base) ** float(exponent) if power else float(base)


def _report(arguments: argparse.Namespace, folder: Any, parametrization: str, curves: dict[int, Any]) -> int:
    from jaxgen.commands import session
    from jaxgen.evaluation import plots
    from jaxgen.reproduce import claim
    from jaxgen.training import rate_optimum

    plot = arguments.plot or str(folder / "sweep.png")
    plots.rates({parametrization: curves}, plot)
    slope = rate_optimum.slope(list(curves), [curve.optimum for curve in curves.values()])
    print(f"{'width':>6}  {'best rate':>10}  {'log₂':>6}  {'95 % over seeds':>16}  {'loss there':>10}")
    for width, curve in curves.items():
        loss = math.exp(curve.mean_log[curve.best])
        if not curve.interior:
            end = "smaller" if curve.best == 0 else "larger"
            print(f"{width:>6}  best at an end, 2^{curve.exponents[curve.best]:.2f} with loss {loss:.4f}: add {end} --rates")
            continue
        low, high = claim.interval(curve.optimum, curve.by_seed)
        print(f"{width:>6}  {2**curve.optimum:>10.3g}  {curve.optimum:>6.2f}  {low:>7.2f} … {high:<6.2f}  {loss:>10.4f}")
    print(f"{parametrization}: log₂ of the best rate moves by {slope:+.2f} a doubling of width")
    print(plot)
    session.write_json(
        arguments.json,
        {
            "parametrization": parametrization,
            "widths": {str(width): curve.described() for width, curve in curves.items()},
            "slope": slope if math.isfinite(slope) else None,
            "plot": plot,
        },
    )
    return session.DONE

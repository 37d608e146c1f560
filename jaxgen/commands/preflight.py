"""Compile a configuration's train step for a TPU slice, without the slice: does it fit, how fast will it be, where does time go?

With --sample, the drawing of pictures instead, as `sample` and `evaluate` run it; scores are computed on the host and not counted.

The real TPU compiler runs on this machine (libtpu, the extra `tpu`); nothing is allocated but its own memory. Exit code 1 where the
step does not fit; --fit then looks for the smallest change that does, by compiling it.

Predicted times are a range: [communication all hidden, as compiled]. For dense transformers on v5p such predictions came out 6 to
12 % above a published measurement; a kernel's time is a lower bound.

--json FILE writes one object:
  name, program, slice, slices, chips, chips_used, mesh
                            what was compiled (training or sampling) for what
  batch_size, steps         pictures of a step or draw; how many of those the recipe, or its evaluation, makes
  fits                      whether it does; where not, only needed_bytes, usable_bytes and message follow
  parameters                number by player
  memory                    bytes on a chip: peak, usable, state (parameters, optimizer, averages), and the largest arrays
  headroom                  share of the usable memory that is free at the peak
  replicated                bytes of the state that every chip holds whole, and the large arrays among them
  model_tflop, compiled_tflop, remat_overhead
                            10^12 FLOPs of a step by the model's mathematics and by the compiled program, and their ratio - 1
  peak_tflop_per_second     of all chips
  seconds                   of a step: matmul, kernel, memory, collective (exposed)
  hidden_collective_seconds what other work hides
  step_seconds, mfu, images_per_second_per_chip, chip_hours, price
                            pairs: communication hidden, and as compiled; price is null without --price
  operations                the dearest ones
  unknown                   what could not be priced
  compile_seconds           of the step
  changed                   what --fit changed, by option
"""

from __future__ import annotations

import argparse

from jaxgen.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "config")
    parser.add_argument("--slice", required=True, metavar="SLICE", help="what to compile for, for example v5e:4x4 or v5p:8x8x4")
    parser.add_argument("--slices", type=options.positive, default=1, metavar="N", help="number of slices (default 1)")
    parser.add_argument("--sample", action="store_true", help="the drawing of pictures instead of the train step")
    parser.add_argument("--price", type=float, metavar="MONEY", help="of a chip for an hour")
    parser.add_argument("--fit", action="store_true", help="where it does not fit, look for the smallest change that does")
    parser.add_argument("--hlo", metavar="FILE", help="also write the optimized program here")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    import pathlib

    from jaxgen import types
    from jaxgen.commands import session
    from jaxgen.parallel import slices
    from jaxgen.preflight import fit, overflow, process, report, target
    from jaxgen.training import step as steps

    if arguments.price is not None and not arguments.price > 0:
        raise types.BadInput("--price", arguments.price, "a positive number")
    if arguments.hlo is not None and not pathlib.Path(arguments.hlo).absolute().parent.is_dir():
        raise types.BadInput("--hlo", arguments.hlo, "a file in a folder that exists")
    wanted = target.Target(slices.parse(arguments.slice), arguments.slices)
    experiment, name = session.load(arguments, arguments.config)
    what = "sampling" if arguments.sample else "training"
    target.check(experiment, wanted, what)
    if arguments.sample:
        session.sampled_item(experiment, steps.generator_player(experiment))
    target.require_compiler()

    def compiled(candidate):
        return process.figures(candidate, wanted, tuple(arguments.trust), arguments.hlo, what)

    found, changed = compiled(experiment), {}
    if isinstance(found, overflow.Overflow):
        print(f"{name} does not fit {wanted}: {report.overflow(found)}")
        if arguments.fit:
            found, changed = fit.search(experiment, wanted, found, compiled, print, what)
        if isinstance(found, overflow.Overflow):
            facts = {"fits": False, "needed_bytes": found.needed, "usable_bytes": found.usable, "message": found.message}
            session.write_json(arguments.json, {"name": name, "slice": str(wanted.slice), "slices": wanted.count} | facts)
            return session.FAILED
    figures = {"name": name, "fits": not changed} | report.derived(found, arguments.price) | {"changed": changed}
    if changed:
        print(f"{name} fits with " + " ".join(f"--set {option}={value}" for option, value in changed.items()))
    print(report.table(figures))
    session.write_json(arguments.json, figures)
    return session.FAILED if changed else session.DONE

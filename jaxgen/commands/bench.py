"""Measure a configuration on this machine: step time and where it goes, throughput, compile time, memory, the loop's own cost.

Runs the trainer itself, with its data and metrics but without checkpoints, in blocks that take turns with blocks of the bare
compiled step; `trainer / bare` is the median ratio over the pairs. With --sampler, times drawing pictures instead. Parameters are
fresh, nothing is kept, and no run folder is made.

--json FILE writes one object; its values are numbers, texts, lists of numbers, and two objects by name.
in both modes:
  bench                     "training" or "sampling"
  name, device_kind         of the configuration; of the chips
  devices, mesh             number of devices used; size of each mesh axis by name
  versions                  of jaxgen and what it stands on, by name
  images_per_second         images of a step or call / its median time
  model_tflop               10^12 model FLOPs of a step or call, without rematerialization (sampling: of the network's calls)
  tflop_per_second, mfu     of these FLOPs at the median time; mfu is null where the chip's peak is not known
  compile_seconds           of the step, or in the first call; short where a compilation cache has the program
  late_compiles             programs compiled after that; 0 unless something is wrong
  peak_memory_bytes         the most that was held at any time since the process began
  peak_memory_of            "device" (the fullest one) or "process" (its resident memory, where devices do not say)
training:
  batch_size, log_every     as configured
  blocks, steps             pairs of blocks; timed steps in each block
  step_ms_median, step_ms_p95
                            between steps of the trainer seen finished, milliseconds
  step_ms_mean              time of the trainer's blocks / steps: the sum of the next four
  input_wait_ms, compute_ms, log_ms, rest_ms
                            the host's time in a mean step: waiting for batches; starting steps and waiting for them;
                            fetching and writing metrics, while the device computes the next step; what is left
  input_wait_share, compute_share, log_share, rest_share
                            the same as shares of the mean step
  trainer_over_bare         median of trainer_over_bare_blocks
  trainer_over_bare_blocks  by pair of blocks, trainer's time / bare time
  trainer_ms_blocks, bare_ms_blocks
                            milliseconds a step, by block
  steps_finished            steps run in all, untimed ones included
sampling:
  calls, images             timed calls; pictures drawn in each
  call_ms_median, call_ms_p95, call_ms_mean
                            milliseconds until the pictures of a call are on the host
  nfe                       calls of the network per picture; a guided call counts as 1
"""

from __future__ import annotations

import argparse
from typing import Any

from jaxgen.commands import options

_BLOCKS, _STEPS = 5, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "config")
    parser.add_argument("--sampler", action="store_true", help="time drawing pictures and not training")
    parser.add_argument("--blocks", type=options.positive, metavar="N", help=f"pairs of blocks (default {_BLOCKS})")
    steps = f"timed steps in a block; with --sampler, timed calls (default {_STEPS})"
    parser.add_argument("--steps", type=options.positive, metavar="N", default=_STEPS, help=steps)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    import jax

    from jaxgen import types
    from jaxgen.commands import session
    from jaxgen.training import bench
    from jaxgen.training import step as steps

    if arguments.sampler and arguments.blocks:
        raise types.BadInput("--blocks", arguments.blocks, "no blocks with --sampler, which times --steps calls")
    experiment, name = session.load(arguments, arguments.config)
    player = None
    if arguments.sampler:
        if experiment.sampler is None:
            raise types.BadInput("sampler", None, "a sampler, to draw with")
        player = steps.generator_player(experiment)
    mesh = session.make_mesh(experiment)
    examples = session.open_data(experiment, "train")
    with jax.set_mesh(mesh):
        built = steps.build(experiment, mesh)
        if player is None:
            measured = _training(experiment, built, examples, arguments.blocks or _BLOCKS, arguments.steps)
        else:
            measured = _sampling(experiment, built, examples, player, arguments.steps)
    memory, holder = bench.peak_memory(mesh)
    figures = {
        "bench": "sampling" if arguments.sampler else "training",
        "name": name,
        "device_kind": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        **measured,
        "peak_memory_bytes": memory,
        "peak_memory_of": holder,
        "versions": session.versions(),
    }
    _show(figures)
    session.write_json(arguments.json, figures)
    return session.DONE


def _training(experiment: Any, built: Any, examples: Any, blocks: int, count: int) -> dict[str, Any]:
    import contextlib
    import tempfile

    from jaxgen import run as runs
    from jaxgen.data import loader
    from jaxgen.parallel import chips, sharding
    from jaxgen.training import bench, flops, logs

    data, layout = experiment.data, sharding.batch_sharding(built.mesh)
    size, peak = data.batch_size, chips.peak_flops(built.mesh)

    def open_batches(start: int) -> loader.Batches:
        return loader.batches(examples, data.features(), size, layout, start, data.prefetch)

    with contextlib.ExitStack() as stack:
        folder = runs.Run(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxgen-bench-")))
        rows = stack.enter_context(contextlib.closing(logs.MetricsLog(folder)))
        curves = stack.enter_context(contextlib.closing(logs.Curves(folder)))

        def write(step: int, row: dict[str, Any]) -> None:
            rows.write(step, row)
            curves.write(step, row)

        times = bench.training(experiment, built, open_batches, write, blocks, count, peak)
    settings = {"batch_size": size, "log_every": experiment.training.log_every, "blocks": blocks, "steps": count}
    return settings | times.figures(size, flops.per_example(experiment, built) * size, peak)


def _sampling(experiment: Any, built: Any, examples: Any, player: str, count: int) -> dict[str, Any]:
    import jax
    import numpy as np

    from jaxgen.parallel import chips
    from jaxgen.samplers.generator import Generator
    from jaxgen.training import bench, flops, frozen

    abstract = built.state.params[player]
    # The generator alone: the optimizer would count as memory that sampling needs.
    initial = lambda seed: built.initial(seed).params[player]
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    params = jax.block_until_ready(jax.jit(initial, out_shardings=layout)(np.uint32(experiment.seed)))
    generator = Generator(experiment, built.mesh, experiment.seed, frozen.autoencoder(experiment, built.mesh))
    images = generator.rows
    fields = generator.conditions(examples.rows(range(images)))
    times = bench.calls(lambda: list(generator.images(params, fields, np.arange(images))), count)
    settings = {"calls": count, "images": images, "nfe": experiment.sampler.nfe(experiment)}
    work = flops.of(generator.draw, *generator.abstract(abstract, experiment.data.features()))
    return settings | times.figures(images, work, chips.peak_flops(built.mesh))


def _show(figures: dict[str, Any]) -> None:
    shape = " × ".join(f"{axis}={size}" for axis, size in figures["mesh"].items() if size > 1) or "one device"
    where = f"{figures['devices']} × {figures['device_kind']} ({shape})"
    lines: list[tuple[str, str]] = []
    if figures["bench"] == "training":
        unit = "step"
        print(f"{figures['name']} on {where}: {figures['blocks']} pairs of blocks of {figures['steps']} steps")
        lines.append(("batch", f"{figures['batch_size']} images, metrics every {figures['log_every']} steps"))
    else:
        unit = "call"
        print(f"{figures['name']} on {where}: {figures['calls']} calls")
        lines.append(("batch", f"{figures['images']} images a call, {figures['nfe']} network calls for each"))
    median, p95, mean = (figures[f"{unit}_ms_{statistic}"] for statistic in ("median", "p95", "mean"))
    lines.append((unit, f"median {median:.2f} ms, p95 {p95:.2f} ms, mean {mean:.2f} ms"))
    if unit == "step":
        for part, label in (("input_wait", "input wait"), ("compute", "compute"), ("log", "log"), ("rest", "rest")):
            lines.append((f"  {label}", f"{figures[f'{part}_ms']:8.3f} ms {figures[f'{part}_share']:7.2%}"))
    lines.append(("images/s", f"{figures['images_per_second']:.1f}"))
    mfu = "unknown" if figures["mfu"] is None else f"{figures['mfu']:.1%}"
    work = f"{figures['model_tflop']:.4g} TFLOP a {unit}, {figures['tflop_per_second']:.4g} TFLOP/s, MFU {mfu}"
    lines.append(("model FLOPs", work))
    late = f"; {figures['late_compiles']} programs more while timing" if figures["late_compiles"] else ""
    lines.append(("compile", f"{figures['compile_seconds']:.2f} s{late}"))
    lines.append(("peak memory", f"{figures['peak_memory_bytes'] / 1e9:.3f} GB of the {figures['peak_memory_of']}"))
    if unit == "step":
        ratios = ", ".join(f"{ratio:.3f}" for ratio in figures["trainer_over_bare_blocks"])
        lines.append(("trainer / bare", f"{figures['trainer_over_bare']:.3f} (median of {ratios})"))
    for label, text in lines:
        print(f"{label:15} {text}")

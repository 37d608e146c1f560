"""Show a configuration as it resolves: every option, parameters by network, FLOPs per example. Compiles nothing."""

from __future__ import annotations

import argparse
import math

from jaxgen.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_experiment(parser, "config")
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    import jax

    from jaxgen import experiment as experiments
    from jaxgen.commands import session
    from jaxgen.parallel import mesh as meshes
    from jaxgen.training import flops, step

    experiment, name = session.load(arguments, arguments.config)
    for option, text in experiments.as_overrides(experiment).items():
        print(f"{option}={text}")
    # One device: neither figure depends on the mesh, and this machine need not have it.
    mesh = meshes.build(meshes.MeshShape(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        built = step.build(experiment, mesh)
        per_example = flops.per_example(experiment, built)
    counts = {player: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for player, tree in built.state.params.items()}
    for player, count in counts.items():
        print(f"parameters of {player}: {count:,}")
    print(f"training FLOPs per example: {per_example:.4g}")
    figures = {"name": name, "experiment": experiments.dump(experiment), "parameters": counts, "flops_per_example": per_example}
    session.write_json(arguments.json, figures)
    return session.DONE

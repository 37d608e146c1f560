"""Looks for the smallest change of an experiment that fits a slice, by compiling each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.nn import stack
from jaxgen.preflight import report
from jaxgen.preflight.overflow import Overflow
from jaxgen.preflight.target import Target, check

REMAT = tuple(stack.REMAT)
"""Rematerialization policies; they are listed from the one that keeps most to the one that keeps least."""


def search(
    experiment: Any,
    target: Target,
    found: Overflow,
    compiled: Callable[[Any], dict[str, Any] | Overflow],
    say: Callable[[str], None],
    what: str = "training",
) -> tuple[dict[str, Any] | Overflow, dict[str, str]]:
    """The first of the candidates that fits: its figures and its changes by option; the least overflow and {} where none does.

    Args:
      found: how the experiment itself does not fit. compiled: compiles a candidate. say: told of each attempt.
      what: is compiled, a name of `CANDIDATES`.
    """
    least = found
    for changes in CANDIDATES[what](experiment, target):
        tree = experiment
        try:
            for option, value in changes.items():
                tree = experiments.override(tree, f"{option}={value}")
            tree.validate()
            check(tree, target, what)
        except types.BadInput:
            continue
        answer = compiled(tree)
        shown = " ".join(f"{option}={value}" for option, value in changes.items())
        if not isinstance(answer, Overflow):
            say(f"{shown}: fits")
            return answer, changes
        say(f"{shown}: {report.overflow(answer)}")
        least = min(least, answer, key=lambda each: each.excess)
    return least, {}


def training_candidates(experiment: Any, target: Target) -> Iterator[dict[str, str]]:
    """Changes of a train step by option, from those that cost least.

    First what is kept of activations, then what of the state is shared out, then parts of a batch with the sparest of the others.
    """
    current = getattr(experiment.model, "remat", None)
    spare = [policy for policy in REMAT if current in REMAT and REMAT.index(policy) > REMAT.index(current)]
    for policy in spare:
        yield {"model.remat": policy}
    base = {"model.remat": spare[-1]} if spare else {}
    if shared := _shared(experiment, target):
        yield shared
        base |= shared
        if spare:
            yield base
    sizes = experiment.mesh.resolve(target.chips)
    rows = experiment.data.batch_size // (sizes["slice"] * sizes["data"] * sizes["fsdp"])
    parts = 2 * experiment.training.microbatches
    while parts <= rows:
        yield base | {"training.microbatches": str(parts)}
        parts *= 2


def sampling_candidates(experiment: Any, target: Target) -> Iterator[dict[str, str]]:
    """Changes of the drawing of pictures by option: parameters shared out, then fewer pictures at once."""
    base = _shared(experiment, target)
    if base:
        yield base
    images = experiment.sampler.images_per_device // 2
    while images:
        yield base | {"sampler.images_per_device": str(images)}
        images //= 2


def _shared(experiment: Any, target: Target) -> dict[str, str]:
    """Sizes of the mesh that share out what the axis `data` holds several times; {} where it holds nothing so."""
    sizes = experiment.mesh.resolve(target.chips)
    if sizes["data"] == 1:
        return {}
    sizes = sizes | {"fsdp": sizes["fsdp"] * sizes["data"], "data": 1}
    return {f"mesh.{axis}": str(size) for axis, size in sizes.items()}


CANDIDATES = {"training": training_candidates, "sampling": sampling_candidates}
"""Where to look, by what is compiled."""

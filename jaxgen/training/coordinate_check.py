"""The coordinate check: how activations, and what training adds to them, scale with width (Tensor Programs V, appendix D.1).

A model is built at several widths and trained for a few steps by the ordinary step on one batch. Under a correct μP, neither
the size of any activation h_t nor that of its change h_t - h_1 depends on width; a wrong learning-rate rule shows in the change
long before it shows in the size (arXiv 2505.15270).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.parallel import keys
from jaxgen.training import step as steps


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Fits of log₂ size on log₂ width.

    Attributes:
      scale: by activation, the slope of mean |h_t| that is largest in magnitude over the checked steps.
      change: the same of mean |h_t - h_1|.
      skipped: activations left out, with the reason.
    """

    scale: dict[str, float]
    change: dict[str, float]
    skipped: dict[str, str]

    def worst(self) -> tuple[str, float]:
        """Name and value of the slope largest in magnitude, change or scale."""
        found = [(f"change of {name}", slope) for name, slope in self.change.items()]
        found += [(f"scale of {name}", slope) for name, slope in self.scale.items()]
        return max(found, key=lambda item: abs(item[1]))


class Probe:
    """Stands in for a Linen module; its `apply` keeps every submodule's output."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.found: dict[str, jax.Array] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def apply(self, variables: types.PyTree, *arguments: Any) -> Any:
        out, kept = self._module.apply(variables, *arguments, capture_intermediates=True, mutable=["intermediates"])
        for path, leaf in jax.tree_util.tree_leaves_with_path(kept["intermediates"]):
            self.found[steps.dotted(path).replace(".__call__", "").replace("__call__", "out")] = leaf
        return out


def activations(experiment: experiments.Experiment, built: steps.Step, player: str) -> Callable:
    """Jitted (state, frozen, batch) -> {name: activation} of one player in its loss, noise the same at every call.

    Activations of scanned layers are separate entries, "blocks.mlp.in.0[2]" for the third layer.
    """
    objective = experiment.objective
    modules = {p.name: p.module for p in objective.players(experiment)}
    modules |= {f.name: f.module for f in objective.frozen(experiment)}
    modules["autoencoder"] = experiment.autoencoder
    depth = getattr(modules[player], "depth", 0)

    def run(state: Any, frozen: types.PyTree, batch: types.Batch) -> dict[str, jax.Array]:
        probe = Probe(modules[player])
        compute = jnp.dtype(experiment.precision.compute)
        views = types.Views(state.params, state.ema, frozen, modules=modules | {player: probe}, compute=compute)
        key = keys.stream(keys.root(state.seed), "coordinate check")
        prepared = objective.prepare(views, batch, key)
        objective.loss(player, state.params[player], views, prepared, key, state.step, state.memory)
        found = {}
        for name, value in probe.found.items():
            if name.startswith("blocks.") and value.shape[0] == depth:
                found |= {f"{name}[{i}]": value[i] for i in range(depth)}
            else:
                found[name] = value
        return found

    return jax.jit(run)


def sizes(
    experiment: experiments.Experiment, mesh: jax.sharding.Mesh, batch: types.Batch, seeds: Sequence[int], count: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Sizes of activations over `count` forward passes with a train step between each.

    Returns:
      By activation, mean |h_t| and mean |h_t - h_1|, each [count] and averaged over seeds; pass 1 is at initialization.
    """
    built = steps.build(experiment, mesh)
    player = next(p.name for p in experiment.objective.players(experiment) if p.module == experiment.model)
    probe = activations(experiment, built, player)

    @jax.jit
    def measure(now: dict[str, jax.Array], first: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {
            name: jnp.stack([jnp.mean(jnp.abs(value)), jnp.mean(jnp.abs(value - first[name]))]) for name, value in now.items()
        }

    totals: dict[str, np.ndarray] = {}
    for seed in seeds:
        state, frozen, first = built.initial(np.uint32(seed)), built.load_frozen(np.uint32(seed)), None
        for t in range(count):
            now = probe(state, frozen, batch)
            first = now if first is None else first
            for name, pair in jax.device_get(measure(now, first)).items():
                totals.setdefault(name, np.zeros((count, 2)))[t] += np.asarray(pair, np.float64) / len(seeds)
            if t + 1 < count:
                state, report = built(state, frozen, batch)
                if not jax.device_get(report.finite):
                    raise ArithmeticError(f"step {t + 1} is not finite: {'; '.join(built.culprits(report)[:3])}")
    return {name: pair[:, 0] for name, pair in totals.items()}, {name: pair[:, 1] for name, pair in totals.items()}


def fit(widths: Sequence[int], scale: Sequence[dict[str, np.ndarray]], change: Sequence[dict[str, np.ndarray]]) -> Slopes:
    """Slopes over widths from the sizes at each width; passes 2 and later count.

    An activation that is exactly zero at some width and pass is skipped for that quantity, and named.
    """
    found: dict[str, dict[str, float]] = {"scale": {}, "change": {}}
    skipped: dict[str, str] = {}
    for kind, by_width in (("scale", scale), ("change", change)):
        for name in by_width[0]:
            values = np.stack([sizes[name] for sizes in by_width])[:, 1:]  # [widths, passes]
            zero = values == 0
            if zero.any():
                where = "at every step" if zero.all() else f"at {int(zero.sum())} of {zero.size} widths and steps"
                skipped[f"{kind} of {name}"] = f"exactly zero {where}: " + (
                    "nothing trained reaches it" if kind == "change" else "it is not active"
                )
            usable = ~zero.any(axis=0)
            if usable.any():
                slopes = np.polyfit(np.log2(widths), np.log2(values[:, usable]), 1)[0]
                found[kind][name] = float(slopes[np.argmax(np.abs(slopes))])
    return Slopes(found["scale"], found["change"], skipped)

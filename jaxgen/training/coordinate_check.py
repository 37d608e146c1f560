"""The coordinate check: how activations, and what training adds to them, scale with width (Tensor Programs V, appendix D.1).

A model is built at several widths and trained for a few steps by the ordinary step on one batch. Under a correct μP, neither
the size of any activation h_t nor that of its change h_t - h_1 depends on width; a wrong learning-rate rule shows in the change
long before it shows in the size (arXiv 2505.15270).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import experiment as experiments
from jaxgen import mup, types
from jaxgen.parallel import keys
from jaxgen.training import loop
from jaxgen.training import step as steps


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Fits of log₂ size on log₂ width.

    Attributes:
      scale: by activation, the slope of mean |h_t| that is largest in magnitude over the checked steps.
      change: the same of mean |h_t - h_1|.
      skipped: what was left out, by reason.
      dead: modules all of whose outputs are exactly zero at every width and pass: they do nothing, whatever their slopes would be.
    """

    scale: dict[str, float]
    change: dict[str, float]
    skipped: dict[str, list[str]]
    dead: tuple[str, ...]

    @property
    def median(self) -> float:
        """Of the magnitudes of the slopes of all changes."""
        return float(np.median(np.abs(list(self.change.values()))))

    def worst(self) -> tuple[str, float]:
        """Name and value of the slope largest in magnitude, change or scale."""
        found = [(f"change of {name}", slope) for name, slope in self.change.items()]
        found += [(f"scale of {name}", slope) for name, slope in self.scale.items()]
        return max(found, key=lambda item: abs(item[1]))


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How steep slopes may be, in magnitude.

    Attributes:
      scale: of any activation. change: of any activation's change, which a narrow network tells less well.
      median: of the changes of all activations.
    """

    scale: float
    change: float
    median: float

    def outside(self, slopes: Slopes) -> dict[str, float]:
        """The slopes that are too steep, by what they are of, the steepest first."""
        found = {f"scale of {name}": slope for name, slope in slopes.scale.items() if not abs(slope) <= self.scale}
        found |= {f"change of {name}": slope for name, slope in slopes.change.items() if not abs(slope) <= self.change}
        found = dict(sorted(found.items(), key=lambda item: -abs(item[1])))
        if not slopes.median <= self.median:
            found["change, median over all activations"] = slopes.median
        return found


class Probe:
    """Stands in for a Linen module; its `apply` keeps every submodule's output."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.found: dict[str, jax.Array] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def apply(self, variables: types.PyTree, *arguments: Any, mutable: Sequence[str] = (), **options: Any) -> Any:
        out, kept = self._module.apply(
            variables, *arguments, capture_intermediates=True, mutable=["intermediates", *mutable], **options
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(kept.pop("intermediates")):
            self.found[steps.dotted(path).replace(".__call__", "").replace("__call__", "out")] = leaf
        return (out, kept) if mutable else out


def stacks(player: types.Player) -> dict[str, int]:
    """Number of layers of each scanned module of a player, by its dotted name, for example {"encoder.blocks": 3}."""
    boxed = jax.eval_shape(lambda: player.module.init(jax.random.key(0), *player.inputs())["params"])
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=mup.is_parameter)
    found = [(steps.dotted(path).split("."), box) for path, box in leaves]
    owners = lambda names: [".".join(names[: i + 1]) for i in range(len(names))]
    outside = {owner for names, box in found if box.names[0] != "layers" for owner in owners(names)}
    return {
        next(owner for owner in owners(names) if owner not in outside): box.value.shape[0]
        for names, box in found
        if box.names[0] == "layers"
    }


def activations(experiment: experiments.Experiment, player: str) -> Callable:
    """Jitted (state, frozen, batch) -> {name: activation} of one player in its loss, noise the same at every call.

    Activations of scanned layers (`stacks`) are separate entries, "blocks.mlp.in.0[2]" for the third layer.
    """
    objective = experiment.objective
    modules = steps.modules(experiment)
    layers_of = stacks(next(p for p in objective.players(experiment) if p.name == player))

    def run(state: Any, frozen: types.PyTree, batch: types.Batch) -> dict[str, jax.Array]:
        probe = Probe(modules[player])
        compute = jnp.dtype(experiment.precision.compute)
        views = types.Views(state.params, state.ema, frozen, modules=modules | {player: probe}, compute=compute)
        key = keys.stream(keys.root(state.seed), "coordinate check")
        prepared = objective.prepare(views, batch, key)
        objective.loss(player, state.params[player], views, prepared, key, state.step, state.memory)
        found = {}
        for name, value in probe.found.items():
            depth = next((count for stack, count in layers_of.items() if name.startswith(f"{stack}.")), None)
            if depth is None:
                found[name] = value
            else:
                found |= {f"{name}[{i}]": value[i] for i in range(depth)}
        return found

    return jax.jit(run)


def sizes(
    experiment: experiments.Experiment, mesh: jax.sharding.Mesh, batch: types.Batch, seeds: Sequence[int], count: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Sizes of activations over `count` forward passes with a train step between each.

    Returns:
      By activation, mean |h_t| and mean |h_t - h_1|, each [count], geometric means over seeds, as slopes are of logarithms and a
      few draws of a narrow network lie far out; pass 1 is at initialization. Seeds at which it is zero, as the change of what
      stands for an absent text where all texts of the batch are there, do not count, unless it is at all of them.
    """
    built = steps.build(experiment, mesh)
    player = next(p.name for p in experiment.objective.players(experiment) if p.module == experiment.model)
    probe = activations(experiment, player)

    @jax.jit
    def measure(now: dict[str, jax.Array], first: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: jnp.stack([jnp.mean(jnp.abs(value)), jnp.mean(jnp.abs(value - first[name]))]) for name, value in now.items()}

    by_seed: dict[str, np.ndarray] = {}
    for number, seed in enumerate(seeds):
        state, frozen, first = built.initial(np.uint32(seed)), built.load_frozen(np.uint32(seed)), None
        for t in range(count):
            now = probe(state, frozen, batch)
            first = now if first is None else first
            for name, pair in jax.device_get(measure(now, first)).items():
                by_seed.setdefault(name, np.zeros((len(seeds), count, 2)))[number, t] = pair
            if t + 1 < count:
                state, report = built(state, frozen, batch)
                if not jax.device_get(report.finite):
                    raise loop.NotFinite(f"step {t + 1}: not finite: {'; '.join(built.culprits(report)[:3])}")
    means = {name: _mean_of_present(values) for name, values in by_seed.items()}
    return {name: mean[:, 0] for name, mean in means.items()}, {name: mean[:, 1] for name, mean in means.items()}


def _mean_of_present(values: np.ndarray) -> np.ndarray:
    """Geometric mean over the first axis of what is not zero; zero where all is."""
    present = values != 0
    logs = np.log(np.where(present, values, 1)).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    return np.where(present.any(axis=0), np.exp(logs), 0.0)


def fit(widths: Sequence[int], scale: Sequence[dict[str, np.ndarray]], change: Sequence[dict[str, np.ndarray]]) -> Slopes:
    """Slopes over widths from the sizes at each width; passes 2 and later count.

    Passes at which a size is exactly zero at every width are left out, as an output that starts at zero lets no gradient
    through in the first step; a change that is zero at all passes, and what is zero at some widths only, is left out whole.
    """
    found: dict[str, dict[str, float]] = {"scale": {}, "change": {}}
    skipped: dict[str, list[str]] = {}
    heard: dict[str, bool] = {}
    for kind, by_width in (("scale", scale), ("change", change)):
        for name in by_width[0]:
            values = np.stack([sizes[name] for sizes in by_width])[:, 1:]  # [widths, passes]
            zero = values == 0
            dead = zero.all(axis=0)
            if kind == "scale":
                module = re.sub(r"\.\d+\.\d+(?=\[|$)", "", name)  # without the number of one of several outputs
                heard[module] = heard.get(module, False) or not dead.all()
            if dead.all():
                skipped.setdefault("exactly zero throughout: nothing reaches it", []).append(f"{kind} of {name}")
            elif (zero & ~dead).any():
                skipped.setdefault("exactly zero at some widths only", []).append(f"{kind} of {name}")
            else:
                if dead.any():
                    passes = ", ".join(str(t + 2) for t in np.flatnonzero(dead))
                    reason = f"at step {passes} alone, exactly zero at every width: the output started at zero"
                    skipped.setdefault(reason, []).append(f"{kind} of {name}")
                slopes = np.polyfit(np.log2(widths), np.log2(values[:, ~dead]), 1)[0]
                found[kind][name] = float(slopes[np.argmax(np.abs(slopes))])
    return Slopes(found["scale"], found["change"], skipped, tuple(name for name, ever in heard.items() if not ever))


def growth(scale: Sequence[dict[str, np.ndarray]], change: Sequence[dict[str, np.ndarray]]) -> tuple[str, float]:
    """The activation that changed most beside its size at initialization, and how many times that; of sizes as `fit` takes them.

    Slopes tell of the rules while changes are small; what grew to many times its size tells of the draws that it grew from.
    """
    by_name = {
        name: max(float(one[name].max() / sizes[name][0]) for sizes, one in zip(scale, change, strict=True))
        for name in scale[0]
        if all(sizes[name][0] > 0 for sizes in scale)
    }
    return max(by_name.items(), key=lambda item: item[1])


def losses(
    experiment: experiments.Experiment,
    mesh: jax.sharding.Mesh,
    open_batches: Callable[[], Any],
    seeds: Sequence[int],
    done: Callable[[], None],
) -> np.ndarray:
    """Loss after `training.steps` ordinary steps, per seed [seeds]: the mean over the last fifth of the steps.

    With the same seed, every width sees the same examples and the same noise, so differences between widths are paired.

    Args:
      open_batches: opens the loader anew at step 0.
      done: called after each run.
    """
    built = steps.build(experiment, mesh)
    found = []
    for seed in seeds:
        state, frozen = built.initial(np.uint32(seed)), built.load_frozen(np.uint32(seed))
        with open_batches() as batches:
            found.append(final_loss(built, state, frozen, batches, experiment.training.steps))
        done()
    return np.asarray(found)


def final_loss(built: steps.Step, state: Any, frozen: types.PyTree, batches: Iterable, count: int) -> float:
    """Mean loss over the last fifth of `count` steps; NaN where one of the steps was not finite. Donates the state.

    Args:
      batches: yields (step, batch) from step 0 on.
    """
    tail = []
    for done, _, report in trained(built, state, frozen, batches, count):
        if done > count - max(count // 5, 1):
            tail.append(report.metrics["loss"])
    # The flag stays down after the first step that was not finite.
    finite = bool(jax.device_get(report.finite))
    return float(np.mean([float(mean.value()) for mean in jax.device_get(tail)])) if finite else float("nan")


def trained(
    built: steps.Step, state: Any, frozen: types.PyTree, batches: Iterable, count: int
) -> Iterator[tuple[int, Any, steps.Report]]:
    """Yields finished steps, state and report after each of `count` steps, with nothing logged or saved.

    A state is donated to the next step: look at it before asking for that.

    Args:
      batches: yields (step, batch) from step 0 on.
    """
    for number, batch in batches:
        state, report = built(state, frozen, batch)
        yield number + 1, state, report
        if number + 1 == count:
            return


def wider_is_better(widths: Sequence[int], by_width: np.ndarray) -> list[str]:
    """Complaints about losses [widths, seeds]: the widest worse than the narrowest, or a rise past two standard errors."""
    complaints = []
    means = by_width.mean(axis=1)
    # Written so that a loss that is not a number is a complaint.
    if not means[-1] <= means[0]:
        complaints.append(f"width {widths[-1]} ends at loss {means[-1]:.4f}, above {means[0]:.4f} of width {widths[0]}")
    for i in range(1, len(widths)):
        rises = by_width[i] - by_width[i - 1]
        error = rises.std(ddof=1) / np.sqrt(len(rises)) if len(rises) > 1 else 0.0
        if not rises.mean() <= 2 * error:
            shown = f"{rises.mean():+.4f} ± {error:.4f}"
            complaints.append(f"from width {widths[i - 1]} to {widths[i]} the loss rises by {shown} (standard error)")
    return complaints

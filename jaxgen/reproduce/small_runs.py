"""The training runs behind the claims on μP: small transformers on real digits and on scenes, by width and parametrization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgen import experiment as experiments
from jaxgen import mup
from jaxgen.autoencoders.identity import Identity
from jaxgen.data import loader
from jaxgen.data.digits_captioned import DigitsCaptioned
from jaxgen.data.pipeline import Data
from jaxgen.data.scenes.source import Scenes
from jaxgen.models.dit import DiT
from jaxgen.models.mmdit import MMDiT
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.parallel.mesh import MeshShape
from jaxgen.reproduce import claim
from jaxgen.training import rate_sweep, traced_rate
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

BASE_WIDTH = 64
SCHEDULES = {"constant": AdamW(clip_norm=None), "cosine": AdamW(clip_norm=None, schedule="cosine", warmup_steps=10)}
Make = Callable[[int, mup.Parametrization, str], experiments.Experiment]


def digits(width: int, parametrization: mup.Parametrization, schedule: str) -> experiments.Experiment:
    """A DiT on the 16 patches of a handwritten digit, for 100 steps.

    Gates start at random, as in the published μP models: the paper's rates were found so.
    """
    model = DiT(width=width, depth=2, head_dim=16, gates=Gates.RANDOM, scaling=mup.Scaling(BASE_WIDTH, parametrization))
    return _experiment(model, Data(source=DigitsCaptioned(), batch_size=16, text_length=40), schedule)


def scenes(width: int, parametrization: mup.Parametrization, schedule: str) -> experiments.Experiment:
    """An MMDiT on the 16 patches of a captioned scene of coloured shapes, for 100 steps."""
    model = MMDiT(
        width=width,
        depth=2,
        head_dim=16,
        patch=8,
        channels=3,
        vocabulary=448,
        text_length=28,
        gates=Gates.RANDOM,
        scaling=mup.Scaling(BASE_WIDTH, parametrization),
    )
    data = Data(source=Scenes(), batch_size=16, resolution=32, channels=3, text_length=28, tokens="words")
    return _experiment(model, data, schedule)


def _experiment(model: Any, data: Data, schedule: str) -> experiments.Experiment:
    return experiments.Experiment(
        model=model,
        autoencoder=Identity(),
        objective=FlowMatching(),
        data=data,
        optimizer=SCHEDULES[schedule],
        training=Training(steps=100, ema=()),
        sampler=None,
        mesh=MeshShape(data=1),
    )


class SmallRuns:
    """Sweeps of one kind of experiment, on one mesh and one opened data set. Use within `jax.set_mesh(runs.mesh)`.

    Args:
      make: width, parametrization and name of a schedule in `SCHEDULES` to an experiment.

    Attributes:
      cells: the runs asked for so far.

    Raises:
      BadInput: an override that does not fit.
    """

    def __init__(self, place: claim.Workplace, make: Make) -> None:
        self._place, self._make = place, make
        first = self.experiment(BASE_WIDTH, mup.Parametrization.MUP)
        self.mesh = meshes.build(first.mesh, place.devices)
        self.cells = rate_sweep.Cells(place.folder / "runs.json")
        self._examples = first.data.open("train", first.seed, shuffle=True)
        self._sweeps: dict[Any, rate_sweep.Sweep] = {}

    def experiment(self, width: int, parametrization: mup.Parametrization, schedule: str = "constant") -> experiments.Experiment:
        """The experiment with the overrides of the workplace."""
        tree = self._make(width, parametrization, schedule)
        for text in self._place.overrides:
            tree = experiments.override(tree, text)
        tree.validate()
        return tree

    def sweep(self, width: int, parametrization: mup.Parametrization, schedule: str = "constant") -> rate_sweep.Sweep:
        """The sweep of `experiment`. At the base width μP and the standard parametrization are the same training, which
        `check_base_identity` proves; it is done once."""
        if width == BASE_WIDTH and parametrization == mup.Parametrization.STANDARD:
            parametrization = mup.Parametrization.MUP
        name = (width, parametrization, schedule)
        if name not in self._sweeps:
            self._sweeps[name] = self._sweep(self.experiment(*name))
        return self._sweeps[name]

    def check_base_identity(self) -> None:
        """At the base width μP and the standard parametrization have the same multipliers, start and steps, to the bit.

        Raises:
          InvariantFailed: naming what differs.
        """
        both = (mup.Parametrization.MUP, mup.Parametrization.STANDARD)
        sweeps = [self._sweep(self.experiment(BASE_WIDTH, parametrization)) for parametrization in both]
        for sweep in sweeps:
            factors = mup.multipliers(sweep.built.boxed["model"])
            for name in ("learning_rate", "epsilon"):
                if any(factor != 1 for factor in jax.tree.leaves(getattr(factors, name))):
                    raise claim.InvariantFailed(f"a multiplier of {name} is not 1 at base width {BASE_WIDTH}")
        states = [sweep.built.initial(np.uint32(0)) for sweep in sweeps]
        _require_equal(states, "the start")
        # A rate with which parameters move visibly.
        states = [traced_rate.with_rate(state, 2.0**-7) for state in states]
        for step in range(2):
            with self._open(step) as batches:
                _, batch = next(batches)
            states = [
                sweep.built(state, sweep.built.load_frozen(np.uint32(0)), batch)[0]
                for sweep, state in zip(sweeps, states, strict=True)
            ]
            _require_equal(states, f"step {step + 1}")

    def _sweep(self, tree: experiments.Experiment) -> rate_sweep.Sweep:
        return rate_sweep.Sweep(tree, self.mesh, self._open, self.cells, self._place.done)

    def _open(self, start: int = 0) -> loader.Batches:
        data = self.experiment(BASE_WIDTH, mup.Parametrization.MUP).data
        layout = sharding.batch_sharding(self.mesh)
        return loader.batches(self._examples, data.features(), data.batch_size, layout, start, data.prefetch)


def _require_equal(states: list[Any], what: str) -> None:
    one, other = (jax.device_get(state.params) for state in states)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        if not np.array_equal(a, b):
            where = jax.tree_util.keystr(path)
            raise claim.InvariantFailed(f"μP and the standard parametrization differ at base width: {what}, {where}")

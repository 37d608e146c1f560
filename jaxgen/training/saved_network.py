"""Frozen networks whose weights lie in a run: a teacher or an autoencoder that was trained with the ordinary loop."""

from __future__ import annotations

import dataclasses
import functools

from jaxgen import run, types
from jaxgen.autoencoders.frozen import RandomAutoencoder
from jaxgen.encoders.teacher import RandomTeacher
from jaxgen.training import checkpoint
from jaxgen.training import state as states


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """The newest whole checkpoint of a run.

    Checkpoints of what uses it hold a hash of its weights, not the weights: going on with others, or drawing with them, is refused,
    and the run may have moved meanwhile.

    Attributes:
      path: folder of the run, local or any that fsspec opens.
      recipe: configuration (`file.py:variant`) that `jaxgen train` trains there first, or goes on with; empty leaves that to you.
      player: of the run, whose module is `module`.
      ema: decay of the average to take, one that the run keeps; 0 takes the newest parameters.
    """

    path: str = ""
    recipe: str = ""
    player: str = "model"
    ema: float = 0.999

    def validate(self) -> None:
        super().validate()
        if not self.path:
            raise types.BadInput("path", self.path, "the folder of a run that trained it")

    def frozen(self, name: str) -> types.Frozen:
        return types.Frozen(name, self.module, self.initial, "a run", functools.partial(self._read, name))

    def _advice(self, name: str) -> str:
        return f"`jaxgen train {self.recipe} --run {self.path}` makes one" if self.recipe else f"train the {name} first"

    def _read(self, name: str, target: types.PyTree) -> types.PyTree:
        option = f"path of the {name}"
        folder = run.Run(self.path)
        if not folder.exists():
            raise types.BadInput(option, self.path, f"the folder of a run that trained the {name}; {self._advice(name)}")
        item = states.ema_item(self.player, str(self.ema)) if self.ema else states.params_item(self.player)
        complaints: list[str] = []
        with checkpoint.Checkpoints(folder) as checkpoints:
            step = checkpoints.newest_whole(complaints.append, (item,))
            if step is None:
                found = f"{self.path} ({'; '.join(complaints)})" if complaints else self.path
                raise types.BadInput(option, found, f"a run with a whole checkpoint; {self._advice(name)}")
            return checkpoints.restore(step, {item: target})[item]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedTeacher(Saved, RandomTeacher):
    """An encoder that a run trained; see `Saved` and `RandomTeacher`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedAutoencoder(Saved, RandomAutoencoder):
    """An autoencoder that a run trained; see `Saved` and `RandomAutoencoder`."""

"""Options of swarm training (`swarm`), and the experiment that has them."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.swarm import aggregation, attacks, degree, move, partitions, selection


@dataclasses.dataclass(frozen=True)
class Swarm:
    """M-DSL (arXiv 2509.18367): sites that differ train one model, and several of them, chosen by score and degree, are merged.

    A round is a swarm move, local steps of every site by the ordinary step, a score of every site on the shared bank, and the
    policies: who uploads (`select`), how the models are merged (`merge`), when the result is the new best (`accept`).

    Attributes:
      sites: number of sites K.
      local_steps: steps of every site in a round; `training.steps` counts them.
      partition: how the training examples are divided among the sites.
      shared: examples that are set aside for the bank; 3 to 5 % of all are enough.
      draws: triples (sample, t, ε) of the bank for each shared example; more than 1 serves objectives that draw noise.
      mix_shared: sites also train on the shared examples (CB-DSL). A site may then fit the bank and be bad elsewhere.
      degree: η of a site; None where no policy asks.
      move: the swarm move.
      select: who uploads.
      merge: what makes one update of those that were received, relative to the best position. A rule that stands f hostile ones of
        all sites sees the received ones several times where fewer came, in turn, so that f has to count them as often.
      accept: "better" takes the merged model where it scores better on the bank than the best one; "always" takes it.
      rescore: the receiver scores what it received, drops models that do not score as claimed, and asks their sites no more.
      tolerance: largest relative difference of a claim from the score found.
      hostile: numbers of sites that attack, to try defences. attack: what they do to their updates; None is nothing.
      forged: the score that they claim; None is the true one of what they send.
      site_shards: groups of devices over which the sites are spread, the mesh axis `site`; `mesh` is that of each group.
    """

    sites: int = 10
    local_steps: int = 20
    partition: partitions.Partition = dataclasses.field(
        default=partitions.Dirichlet(),
        metadata={
            "choices": {
                "dirichlet": "jaxgen.swarm.partitions:Dirichlet",
                "main_classes": "jaxgen.swarm.partitions:MainClasses",
                "quantity": "jaxgen.swarm.partitions:QuantitySkew",
                "shards": "jaxgen.swarm.partitions:Shards",
            }
        },
    )
    shared: int = 100
    draws: int = 1
    mix_shared: bool = False
    degree: degree.Degree | None = dataclasses.field(
        default=degree.Labels(),
        metadata={"choices": {"features": "jaxgen.swarm.degree:Features", "labels": "jaxgen.swarm.degree:Labels"}},
    )
    move: move.Move = dataclasses.field(
        default=move.Particle(),
        metadata={"choices": {"one_formula": "jaxgen.swarm.move:OneFormula", "particle": "jaxgen.swarm.move:Particle"}},
    )
    select: selection.Select = dataclasses.field(
        default=selection.Threshold(),
        metadata={
            "choices": {
                "best": "jaxgen.swarm.selection:Best",
                "everybody": "jaxgen.swarm.selection:Everybody",
                "threshold": "jaxgen.swarm.selection:Threshold",
            }
        },
    )
    merge: aggregation.Rule = dataclasses.field(
        default=aggregation.Mean(),
        metadata={"choices": {"mean": "jaxgen.swarm.aggregation:Mean", "robust": "jaxgen.swarm.aggregation:Robust"}},
    )
    accept: Literal["better", "always"] = "better"
    rescore: bool = True
    tolerance: float = 0.01
    hostile: tuple[int, ...] = ()
    attack: attacks.Attack | None = dataclasses.field(default=None, metadata={"choices": attacks.NAMES})
    forged: float | None = None
    site_shards: int = 1

    def validate(self) -> None:
        for name in ("sites", "local_steps", "shared", "draws", "site_shards"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "at least 1")
        if self.tolerance < 0:
            raise types.BadInput("tolerance", self.tolerance, "0 or more")
        if self.sites % self.site_shards:
            raise types.BadInput("site_shards", self.site_shards, f"a divisor of sites={self.sites}")
        if len(set(self.hostile)) < len(self.hostile) or not set(self.hostile) <= set(range(self.sites)):
            raise types.BadInput("hostile", self.hostile, f"different numbers from 0 to {self.sites - 1}")
        if 2 * len(self.hostile) >= max(self.sites, 2):
            raise types.BadInput("hostile", self.hostile, f"less than half of the {self.sites} sites")
        if not self.hostile and (self.attack is not None or self.forged is not None):
            raise types.BadInput("hostile", self.hostile, "the numbers of the sites that attack")
        if self.attack is not None and self.attack.between_neighbours:
            raise types.BadInput("attack", type(self.attack).__name__, "one on a server: there are no neighbours")
        try:
            self.merge.check_sites(self.sites)
        except types.BadInput as complaint:
            raise complaint.under("merge") from None

    def check(self, experiment: Any) -> None:
        training = experiment.training
        if training.ema:
            raise types.BadInput("training.ema", training.ema, "(): the position of a site is its newest parameters")
        if training.steps % self.local_steps:
            needed = f"a multiple of swarm.local_steps={self.local_steps}: whole rounds"
            raise types.BadInput("training.steps", training.steps, needed)
        if training.log_every != self.local_steps:
            needed = f"swarm.local_steps={self.local_steps}: every round, as the log says what was sent"
            raise types.BadInput("training.log_every", training.log_every, needed)
        if hasattr(experiment.objective, "host"):
            raise types.BadInput("objective", type(experiment.objective).__name__, "one that computes nothing on the host")

    @property
    def moves(self) -> tuple[str, ...]:
        """Names of what a site carries for its move."""
        return tuple(self.move.memory({}))


@dataclasses.dataclass(frozen=True)
class FedAvg(Swarm):
    """Federated averaging (McMahan et al., arXiv 1602.05629): all start a round from the mean of all."""

    move: move.Move = move.Particle(0.0, 0.0, 1.0, draws="none")
    select: selection.Select = selection.Everybody()
    accept: Literal["better", "always"] = "always"


@dataclasses.dataclass(frozen=True)
class DSL(Swarm):
    """Distributed swarm learning (Fan et al., arXiv 2208.05578): the best site's model alone is uploaded."""

    select: selection.Select = selection.Best()


METHODS = {"dsl": "jaxgen.swarm.settings:DSL", "fedavg": "jaxgen.swarm.settings:FedAvg", "mdsl": "jaxgen.swarm.settings:Swarm"}
"""By name, for `--set swarm=NAME`; single options can be set after it."""


@dataclasses.dataclass(frozen=True)
class SwarmExperiment(experiments.Experiment):
    """An experiment whose training is a swarm's. `data.batch_size` and `mesh` are those of one site.

    By any other command it is an ordinary experiment: `jaxgen train` trains the same model on all data in one place, and `sample`
    and `evaluate` take a swarm's run, in which `params` is the best position of all.

    Attributes:
      swarm: the sites and their policies.
    """

    swarm: Swarm = dataclasses.field(default=Swarm(), metadata={"choices": METHODS})

"""`mdsl-generative`: sites that each mostly hold two digits train one generator together, better than any of them alone.

Ten sites train one flow-matching model by M-DSL, by federated averaging, and each by itself, with and without two hostile sites.
Every digit is a main one at two sites, and a third has a few of it: no site alone can draw what the others know. Two devices train
nearly twice as fast as one, so on a CPU `JAX_NUM_CPU_DEVICES=2 jaxgen reproduce mdsl-generative` gives each of two cores half of
the sites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxgen.autoencoders.identity import Identity
from jaxgen.data.digits_captioned import DigitsCaptioned
from jaxgen.data.pipeline import Data
from jaxgen.evaluation import frechet, plots, real
from jaxgen.evaluation.digit_judge import DigitJudge
from jaxgen.evaluation.features import Pixels
from jaxgen.models.dit import DiT
from jaxgen.mup import Scaling
from jaxgen.nn.modulation import Gates
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.parallel.mesh import MeshShape
from jaxgen.reproduce import claim, swarm_runs
from jaxgen.samplers.generator import Generator
from jaxgen.samplers.sampler import Sampler
from jaxgen.swarm.attacks import SignFlip
from jaxgen.swarm.move import Particle
from jaxgen.swarm.partitions import MainClasses
from jaxgen.swarm.settings import FedAvg, Swarm, SwarmExperiment
from jaxgen.training.optimizer import AdamW
from jaxgen.training.settings import Training

# Without pulls and velocity a swarm is its sites, each by itself.
ALONE = Particle(0.0, 0.0, 0.0)
# Neighbours share digits; these two do not, so each digit is at two honest sites or more.
HOSTILE = {"hostile": (0, 5), "attack": SignFlip(3.0, of="own")}
_METHODS = {"M-DSL": Swarm(), "FedAvg": FedAvg()}
ARMS: dict[str, Swarm] = {
    **_METHODS,
    **{f"{method}, hostile": dataclasses.replace(swarm, **HOSTILE) for method, swarm in _METHODS.items()},
    "single sites": Swarm(move=ALONE),
}
_PAPER = "not measured there: classifiers alone"
BARS = {
    ("agreement", "FedAvg, hostile"): claim.Bar("caption agreement under attack, M-DSL − FedAvg, points", _PAPER, low=0),
    ("frechet", "FedAvg, hostile"): claim.Bar("Fréchet distance under attack, M-DSL ÷ FedAvg", _PAPER, high=1),
    ("agreement", "single sites"): claim.Bar("caption agreement, M-DSL − best single site, points", _PAPER, low=0),
    ("frechet", "single sites"): claim.Bar("Fréchet distance, M-DSL ÷ best single site", _PAPER, high=1),
    ("worst", "single sites"): claim.Bar("agreement of the worst digit, M-DSL − best single site, points", _PAPER, low=0),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
      seeds: of M-DSL and of single sites, which the luck of a division decides most. few_seeds: of the other arms.
      steps: local steps of every site.
    """

    seeds: int = 5
    few_seeds: int = 3
    steps: int = 2000


def experiment(swarm: Swarm, steps: int, seed: int, devices: int = 1) -> SwarmExperiment:
    """A DiT on the 16 patches of a handwritten digit, told which digit."""
    return SwarmExperiment(
        model=DiT(width=32, depth=2, activation="squared_relu", gates=Gates.RANDOM, scaling=Scaling(base_width=32)),
        autoencoder=Identity(),
        objective=FlowMatching(),
        data=Data(source=DigitsCaptioned(), batch_size=16, text_length=40),
        optimizer=AdamW(learning_rate=4e-3, schedule="wsd", decay_share=0.4),
        training=Training(steps=steps, log_every=swarm.local_steps, ema=()),
        sampler=Sampler(steps=25, guidance=1.5),
        mesh=MeshShape(data=1),
        seed=seed,
        swarm=dataclasses.replace(swarm, partition=MainClasses(minor=1), shared=64, draws=4, site_shards=devices),
    )


def run(place: claim.Workplace, plan: Plan = Plan()) -> claim.Outcome:
    """See the module."""
    # As many as the sites divide over: a core each, where a CPU shows itself as several devices.
    shared = max(count for count in range(1, len(place.devices) + 1) if Swarm().sites % count == 0)
    place = dataclasses.replace(place, devices=place.devices[:shared])
    runs = swarm_runs.SwarmRuns(place, place.folder / "mdsl-generative-runs.json", _Measure())
    arms = {}
    for name, swarm in ARMS.items():
        seeds = range(plan.seeds if name in ("M-DSL", "single sites") else plan.few_seeds)
        arms[name] = [runs.figures(experiment(swarm, plan.steps, seed, shared)) for seed in seeds]
    of = lambda name, arm: np.array([cell[name] for cell in arms[arm]])
    figures = []
    for (name, other), bar in BARS.items():
        ours = of(name, "M-DSL, hostile" if other.endswith("hostile") else "M-DSL")
        by_seed = ours / of(name, other) if name == "frechet" else 100 * (ours - of(name, other))
        figures.append(claim.Figure(bar, float(by_seed.mean()), claim.interval(float(by_seed.mean()), by_seed)))
    panels = {
        "agreement, mean": {arm: (100 * of("agreement", arm)).tolist() for arm in ARMS},
        "agreement, worst digit": {arm: (100 * of("worst", arm)).tolist() for arm in ARMS},
        "Fréchet distance × 10": {arm: (10 * of("frechet", arm)).tolist() for arm in ARMS},
    }
    title = "pictures drawn from the best model of all; of single sites the best in each figure"
    return claim.Outcome(
        figures=tuple(figures),
        lines=tuple(f"{arm}: {_line(found)}" for arm, found in arms.items()),
        data=arms,
        seconds=runs.seconds,
        draw=lambda path: plots.groups(panels, title, path),
    )


class _Measure:
    """Fréchet distance in pixels and caption agreement, of pictures drawn for all test captions.

    Of sites by themselves, for each figure that of the best site: a bar that is higher than any one site.
    """

    def __init__(self) -> None:
        self._test: real.Split | None = None
        self._generator: Generator | None = None

    def __call__(self, tree: SwarmExperiment, trained: swarm_runs.Trained) -> swarm_runs.Figures:
        if self._test is None:
            self._test = real.read(tree.data, "test")
            # The same noise for every arm and seed.
            self._generator = Generator(tree, trained.step.mesh, 0)
        if trained.state is None:
            # Pictures that are not numbers show nothing, and are as far as black ones.
            return self._of_pictures(tree, np.zeros_like(self._test.images), finite=False)
        found = [self._of_pictures(tree, self._draw(params)) for params in self._models(tree, trained.state)]
        best = {name: max(each[name] for each in found) for name in ("agreement", "worst")}
        return best | {"frechet": min(each["frechet"] for each in found)}

    def _models(self, tree: SwarmExperiment, state: Any) -> Iterator[Any]:
        if tree.swarm.move != ALONE:
            yield state.params["model"]
            return
        for site in range(tree.swarm.sites):
            yield jax.tree.map(lambda rows, site=site: rows[site], state.sites.params["model"])

    def _draw(self, params: Any) -> np.ndarray:
        rows, numbers = self._test.rows, np.arange(len(self._test.images))
        drawn = self._generator.images(params, self._generator.conditions(rows), numbers)
        return np.concatenate([images for images, _ in drawn])

    def _of_pictures(self, tree: SwarmExperiment, images: np.ndarray, finite: bool = True) -> swarm_runs.Figures:
        space = Pixels()
        distance = frechet.distance(frechet.moments(space.features(images)), frechet.moments(space.features(self._test.images)))
        agreed = DigitJudge().judge(images, self._test.rows, tree.data).scores["caption_agreement"] * finite
        worst = min(agreed[self._test.labels == digit].mean() for digit in np.unique(self._test.labels))
        return {"frechet": float(distance), "agreement": float(agreed.mean()), "worst": float(worst)}


def _line(found: list[swarm_runs.Figures]) -> str:
    mean = lambda name: float(np.mean([cell[name] for cell in found]))
    return (
        f"agreement {100 * mean('agreement'):.1f}, worst digit {100 * mean('worst'):.1f}, Fréchet distance {mean('frechet'):.3f}, "
        f"uploads a round {mean('uploads'):.1f}, {mean('up') / 1e6:.1f} MB up"
    )


CLAIM = claim.Claim(
    name="mdsl-generative",
    says="Sites that hold different digits train one generator by M-DSL, better than any alone, and than FedAvg under attack.",
    source="arXiv 2509.18367",
    paper="not measured there",
    run=run,
)

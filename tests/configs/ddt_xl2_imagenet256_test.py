"""The DDT-XL/2 recipe: the published sizes and training, and its variants."""

import pathlib

import jax

from jaxgen import experiment as experiments
from jaxgen.models.ddt import DDT, ImprovedDiT

RECIPE = str(pathlib.Path(__file__).parents[2] / "configs" / "ddt_xl2_imagenet256.py")


def parameters(experiment):
    (player,) = experiment.objective.players(experiment)
    shapes = jax.eval_shape(lambda: player.module.init(jax.random.key(0), *player.inputs())["params"])
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_full_size_is_the_published_one():
    experiment, _ = experiments.load(RECIPE)
    assert isinstance(experiment.model, DDT) and parameters(experiment) == 674_646_352
    optimizer, training = experiment.optimizer, experiment.training
    assert (optimizer.learning_rate, optimizer.b2, optimizer.clip_norm) == (1e-4, 0.95, None)
    # 80 epochs at a batch of 256.
    assert experiment.data.batch_size * training.steps == 256 * 400_000


def test_the_improved_dit_differs_by_the_split_alone():
    experiment, _ = experiments.load(f"{RECIPE}:improved")
    decoupled, _ = experiments.load(RECIPE)
    assert type(experiment.model) is ImprovedDiT and parameters(experiment) == 674_626_768
    for name in ImprovedDiT.__dataclass_fields__:
        if name not in ("parent", "name"):
            assert getattr(experiment.model, name) == getattr(decoupled.model, name)


def test_the_sampler_is_the_published_one():
    sampler = experiments.load(f"{RECIPE}:sampled")[0].sampler
    times = sampler.grid(sampler.steps)
    assert (sampler.steps, sampler.guidance, len(times)) == (250, 2.0, 251)
    assert abs(times[-2] - 0.04) < 1e-7
    low, high = sampler.guidance_interval
    assert all((low <= t <= high) == (0.3 < 1 - t < 1.0) for t in times[:-1])

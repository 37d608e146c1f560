"""The coordinate check passes a correct μP and sees each rule that is missing."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from jaxgen import experiment as experiments
from jaxgen import mup
from jaxgen.data import loader
from jaxgen.nn.modulation import Gates
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel import sharding
from jaxgen.training import coordinate_check

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
QUICKSTART = str(CONFIGS / "quickstart.py")
CHECK = ["data.source=synthetic", "data.batch_size=8", "optimizer.learning_rate=0.01", "optimizer.schedule=constant"]
CHECK += ["optimizer.warmup_steps=0", "optimizer.clip_norm=none", "evaluation=none"]


def measured(widths, seeds, *overrides, recipe=QUICKSTART, passes=4):
    """Sizes of activations and of their changes, by width."""
    experiment, _ = experiments.load(recipe, [*CHECK, *overrides])
    mesh = meshes.build(experiment.mesh, jax.devices()[:1])
    data, layout = experiment.data, sharding.batch_sharding(mesh)
    scale, change = [], []
    with jax.set_mesh(mesh):
        with loader.batches(data.open("train", 0, shuffle=True), data.features(), 8, layout, 0, 1) as batches:
            _, batch = next(batches)
        for width in widths:
            wide = experiments.override(experiment, f"model.width={width}")
            one, other = coordinate_check.sizes(wide, mesh, batch, range(seeds), passes)
            scale.append(one)
            change.append(other)
    return scale, change


def slopes(widths, *arguments, **options):
    return coordinate_check.fit(widths, *measured(widths, *arguments, **options))


TOLERANCE = coordinate_check.Tolerance(scale=0.1, change=0.12, median=0.05)


def plant(monkeypatch, fault):
    """Takes one rule away."""
    if fault == "no output multiplier":
        monkeypatch.setattr(mup, "forward_multiplier", lambda scale, inputs: scale.output_multiplier)
        return
    describe, param = mup.describe, mup.param

    def faulty(module, name, **axes):
        path = "/".join(module.path)

        def described(scale, *arguments):
            box = describe(scale, *arguments)
            if name == "kernel" and fault == "a hidden rate as at base width" and path.endswith("mlp/in"):
                return box.replace(learning_rate=1.0)
            if fault == "all hidden rates as at base width" and box.group == "hidden":
                return box.replace(learning_rate=1.0)
            if name == "kernel" and fault == "the input rate scaled as hidden" and path == "patches":
                return box.replace(learning_rate=1 / scale.ratio)
            return box

        monkeypatch.setattr(mup, "describe", described)
        try:
            return param(module, name, **axes)
        finally:
            monkeypatch.setattr(mup, "describe", describe)

    monkeypatch.setattr(mup, "param", faulty)


# By fault, the activation in which it shows most, and the sign of its slope.
FAULTS = {
    "a hidden rate as at base width": ("blocks.image_mlp.in.0[0]", +1),
    "no output multiplier": ("out.0", +1),
    "the input rate scaled as hidden": ("patches.0", -1),
}
# What the whole check, marked slow, does with five widths and three seeds, in a few seconds and with more noise.
NARROW = (64, 512)
SMALL = ("model.depth=1", "data.text_length=40")


@pytest.fixture(scope="module")
def correct():
    return slopes(NARROW, 2, *SMALL)


def test_a_correct_model_stays_in_scale(correct):
    assert abs(correct.worst()[1]) < 0.15
    assert correct.median < 0.05
    assert len(correct.change) == len(correct.scale) > 40


@pytest.mark.parametrize("fault", [next(iter(FAULTS)), *(pytest.param(f, marks=pytest.mark.slow) for f in list(FAULTS)[1:])])
def test_a_missing_rule_is_seen(fault, correct, monkeypatch):
    activation, sign = FAULTS[fault]
    plant(monkeypatch, fault)
    found = slopes(NARROW, 2, *SMALL).change[activation]
    # The same seeds, so what differs is the rule.
    assert sign * (found - correct.change[activation]) > 0.15 and sign * found > 0.1


@pytest.mark.slow
def test_the_whole_check():
    widths = (64, 128, 256, 512, 1024)
    assert TOLERANCE.outside(slopes(widths, 3)) == {}
    # Under the standard parametrization some activation grows with width at every step.
    scale, change = measured(widths, 3, "model.scaling.parametrization=standard")
    for t in (1, 2, 3):
        first = lambda by_width, t=t: [{name: sizes[[0, t]] for name, sizes in found.items()} for found in by_width]
        found = coordinate_check.fit(widths, first(scale), first(change))
        print(f"standard, pass {t + 1}: scale {max(found.scale.values()):.2f}, median of changes {found.median:.2f}")
        assert max(found.scale.values()) >= 0.5 and found.median >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_whole_check_with_a_missing_rule(fault, monkeypatch):
    plant(monkeypatch, fault)
    assert TOLERANCE.outside(slopes((64, 128, 256, 512, 1024), 3))


# Every family with either start of its gates, at a rate with which an update of the narrowest is small beside what it updates. At
# ten times that, the second step already leaves what a line can fit: U-ViT's slopes of 0.05 become 0.10.
FAMILY = ("model.scaling.base_width=64", "model.depth=2", "optimizer.learning_rate=0.001", "precision.compute=float32")
RECIPES = {
    # Otherwise nothing reaches the text's gate in the last block.
    "mmdit": ("quickstart.py", ("model.context_pre_only=true",)),
    "dit": ("quickstart.py:labels", ()),
    "ddt": ("ddt_xl2_imagenet256.py:tiny", ("model.depth=3", "model.encoder_depth=2")),
    "pixart": ("pixart_xl2_512.py:tiny", ("data.source.text_features=24",)),
}
FAMILIES = {
    "uvit": ("uvit_l2_imagenet256.py:tiny", ()),
    "causal": (f"{pathlib.Path(__file__).with_name('latent_config.py')}:random_codes", ("data.source.plans=true",)),
}
for _name, (_recipe, _own) in RECIPES.items():
    FAMILIES |= {f"{_name}_{gates}": (_recipe, (*_own, f"model.gates={gates}")) for gates in Gates}
# Random gates of the decoder multiply what its gated feed-forward layer multiplies: at .001 its tokens grow to ten times their size
# in five steps, the most at width 64.
FAMILIES["ddt_random"] = (FAMILIES["ddt_random"][0], (*FAMILIES["ddt_random"][1], "optimizer.learning_rate=0.0001"))
each_family = pytest.mark.parametrize("name", FAMILIES)


def family(name, seeds, widths):
    recipe, own = FAMILIES[name]
    # From output to gates of the decoder, to gates of the encoder, to what they let through: gradients take a step each.
    return slopes(widths, seeds, *FAMILY, *own, recipe=str(CONFIGS / recipe), passes=6)


@pytest.mark.slow
@each_family
def test_a_correct_model_of_each_family_stays_in_scale(name):
    # Three draws at width 64 tell the size of what few numbers decide, as DDT's embedding of time, to a tenth; eight to less.
    found = family(name, 8, (64, 128, 256, 512))
    assert TOLERANCE.outside(found) == {}
    assert not found.dead and not [reason for reason in found.skipped if "alone" not in reason], found.skipped


@pytest.mark.slow
@each_family
@pytest.mark.parametrize(
    "fault, least",
    [("all hidden rates as at base width", 0.12), ("no output multiplier", 0.7)],
    ids=["no_hidden_rate", "no_multiplier"],
)
def test_a_missing_rule_is_seen_in_each_family(fault, least, name, monkeypatch):
    plant(monkeypatch, fault)
    assert max(family(name, 2, NARROW).change.values()) > least


@pytest.mark.slow
def test_a_layer_that_is_always_zero_is_seen(monkeypatch):
    param = mup.param
    layer = lambda module: "/".join(module.path).endswith("mlp/in")
    monkeypatch.setattr(mup, "param", lambda module, *leaf, **axes: param(module, *leaf, **axes) * (not layer(module)))
    assert any("mlp.in" in activation for activation in family("dit_random", 1, (16, 32)).dead)


@pytest.mark.parametrize(
    "recipe, override, expected",
    [
        ("quickstart", "model.single_depth=2", {"blocks": 3, "single_blocks": 2}),
        ("pixart_xl2_512", "model.depth=3", {"blocks": 3}),
        ("uvit_l2_imagenet256", "model.depth=6", {"in_blocks": 3, "out_blocks": 3}),
        ("ddt_xl2_imagenet256", "model.depth=5", {"encoder.blocks": 2, "decoder.blocks": 3}),
    ],
)
def test_the_stacks_of_a_model_are_found_by_its_parameters_wherever_they_lie(recipe, override, expected):
    variant = "" if recipe == "quickstart" else ":tiny"
    experiment, _ = experiments.load(f"{CONFIGS / recipe}.py{variant}", [override])
    (player,) = experiment.objective.players(experiment)
    assert coordinate_check.stacks(player) == expected


def sizes(exponent, widths, passes=4):
    return [{"h": np.full(passes, 3.0 * width**exponent)} for width in widths]


def test_slopes_are_exponents():
    widths = (64, 128, 512)
    found = coordinate_check.fit(widths, sizes(0.0, widths), sizes(-0.5, widths))
    assert abs(found.scale["h"]) < 1e-12 and abs(found.change["h"] + 0.5) < 1e-12
    assert found.worst() == ("change of h", found.change["h"])


def test_slopes_outside_of_the_tolerance_are_named_the_steepest_first():
    found = coordinate_check.Slopes({"a": 0.11, "b": -0.09}, {"a": -0.2, "b": 0.11, "c": 0.04}, {}, ())
    names = ["change of a", "scale of a", "change, median over all activations"]
    assert list(TOLERANCE.outside(found)) == names and TOLERANCE.outside(found)[names[2]] == 0.11
    assert TOLERANCE.outside(dataclasses.replace(found, change={"a": float("nan"), "b": 0.0, "c": 0.0}))
    assert list(TOLERANCE.outside(dataclasses.replace(found, change={"a": 0.0}))) == ["scale of a"]


def test_what_grew_most_beside_its_start_is_named():
    scale = [{"a": np.array([2.0, 3.0]), "b": np.array([1.0, 1.0]), "late": np.array([0.0, 1.0])}, {}]
    scale[1] = scale[0] | {"a": np.array([4.0, 5.0])}
    change = [{"a": np.array([0.0, 6.0]), "b": np.array([0.0, 2.0]), "late": np.array([0.0, 9.0])}] * 2
    assert coordinate_check.growth(scale, change) == ("a", 3.0)


def test_the_steepest_pass_counts_and_the_first_does_not():
    widths = (64, 256)
    scale = [{"h": np.array([width**5.0, 1.0, width**0.3, 1.0])} for width in widths]
    assert abs(coordinate_check.fit(widths, scale, sizes(0, widths)).scale["h"] - 0.3) < 1e-12


def test_what_is_zero_is_left_out_and_named():
    widths = (64, 256)
    late = [{"h": np.array([0.0, 0.0, width**0.2, width**0.2])} for width in widths]
    found = coordinate_check.fit(widths, sizes(0, widths), late)
    assert abs(found.change["h"] - 0.2) < 1e-12 and any("at step 2 alone" in reason for reason in found.skipped)
    dead = [{"h": np.zeros(4)} for _ in widths]
    found = coordinate_check.fit(widths, sizes(0, widths), dead)
    assert "h" not in found.change and list(found.skipped.values()) == [["change of h"]] and not found.dead
    found = coordinate_check.fit(widths, dead, dead)
    assert "h" not in found.scale and found.dead == ("h",)
    assert coordinate_check.fit(widths, late, late).dead == ()
    # One of several outputs of a module may be zero: of a block whose text nobody reads, the gate of text.
    both = [{"blocks.h.0.0[1]": np.ones(4), "blocks.h.0.1[1]": np.zeros(4), "blocks.h.0.1[0]": np.zeros(4)} for _ in widths]
    found = coordinate_check.fit(widths, both, both)
    assert found.dead == ("blocks.h[0]",) and "scale of blocks.h.0.1[1]" in sum(found.skipped.values(), [])
    some = [{"h": np.ones(4)}, {"h": np.array([1.0, 1.0, 0.0, 1.0])}]
    found = coordinate_check.fit(widths, sizes(0, widths), some)
    assert "h" not in found.change and "exactly zero at some widths only" in found.skipped


def test_seeds_at_which_a_size_is_zero_do_not_count():
    values = np.array([[[0.0, 2.0, 0.0]], [[3.0, 8.0, 0.0]], [[0.0, 4.0, 0.0]]])
    np.testing.assert_allclose(coordinate_check._mean_of_present(values), [[3.0, 4.0, 0.0]])
    values[1, 0, 0] = np.nan
    assert np.isnan(coordinate_check._mean_of_present(values)[0, 0])


def test_wider_is_better_or_named():
    widths = (64, 128, 256)
    better = np.array([[1.0, 1.1, 1.2], [0.9, 1.05, 1.1], [0.9, 1.0, 1.1]])
    assert coordinate_check.wider_is_better(widths, better) == []
    worse = coordinate_check.wider_is_better(widths, better[::-1])
    assert any("width 256" in line and "width 64" in line for line in worse) and len(worse) > 1
    within_noise = better.copy()
    within_noise[2] += np.array([0.02, -0.01, 0.0])
    assert coordinate_check.wider_is_better(widths, within_noise) == []

"""`jaxgen swarm allocate`: figures, plot and slices in the folder; what cannot be shared is refused before anything compiles."""

import json
import pathlib

import jax
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.parallel import slices

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CHIPS, DISPATCH = str(CONFIGS / "chip_budget.py:tiny"), str(CONFIGS / "economic_dispatch.py:tiny")


def test_chips_are_shared_out_in_slices_that_can_be_rented(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    assert cli.main(["swarm", "allocate", CHIPS, "--run", str(tmp_path / "run"), "--json", str(figures)]) == 0
    shown = capsys.readouterr().out
    assert "7 agents, 1 hostile, 48 rounds" in shown and "violation/T" in shown
    found = json.loads((tmp_path / "run" / "slices.json").read_text())
    assert [site["name"] for site in found["sites"]] == ["taipei", "zurich", "ashburn", "dublin", "osaka", "dallas", "partner"]
    for site in found["sites"]:
        assert slices.parse(site["slice"]).chips == site["chips"] == site["schedule"][-1]
        assert len(site["schedule"]) == 48
        # What a site wanted and what it had differ by less than a step between sizes, over all rounds together.
        assert abs(site["chip_rounds"]["wanted"] - site["chip_rounds"]["taken"]) <= 32
    assert [site["hostile"] for site in found["sites"]] == [False] * 6 + [True]
    content = json.loads((tmp_path / "run" / "allocation.json").read_text())
    assert content == json.loads(figures.read_text())
    violations = {title: variant["mean_violation"] for title, variant in content["variants"].items()}
    assert set(violations) == {
        "as configured",
        "with clipping",
        "at most 1 hostile neighbours",
        "undefended",
        "no one hostile, same agents",
    }
    assert Image.open(tmp_path / "run" / "allocation.png").width > 400


@pytest.mark.parametrize(
    "config, overrides, said",
    [
        (DISPATCH, ["hostile=(3,4,5)"], "hostile: found (3, 4, 5), needed less than half of the 6 agents"),
        (DISPATCH, ["bound=2"], "bound: found '2 of the neighbours of agent thermal 1', needed at most half of the 3"),
        (DISPATCH, ["demand.mean=500"], "demand.mean: found 500.0, needed between the means"),
        (DISPATCH, ["demand.men=500"], "demand.men: found '500', needed an option that exists; did you mean demand.mean"),
        (DISPATCH, ["network=ring", "hostile=(2,5)"], "network: found 'Ring in which agents"),
        (CHIPS, ["network=ring", "network.reach=9"], "network.reach: found 9"),
        (CHIPS, ["slices.generation=v9"], "slices.generation: found 'v9', needed one of v4"),
        (CHIPS, ["rule=median"], "rule: found 'median', needed one of gossip, ctm"),
        (str(CONFIGS / "quickstart.py:tiny"), [], "CONFIG: found"),
    ],
)
def test_what_cannot_be_shared_out_ends_with_code_2_and_compiles_nothing(config, overrides, said, tmp_path, capsys):
    refused(config, overrides, said, tmp_path, capsys)


@pytest.mark.parametrize(
    "changes, said",
    [
        ("costs=(dataclasses.replace(whole.costs[0], low=(-4.0,) * 7),)", "costs[0].low: found -4.0, needed a capacity"),
        ("network=Given(((0, 1), (1, 2), (3, 4), (4, 5), (5, 6)))", "network: found 'Given in which agents"),
    ],
    ids=["negative capacity", "disconnected"],
)
def test_what_only_a_file_can_say_is_refused_as_well(changes, said, tmp_path, capsys):
    file = tmp_path / "broken.py"
    file.write_text(
        "import dataclasses\nfrom jaxgen import experiment\nfrom jaxgen.swarm.allocation import Allocation\n"
        "from jaxgen.swarm.network import Given\n\n\ndef get_config():\n"
        f"    whole = experiment.load({CHIPS!r}, (), (), Allocation)[0]\n    return dataclasses.replace(whole, {changes})\n"
    )
    refused(str(file), [], said, tmp_path, capsys)


def refused(config, overrides, said, tmp_path, capsys):
    compiled = []

    def listener(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        options = [word for text in overrides for word in ("--set", text)]
        assert cli.main(["swarm", "allocate", config, "--run", str(tmp_path / "run"), *options]) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert f"jaxgen: {said}" in capsys.readouterr().err
    assert not compiled and not (tmp_path / "run").exists()

"""The tiny variants of the recipes for pods train on eight simulated devices."""

import pathlib

import pytest

from jaxgen import cli

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SHORT = ["training.steps=2", "training.checkpoint_every=2", "mesh.data=2", "mesh.fsdp=4"]


@pytest.mark.parametrize(
    "name, depth",
    [
        ("dit_xl2_imagenet256", 1),
        pytest.param("mmdit_18b_1024", 1, marks=pytest.mark.slow),
        pytest.param("ddt_xl2_imagenet256", 3, marks=pytest.mark.slow),
        pytest.param("pixart_xl2_512", 1, marks=pytest.mark.slow),
        pytest.param("uvit_l2_imagenet256", 2, marks=pytest.mark.slow),
        pytest.param("dit_mup_xl2_imagenet256", 1, marks=pytest.mark.slow),
    ],
)
def test_the_tiny_variant_trains(name, depth, tmp_path):
    words = [word for text in (*SHORT, f"model.depth={depth}") for word in ("--set", text)]
    assert cli.main(["train", f"{CONFIGS / name}.py:tiny", "--run", str(tmp_path / "run"), *words]) == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2

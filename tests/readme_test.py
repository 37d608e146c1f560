"""Every command of the README runs, shortened, in the order in which it stands there."""

import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for line in "".join(BLOCKS).replace("\\\n", " ").splitlines()]
QUICK = ["training.steps=2", "training.checkpoint_every=2", "training.log_every=1", "sampler.steps=1", "mesh.data=8"]
TRAINED = [*QUICK, "data.batch_size=8", "model.depth=1"]
SHORT = {
    "train": TRAINED,
    "sample": ["sampler.images_per_device=1"],
    "evaluate": ["evaluation.resamples=2", "sampler.images_per_device=8"],
    "bench": TRAINED,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty directory with the recipes, and pictures in ~/pictures."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text(f"picture {number}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_command_runs_and_makes_what_is_promised(home):
    ran = set()
    for command in COMMANDS:
        if command[:2] == ["bash", "launch/local.sh"]:
            # What it hands on; the script itself is what runs these tests.
            command = ["jaxgen", *command[2:]]
        assert command[0] == "jaxgen"
        ran.add(command[1])
        if command[1] == "test":
            continue
        # Codes are drawn one after another: that sampler has no steps to choose.
        settings = [text for text in SHORT[command[1]] if "scenes" not in command[2] or not text.startswith("sampler.steps")]
        options = [word for text in settings for word in ("--set", text)]
        more = ["--blocks", "1", "--steps", "1"] if command[1] == "bench" else []
        assert cli.main([*command[1:], *options, *more]) == 0, command
    assert ran >= {"train", "test", "sample", "evaluate", "bench"}
    for report in ("quickstart/evaluation/report", "own_pictures/evaluation/report", "wide/evaluation/comparison"):
        assert (home / "runs" / f"{report}.html").is_file()


def test_what_the_readme_names_is_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file()
    for name in cli.COMMANDS:
        assert f"`jaxgen {name} " in README

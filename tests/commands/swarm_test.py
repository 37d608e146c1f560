"""`jaxgen swarm train`: ten sites by one command, its page, and what goes on where it was killed."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxgen import cli

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from saved_run import saved  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "swarm_digits.py:tiny")


def sets(*overrides):
    return [part for text in overrides for part in ("--set", text)]


def logged(folder):
    rows = [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of five rounds, and its figures. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main(["swarm", "train", TINY, "--run", str(folder), "--json", str(folder) + ".json"]) == 0
    return folder, json.loads(pathlib.Path(str(folder) + ".json").read_text())


def test_a_swarm_trains_and_shows_who_uploaded_and_what_was_sent(whole):
    folder, figures = whole
    rows = logged(folder)
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    scores = [row["swarm/score"] for row in rows]
    assert all(after <= before for before, after in zip(scores, scores[1:])) and scores[-1] < scores[0]
    uploads = [sum(row[f"site/{i}/uploads"] for i in range(4)) for row in rows]
    assert uploads == [row["swarm/uploads"] for row in rows] and min(uploads) >= 1
    _, found = saved(folder)
    model = sum(leaf.nbytes for leaf in found["params.model"].values())
    assert figures["bytes_up"] == 5 * 4 * 4 + sum(uploads) * model and figures["bytes_down"] == 5 * 4 * model
    assert {leaf.shape[0] for leaf in found["sites.velocity.model"].values()} == {4}
    page = (folder / "swarm" / "report.html").read_text()
    assert len(re.findall("<rect ", page)) == sum(uploads)
    for text in ("Loss on the shared bank", "Who was selected", "Sent up since the start", "site 3"):
        assert text in page


def test_the_run_is_sampled_like_any_other_from_the_best_position(whole, tmp_path):
    folder, _ = whole
    assert (folder / "samples" / "step-00000020.png").is_file()
    assert cli.main(["sample", str(folder), "--count", "2"]) == 0


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path, capsys):
    # A checkpoint every ten steps is every second time in the middle of a round; steps enough to be killed on the way.
    command = ["swarm", "train", TINY, *sets("training.steps=200", "training.checkpoint_every=10"), "--run"]
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    folder = tmp_path / "run"
    stop = subprocess.Popen([sys.executable, "-m", "jaxgen", *command, str(folder)], stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("checkpoints/*0/manifest-0.json")):
        assert stop.poll() is None, stop.stderr.read()
        time.sleep(0.002)
    stop.send_signal(signal.SIGKILL)
    stop.communicate()
    assert stop.returncode == -signal.SIGKILL and not (folder / "checkpoints" / "200").exists(), "killed on its way"
    capsys.readouterr()
    assert cli.main([*command, str(folder)]) == 0
    assert re.search(r"going on from step [1-9]\d*0 of 200", capsys.readouterr().err)
    (last, expected), (also, found) = saved(tmp_path / "whole"), saved(folder)
    assert last == also == 200
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert logged(tmp_path / "whole") == logged(folder)


@pytest.mark.slow
def test_the_same_configuration_trains_in_one_place_by_the_ordinary_command(tmp_path):
    assert cli.main(["train", TINY, "--run", str(tmp_path / "run"), *sets("training.steps=4", "training.log_every=4")]) == 0
    assert "swarm/score" not in logged(tmp_path / "run")[0]


BAD = [
    pytest.param([str(ROOT / "configs" / "quickstart.py:tiny")], "CONFIG", "SwarmExperiment", id="no swarm"),
    pytest.param([TINY, *sets("swarm.shared=255")], "swarm.shared", "at most 252", id="all shared"),
    pytest.param([TINY, *sets("swarm.partition.least=100")], "swarm.partition.least", "at most 60", id="too few examples"),
    pytest.param([TINY, *sets("swarm.site_shards=2", "mesh.data=8")], "mesh", "data=8", id="mesh of a site"),
    pytest.param([TINY, *sets("swarm.sites=16", "swarm.site_shards=16")], "swarm.site_shards", "at most 8", id="devices"),
    pytest.param([TINY, *sets("data.batch_size=9", "mesh.data=2")], "data.batch_size", "a multiple of 2", id="batch of a site"),
    pytest.param([TINY, *sets("training.log_every=8")], "training.log_every", "every round", id="rounds that are not logged"),
    pytest.param([TINY, *sets("training.ema=0.9")], "training.ema", "newest parameters", id="averages"),
    pytest.param([TINY, *sets("swarm.hostile=0,1")], "swarm.hostile", "less than half", id="half hostile"),
    pytest.param(
        [TINY, *sets("swarm.merge=robust", "swarm.merge.f=2")], "swarm.merge.f", "less than half of the 4", id="merge of too many"
    ),
]


@pytest.mark.parametrize("arguments, option, needed", BAD)
def test_bad_input_is_refused_before_anything_compiles(arguments, option, needed, tmp_path, capsys):
    heard = []
    listener = lambda event, seconds, **_: event == "/jax/core/compile/backend_compile_duration" and heard.append(event)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        assert cli.main(["swarm", "train", *arguments, "--run", str(tmp_path / "run")]) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert heard == [] and not (tmp_path / "run").exists()
    shown = capsys.readouterr().err
    assert f"jaxgen: {option}: found" in shown and needed in shown

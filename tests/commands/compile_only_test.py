"""`train --compile-only` leaves in the compilation cache what training then runs; the cache is there without being asked for."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
GAME = [str(ROOT / "tests" / "training" / "game_config.py"), "--trust", "game", "--set", "training.steps=2"]


def test_training_compiles_nothing_that_was_compiled_before(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "tests" / "training")}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def jaxgen(*arguments):
        done = subprocess.run([sys.executable, "-m", "jaxgen", *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        names = {path.name for path in (tmp_path / "jaxgen" / "compiled").iterdir() if path.name.endswith("-cache")}
        return done.stderr, {
            name for name in names if name.startswith(("jit_update", "jit_prepare", "jit_initial", "jit_load_frozen"))
        }

    said, before = jaxgen("train", *GAME, "--compile-only", "--json", str(tmp_path / "figures.json"))
    assert "programs in" in said and json.loads((tmp_path / "figures.json").read_text())["compiles"] >= 4
    assert {name.partition("-")[0] for name in before} == {"jit_update", "jit_prepare", "jit_initial", "jit_load_frozen"}
    _, after = jaxgen("train", *GAME, "--run", str(tmp_path / "run"))
    assert after == before

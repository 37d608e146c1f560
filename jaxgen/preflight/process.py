"""Starts a compile in a process of its own, whose environment is set before JAX is imported, and brings its figures back.

Several may run at once. The other side is this module run as a program: a job as JSON on its standard input, the answer in a file.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import traceback
from typing import Any

from jaxgen import experiment as experiments
from jaxgen import types
from jaxgen.parallel import slices
from jaxgen.preflight import overflow
from jaxgen.preflight.target import Target, environment

_LAST_WORDS = 2000


class CompilerFailed(RuntimeError):
    """The compiling process ended without an answer, or with an error that is not about memory."""


def figures(
    experiment: Any, target: Target, trust: tuple[str, ...] = (), keep: str | None = None, what: str = "training"
) -> dict[str, Any] | overflow.Overflow:
    """Figures of the experiment on the target (`jaxgen.preflight.program.figures`), or how it does not fit.

    Args:
      trust: packages besides jaxgen whose classes the experiment names.
      keep: a file for the optimized program.
      what: "training" for its train step, "sampling" for what draws pictures.

    Raises:
      BadInput: what the experiment asks for is not possible on the target.
      CompilerFailed: the compiler gave up.
    """
    job = {
        "experiment": experiments.dump(experiment),
        "trust": list(trust),
        "slice": str(target.slice),
        "slices": target.count,
        "keep": keep,
        "what": what,
    }
    with tempfile.TemporaryDirectory(prefix="jaxgen-preflight-") as folder:
        bundles, answer = pathlib.Path(folder) / "bundles", pathlib.Path(folder) / "answer.json"
        bundles.mkdir()
        ended = subprocess.run(
            [sys.executable, "-m", "jaxgen.preflight.process", str(answer), str(bundles)],
            input=json.dumps(job),
            text=True,
            capture_output=True,
            env=environment(str(bundles)),
            check=False,
        )
        if not answer.exists():
            raise CompilerFailed(f"the compiling process ended with {ended.returncode}: {ended.stderr[-_LAST_WORDS:]}")
        found = json.loads(answer.read_text())
    if "bad_input" in found:
        raise types.BadInput(*found["bad_input"])
    if "overflow" in found:
        return overflow.Overflow(**found["overflow"])
    if "error" in found:
        raise CompilerFailed(found["error"])
    return found["figures"]


def main(answer: str, bundles: str) -> None:
    """Does one job."""
    from jaxgen.preflight import program

    job = json.load(sys.stdin)
    try:
        experiment = experiments.rebuild(job["experiment"], job["trust"])
        target = Target(slices.parse(job["slice"]), job["slices"])
        keep = pathlib.Path(job["keep"]) if job["keep"] else None
        found = {"figures": program.figures(experiment, target, pathlib.Path(bundles), keep, job["what"])}
    except types.BadInput as complaint:
        found = {"bad_input": [complaint.option, complaint.found, complaint.needed]}
    except program.DoesNotFit as failure:
        found = {"overflow": vars(failure.overflow)}
    except Exception:
        found = {"error": traceback.format_exc()}
    pathlib.Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

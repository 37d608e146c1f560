"""A `gcloud` for PATH that plays back a recording: each command is compared with what the recording expects next.

A recording is text. `$ COMMAND` is expected, `& COMMAND` too, in any order with the `&` commands next to it. Below stands what it
answers: `> ` standard output, `! ` standard error, `= ` the exit code. `{NAME}` is filled in on loading. Other lines are comments.
"""

import fcntl
import json
import os
import pathlib
import shlex
import stat
import sys

RECORDINGS = pathlib.Path(__file__).parent / "recordings"
UNEXPECTED = 97


def load(name, **values):
    """Steps of a recording."""
    steps = []
    for line in (RECORDINGS / f"{name}.txt").read_text().splitlines():
        mark, text = line[:2], line[2:]
        for key, value in values.items():
            text = text.replace(f"{{{key}}}", value)
        if mark in ("$ ", "& "):
            steps.append({"words": shlex.split(text), "any": mark == "& ", "out": "", "err": "", "code": 0})
        elif mark == "> ":
            steps[-1]["out"] += text + "\n"
        elif mark == "! ":
            steps[-1]["err"] += text + "\n"
        elif mark == "= ":
            steps[-1]["code"] = int(text)
    return steps


class Recording:
    """A folder for PATH with a `gcloud` that plays back `steps`."""

    def __init__(self, folder, steps):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "steps.json").write_text(json.dumps(steps))
        program = folder / "gcloud"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {folder} gcloud "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    @property
    def left(self):
        """Commands that were expected and did not come."""
        return [shlex.join(step["words"]) for step in json.loads((self.folder / "steps.json").read_text())]

    @property
    def unexpected(self):
        """Commands that came and were not expected, with what was."""
        file = self.folder / "unexpected"
        return file.read_text() if file.exists() else ""

    def check(self):
        """All came that was expected, and nothing else."""
        assert not self.unexpected, self.unexpected
        assert not self.left


def answer(folder, words):
    """Plays back the answer to one command."""
    with open(folder / "steps.json", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        steps = json.load(file)
        several = next((n for n, step in enumerate(steps) if not step["any"]), len(steps)) or 1
        found = next((n for n, step in enumerate(steps[:several]) if step["words"] == words), None)
        if found is None:
            expected = shlex.join(steps[0]["words"]) if steps else "nothing more"
            with open(folder / "unexpected", "a") as notes:
                notes.write(f"came:     {shlex.join(words)}\nexpected: {expected}\n")
            sys.exit(UNEXPECTED)
        step = steps.pop(found)
        file.seek(0)
        file.truncate()
        json.dump(steps, file)
    sys.stdout.write(step["out"])
    sys.stderr.write(step["err"])
    sys.exit(step["code"])


if __name__ == "__main__":
    answer(pathlib.Path(sys.argv[1]), [os.fsdecode(word) for word in sys.argv[2:]])

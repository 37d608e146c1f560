"""Made-up examples that leave a note of each row that is read: which example it was. They can be slow, and fail."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time

from jaxgen.data.synthetic import Synthetic


@dataclasses.dataclass(frozen=True)
class Noted(Synthetic):
    """As $NOTES says: a folder for notes; $SECONDS for each batch; an error at the row $FAILS."""

    def open(self, data, split, seed, shuffle):
        return _Examples(super().open(data, split, seed, shuffle), split)


class _Examples:
    def __init__(self, examples, split):
        self._examples, self._split, self.fingerprint = examples, split, examples.fingerprint

    def __len__(self):
        return len(self._examples)

    def rows(self, numbers):
        found = self._examples.rows(numbers)
        if self._split == "train":
            if int(os.environ.get("FAILS", -1)) in numbers:
                raise OSError("the disk is gone")
            time.sleep(float(os.environ.get("SECONDS", 0)))
            with (pathlib.Path(os.environ["NOTES"]) / str(os.getpid())).open("a") as notes:
                notes.writelines(f"{number} {index}\n" for number, index in zip(numbers, found["index"], strict=True))
        return found

"""Options of the trainer (`training`)."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from jaxgen import types

OVERLAPPED_COLLECTIVES = (
    "xla_tpu_enable_latency_hiding_scheduler=true",
    "xla_enable_async_all_gather=true",
    "xla_tpu_enable_async_collective_fusion=true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "xla_tpu_overlap_compute_collective_tc=true",
)
"""`Training.tpu_options` under which parameters are gathered beside products (v5p and v6e)."""

MERGES = {"robust": "jaxgen.swarm.slice_merge:RobustMerge"}
"""Ways to merge gradients of slices by name, for `--set training.merge=NAME`."""

_OPTION = re.compile(r"[A-Za-z]\w*=[^=\s]+")


@dataclasses.dataclass(frozen=True)
class Training:
    """Length, logging, checkpoints, averages.

    Attributes:
      steps: optimizer steps in all.
      log_every: steps between logged rows; the last step is always logged.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      keep: number of checkpoints kept.
      sample_every: steps between grids of samples; 0 draws one at the end only.
      microbatches: equal parts of a batch whose gradients are added up, weighted by their valid rows.
      ema: decays of the averaged parameters kept beside the newest ones; the first is what sampling uses.
      tpu_options: options of the TPU compiler for the train step alone, each `name=value` without dashes; other platforms pass
        over them. What applies to every program of a process stays with the environment variable `LIBTPU_INIT_ARGS`.
      merge: how gradients of slices (`mesh.slice`) become one, where some of them may be broken or hostile; None is the plain mean
        over the batch.
    """

    steps: int = 1000
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 3
    sample_every: int = 0
    microbatches: int = 1
    ema: tuple[float, ...] = (0.999,)
    tpu_options: tuple[str, ...] = ()
    merge: types.GradientMerge | None = dataclasses.field(default=None, metadata={"choices": MERGES})

    def validate(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep", "microbatches"):
            if getattr(self, name) < 1:
                raise types.BadInput(name, getattr(self, name), "at least 1")
        if self.sample_every < 0:
            raise types.BadInput("sample_every", self.sample_every, "0 or more")
        for decay in self.ema:
            if not 0 < decay < 1:
                raise types.BadInput("ema", self.ema, "decays in (0, 1)")
        for option in self.tpu_options:
            if not _OPTION.fullmatch(option):
                raise types.BadInput("tpu_options", option, "name=value, for example xla_tpu_scoped_vmem_limit_kib=65536")

    def compiler_options(self, platform: str) -> dict[str, str]:
        """What `jax.jit` is to hand the compiler of a platform ("cpu", "gpu", "tpu") for the train step."""
        return dict(option.split("=", 1) for option in self.tpu_options) if platform == "tpu" else {}

    def check(self, experiment: Any) -> None:
        size = experiment.data.batch_size
        if size % self.microbatches:
            raise types.BadInput("data.batch_size", size, f"a multiple of training.microbatches={self.microbatches}")
